"""What tells people how to type it, written from the command tree: manual page, reference, completion."""
