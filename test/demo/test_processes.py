"""The supervisor of the demo, with small real processes."""

import os
import subprocess
import sys
import time

import psutil
import pytest
from programs import wait_until

from dynamic_ofa_ros.demo import processes
from dynamic_ofa_ros.demo.processes import PartError, Supervisor, indented_tail

TIMEOUT_S = 10.0
SLEEP = 'import time; print("up", flush=True); time.sleep(60)'
STUBBORN = f'import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n{SLEEP}'


def python(code):
    return [sys.executable, '-I', '-S', '-c', code]


def is_alive(pid):
    """Return whether a process runs; a zombie does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
def supervisor(tmp_path):
    with Supervisor(tmp_path) as supervisor:
        yield supervisor


def started(supervisor, name, code, **options):
    """Start a process and wait until it has printed something; return it."""
    supervisor.start(name, python(code), **options)
    wait_until(lambda: '(empty)' not in indented_tail(supervisor.log_path(name)), 'printing')
    return supervisor._parts[name]


def test_processes_have_their_own_group_log_and_cpus(supervisor):
    cpu = max(os.sched_getaffinity(0))
    pid = started(supervisor, 'sleeper', SLEEP, cpus={cpu}).pid
    assert os.getpgid(pid) == pid != os.getpgid(0)
    # In one session, because Linux divides CPU time among sessions first.
    assert os.getsid(pid) == os.getsid(0)
    assert os.sched_getaffinity(pid) == {cpu}
    apart = started(supervisor, 'apart', SLEEP, is_apart=True).pid
    assert os.getsid(apart) == apart
    supervisor.check()


@pytest.mark.parametrize(
    ('code', 'sentence'),
    [
        ('print("oh no"); raise SystemExit(3)', r'sick ended with exit status 3; .*\n    oh no'),
        ('pass', r'sick ended with exit status 0.*\n    \(empty\)'),
        ('import os; os.kill(os.getpid(), 9)', 'sick was ended by SIGKILL'),
    ],
)
def test_a_dead_process_is_named_with_the_end_of_its_log(supervisor, code, sentence):
    supervisor.start('sick', python(code))
    with pytest.raises(PartError, match=sentence):
        wait_until(supervisor.check, 'the death')
    supervisor.check()  # reported only once


def test_a_process_that_cannot_be_started_is_reported(supervisor):
    with pytest.raises(PartError, match='ghost cannot be started: No such file'):
        supervisor.start('ghost', ['/no/such/program'])


def test_a_process_killed_by_the_supervisor_is_not_reported(supervisor):
    pid = started(supervisor, 'victim', SLEEP).pid
    assert supervisor.kill('victim') == pid
    assert not is_alive(pid)
    supervisor.check()


def test_close_ends_processes_that_ignore_sigint(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, 'PATIENCE_S', 0.1)
    with Supervisor(tmp_path) as supervisor:
        pids = [started(supervisor, 'a', SLEEP).pid, started(supervisor, 'b', STUBBORN).pid]
    assert not any(is_alive(pid) for pid in pids)
    supervisor.close()  # a second call has no effect


def test_no_process_survives_a_killed_supervisor(tmp_path):
    code = f"""
import sys
from pathlib import Path
from dynamic_ofa_ros.demo.processes import Supervisor
supervisor = Supervisor(Path({str(tmp_path)!r}))
supervisor.start('part', [sys.executable, '-c', {STUBBORN!r}])
supervisor.start_competitors(1, ())
supervisor.set_busy(1)
print(*(process.pid for process in supervisor._parts.values()), flush=True)
sys.stdin.read()
"""
    demo = subprocess.Popen(
        [sys.executable, '-c', code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with demo:
        pids = [int(word) for word in demo.stdout.readline().split()]
        assert len(pids) == 2
        assert all(is_alive(pid) for pid in pids)
        demo.kill()
        demo.wait()
    for pid in pids:
        wait_until(lambda pid=pid: not is_alive(pid), f'the end of {pid}')


def test_the_requested_number_of_processes_is_busy(supervisor):
    supervisor.start_competitors(2, {max(os.sched_getaffinity(0))})
    first, second = supervisor._parts.values()

    def share(process):
        before, begin_s = sum(process.cpu_times()[:2]), time.monotonic()
        time.sleep(0.5)
        return (sum(process.cpu_times()[:2]) - before) / (time.monotonic() - begin_s)

    supervisor.set_busy(1)
    wait_until(lambda: share(first) > 0.1, 'work')  # other programs use the CPU, too
    assert share(second) < 0.1
    supervisor.set_busy(0)
    wait_until(lambda: share(first) < 0.05, 'rest')


def test_the_end_of_a_log_has_the_last_state_of_a_progress_bar(tmp_path):
    path = tmp_path / 'log'
    path.write_bytes(b'x' * 100_000 + b'\none\n\n10 %\r20 %\r99 %\n\xff last\n')
    assert indented_tail(path, 3) == '    one\n    99 %\n    \ufffd last'
    assert indented_tail(tmp_path / 'none') == '    (empty)'
