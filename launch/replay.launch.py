"""A recorded bag in place of the camera, with its time: needs rosbag2.

    ros2 launch dynamic_ofa_ros replay.launch.py bag:=drive_1 image_topic:=/camera/image_raw

When the bag ends, so does the classifier.
"""

# ruff: noqa: I001 - it takes `launch` for this folder

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
    """Describe player and classifier, whose arguments can be given here, too."""
    arguments = [
        DeclareLaunchArgument('bag', description='The bag: a directory or a file.'),
        DeclareLaunchArgument(
            'rate', default_value='1.0', description='Speed of the playback; 2 = twice as fast.'
        ),
        DeclareLaunchArgument(
            'loop',
            default_value='false',
            choices=['true', 'false'],
            description='Whether to begin again at the end.',
        ),
        DeclareLaunchArgument(
            'delay_s',
            default_value='5.0',
            description='Seconds before the first message: the classifier must be ready.',
        ),
    ]
    end_together = RegisterEventHandler(
        OnProcessExit(on_exit=[Shutdown(reason='player or classifier has ended')])
    )
    classifier = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(HERE / 'classifier.launch.py')),
        launch_arguments={'use_sim_time': 'true', 'respawn': 'false'}.items(),
    )
    # After the classifier, whose file sets the Fast DDS profile.
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
