"""How long sub-networks take: measured, from tables, predicted."""
