"""Points of a search space: architectures, their choices, what they cost."""
