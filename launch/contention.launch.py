"""The demo, and a program that competes for its device.

    ros2 launch dynamic_ofa_ros contention.launch.py max_latency_ms:=10.0 workers:=2

Steer it from another terminal: `ros2 param set /contention workload none`.
"""

# ruff: noqa: I001 - it takes `launch` for this folder

from pathlib import Path

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, TimerAction
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

HERE = Path(__file__).resolve().parent


def generate_launch_description() -> LaunchDescription:
    """Describe the nodes; the demo's arguments can be given here, too."""
    arguments = [
        DeclareLaunchArgument(
            'workload',
            default_value='busy',
            choices=['none', 'busy', 'memory', 'training'],
            description='What competes: arithmetic, memory traffic, or training a network.',
        ),
        DeclareLaunchArgument('workers', default_value='1', description='Processes that compete.'),
        DeclareLaunchArgument(
            'duty_cycle', default_value='1.0', description='Share of the time each works.'
        ),
        DeclareLaunchArgument(
            'workload_device',
            default_value='cpu',
            description='Device that they work on: cpu, cuda or cuda:N.',
        ),
        DeclareLaunchArgument(
            'cpus',
            default_value='',
            description='CPUs that they may run on, such as 0,2-3; empty = all.',
        ),
        DeclareLaunchArgument(
            'delay_s',
            default_value='20.0',
            description='Seconds before they begin: a first start measures the engines alone.',
        ),
    ]
    demo = IncludeLaunchDescription(PythonLaunchDescriptionSource(str(HERE / 'demo.launch.py')))
    contention = Node(
        package='dynamic_ofa_ros',
        executable='contention_node',
        name='contention',
        namespace=LaunchConfiguration('namespace'),
        parameters=[
            {
                'workload': _typed('workload', str),
                'workers': _typed('workers', int),
                'duty_cycle': _typed('duty_cycle', float),
                'device': _typed('workload_device', str),
                # Without the type, launch would make an integer of a single CPU.
                'cpus': _typed('cpus', str),
            }
        ],
        arguments=['--ros-args', '--log-level', LaunchConfiguration('log_level')],
        output='screen',
    )
    later = TimerAction(period=LaunchConfiguration('delay_s'), actions=[contention])
    return LaunchDescription([*arguments, demo, later])


def _typed(argument: str, value_type: type) -> ParameterValue:
    return ParameterValue(LaunchConfiguration(argument), value_type=value_type)
