"""The camera node alone: rendered signs, a folder of images, a video file, a webcam or a bag.

    ros2 launch dynamic_ofa_ros camera.launch.py source:=webcam path:=/dev/video0

The other launch files include it.
"""

# ruff: noqa: I001 - it takes `launch` for this folder

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

PACKAGE = 'dynamic_ofa_ros'


def generate_launch_description() -> LaunchDescription:
    """Describe the node and the arguments that a user may give."""
    arguments = [
        DeclareLaunchArgument('namespace', default_value='', description='Namespace of the node.'),
        DeclareLaunchArgument(
            'image_topic', default_value='image_raw', description='Topic of the images.'
        ),
        DeclareLaunchArgument(
            'source',
            default_value='signs',
            choices=['signs', 'folder', 'video', 'webcam', 'bag'],
            description='Where the images come from.',
        ),
        DeclareLaunchArgument(
            'path',
            default_value='',
            description='The folder, the video file, the bag, or the webcam: an index, '
            '/dev/videoN or /dev/v4l/by-id/...',
        ),
        DeclareLaunchArgument('rate_hz', default_value='30.0', description='Images per second.'),
        DeclareLaunchArgument(
            'width', default_value='0', description="Width in px; 0 = the source's own."
        ),
        DeclareLaunchArgument(
            'height', default_value='0', description="Height in px; 0 = the source's own."
        ),
        DeclareLaunchArgument(
            'log_level',
            default_value='info',
            choices=['debug', 'info', 'warn', 'error', 'fatal'],
            description='Least severity that is logged.',
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
                'source': _typed('source', str),
                # Without the type, launch would make an integer of a webcam's index.
                'path': _typed('path', str),
                'rate_hz': _typed('rate_hz', float),
                'width': _typed('width', int),
                'height': _typed('height', int),
            }
        ],
        arguments=['--ros-args', '--log-level', LaunchConfiguration('log_level')],
        output='screen',
    )
    return LaunchDescription([*arguments, camera])


def _typed(argument: str, value_type: type) -> ParameterValue:
    return ParameterValue(LaunchConfiguration(argument), value_type=value_type)
