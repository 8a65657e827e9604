"""Inference engines, one a file."""
