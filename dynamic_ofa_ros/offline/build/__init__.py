"""From a trained supernet to a family, stage by stage."""
