"""The supernet: build it, extract and write sub-networks of it, their batch-norm statistics."""
