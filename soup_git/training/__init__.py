"""`soup.yaml`'s schema, and the way from it to a trained adapter."""
