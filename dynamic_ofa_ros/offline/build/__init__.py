"""Build a family from a trained supernet, stage by stage."""
