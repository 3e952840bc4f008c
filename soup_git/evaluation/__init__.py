"""Judging adapters: probes, and where they run."""
