"""Start a camera and a classifier.

    ros2 launch dynamic_ofa_ros demo.launch.py max_latency_ms:=10.0

If one of them ends, the other is stopped. To change the limit from another terminal:
`ros2 param set /classifier constraints.max_latency_ms 8.0`.
"""

# ruff: noqa: I001 - ruff mistakes `launch` for this folder

from pathlib import Path

from launch import LaunchDescription
from launch.actions import IncludeLaunchDescription, RegisterEventHandler, Shutdown
from launch.event_handlers import OnProcessExit
from launch.launch_description_sources import PythonLaunchDescriptionSource

HERE = Path(__file__).resolve().parent


def generate_launch_description() -> LaunchDescription:
    """Return both nodes with their launch arguments."""
    classifier = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(HERE / 'classifier.launch.py')),
        launch_arguments={
            'image_transport': 'raw',
            'use_sim_time': 'false',
            'respawn': 'false',
        }.items(),
    )
    # After the classifier, whose launch file sets the Fast DDS profile.
    camera = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(HERE / 'camera.launch.py'))
    )
    end_together = RegisterEventHandler(
        OnProcessExit(on_exit=[Shutdown(reason='one of the nodes has ended')])
    )
    return LaunchDescription([end_together, classifier, camera])
