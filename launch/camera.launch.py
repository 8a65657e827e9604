"""Start the camera node: rendered signs, a folder of images, a video file, a webcam or a bag.

    ros2 launch dynamic_ofa_ros camera.launch.py source:=webcam path:=/dev/video0

`demo.launch.py` and `two_models.launch.py` include this file.
"""

# ruff: noqa: I001 - ruff mistakes `launch` for this folder

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from dynamic_ofa_ros.launch_values import typed

PACKAGE = 'dynamic_ofa_ros'


def generate_launch_description() -> LaunchDescription:
    """Return the node and the launch arguments."""
    arguments = [
        DeclareLaunchArgument('namespace', default_value='', description='Namespace of the node.'),
        DeclareLaunchArgument(
            'image_topic', default_value='image_raw', description='Topic of the images.'
        ),
        DeclareLaunchArgument(
            'source',
            default_value='signs',
            choices=['signs', 'folder', 'video', 'webcam', 'bag'],
            description='Source of the images.',
        ),
        DeclareLaunchArgument(
            'path',
            default_value='',
            description='Path of the folder, the video file or the bag, or the webcam: an index, '
            '/dev/videoN or /dev/v4l/by-id/...',
        ),
        DeclareLaunchArgument('rate_hz', default_value='30.0', description='Frame rate in Hz.'),
        DeclareLaunchArgument(
            'width', default_value='0', description='Width in px; 0 = that of the source.'
        ),
        DeclareLaunchArgument(
            'height', default_value='0', description='Height in px; 0 = that of the source.'
        ),
        DeclareLaunchArgument(
            'log_level',
            default_value='info',
            choices=['debug', 'info', 'warn', 'error', 'fatal'],
            description='Minimum severity of log messages.',
        ),
    ]
    camera = Node(
        package=PACKAGE,
        executable='camera_node',
        name='camera',
        namespace=LaunchConfiguration('namespace'),
        remappings=[('image_raw', LaunchConfiguration('image_topic'))],
        parameters=[
            {
                'source': typed('source', str),
                # Without the type, launch would convert the index of a webcam to an integer.
                'path': typed('path', str),
                'rate_hz': typed('rate_hz', float),
                'width': typed('width', int),
                'height': typed('height', int),
            }
        ],
        arguments=['--ros-args', '--log-level', LaunchConfiguration('log_level')],
        output='screen',
    )
    return LaunchDescription([*arguments, camera])
