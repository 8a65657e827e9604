"""Recorded runs: bags, and what demo and simulator write; read and compared without ROS."""
