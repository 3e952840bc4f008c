"""git-soup: git for fine-tuned adapters, as real git."""

__version__ = "0.1.0"
