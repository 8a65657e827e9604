from __future__ import annotations

import logging
import os
import signal
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import rclpy
from rclpy.logging import get_logger
from rclpy.node import Node
from rclpy.signals import uninstall_signal_handlers

from dynamic_ofa_ros.errors import FamilyError
from dynamic_ofa_ros.nodes import runner
from dynamic_ofa_ros.nodes.runner import (
    NodeFinished,
    Throttle,
    forward_logging,
    run,
    stop_forwarding,
)

pytestmark = pytest.mark.usefixtures('domain')


class Waiting(Node):
    """A node whose first timer callback raises the given exception."""

    closed = 0

    def __init__(self, error):
        super().__init__('waiting')
        self._error = error
        self.create_timer(0.01, self._raise)

    def _raise(self):
        raise self._error

    def start(self):
        pass

    def close(self):
        type(self).closed += 1


@pytest.fixture(autouse=True)
def _nothing_closed_yet():
    Waiting.closed = 0
    handlers = {number: signal.getsignal(number) for number in runner.ENDING_SIGNALS}
    uninstall_signal_handlers()  # of the domain's context, which a node's process does not have
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ('error', 'status'),
    [(NodeFinished(), 0), (KeyboardInterrupt(), 0), (FamilyError('labels.txt is cut short'), 2)],
)
def test_the_exit_status_depends_on_the_end(error, status, capfd):
    assert run('waiting', lambda: Waiting(error), ['waiting']) == status
    assert Waiting.closed == 1
    printed = ''.join(capfd.readouterr())
    assert ('labels.txt is cut short' in printed) == (status == 2)


@pytest.mark.parametrize('number', runner.ENDING_SIGNALS)
def test_the_first_signal_ends_the_node_and_later_ones_are_ignored(number):
    class Impatient(Waiting):
        def _raise(self):
            os.kill(os.getpid(), number)

        def close(self):
            os.kill(os.getpid(), number)
            super().close()

    assert run('waiting', lambda: Impatient(None), ['waiting']) == 0
    assert Impatient.closed == 1
    os.kill(os.getpid(), number)
    assert signal.getsignal(number) == signal.SIG_IGN


def test_an_exception_caused_by_a_signal_at_the_start_is_not_an_error():
    def create():
        os.kill(os.getpid(), signal.SIGINT)
        deadline_s = time.monotonic() + 10.0
        while rclpy.ok() and time.monotonic() < deadline_s:
            time.sleep(0.001)
        raise FamilyError('nothing works without a context')

    assert run('waiting', create, ['waiting']) == 0


def test_a_signal_before_the_initialisation_ends_the_node(monkeypatch):
    def init(args):
        os.kill(os.getpid(), signal.SIGINT)
        raise RuntimeError('broken off')

    monkeypatch.setattr(runner.rclpy, 'init', init)
    assert run('waiting', lambda: Waiting(None), ['waiting']) == 0


def test_an_error_at_the_start_is_one_line(capfd):
    def create():
        raise FamilyError('two lines\nof a parser')

    assert run('waiting', create, ['waiting']) == 2
    printed = ''.join(capfd.readouterr()).strip()
    assert len(printed.splitlines()) == 1
    assert 'two lines of a parser' in printed


@pytest.mark.parametrize(
    ('path', 'sentence'),
    [
        ('x' * 300, f'{"x" * 300}: File name too long'),
        ('~nobody_of_this_name/x', 'the home folder is unknown: set HOME, or give a path without'),
    ],
)
def test_an_error_of_the_file_system_is_one_line(path, sentence, capfd):
    def create():
        Path(path).expanduser().stat()

    assert run('waiting', create, ['waiting']) == 2
    printed = ''.join(capfd.readouterr()).strip()
    assert len(printed.splitlines()) == 1
    assert sentence in printed


def too_large_a_thread():
    size = threading.stack_size(2**45)
    try:
        threading.Thread(target=print).start()
    finally:
        threading.stack_size(size)


def too_large_an_array():
    np.empty(2**45)


@pytest.mark.parametrize(
    ('create', 'sentence'),
    [
        (too_large_a_thread, 'no thread can be started: raise the limits of memory and threads'),
        (too_large_an_array, 'there is not enough memory'),
    ],
)
def test_a_limit_of_the_system_is_one_line(create, sentence, capfd):
    assert run('waiting', create, ['waiting']) == 2
    printed = ''.join(capfd.readouterr()).strip()
    assert len(printed.splitlines()) == 1
    assert sentence in printed


def test_an_unexpected_error_is_raised_after_closing():
    with pytest.raises(ZeroDivisionError):
        run('waiting', lambda: Waiting(ZeroDivisionError()), ['waiting'])
    assert Waiting.closed == 1


def test_invalid_ros_arguments_are_rejected(capfd):
    arguments = ['waiting', '--ros-args', '--params-file', '/nowhere/at/all.yaml']
    assert run('waiting', lambda: Waiting(NodeFinished()), arguments) == 2
    assert '/nowhere/at/all.yaml' in ''.join(capfd.readouterr())


@pytest.mark.parametrize(
    ('arguments', 'sentence'),
    [
        (['-p', 'family'], 'unknown arguments: -p family; write, for example: --ros-args -p NAME'),
        (['--ros-args', '--help'], "unknown arguments after --ros-args: ['--help']; write, for"),
        (
            ['--ros-args', '-p', 'use_sim_time:=often'],
            "Trying to set parameter 'use_sim_time' to 'often' of type 'STRING', expecting",
        ),
        (
            ['--ros-args', '-r', f'__node:={"x" * 300}'],
            "invalid node name: node name length should not exceed '255'",
        ),
    ],
)
@pytest.mark.filterwarnings('ignore:Failed to fini rosout publisher')
def test_arguments_that_no_node_can_use_are_one_line(arguments, sentence, capfd):
    assert run('waiting', lambda: Waiting(NodeFinished()), ['waiting', *arguments]) == 2
    printed = ''.join(capfd.readouterr())
    (line,) = (line for line in printed.splitlines() if sentence in line)
    assert '/src/' not in line
    assert 'Traceback' not in printed


def test_an_unknown_parameter_of_any_node_is_warned_of(capfd):
    arguments = ['waiting', '--ros-args', '-p', 'use_simtime:=true']
    assert run('waiting', lambda: Waiting(NodeFinished()), arguments) == 0
    warning = 'unknown parameter use_simtime is ignored; did you mean use_sim_time?'
    assert warning in ''.join(capfd.readouterr())


def test_log_records_are_forwarded_to_the_node(domain, capfd):
    forwarder = forward_logging(domain.node)
    try:
        logger = logging.getLogger('dynamic_ofa_ros.runtime.anything')
        logger.info('chose %s', 'onnxruntime')
        logger.warning('busy')
        logger.error('broken')
        logger.debug('not shown')
    finally:
        stop_forwarding(forwarder)
    printed = ''.join(capfd.readouterr())
    for line in ('[INFO]', 'chose onnxruntime', '[WARN]', '[ERROR]'):
        assert line in printed
    assert 'not shown' not in printed


def test_log_records_appear_once_if_two_nodes_forward(capfd):
    loggers = (get_logger('first'), get_logger('second'))
    first, second = (forward_logging(SimpleNamespace(get_logger=lambda x=x: x)) for x in loggers)
    logger = logging.getLogger('dynamic_ofa_ros.runtime.anything')
    logger.info('both')
    stop_forwarding(first)
    assert not logging.getLogger('dynamic_ofa_ros').propagate
    logger.info('one')
    stop_forwarding(second)
    lines = [line for line in ''.join(capfd.readouterr()).splitlines() if '[INFO]' in line]
    assert [line.split('[', 3)[3] for line in lines] == ['first]: both', 'second]: one']


def test_throttle_passes_each_kind_once_in_a_period(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(runner.time, 'monotonic', lambda: now[0])
    throttle = Throttle(5.0)
    assert throttle.passes('step')
    assert not throttle.passes('step')
    assert throttle.passes('encoding')
    now[0] += 4.9
    assert not throttle.passes('step')
    now[0] += 0.2
    assert throttle.passes('step')
