"""Images with labels: folders, stores, rendered signs."""
