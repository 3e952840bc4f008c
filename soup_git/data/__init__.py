"""Datasets: formats, checks, the split."""
