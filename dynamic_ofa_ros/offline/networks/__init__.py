"""Families of separate networks, from ONNX files."""
