"""Labelled images: folders, stores, rendered signs."""
