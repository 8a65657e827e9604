"""A web page that shows the classifiers of a ROS graph and sets parameters: docs/monitor.md."""
