"""Two classifiers on one device, choosing their levels together (needs a ROS 2).

    ros2 launch dynamic_ofa_ros two_models.launch.py limit_a_ms:=3.0 limit_b_ms:=2.0

Both see the same camera. Without ROS 2, `dynamic-ofa demo --two` starts the same nodes. Steer them
from another terminal: `ros2 param set /model_b/classifier constraints.max_latency_ms 1.5`.
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
IMAGES = '/image_raw'


def generate_launch_description() -> LaunchDescription:
    """Describe the three nodes and the arguments that a user may give."""
    share = Path(get_package_share_directory(PACKAGE))
    arguments = [
        DeclareLaunchArgument(
            'params_file',
            default_value=str(share / 'config' / 'classifier.yaml'),
            description='Parameters of both classifiers; the arguments below come after it.',
        ),
        DeclareLaunchArgument(
            'family_a', default_value='signs', description='Family of model A: directory or name.'
        ),
        DeclareLaunchArgument(
            'family_b', default_value='signs', description='Family of model B: directory or name.'
        ),
        DeclareLaunchArgument(
            'limit_a_ms', default_value='0.0', description='Latency limit of A in ms; 0 = none.'
        ),
        DeclareLaunchArgument(
            'limit_b_ms', default_value='0.0', description='Latency limit of B in ms; 0 = none.'
        ),
        DeclareLaunchArgument(
            'importance_a', default_value='1.0', description="Weight of A's accuracy."
        ),
        DeclareLaunchArgument(
            'importance_b', default_value='1.0', description="Weight of B's accuracy."
        ),
        DeclareLaunchArgument(
            'coordination',
            default_value='collective',
            choices=['none', 'collective'],
            description='Whether the two choose their levels together.',
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
            description='What all nodes log.',
        ),
    ]
    camera = Node(
        package=PACKAGE,
        executable='camera_node',
        name='camera',
        output='screen',
        emulate_tty=True,
        arguments=_log_arguments(),
        parameters=[
            {
                'use_sim_time': _typed('use_sim_time', bool),
                'source': _typed('source', str),
                # Without the type, launch would make an integer of a webcam's index.
                'path': _typed('path', str),
                'rate_hz': _typed('rate_hz', float),
            }
        ],
    )
    return LaunchDescription([*arguments, _classifier('a'), _classifier('b'), camera])


def _classifier(letter: str) -> Node:
    return Node(
        package=PACKAGE,
        executable='classifier_node',
        name='classifier',
        namespace=f'model_{letter}',
        remappings=[('image_raw', IMAGES)],
        output='screen',
        emulate_tty=True,
        arguments=_log_arguments(),
        parameters=[
            LaunchConfiguration('params_file'),
            {
                'use_sim_time': _typed('use_sim_time', bool),
                'family': _typed(f'family_{letter}', str),
                'device': _typed('device', str),
                'engine': _typed('engine', str),
                'constraints.max_latency_ms': _typed(f'limit_{letter}_ms', float),
                'manager.coordination': _typed('coordination', str),
                'manager.importance': _typed(f'importance_{letter}', float),
            },
        ],
    )


def _typed(argument: str, value_type: type) -> ParameterValue:
    return ParameterValue(LaunchConfiguration(argument), value_type=value_type)


def _log_arguments() -> list[object]:
    return ['--ros-args', '--log-level', LaunchConfiguration('log_level')]
