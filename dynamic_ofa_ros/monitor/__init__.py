"""A web page that shows the classifiers of a ROS graph and sets their parameters."""
