"""Recorded runs: bags and files of the demo and the simulator, read and compared without ROS."""
