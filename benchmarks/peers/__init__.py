"""Other servers of the standard, which the figures of this one stand beside."""
