"""Services that a new user runs first, on real data."""
