"""What `git soup init` copies into a workspace."""
