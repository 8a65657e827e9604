"""Train a supernet on class folders; on several processes with torchrun."""
