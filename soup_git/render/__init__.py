"""Reports become text here, and only here: the same rows as a table or as JSON."""
