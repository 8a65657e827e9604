"""The demo as a user starts it: real processes, a short scenario."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from families import make_random_family
from ros_harness import ignore_sigint

from dynamic_ofa_ros.demo.recording import read_frames
from dynamic_ofa_ros.demo.scenario import default_scenario
from dynamic_ofa_ros.family import families_directory

ROOT = Path(__file__).resolve().parents[2]
HAS_DEMO_FAMILY = (families_directory() / 'signs' / 'family.yaml').is_file()
SECONDS = 12.0
END_TIMEOUT_S = 60.0
PREPARE_TIMEOUT_S = 120.0
NAMES = [phase.name for phase in default_scenario().phases]


@pytest.fixture(scope='module')
def family(tmp_path_factory):
    """Return the demo's own family; a random one, which is always wrong, until that exists."""
    if HAS_DEMO_FAMILY:
        return 'signs'
    return str(make_random_family(tmp_path_factory.mktemp('families') / 'random', classes=28))


@pytest.fixture(scope='module')
def environment():
    """Return an environment in which demos find this package."""
    variables = dict(os.environ)
    path = os.pathsep.join(filter(None, (str(ROOT), variables.get('PYTHONPATH', ''))))
    return {**variables, 'PYTHONPATH': path, 'OMP_NUM_THREADS': '1'}


class Demo:
    """A demo that runs as a process in the background; its output goes to a file."""

    def __init__(self, folder, environment, *arguments):
        self.output = folder / 'out'
        self.log = folder / 'demo.txt'
        command = [sys.executable, '-m', 'dynamic_ofa_ros.cli.main', 'demo']
        command += ['--output', str(self.output), *arguments]
        with self.log.open('wb') as file:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
                env=environment, cwd=folder, preexec_fn=ignore_sigint,
            )  # fmt: skip

    @property
    def text(self):
        return self.log.read_text(errors='replace')

    def wait(self, timeout_s=PREPARE_TIMEOUT_S + END_TIMEOUT_S):
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f'the demo did not end:\n{self.text}') from None

    def wait_for(self, pattern):
        """Wait until the demo has printed something."""
        deadline_s = time.monotonic() + PREPARE_TIMEOUT_S
        while not re.search(pattern, self.text):
            assert self.process.poll() is None, self.text
            assert time.monotonic() < deadline_s, f'no {pattern!r} in:\n{self.text}'
            time.sleep(0.05)

    def parts(self):
        """Return the processes that belong to this demo and live: {pid: command line}."""
        return {pid: line for pid, line in processes() if str(self.output) in environment_of(pid)}


def processes():
    for entry in Path('/proc').iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / 'cmdline').read_bytes().replace(b'\0', b' ').decode()
            except OSError:
                continue
            if line:
                yield int(entry.name), line


def environment_of(pid):
    """Return what a process was started with: the demo's own mark is in its environment."""
    try:
        return Path(f'/proc/{pid}/environ').read_bytes().decode(errors='replace')
    except OSError:
        return ''


@pytest.fixture
def start(tmp_path, environment, family):
    """Start demos; what is left of them at the end of the test is killed."""
    demos = []

    def begin(*arguments, folder=tmp_path):
        # The mark by which the demo's processes are found, whoever their parent is then.
        marked = {**environment, 'DEMO_TEST_MARK': str(folder / 'out')}
        demo = Demo(folder, marked, '--family', family, *arguments)
        demos.append(demo)
        return demo

    yield begin
    for demo in demos:
        if demo.process.poll() is None:
            demo.process.kill()
        demo.process.wait()
        for pid in demo.parts():
            os.kill(pid, signal.SIGKILL)


def wait_until_gone(demo, timeout_s=15.0):
    deadline_s = time.monotonic() + timeout_s
    while parts := demo.parts():
        assert time.monotonic() < deadline_s, f'still there: {parts}'
        time.sleep(0.05)


@pytest.mark.long
def test_the_whole_demo(start):
    demo = start('--seconds', str(SECONDS))
    status = demo.wait()
    assert status == 0, demo.text
    assert not demo.parts()
    # What a user sees.
    for name in NAMES:
        assert name in demo.text
    assert re.search(r'\$ .*param set /?\S*classifier constraints\.max_latency_ms \d', demo.text)
    assert re.search(r'\$ .*param set /?\S*contention workload busy', demo.text)
    assert re.search(r'\$ .*topic pub --once /?\S*classifier/constraints', demo.text)
    assert f'Written to {demo.output}' in demo.text
    # What is left behind.
    assert {path.name for path in demo.output.iterdir()} >= {
        'telemetry.csv', 'summary.json', 'latency.png', 'accuracy.png',
        'classifier.log', 'camera.log', 'competitor.log',
    }  # fmt: skip
    frames = read_frames(demo.output / 'telemetry.csv')
    summary = json.loads((demo.output / 'summary.json').read_text())
    assert [phase['name'] for phase in summary['phases']] == NAMES
    assert summary['whole_run']['frames'] == len(frames)
    # A busy machine may lose frames, but not most of them.
    assert len(frames) > 0.3 * SECONDS * 30.0
    assert len({frame.stamp_ns for frame in frames}) == len(frames)
    assert all(frame.truth for frame in frames[:-5])
    check_constraints(frames, summary)
    if HAS_DEMO_FAMILY:
        assert summary['whole_run']['accuracy'] > 0.35  # of 28 classes


def check_constraints(frames, summary):
    """Check that the limit came by parameter, for three phases, and went by topic."""
    limits = {phase['name']: phase['limit_ms'] for phase in summary['phases']}
    assert limits['free run'] is None
    assert limits['limit lifted'] is None
    assert limits['tight limit'] == limits['competitor'] == limits['recovery'] > 0.0
    top = max(frame.level for frame in frames if frame.phase == 'free run')
    limited = [frame.level for frame in frames if frame.phase == 'tight limit']
    assert min(limited) < top
    assert frames[-1].level == top
    assert {frame.has_competitor for frame in frames if frame.phase == 'free run'} == {False}
    assert any(frame.has_competitor for frame in frames if frame.phase == 'competitor')


@pytest.mark.parametrize(
    ('number', 'status'),
    [
        pytest.param(signal.SIGINT, 130, id='SIGINT'),
        pytest.param(signal.SIGTERM, 143, id='SIGTERM', marks=pytest.mark.long),
    ],
)
def test_an_interrupted_demo_leaves_results_but_no_process(start, number, status):
    demo = start('--seconds', '600')
    demo.wait_for(r'free run +level')
    assert len(demo.parts()) >= 3
    demo.process.send_signal(number)
    assert demo.wait(END_TIMEOUT_S) == status
    assert not demo.parts()
    assert f'ended early by {number.name}' in demo.text
    assert 'Traceback' not in demo.text
    assert len(read_frames(demo.output / 'telemetry.csv')) > 0
    summary = json.loads((demo.output / 'summary.json').read_text())
    assert summary['conditions']['ended'] == f'ended early by {number.name}'
    assert not (demo.output / 'latency.png').exists()


def test_a_killed_demo_leaves_no_process(start):
    demo = start('--seconds', '600')
    demo.wait_for('waiting for the classifier')
    demo.process.kill()
    demo.process.wait()
    wait_until_gone(demo)


def test_a_part_that_dies_ends_the_demo_and_is_named(start):
    demo = start('--seconds', '600')
    demo.wait_for(r'free run +level')
    (camera,) = [pid for pid, line in demo.parts().items() if 'camera_node' in line]
    os.kill(camera, signal.SIGKILL)
    assert demo.wait(END_TIMEOUT_S) == 1
    assert not demo.parts()
    assert 'dynamic-ofa: camera was ended by SIGKILL; its log' in demo.text
    assert 'Traceback' not in demo.text


@pytest.mark.long
def test_two_demos_at_once_keep_apart(start, tmp_path):
    folders = [tmp_path / name for name in ('one', 'two')]
    for folder in folders:
        folder.mkdir()
    demos = [start('--seconds', '600', folder=folder) for folder in folders]
    for demo in demos:
        demo.wait_for(r'free run +level')
    time_s = {demo: newest_time_s(demo) for demo in demos}
    for demo in demos:
        wait_until_later(demo, time_s[demo] + 2.0)
        demo.process.send_signal(signal.SIGINT)
    for demo in demos:
        assert demo.wait(END_TIMEOUT_S) == 130
        assert not demo.parts()
    # One camera each, 30 images a second: with two in one graph there would be twice as many.
    for demo in demos:
        frames = read_frames(demo.output / 'telemetry.csv')
        assert len(frames) < 36.0 * (frames[-1].time_s - frames[0].time_s) + 10
        sequences = [frame.sequence for frame in frames]
        assert len(set(sequences)) == len(sequences)


def newest_time_s(demo):
    return float(re.findall(r'([\d.]+) s  free run', demo.text)[-1])


def wait_until_later(demo, time_s):
    deadline_s = time.monotonic() + END_TIMEOUT_S
    while newest_time_s(demo) < time_s:
        assert demo.process.poll() is None, demo.text
        assert time.monotonic() < deadline_s, demo.text
        time.sleep(0.05)


def test_a_classifier_that_is_not_ready_in_time_is_explained(start):
    demo = start('--prepare-timeout-s', '0.5')
    assert demo.wait(END_TIMEOUT_S) == 1
    assert not demo.parts()
    assert re.search(r'the classifier was not ready within 0.5 s', demo.text)
    assert '--prepare-timeout-s' in demo.text


@pytest.mark.parametrize(
    ('arguments', 'sentence'),
    [
        (['--seconds', '1'], 'a scenario of 1 s makes no sense'),
        (['--rate-hz', '0'], '--rate-hz is 0'),
        (['--family', '/nowhere'], 'there is no family at /nowhere'),
        (['--output', '/proc/nothing'], 'cannot be written'),
    ],
)
def test_bad_arguments_are_refused_before_anything_starts(start, arguments, sentence):
    demo = start(*arguments)
    assert demo.wait(END_TIMEOUT_S) == 2
    assert sentence in demo.text
    assert 'preparing' not in demo.text
