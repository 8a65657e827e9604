"""ROS nodes: adapters that connect `runtime` to ROS, based on the documented rclpy API."""
