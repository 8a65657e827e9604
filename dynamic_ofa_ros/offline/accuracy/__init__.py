"""Measure and predict the accuracy of sub-networks; calibrate batch norms."""
