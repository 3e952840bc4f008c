"""What an answer is worth: by its text, by running it, by the workspace's code, by a model."""
