"""Start a camera and two classifiers on one device that choose their levels together.

    ros2 launch dynamic_ofa_ros two_models.launch.py max_latency_a_ms:=3.0 max_latency_b_ms:=2.0

If one of the three ends, the others are stopped. To change a limit from another terminal:
`ros2 param set /model_b/classifier constraints.max_latency_ms 8.0`.
"""

# ruff: noqa: I001 - ruff mistakes `launch` for this folder

from pathlib import Path

from launch import LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    IncludeLaunchDescription,
    RegisterEventHandler,
    Shutdown,
)
from launch.event_handlers import OnProcessExit
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration

HERE = Path(__file__).resolve().parent
IMAGE_TOPIC = '/image_raw'


def generate_launch_description() -> LaunchDescription:
    """Return the nodes and arguments; one without a letter, such as `family`, applies to both."""
    arguments = [
        DeclareLaunchArgument(
            'coordination',
            default_value='collective',
            choices=['none', 'collective'],
            description='Whether the classifiers choose their levels together.',
        ),
        DeclareLaunchArgument(
            'monitor',
            default_value='false',
            choices=['true', 'false'],
            description='Whether to start monitor_node, a web page that shows both.',
        ),
        *_arguments_of('a'),
        *_arguments_of('b'),
    ]
    end_together = RegisterEventHandler(
        OnProcessExit(on_exit=[Shutdown(reason='one of the nodes has ended')])
    )
    # After the classifiers, whose launch file sets the Fast DDS profile.
    camera = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(HERE / 'camera.launch.py')),
        launch_arguments={'namespace': '', 'image_topic': IMAGE_TOPIC}.items(),
    )
    return LaunchDescription(
        [*arguments, end_together, _classifier('a'), _classifier('b'), camera]
    )


def _arguments_of(letter: str) -> list[DeclareLaunchArgument]:
    model = letter.upper()
    return [
        DeclareLaunchArgument(
            f'family_{letter}',
            default_value=LaunchConfiguration('family', default=''),
            description=f'Family of model {model}: a directory, or a name (signs, imagenet).',
        ),
        DeclareLaunchArgument(
            f'max_latency_{letter}_ms',
            default_value=LaunchConfiguration('max_latency_ms', default=''),
            description=f'Latency limit of model {model} in ms; 0 = no limit.',
        ),
        DeclareLaunchArgument(
            f'min_accuracy_{letter}',
            default_value=LaunchConfiguration('min_accuracy', default=''),
            description=f'Minimum accuracy of model {model}, a fraction; 0 = no limit.',
        ),
        DeclareLaunchArgument(
            f'importance_{letter}',
            default_value=LaunchConfiguration('importance', default=''),
            description=f'Weight of the accuracy of model {model} in collective choices.',
        ),
    ]


def _classifier(letter: str) -> IncludeLaunchDescription:
    return IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(HERE / 'classifier.launch.py')),
        launch_arguments={
            'namespace': f'model_{letter}',
            'family': LaunchConfiguration(f'family_{letter}'),
            'image_topic': IMAGE_TOPIC,
            'image_transport': 'raw',
            'max_latency_ms': LaunchConfiguration(f'max_latency_{letter}_ms'),
            'min_accuracy': LaunchConfiguration(f'min_accuracy_{letter}'),
            'coordination': LaunchConfiguration('coordination'),
            'importance': LaunchConfiguration(f'importance_{letter}'),
            'use_sim_time': 'false',
            'respawn': 'false',
            # One page shows both.
            'monitor': LaunchConfiguration('monitor') if letter == 'a' else 'false',
        }.items(),
    )
