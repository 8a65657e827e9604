"""Launch files: their arguments, and, if launch_ros is installed, real runs."""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ros_harness import Ros, ros

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = 'dynamic_ofa_ros'
LAUNCH_FILES = sorted((ROOT / 'launch').glob('*.launch.py'))
START_TIMEOUT_S = 90.0
"""Timeout for the first label; the first start on a machine builds the engines."""

END_TIMEOUT_S = 30.0
PROFILE_VARIABLES = ('FASTRTPS_DEFAULT_PROFILES_FILE', 'FASTDDS_DEFAULT_PROFILES_FILE')

# `launch` is found even without ROS 2, because this repository has a folder of this name.
HAS_LAUNCH = importlib.util.find_spec('launch_ros') is not None
needs_launch = pytest.mark.skipif(
    not HAS_LAUNCH,
    reason='requires launch_ros, which is part of an installed ROS 2, not of the wheels',
)


@pytest.fixture(scope='module', params=LAUNCH_FILES, ids=lambda file: file.name)
def file(request) -> Path:
    return request.param


def tree_of(name: str) -> ast.Module:
    return ast.parse((ROOT / 'launch' / name).read_text(encoding='utf-8'))


def calls(name: str, function: str) -> list[ast.Call]:
    return [
        node
        for node in ast.walk(tree_of(name))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == function
    ]


def text_of(node: ast.expr) -> str:
    """Return a string, with `*` for its computed parts."""
    if isinstance(node, ast.JoinedStr):
        return ''.join(
            part.value if isinstance(part, ast.Constant) else '*' for part in node.values
        )
    return ast.literal_eval(node)


def arguments(name: str) -> dict[str, dict[str, ast.expr]]:
    """Return the keywords of each argument that a launch file declares, by name."""
    return {
        text_of(call.args[0]): {keyword.arg: keyword.value for keyword in call.keywords}
        for call in calls(name, 'DeclareLaunchArgument')
    }


def typed_parameters(name: str) -> dict[str, tuple[str, str]]:
    """Return argument and type of each node parameter in a launch file, by parameter."""
    found = {}
    for node in ast.walk(tree_of(name)):
        if not isinstance(node, ast.Dict):
            continue
        for key, value in zip(node.keys, node.values, strict=True):
            if (
                isinstance(value, ast.Call)
                and isinstance(value.func, ast.Name)
                and value.func.id == 'typed'
            ):
                found[key.value] = (value.args[0].value, value.args[1].id)
    return found


def classifier_parameters() -> dict[str, tuple[str, str]]:
    """Return PARAMETERS of classifier.launch.py: parameter and type, by argument."""
    for node in tree_of('classifier.launch.py').body:
        if isinstance(node, ast.Assign) and node.targets[0].id == 'PARAMETERS':
            return {
                key.value: (value.elts[0].value, value.elts[1].id)
                for key, value in zip(node.value.keys, node.value.values, strict=True)
            }
    raise AssertionError('classifier.launch.py has no table PARAMETERS')


def specs(table: str) -> dict[str, object]:
    from dynamic_ofa_ros.nodes import parameters

    return {spec.name: spec for spec in getattr(parameters, table)}


def choices_of(keywords: dict[str, ast.expr]) -> list[str]:
    return ast.literal_eval(keywords['choices']) if 'choices' in keywords else []


# The contents of the files.


def test_every_launch_file_is_documented():
    names = [file.name for file in LAUNCH_FILES]
    assert names == [
        f'{name}.launch.py'
        for name in ('camera', 'classifier', 'contention', 'demo', 'replay', 'two_models')
    ]
    text = (ROOT / 'docs' / 'launch.md').read_text(encoding='utf-8')
    assert [name for name in names if name not in text] == []


def test_every_argument_has_a_description_and_a_default(file):
    for name, keywords in arguments(file.name).items():
        wanted = {'description'} if name == 'bag' else {'description', 'default_value'}
        assert wanted <= set(keywords), name


def test_classifier_arguments_match_the_parameter_table():
    table, declared = specs('CLASSIFIER'), arguments('classifier.launch.py')
    for argument, (parameter, type_name) in classifier_parameters().items():
        keywords = declared[argument]
        # An empty argument does not override params_file.
        assert text_of(keywords['default_value']) == '', argument
        if parameter == 'use_sim_time':  # a parameter of every node
            assert (type_name, choices_of(keywords)) == ('bool', ['', 'true', 'false'])
            continue
        spec = table[parameter]
        assert type_name == type(spec.default).__name__, parameter
        if type_name == 'bool':
            assert choices_of(keywords) == ['', 'true', 'false'], argument
        elif not spec.pattern:
            assert choices_of(keywords) == (['', *spec.choices] if spec.choices else []), argument


@pytest.mark.parametrize(
    ('name', 'table'), [('camera.launch.py', 'CAMERA'), ('contention.launch.py', 'CONTENTION')]
)
def test_arguments_match_the_parameter_table(name, table):
    declared, parameters = arguments(name), specs(table)
    typed = typed_parameters(name)
    assert typed
    for parameter, (argument, type_name) in typed.items():
        spec, keywords = parameters[parameter], declared[argument]
        assert type_name == type(spec.default).__name__, parameter
        if parameter != 'workload':  # the default of the node is none
            assert text_of(keywords['default_value']) == str(spec.default), argument
        if not spec.pattern:
            assert choices_of(keywords) == list(spec.choices), argument


def test_coordination_of_two_models_matches_the_parameter_table():
    spec = specs('CLASSIFIER')['manager.coordination']
    assert choices_of(arguments('two_models.launch.py')['coordination']) == list(spec.choices)


def test_includes_pass_only_declared_arguments(file):
    for call in calls(file.name, 'IncludeLaunchDescription'):
        (included,) = re.findall(r"'(\w+\.launch\.py)'", ast.unparse(call.args[0]))
        given = [
            key.value
            for keyword in call.keywords
            if keyword.arg == 'launch_arguments'
            for node in ast.walk(keyword.value)
            if isinstance(node, ast.Dict)
            for key in node.keys
        ]
        assert set(given) <= set(arguments(included)), included


def test_nothing_is_downloaded_or_evaluated(file):
    text = file.read_text(encoding='utf-8')
    assert re.findall(r'\b(?:urllib|requests|eval|exec|PythonExpression|shell)\b', text) == []


# Real runs. `launch` is imported in other processes only, because it changes loggers that are
# created later, and other tests read the log.

PROGRAM = """
import sys
from launch import LaunchService
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource

path, *arguments = sys.argv[1:]
service = LaunchService()
service.include_launch_description(
    IncludeLaunchDescription(
        PythonLaunchDescriptionSource(path),
        launch_arguments=[argument.split(':=', 1) for argument in arguments],
    )
)
sys.exit(service.run())
"""

SHOW_PROGRAM = """
import sys
from launch import LaunchContext
from launch.launch_description_sources import PythonLaunchDescriptionSource

source = PythonLaunchDescriptionSource(sys.argv[1])
for argument in source.get_launch_description(LaunchContext()).get_launch_arguments():
    print(argument.name)
"""

PLAYER = """#!{python}
import os, signal, sys
signal.signal(signal.SIGINT, lambda *_: sys.exit(0))
with open('{record}.part', 'w') as file:
    file.write('\\n'.join([*sys.argv[1:], *(os.environ.get(name, '') for name in {variables})]))
os.replace('{record}.part', '{record}')
signal.pause()
"""
"""A fake of `ros2 bag play`, as there are no wheels of rosbag2."""


class Launched:
    """A running launch file in a separate process group, as in a terminal."""

    def __init__(self, session: Ros, log: Path, name: str, *given: str) -> None:
        self.log = log
        self.session = session
        with log.open('wb') as file:
            self.process = subprocess.Popen(
                [sys.executable, '-c', PROGRAM, str(ROOT / 'launch' / name), *given],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=session.environment,
                cwd=session.folder,
                start_new_session=True,
            )

    def output(self) -> str:
        return self.log.read_text(encoding='utf-8')

    def processes(self, executable: str) -> list[int]:
        """Return the ids of the processes of an executable, in the order of their start."""
        pattern = rf'\[{executable}-\d+\]: process started with pid \[(\d+)\]'
        return [int(number) for number in re.findall(pattern, self.output())]

    def wait_until(self, condition, what: str, timeout_s: float = START_TIMEOUT_S):
        def checked():
            assert self.process.poll() is None, f'{what}: launch has ended\n{self.output()}'
            return condition()

        try:
            return self.session.wait_until(checked, what, timeout_s)
        except AssertionError as error:
            raise AssertionError(f'{error}\n{self.output()}') from None

    def wait(self) -> int:
        """Return the exit status; fail if a process is still running."""
        try:
            status = self.process.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise AssertionError(f'launch did not end:\n{self.output()}') from None
        assert not self.group_exists(), f'a process is left behind:\n{self.output()}'
        return status

    def group_exists(self) -> bool:
        try:
            os.killpg(self.process.pid, 0)
        except ProcessLookupError:
            return False
        return True

    def interrupt(self) -> int:
        """Send SIGINT to all processes, like Ctrl-C; return the exit status."""
        os.killpg(self.process.pid, signal.SIGINT)
        return self.wait()

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture(scope='module')
def prefix(tmp_path_factory) -> Path:
    """Install this checkout with the layout of colcon."""
    prefix = tmp_path_factory.mktemp('install')
    index = prefix / 'share' / 'ament_index' / 'resource_index' / 'packages'
    index.mkdir(parents=True)
    (index / PACKAGE).touch()
    (prefix / 'share' / PACKAGE).symlink_to(ROOT)
    (prefix / 'lib').mkdir()
    (prefix / 'lib' / PACKAGE).symlink_to(ROOT / 'scripts')
    return prefix


@pytest.fixture
def session(tmp_path, prefix) -> Iterator[Ros]:
    with ros(tmp_path) as session:
        session.environment |= {
            'AMENT_PREFIX_PATH': os.pathsep.join(
                filter(None, (str(prefix), os.environ.get('AMENT_PREFIX_PATH', '')))
            ),
            # The scripts start with `/usr/bin/env python3`.
            'PATH': os.pathsep.join((str(Path(sys.executable).parent), os.environ['PATH'])),
            'ROS_LOG_DIR': str(tmp_path / 'ros_log'),
        }
        for name in (*PROFILE_VARIABLES, 'RCUTILS_COLORIZED_OUTPUT'):
            session.environment.pop(name, None)
        yield session


@pytest.fixture
def launch(session, tmp_path):
    started = []

    def start(name: str, *given: str) -> Launched:
        launched = Launched(session, tmp_path / f'{name}.log', name, *given)
        started.append(launched)
        return launched

    yield start
    for launched in started:
        launched.kill()


def environment_of(process: int) -> dict[str, str]:
    entries = Path(f'/proc/{process}/environ').read_bytes().decode().split('\0')
    return dict(entry.split('=', 1) for entry in entries if entry)


def profiles(environment: dict[str, str]) -> list[str]:
    """Return the Fast DDS profiles that the environment variables name."""
    return [environment[name] for name in PROFILE_VARIABLES if name in environment]


def telemetry(session: Ros, *namespaces: str) -> list:
    from dynamic_ofa_ros.msg import Telemetry

    return [
        session.listen(Telemetry, f'{namespace}/classifier/telemetry') for namespace in namespaces
    ]


def answers_on(topics: list):
    return lambda: all(topic.messages for topic in topics)


@needs_launch
def test_arguments_of_included_files_are_shown(file, session):
    result = subprocess.run(
        [sys.executable, '-c', SHOW_PROGRAM, str(file)],
        capture_output=True,
        text=True,
        timeout=60,
        env=session.environment,
        check=True,
    )
    shown = set(result.stdout.split())
    assert {'namespace', 'log_level', 'image_topic'} <= shown
    declared = {name for name in arguments(file.name) if '*' not in name}
    assert declared <= shown


@needs_launch
@pytest.mark.parametrize(
    ('name', 'argument', 'words'),
    [
        ('classifier', 'engine:=darknet', "Valid options are: ['', 'auto'"),
        ('classifier', 'image_transport:=theora', "Valid options are: ['', 'raw'"),
        ('classifier', 'autostart:=maybe', "Valid options are: ['', 'true'"),
        ('camera', 'source:=film', "Valid options are: ['signs'"),
        ('demo', 'log_level:=loud', "Valid options are: ['debug'"),
        ('two_models', 'coordination:=perhaps', "Valid options are: ['none'"),
        ('contention', 'delay_s:=soon', "delay_s is 'soon'; it must be a number of seconds"),
        ('contention', 'workload:=gpu', "Valid options are: ['none'"),
        ('replay', 'loop:=twice', "Valid options are: ['true'"),
    ],
)
def test_wrong_value_is_rejected(launch, name, argument, words):
    bag = ['bag:=nowhere'] if name == 'replay' else []
    launched = launch(f'{name}.launch.py', *bag, argument)
    assert launched.wait() == 1
    assert words in launched.output()


@needs_launch
@pytest.mark.parametrize(
    ('name', 'argument', 'words'),
    [
        ('classifier', 'max_latency_ms:=fast', "max_latency_ms is 'fast'; it must be a double"),
        ('classifier', 'max_latency_ms:=-1e3', 'max_latency_ms is -1000; it must lie in [0, 100'),
        ('classifier', 'min_accuracy:=nan', 'min_accuracy is nan; it must lie in [0, 1]'),
        ('classifier', 'params_file:=gone.yaml', 'gone.yaml'),
        ('camera', 'width:=640.5', "width is '640.5'; it must be an integer: 0 to 8192"),
        ('demo', 'rate_hz:=a: b', "rate_hz is 'a: b'; it must be a double: 0.1 to 1000"),
    ],
)
def test_a_node_rejects_a_wrong_value_and_no_process_is_left(launch, name, argument, words):
    launched = launch(f'{name}.launch.py', argument)
    launched.wait()
    assert words in launched.output()
    assert 'process has died' in launched.output()


@needs_launch
def test_the_argument_bag_is_required(launch):
    launched = launch('replay.launch.py')
    assert launched.wait() == 1
    assert "missing required argument 'bag'" in launched.output()


@needs_launch
def test_demo_runs_and_ends_with_ctrl_c(launch, session):
    (topic,) = telemetry(session, '/robot')
    launched = launch('demo.launch.py', 'namespace:=robot', 'max_latency_ms:=50')
    launched.wait_until(answers_on([topic]), 'telemetry')
    assert topic.last.max_latency_ms == 50.0
    assert launched.interrupt() == 0
    output = launched.output()
    assert output.count('process has finished cleanly') == 2
    # Colours and line ends of a terminal would appear in files and logs.
    assert '\x1b' not in output
    assert '\r' not in output


@needs_launch
@pytest.mark.parametrize('victim', ['classifier_node', 'camera_node'])
def test_demo_ends_when_one_node_dies(launch, session, victim):
    (topic,) = telemetry(session, '')
    launched = launch('demo.launch.py')
    launched.wait_until(answers_on([topic]), 'telemetry')
    (process,) = launched.processes(victim)
    os.kill(process, signal.SIGKILL)
    assert launched.wait() == 0
    assert 'process has died' in launched.output()


@needs_launch
def test_demo_ends_when_the_classifier_cannot_start(launch):
    launched = launch('demo.launch.py', 'family:=nowhere')
    assert launched.wait() == 0
    assert 'there is no family at nowhere' in launched.output()


@needs_launch
def test_given_arguments_override_the_parameter_file(launch, session, tmp_path):
    params_file = tmp_path / 'robot.yaml'
    params_file.write_text(
        '/**:\n  ros__parameters:\n    top_k: 3\n    constraints: {max_latency_ms: 40.0}\n'
        '    manager: {importance: 2.0}\n',
        encoding='utf-8',
    )
    launched = launch(
        'classifier.launch.py',
        f'params_file:={params_file}',
        'namespace:=arm',
        'image_topic:=/camera/picture',
        'importance:=3',
        'autostart:=true',
    )
    (levels,) = session_levels(session, '/arm')
    launched.wait_until(lambda: levels.messages, 'levels')
    found = {
        name: session.get_parameter('/arm/classifier', name)
        for name in ('top_k', 'constraints.max_latency_ms', 'manager.importance', 'use_sim_time')
    }
    assert found == {
        'top_k': 3,
        'constraints.max_latency_ms': 40.0,
        'manager.importance': 3.0,
        'use_sim_time': False,
    }
    launched.wait_until(
        lambda: session.node.count_subscribers('/camera/picture') == 1, 'the subscription'
    )
    (process,) = launched.processes('classifier_node')
    (profile,) = profiles(environment_of(process))
    assert (ROOT / 'config' / 'fastdds.xml').samefile(profile)
    assert launched.interrupt() == 0


def session_levels(session: Ros, *namespaces: str) -> list:
    from rclpy.qos import DurabilityPolicy, QoSProfile

    from dynamic_ofa_ros.msg import LevelArray

    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    return [
        session.listen(LevelArray, f'{namespace}/classifier/levels', latched)
        for namespace in namespaces
    ]


@needs_launch
def test_classifier_waits_for_a_manager_without_autostart(launch, session):
    from lifecycle_msgs.msg import State, Transition
    from lifecycle_msgs.srv import ChangeState, GetState

    def state() -> int:
        return session.call(
            GetState, '/classifier/get_state', GetState.Request(), START_TIMEOUT_S
        ).current_state.id

    launched = launch('classifier.launch.py', 'autostart:=false')
    assert state() == State.PRIMARY_STATE_UNCONFIGURED
    for transition, reached in (
        (Transition.TRANSITION_CONFIGURE, State.PRIMARY_STATE_INACTIVE),
        (Transition.TRANSITION_ACTIVATE, State.PRIMARY_STATE_ACTIVE),
    ):
        request = ChangeState.Request(transition=Transition(id=transition))
        service = '/classifier/change_state'
        assert session.call(ChangeState, service, request, START_TIMEOUT_S).success
        assert state() == reached
    assert launched.interrupt() == 0


@needs_launch
def test_classifier_is_restarted_with_respawn(launch, session):
    (levels,) = session_levels(session, '')
    launched = launch('classifier.launch.py', 'respawn:=true')
    launched.wait_until(lambda: levels.messages, 'levels')
    (process,) = launched.processes('classifier_node')
    os.kill(process, signal.SIGKILL)
    launched.wait_until(
        lambda: len(launched.processes('classifier_node')) == 2 and len(levels.messages) >= 2,
        'the second classifier',
    )
    assert launched.interrupt() == 0


@needs_launch
@pytest.mark.parametrize('variable', PROFILE_VARIABLES)
def test_profile_of_the_user_is_kept(launch, session, tmp_path, variable):
    own = tmp_path / 'own.xml'
    own.write_bytes((ROOT / 'config' / 'fastdds.xml').read_bytes())
    session.environment[variable] = str(own)
    launched = launch('classifier.launch.py')
    launched.wait_until(lambda: launched.processes('classifier_node'), 'the classifier')
    (process,) = launched.processes('classifier_node')
    assert profiles(environment_of(process)) == [str(own)]
    assert launched.interrupt() == 0


@needs_launch
@pytest.mark.parametrize(
    ('distribution', 'variable'),
    [('humble', PROFILE_VARIABLES[0]), ('kilted', PROFILE_VARIABLES[1])],
)
def test_profile_is_set_in_the_variable_of_the_distribution(
    launch, session, distribution, variable
):
    session.environment['ROS_DISTRO'] = distribution
    launched = launch('classifier.launch.py')
    launched.wait_until(lambda: launched.processes('classifier_node'), 'the classifier')
    (process,) = launched.processes('classifier_node')
    assert set(environment_of(process)) & set(PROFILE_VARIABLES) == {variable}
    assert launched.interrupt() == 0


@needs_launch
def test_two_models_share_a_camera(launch, session):
    topics = telemetry(session, '/model_a', '/model_b')
    launched = launch(
        'two_models.launch.py', 'min_accuracy:=0.1', 'max_latency_a_ms:=60', 'importance_b:=2'
    )
    launched.wait_until(answers_on(topics), 'telemetry of both')
    limits = [topic.last.max_latency_ms for topic in topics]
    assert limits[0] == 60.0
    assert limits[1] != limits[1]  # NaN: no limit
    assert [topic.last.min_accuracy for topic in topics] == [0.1, 0.1]
    for letter, importance in (('a', 1.0), ('b', 2.0)):
        node = f'/model_{letter}/classifier'
        assert session.get_parameter(node, 'manager.coordination') == 'collective'
        assert session.get_parameter(node, 'manager.importance') == importance
    assert launched.interrupt() == 0
    assert launched.output().count('process has finished cleanly') == 3


@needs_launch
def test_contention_starts_camera_classifier_and_load(launch, session):
    launched = launch('contention.launch.py', 'delay_s:=0', 'workers:=2', 'cpus:=0')
    (topic,) = telemetry(session, '')
    launched.wait_until(answers_on([topic]), 'telemetry')
    found = {
        name: session.get_parameter('/contention', name)
        for name in ('workload', 'workers', 'cpus', 'device')
    }
    assert found == {'workload': 'busy', 'workers': 2, 'cpus': '0', 'device': 'cpu'}
    assert launched.interrupt() == 0
    assert launched.output().count('process has finished cleanly') == 3


@pytest.fixture
def player(session, tmp_path) -> Path:
    """Put a fake `ros2` first in PATH; return the file to which it writes its arguments."""
    folder, record = tmp_path / 'bin', tmp_path / 'called'
    folder.mkdir()
    script = folder / 'ros2'
    text = PLAYER.format(python=sys.executable, record=record, variables=PROFILE_VARIABLES)
    script.write_text(text, encoding='utf-8')
    script.chmod(0o755)
    session.environment['PATH'] = f'{folder}{os.pathsep}{session.environment["PATH"]}'
    return record


@needs_launch
def test_replay_plays_a_bag_with_its_time(launch, session, player):
    launched = launch('replay.launch.py', 'bag:=drive', 'rate:=2', 'loop:=true', 'delay_s:=1')
    launched.wait_until(player.is_file, 'the player')
    (levels,) = session_levels(session, '')
    launched.wait_until(lambda: levels.messages, 'levels')
    *called, old_profile, new_profile = player.read_text(encoding='utf-8').split('\n')
    assert called == [
        *('bag', 'play', 'drive', '--clock', '--rate', '2', '--delay', '1'),
        *('--disable-keyboard-controls', '--loop'),
    ]
    assert Path(old_profile or new_profile).name == 'fastdds.xml'
    assert session.get_parameter('/classifier', 'use_sim_time') is True
    assert launched.interrupt() == 0


@needs_launch
def test_replay_ends_with_the_bag(launch, player):
    launched = launch('replay.launch.py', 'bag:=drive')
    launched.wait_until(
        lambda: player.is_file() and launched.processes('classifier_node'), 'both processes'
    )
    assert '--loop' not in player.read_text(encoding='utf-8')
    (process,) = launched.processes('player')
    os.kill(process, signal.SIGINT)
    begin_s = time.monotonic()
    assert launched.wait() == 0
    assert time.monotonic() - begin_s < END_TIMEOUT_S
