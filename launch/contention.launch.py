"""Start the demo and load processes that compete for its device.

    ros2 launch dynamic_ofa_ros contention.launch.py max_latency_ms:=10.0 workers:=2

To change the load from another terminal: `ros2 param set /contention workload none`.
"""

# ruff: noqa: I001 - ruff mistakes `launch` for this folder

from pathlib import Path

from launch import LaunchContext, LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    IncludeLaunchDescription,
    OpaqueFunction,
    TimerAction,
)
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from dynamic_ofa_ros.launch_values import typed

HERE = Path(__file__).resolve().parent


def generate_launch_description() -> LaunchDescription:
    """Return the nodes and the launch arguments, which include those of the demo."""
    arguments = [
        DeclareLaunchArgument(
            'workload',
            default_value='busy',
            choices=['none', 'busy', 'memory', 'training'],
            description='Competing load: arithmetic, memory traffic, or training of a network.',
        ),
        DeclareLaunchArgument(
            'workers', default_value='1', description='Number of load processes.'
        ),
        DeclareLaunchArgument(
            'duty_cycle',
            default_value='1.0',
            description='Fraction of the time that each process is busy.',
        ),
        DeclareLaunchArgument(
            'workload_device',
            default_value='cpu',
            description='Device of the load processes: cpu, cuda or cuda:N.',
        ),
        DeclareLaunchArgument(
            'cpus',
            default_value='',
            description='CPUs for the load processes, such as 0,2-3; empty = all.',
        ),
        DeclareLaunchArgument(
            'delay_s',
            default_value='20.0',
            description='Delay of the load in s; the first start measures latencies without it.',
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
                'workload': typed('workload', str),
                'workers': typed('workers', int),
                'duty_cycle': typed('duty_cycle', float),
                'device': typed('workload_device', str),
                # Without the type, launch would convert a single CPU number to an integer.
                'cpus': typed('cpus', str),
            }
        ],
        arguments=['--ros-args', '--log-level', LaunchConfiguration('log_level')],
        output='screen',
    )

    def later(context: LaunchContext) -> list[TimerAction]:
        delay = LaunchConfiguration('delay_s').perform(context)
        try:
            return [TimerAction(period=float(delay), actions=[contention])]
        except ValueError:
            raise ValueError(f'delay_s is {delay!r}; it must be a number of seconds') from None

    # The demo last, so that a wrong value is reported before anything is started.
    return LaunchDescription([*arguments, OpaqueFunction(function=later), demo])
