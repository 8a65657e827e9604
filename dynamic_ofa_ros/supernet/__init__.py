"""The supernet: building it, extracting and exporting sub-networks, batch-norm statistics."""
