"""ROS nodes: thin adapters over `runtime`.

They are written against `rclpy` and nothing else. Importing anything from here first registers the
stand-ins of `rclpy_zenoh` for `rclpy` and the message packages where ROS 2 is not installed; where
it is (a sourced ROS 2 always wins) that does nothing.
"""

from dynamic_ofa_ros.rclpy_zenoh import install

install()
