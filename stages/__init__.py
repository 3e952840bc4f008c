"""What DVC calls: `python -m soup_git.stages.NAME`, each a few lines over what it runs."""
