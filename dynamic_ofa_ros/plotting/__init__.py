"""One style, one drawing of latency over time, published curves."""
