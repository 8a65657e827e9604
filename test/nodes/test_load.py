"""Load processes: the fraction of the time that they are busy, and their end with the node."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
from programs import wait_until

from dynamic_ofa_ros.nodes import contention_node
from dynamic_ofa_ros.nodes.contention_node import (
    ContentionSettings,
    Workers,
    contention_settings,
    parse_cpus,
)
from dynamic_ofa_ros.nodes.parameter_table import ParameterError
from dynamic_ofa_ros.nodes.parameters import CONTENTION

TIMEOUT_S = 20.0
BUSY = ContentionSettings('busy', 1, 1.0, 'cpu', ())


@pytest.fixture
def workers():
    running = Workers()
    yield running
    running.stop()


def cpu_seconds(process_id):
    times = psutil.Process(process_id).cpu_times()
    return times.user + times.system


def share_of_cpu(process_id, seconds=0.6):
    """Return the fraction of a CPU that a process uses after its start."""
    wait_until(lambda: cpu_seconds(process_id) > 0.15, 'the worker does not work')
    start_s, used_s = time.monotonic(), cpu_seconds(process_id)
    wait_until(lambda: time.monotonic() > start_s + seconds, 'time stands still')
    return (cpu_seconds(process_id) - used_s) / (time.monotonic() - start_s)


# CPU seconds, more than the start and the imports take.
@pytest.mark.parametrize(
    ('workload', 'seconds'), [('busy', 1.0), ('memory', 1.5), ('training', 3.5)]
)
def test_each_workload_uses_the_device(workers, workload, seconds):
    if workload == 'training':
        pytest.importorskip('torch')
    workers.apply(ContentionSettings(workload, 1, 1.0, 'cpu', ()))
    (process_id,) = workers.process_ids
    wait_until(
        lambda: not workers.process_ids or cpu_seconds(process_id) > seconds, 'no work', 60.0
    )
    assert workers.take_failures() == []


def test_duty_cycle_changes_while_running(workers):
    workers.apply(BUSY)
    (process_id,) = workers.process_ids
    # With other busy processes, a process gets less than a whole CPU, but not this little.
    wait_until(lambda: share_of_cpu(process_id) > 0.3, 'it does not work all the time')
    workers.set_duty_cycle(0.1)
    wait_until(lambda: share_of_cpu(process_id) < 0.2, 'the share does not fall')
    workers.set_duty_cycle(0.0)
    wait_until(lambda: share_of_cpu(process_id, 0.3) < 0.05, 'it does not rest')
    assert workers.process_ids == (process_id,)


@pytest.mark.skipif(not hasattr(os, 'sched_getaffinity'), reason='no CPU affinity here')
def test_workers_use_only_the_given_cpus(workers):
    cpu = max(os.sched_getaffinity(0))
    workers.apply(ContentionSettings('busy', 2, 0.1, 'cpu', (cpu,)))
    for process_id in workers.process_ids:
        wait_until(lambda pid=process_id: os.sched_getaffinity(pid) == {cpu}, 'wrong CPUs')


def test_stop_ends_every_worker(workers):
    workers.apply(ContentionSettings('busy', 3, 0.1, 'cpu', ()))
    process_ids = workers.process_ids
    assert len(process_ids) == 3
    workers.stop()
    assert workers.process_ids == ()
    assert not any(psutil.pid_exists(process_id) for process_id in process_ids)


def test_a_worker_that_cannot_start_is_reported_once(workers):
    workers.apply(ContentionSettings('busy', 1, 1.0, 'cuda:63', ()))
    reasons = wait_until(workers.take_failures, 'no failure', 60.0)
    assert len(reasons) == 1
    assert reasons[0]
    assert workers.take_failures() == []


@pytest.mark.parametrize('number', [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_with_their_parent_even_if_it_is_killed(number):
    code = (
        'import time\n'
        'from dynamic_ofa_ros.nodes.contention_node import ContentionSettings, Workers\n'
        'workers = Workers()\n'
        "workers.apply(ContentionSettings('busy', 2, 0.1, 'cpu', ()))\n"
        'print(*workers.process_ids, flush=True)\n'
        'time.sleep(60)\n'
    )
    parent = subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE, text=True)
    children = []
    try:
        assert parent.stdout is not None
        process_ids = [int(word) for word in parent.stdout.readline().split()]
        assert len(process_ids) == 2
        children = [psutil.Process(process_id) for process_id in process_ids]
        parent.send_signal(number)
        _, alive = psutil.wait_procs(children, timeout=TIMEOUT_S)
        assert not [child for child in alive if child.status() != psutil.STATUS_ZOMBIE]
    finally:
        for process in (parent, *children):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        parent.communicate()


@pytest.mark.parametrize(
    ('text', 'cpus'), [('', ()), ('0', (0,)), ('0,1', (0, 1)), ('1-3, 0', (0, 1, 2, 3))]
)
def test_lists_of_cpus_are_parsed(monkeypatch, text, cpus):
    monkeypatch.setattr(contention_node, '_usable_cpus', lambda: {0, 1, 2, 3})
    assert parse_cpus(text) == cpus


@pytest.mark.parametrize(
    'text', ['one', '0-', '0;1', '-1', '4', '2-5', '3-1', '0-9999999999', 5000 * '9']
)
def test_invalid_lists_of_cpus_are_rejected(monkeypatch, text):
    monkeypatch.setattr(contention_node, '_usable_cpus', lambda: {0, 1, 2, 3})
    with pytest.raises(ParameterError, match='cpus is'):
        parse_cpus(text)


def test_a_new_duty_cycle_does_not_restart_workers():
    settings = contention_settings({spec.name: spec.default for spec in CONTENTION})
    assert settings == ContentionSettings('none', 1, 1.0, 'cpu', ())
    assert not BUSY.needs_other_workers_than(ContentionSettings('busy', 1, 0.5, 'cpu', ()))
    assert BUSY.needs_other_workers_than(ContentionSettings('memory', 1, 1.0, 'cpu', ()))
    assert BUSY.needs_other_workers_than(ContentionSettings('busy', 2, 1.0, 'cpu', ()))
