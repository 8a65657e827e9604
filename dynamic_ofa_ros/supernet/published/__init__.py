"""The published supernets: names, downloads, level files."""
