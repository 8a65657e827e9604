"""Plots: the common style, families, published curves."""
