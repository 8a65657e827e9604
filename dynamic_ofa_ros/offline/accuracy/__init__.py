"""How accurate sub-networks are: measured, predicted, calibrated."""
