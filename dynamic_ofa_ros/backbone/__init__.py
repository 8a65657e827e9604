"""The supernet: build it, train it, calibrate it, extract sub-networks from it."""
