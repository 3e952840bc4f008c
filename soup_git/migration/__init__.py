"""Configs of other trainers as soup.yaml: tables of keys, and what could not be carried over."""
