"""One file per verb: each reads through the workspace and returns a report."""
