"""The doors: git, DVC, weight files, and the workspace that joins them."""
