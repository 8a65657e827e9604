"""What every test relies on: packages, a machine like any other, nothing left behind."""

from __future__ import annotations

import importlib.util
import logging
import os
import random
import signal
import sys
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

NEEDED = {
    'cv2': 'opencv-python-headless', 'hypothesis': 'hypothesis', 'matplotlib': 'matplotlib',
    'ofa': 'ofa', 'onnx': 'onnx', 'onnxruntime': 'onnxruntime', 'openvino': 'openvino',
    'plotext': 'plotext', 'psutil': 'psutil', 'pymoo': 'pymoo', 'rich': 'rich',
    'rosbags': 'rosbags', 'safetensors': 'safetensors', 'scipy': 'scipy', 'torch': 'torch',
    'yaml': 'PyYAML',
}  # fmt: skip

# Small networks only wait for each other on several threads, most of all beside busy processes;
# and sums come out the same in every process. Read by PyTorch and its like when they are imported.
os.environ['OMP_NUM_THREADS'] = '1'

PROFILE = Path(__file__).resolve().parent.parent / 'config' / 'fastdds.xml'
PROFILE_VARIABLES = ('FASTRTPS_DEFAULT_PROFILES_FILE', 'FASTDDS_DEFAULT_PROFILES_FILE')
QUICK_ANNOUNCEMENTS = """<discovery_config>
  <leaseAnnouncement><sec>0</sec><nanosec>200000000</nanosec></leaseAnnouncement>"""

MARK = 'DYNAMIC_OFA_TEST_SESSION'
"""Environment variable by which everything that this session starts is known, orphans too."""

END_TIMEOUT_S = 10.0


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let an order of the tests be repeated."""
    parser.addoption(
        '--order-seed',
        type=int,
        default=random.randrange(1, 10**6),
        help='seed of the order of the files, and of the tests in each; 0 leaves them as written',
    )


def pytest_report_header(config: pytest.Config) -> str:
    """Tell how to repeat the order."""
    return f'order of the tests: --order-seed {config.getoption("order_seed")}'


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Shuffle the files, and the tests in each: none may rely on another one."""
    seed = config.getoption('order_seed')
    if seed == 0:
        return
    files: dict[str, list[pytest.Item]] = {}
    for item in items:
        files.setdefault(item.nodeid.split('::')[0], []).append(item)
    order = random.Random(seed)
    names = sorted(files)
    order.shuffle(names)
    for name in names:
        order.shuffle(files[name])
    items[:] = [item for name in names for item in files[name]]


def pytest_configure(config: pytest.Config) -> None:
    """Begin as a shell in the foreground would: one in the background has SIGINT ignored.

    That what is started with an ignored SIGINT ends by it all the same has tests of its own.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if is_main and signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if importlib.util.find_spec('hypothesis'):
        from hypothesis import HealthCheck, settings

        # The same examples in every run; a busy machine makes single ones slow.
        settings.register_profile(
            'repeatable',
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=[HealthCheck.too_slow],
        )
        settings.load_profile('repeatable')


def pytest_sessionstart(session: pytest.Session) -> None:
    """End at once, with the remedy: launch_testing's plugin ends at the first failed import."""
    missing = [name for module, name in NEEDED.items() if not importlib.util.find_spec(module)]
    if missing:
        raise pytest.UsageError(
            f"the tests need {', '.join(missing)}; install them with: pip install '.[dev]' "
            '(CONTRIBUTING.md says how beside a ROS 2 of the system)'
        )


@pytest.fixture(autouse=True)
def readable_logs() -> None:
    """Let `caplog` see the package's log beside ROS 2's launch.

    Once imported, by a test or by launch_testing's plugin, `launch` makes every new logger one
    that does not propagate.
    """
    logging.setLoggerClass(logging.Logger)
    for name, logger in list(logging.root.manager.loggerDict.items()):
        is_ours = name.split('.')[0] == 'dynamic_ofa_ros' and isinstance(logger, logging.Logger)
        if is_ours and type(logger) is not logging.Logger:
            logger.propagate = True


@pytest.fixture(scope='session', autouse=True)
def _own_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Give this session a build cache of its own, shared by its tests, and a mark.

    ROS 2 stays on this host. Fast DDS reads its profile once per process: one for all tests, the
    package's, with participants that announce themselves more often than every three seconds.
    At the end the shared memory of killed ROS 2 processes goes.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('DYNAMIC_OFA_CACHE', str(tmp_path_factory.mktemp('build_cache')))
        patch.setenv('DYNAMIC_OFA_DATA', str(tmp_path_factory.mktemp('own_families')))
        profile = tmp_path_factory.mktemp('fastdds') / 'profile.xml'
        text = PROFILE.read_text(encoding='utf-8')
        assert '<discovery_config>' in text
        profile.write_text(text.replace('<discovery_config>', QUICK_ANNOUNCEMENTS))
        for variable in PROFILE_VARIABLES:
            patch.setenv(variable, str(profile))
        patch.setenv('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
        patch.setenv(MARK, uuid.uuid4().hex)
        yield
    domain = sys.modules.get('dynamic_ofa_ros.demo.domain')
    if domain is not None:
        domain.clean_shared_memory()


@pytest.fixture(scope='module', autouse=True)
def _no_process_left(_own_environment: None) -> Iterator[None]:
    """Fail the last test of a module that leaves processes, and end them."""
    yield
    import psutil

    left = left_processes(os.environ[MARK])
    _, alive = psutil.wait_procs(left, timeout=END_TIMEOUT_S if left else 0.0)
    for process in alive:
        process.kill()
    assert not alive, f'processes are left: {[process.info for process in alive]}'


def left_processes(mark: str) -> list[object]:
    """Return the processes that carry the mark, but for the helper of `multiprocessing`."""
    import psutil

    found = []
    for process in psutil.process_iter(['pid', 'environ', 'cmdline', 'status']):
        environment, command = process.info.pop('environ'), process.info['cmdline']
        if (
            (environment or {}).get(MARK) == mark
            and process.pid != os.getpid()
            and process.info['status'] != psutil.STATUS_ZOMBIE
            and 'multiprocessing.resource_tracker' not in ' '.join(command or ())
        ):
            found.append(process)
    return found


@pytest.fixture(autouse=True)
def _same_state() -> Iterator[None]:
    """Begin with the same random numbers; undo what is said of PyTorch's threads.

    An engine or a training sets them for the whole process.
    """
    random.seed(0)
    if numpy := sys.modules.get('numpy'):
        numpy.random.seed(0)
    if torch := sys.modules.get('torch'):
        torch.manual_seed(0)
    yield
    torch = sys.modules.get('torch')
    if torch is not None and torch.get_num_threads() != 1:
        torch.set_num_threads(1)
