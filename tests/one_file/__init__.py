"""One model as one file."""
