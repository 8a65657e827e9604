"""Camera and classifier: `ros2 launch dynamic_ofa_ros demo.launch.py` (needs a ROS 2).

Without ROS 2, `dynamic-ofa demo` starts the same two nodes. Steer them from another terminal:
`ros2 param set /classifier constraints.max_latency_ms 2.0`.
"""

# ruff: noqa: I001 - it takes `launch` for this folder

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

PACKAGE = 'dynamic_ofa_ros'


def generate_launch_description() -> LaunchDescription:
    """Describe the two nodes and the arguments that a user may give."""
    share = Path(get_package_share_directory(PACKAGE))
    arguments = [
        DeclareLaunchArgument(
            'namespace', default_value='', description='Namespace of both nodes.'
        ),
        DeclareLaunchArgument(
            'params_file',
            default_value=str(share / 'config' / 'classifier.yaml'),
            description='Parameters of the classifier; the arguments below come after it.',
        ),
        DeclareLaunchArgument(
            'family', default_value='signs', description='Family: a directory or a shipped name.'
        ),
        DeclareLaunchArgument(
            'device',
            default_value='auto',
            description='Device that runs inference: auto, cpu, cuda or cuda:N.',
        ),
        DeclareLaunchArgument(
            'engine',
            default_value='auto',
            choices=['auto', 'onnxruntime', 'pytorch'],
            description='Inference engine; auto takes the fastest on this machine.',
        ),
        DeclareLaunchArgument(
            'max_latency_ms', default_value='0.0', description='Latency limit in ms; 0 = none.'
        ),
        DeclareLaunchArgument(
            'min_accuracy',
            default_value='0.0',
            description='Accuracy floor, a fraction; 0 = none.',
        ),
        DeclareLaunchArgument(
            'source',
            default_value='signs',
            choices=['signs', 'folder', 'video', 'webcam'],
            description='Where the images come from.',
        ),
        DeclareLaunchArgument(
            'path',
            default_value='',
            description='Image folder, video file or webcam (index or /dev/videoN) of the source.',
        ),
        DeclareLaunchArgument('rate_hz', default_value='30.0', description='Images per second.'),
        DeclareLaunchArgument(
            'use_sim_time',
            default_value='false',
            choices=['true', 'false'],
            description='Take the time from /clock.',
        ),
        DeclareLaunchArgument(
            'log_level',
            default_value='info',
            choices=['debug', 'info', 'warn', 'error', 'fatal'],
            description='What both nodes log.',
        ),
    ]
    log_arguments = ['--ros-args', '--log-level', LaunchConfiguration('log_level')]
    use_sim_time = ParameterValue(LaunchConfiguration('use_sim_time'), value_type=bool)
    classifier = Node(
        package=PACKAGE,
        executable='classifier_node',
        name='classifier',
        namespace=LaunchConfiguration('namespace'),
        output='screen',
        emulate_tty=True,
        arguments=log_arguments,
        parameters=[
            LaunchConfiguration('params_file'),
            {
                'use_sim_time': use_sim_time,
                'family': ParameterValue(LaunchConfiguration('family'), value_type=str),
                'device': ParameterValue(LaunchConfiguration('device'), value_type=str),
                'engine': ParameterValue(LaunchConfiguration('engine'), value_type=str),
                'constraints.max_latency_ms': ParameterValue(
                    LaunchConfiguration('max_latency_ms'), value_type=float
                ),
                'constraints.min_accuracy': ParameterValue(
                    LaunchConfiguration('min_accuracy'), value_type=float
                ),
            },
        ],
    )
    camera = Node(
        package=PACKAGE,
        executable='camera_node',
        name='camera',
        namespace=LaunchConfiguration('namespace'),
        output='screen',
        emulate_tty=True,
        arguments=log_arguments,
        parameters=[
            {
                'use_sim_time': use_sim_time,
                'source': ParameterValue(LaunchConfiguration('source'), value_type=str),
                # Without the type, launch would make an integer of a webcam's index.
                'path': ParameterValue(LaunchConfiguration('path'), value_type=str),
                'rate_hz': ParameterValue(LaunchConfiguration('rate_hz'), value_type=float),
            }
        ],
    )
    return LaunchDescription([*arguments, classifier, camera])
