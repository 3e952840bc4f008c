"""GitHub, and servers that speak as it does: where pull requests are reviewed."""
