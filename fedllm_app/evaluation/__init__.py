"""Asking a model: generation and comparisons."""
