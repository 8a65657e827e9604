"""Start a classifier on a recorded bag and its clock; requires rosbag2.

    ros2 launch dynamic_ofa_ros replay.launch.py bag:=drive_1 image_topic:=/camera/image_raw

The classifier is stopped at the end of the bag.
"""

# ruff: noqa: I001 - ruff mistakes `launch` for this folder

from pathlib import Path

from launch import LaunchContext, LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    ExecuteProcess,
    IncludeLaunchDescription,
    OpaqueFunction,
    RegisterEventHandler,
    Shutdown,
)
from launch.event_handlers import OnProcessExit
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration

HERE = Path(__file__).resolve().parent


def generate_launch_description() -> LaunchDescription:
    """Return player and classifier with their launch arguments."""
    arguments = [
        DeclareLaunchArgument('bag', description='Path of the bag, a directory or a file.'),
        DeclareLaunchArgument(
            'rate',
            default_value='1.0',
            description='Playback speed; 2 = twice as fast as recorded.',
        ),
        DeclareLaunchArgument(
            'loop',
            default_value='false',
            choices=['true', 'false'],
            description='Whether to repeat the bag.',
        ),
        DeclareLaunchArgument(
            'delay_s',
            default_value='5.0',
            description='Delay of the playback in s, so that the classifier is ready.',
        ),
    ]
    end_together = RegisterEventHandler(
        OnProcessExit(on_exit=[Shutdown(reason='player or classifier has ended')])
    )
    classifier = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(HERE / 'classifier.launch.py')),
        launch_arguments={'use_sim_time': 'true', 'respawn': 'false'}.items(),
    )
    # After the classifier, whose launch file sets the Fast DDS profile.
    return LaunchDescription(
        [*arguments, end_together, classifier, OpaqueFunction(function=_player)]
    )


def _player(context: LaunchContext) -> list[ExecuteProcess]:
    command = [
        *('ros2', 'bag', 'play', LaunchConfiguration('bag'), '--clock'),
        *('--rate', LaunchConfiguration('rate')),
        *('--delay', LaunchConfiguration('delay_s')),
        '--disable-keyboard-controls',
    ]
    if LaunchConfiguration('loop').perform(context) == 'true':
        command.append('--loop')
    return [ExecuteProcess(cmd=command, name='player', output='screen')]
