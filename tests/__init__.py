"""Claims against someone else's truth, in a tree that mirrors the package."""
