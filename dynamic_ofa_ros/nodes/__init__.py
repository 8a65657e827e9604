"""ROS nodes: thin adapters over `runtime`, written against the documented rclpy API."""
