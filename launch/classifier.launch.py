"""Start a classifier on a camera topic; this is the launch file for robots.

    ros2 launch dynamic_ofa_ros classifier.launch.py image_topic:=/camera/image_raw

An empty argument does not override the value in `params_file`. The node configures and activates
itself (parameter `autostart`), also after a respawn; it is therefore a `Node` action, not a
`LifecycleNode`. With `autostart:=false` it stays unconfigured until `ros2 lifecycle set`, a
lifecycle manager, or an event handler of an including launch file configures it.
"""

# ruff: noqa: I001 - ruff mistakes `launch` for this folder

import os
from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch.conditions import IfCondition
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from dynamic_ofa_ros.launch_values import typed

PACKAGE = 'dynamic_ofa_ros'
PROFILE_VARIABLES = ('FASTRTPS_DEFAULT_PROFILES_FILE', 'FASTDDS_DEFAULT_PROFILES_FILE')
"""Fast DDS reads the first up to Jazzy; from Kilted on the second, warning of the first."""

OLD_DISTRIBUTIONS = ('humble', 'iron', 'jazzy')

RESPAWN_DELAY_S = 2.0
SIGTERM_TIMEOUT_S = 15.0
"""Building a level cannot be interrupted and may take longer than launch's default of 5 s."""

PARAMETERS = {
    'family': ('family', str),
    'device': ('device', str),
    'engine': ('engine', str),
    'image_transport': ('image_transport', str),
    'max_latency_ms': ('constraints.max_latency_ms', float),
    'min_accuracy': ('constraints.min_accuracy', float),
    'coordination': ('manager.coordination', str),
    'importance': ('manager.importance', float),
    'use_sim_time': ('use_sim_time', bool),
    'autostart': ('autostart', bool),
    'bond': ('bond', bool),
}
"""Name and type of the parameter for each argument that sets one."""


def generate_launch_description() -> LaunchDescription:
    """Return the node and the launch arguments."""
    config = Path(get_package_share_directory(PACKAGE)) / 'config'
    arguments = [
        DeclareLaunchArgument('namespace', default_value='', description='Namespace of the node.'),
        DeclareLaunchArgument(
            'params_file',
            default_value=str(config / 'classifier.yaml'),
            description='Parameter file of the classifier; the arguments below override it.',
        ),
        DeclareLaunchArgument(
            'family',
            default_value='',
            description='Family: a directory, or a name (signs, imagenet).',
        ),
        DeclareLaunchArgument(
            'device',
            default_value='',
            description='Device that runs inference: auto, cpu, cuda or cuda:N.',
        ),
        DeclareLaunchArgument(
            'engine',
            default_value='',
            choices=['', 'auto', 'onnxruntime', 'openvino', 'pytorch', 'tensorrt'],
            description='Inference engine; auto = the fastest on this machine.',
        ),
        DeclareLaunchArgument(
            'image_topic', default_value='image_raw', description='Topic of the images.'
        ),
        DeclareLaunchArgument(
            'image_transport',
            default_value='',
            choices=['', 'raw', 'compressed'],
            description='Transport of the images; compressed = from <image_topic>/compressed.',
        ),
        DeclareLaunchArgument(
            'max_latency_ms', default_value='', description='Latency limit in ms; 0 = no limit.'
        ),
        DeclareLaunchArgument(
            'min_accuracy',
            default_value='',
            description='Minimum accuracy, a fraction; 0 = no limit.',
        ),
        DeclareLaunchArgument(
            'coordination',
            default_value='',
            choices=['', 'none', 'collective'],
            description='Whether classifiers on one device choose their levels together.',
        ),
        DeclareLaunchArgument(
            'importance',
            default_value='',
            description="Weight of this classifier's accuracy in collective choices.",
        ),
        DeclareLaunchArgument(
            'use_sim_time',
            default_value='',
            choices=['', 'true', 'false'],
            description='Whether to use the time of /clock.',
        ),
        DeclareLaunchArgument(
            'autostart',
            default_value='',
            choices=['', 'true', 'false'],
            description='Whether the node configures and activates itself.',
        ),
        DeclareLaunchArgument(
            'bond',
            default_value='',
            choices=['', 'true', 'false'],
            description="Whether to keep a bond with nav2's lifecycle manager while active.",
        ),
        DeclareLaunchArgument(
            'respawn',
            default_value='false',
            choices=['true', 'false'],
            description=f'Whether to restart the node {RESPAWN_DELAY_S:g} s after it ends.',
        ),
        DeclareLaunchArgument(
            'monitor',
            default_value='false',
            choices=['true', 'false'],
            description='Whether to start monitor_node, a web page that shows all classifiers.',
        ),
        DeclareLaunchArgument(
            'monitor_address',
            default_value='127.0.0.1',
            description='IP address of that page; 0.0.0.0 = all, with a token that is logged.',
        ),
        DeclareLaunchArgument(
            'monitor_port', default_value='8090', description='Port of that page.'
        ),
        DeclareLaunchArgument(
            'log_level',
            default_value='info',
            choices=['debug', 'info', 'warn', 'error', 'fatal'],
            description='Minimum severity of log messages.',
        ),
    ]
    return LaunchDescription(
        [
            *arguments,
            *_fast_dds_profile(config),
            OpaqueFunction(function=_classifier),
            _monitor(),
        ]
    )


def _fast_dds_profile(config: Path) -> list[SetEnvironmentVariable]:
    """Return an action that sets the profile for later processes, unless the user has set one."""
    if any(name in os.environ for name in PROFILE_VARIABLES):
        return []
    is_old = os.environ.get('ROS_DISTRO', 'jazzy') in OLD_DISTRIBUTIONS
    name = PROFILE_VARIABLES[0 if is_old else 1]
    return [SetEnvironmentVariable(name, str(config / 'fastdds.xml'))]


def _classifier(context: LaunchContext) -> list[Node]:
    """Return the node with the parameters whose arguments are not empty."""
    given = {
        parameter: typed(argument, value_type)
        for argument, (parameter, value_type) in PARAMETERS.items()
        if LaunchConfiguration(argument).perform(context)
    }
    node = Node(
        package=PACKAGE,
        executable='classifier_node',
        name='classifier',
        namespace=LaunchConfiguration('namespace'),
        remappings=[('image_raw', LaunchConfiguration('image_topic'))],
        parameters=[given],
        arguments=[
            *('--ros-args', '--log-level', LaunchConfiguration('log_level')),
            # Not as `parameters`: launch_ros starts the node without a file that does not exist.
            *('--params-file', LaunchConfiguration('params_file')),
        ],
        respawn=LaunchConfiguration('respawn'),
        respawn_delay=RESPAWN_DELAY_S,
        sigterm_timeout=str(SIGTERM_TIMEOUT_S),
        # emulate_tty is not set, because it would cause coloured logs even in files.
        output='screen',
    )
    return [node]


def _monitor() -> Node:
    """Return the monitor, outside the namespace: it shows every classifier there is."""
    return Node(
        package=PACKAGE,
        executable='monitor_node',
        name='monitor',
        parameters=[
            {
                'address': typed('monitor_address', str),
                'port': typed('monitor_port', int),
            }
        ],
        arguments=['--ros-args', '--log-level', LaunchConfiguration('log_level')],
        condition=IfCondition(LaunchConfiguration('monitor')),
        output='screen',
    )
