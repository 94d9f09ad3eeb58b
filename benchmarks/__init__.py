"""What the figures in the documents are measured with."""
