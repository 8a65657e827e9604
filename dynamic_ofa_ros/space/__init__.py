"""Search spaces: architectures, their genes, and their cost."""
