"""What `action.yml` calls: each step a few lines over commands, forge and storage."""
