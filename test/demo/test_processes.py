"""Real processes, tiny ones."""

import os
import signal
import subprocess
import sys
import time

import pytest

from dynamic_ofa_ros.demo.guardian import follow
from dynamic_ofa_ros.demo.processes import PartError, Supervisor, tail

TIMEOUT_S = 10.0
QUICK = ((signal.SIGINT, 5.0), (signal.SIGTERM, 5.0), (signal.SIGKILL, 1.0))
SLEEP = 'import time; print("up", flush=True); time.sleep(60)'
STUBBORN = f"""
import signal
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)
{SLEEP}
"""
WITH_CHILD = f"""
import subprocess, sys
child = subprocess.Popen([sys.executable, '-c', {STUBBORN!r}], stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
{SLEEP}
"""


def python(code):
    return [sys.executable, '-I', '-S', '-c', code]


def wait_until(condition, what):
    deadline_s = time.monotonic() + TIMEOUT_S
    while not (result := condition()):
        assert time.monotonic() < deadline_s, f'{what} did not happen in time'
        time.sleep(0.01)
    return result


def is_alive(pid):
    """Tell whether a process runs; a zombie, which nobody reaps here, does not."""
    try:
        with open(f'/proc/{pid}/stat') as file:
            return file.read().rpartition(')')[2].split()[0] != 'Z'
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.fixture
def supervisor(tmp_path):
    with Supervisor(tmp_path, escalation=QUICK) as supervisor:
        yield supervisor


def started(supervisor, name, code, **kwargs):
    """Start a part and wait until it has printed something; return its pid."""
    supervisor.start(name, python(code), **kwargs)
    wait_until(lambda: tail(supervisor.log_path(name)), f'{name} printing')
    return supervisor.pids()[name]


def test_parts_run_in_groups_of_their_own_with_logs(supervisor):
    pid = started(supervisor, 'sleeper', SLEEP)
    assert os.getpgid(pid) == pid != os.getpgid(0)
    # One session: Linux would else share the CPU per session, whatever runs in it.
    assert os.getsid(pid) == os.getsid(0)
    assert tail(supervisor.log_path('sleeper')) == ['up']
    supervisor.poll()
    assert supervisor.is_running('sleeper')


def test_environment_and_cpus_are_passed_on(supervisor):
    cpu = max(os.sched_getaffinity(0))
    code = 'import os; print(os.environ["WORD"], os.sched_getaffinity(0), flush=True); ' + SLEEP
    started(supervisor, 'part', code, env={'WORD': 'hello'}, cpus=[cpu])
    assert tail(supervisor.log_path('part'))[0].startswith('hello')
    assert os.sched_getaffinity(supervisor.pids()['part']) == {cpu}


def test_a_part_that_dies_is_named_with_the_end_of_its_log(supervisor):
    supervisor.start('sick', python('import sys; print("oh no"); sys.exit(3)'))

    def poll():
        supervisor.poll()

    with pytest.raises(PartError, match=r'sick ended with exit status 3; .*sick\.log') as e:
        wait_until(poll, 'the death')
    assert '    oh no' in str(e.value)
    supervisor.poll()  # told once
    assert not supervisor.is_running('sick')


def test_a_part_that_is_killed_is_named_with_the_signal(supervisor):
    pid = started(supervisor, 'victim', SLEEP)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(PartError, match='victim was ended by SIGKILL'):
        wait_until(lambda: supervisor.poll(), 'the death')


def test_a_part_that_also_exits_with_0_died(supervisor):
    supervisor.start('short', python('pass'))
    with pytest.raises(PartError, match=r'short ended with exit status 0.*\n    \(nothing\)'):
        wait_until(lambda: supervisor.poll(), 'the end')


def test_a_part_that_was_asked_to_stop_did_not_die(supervisor):
    pid = started(supervisor, 'sleeper', SLEEP)
    supervisor.request_stop('sleeper')

    def is_gone():
        supervisor.poll()
        return not supervisor.is_running('sleeper')

    wait_until(is_gone, 'the end')
    assert not is_alive(pid)
    supervisor.request_stop('sleeper')  # nothing left to do


def test_a_part_that_cannot_start_is_refused(supervisor):
    with pytest.raises(PartError, match='ghost cannot be started: No such file'):
        supervisor.start('ghost', ['/no/such/program'])
    started(supervisor, 'twin', SLEEP)
    with pytest.raises(PartError, match='twin already runs'):
        supervisor.start('twin', python(SLEEP))


def test_close_ends_stubborn_parts_and_their_children(tmp_path):
    quick = ((signal.SIGINT, 0.05), (signal.SIGTERM, 0.05), (signal.SIGKILL, 1.0))
    with Supervisor(tmp_path, escalation=quick) as supervisor:
        stubborn = started(supervisor, 'stubborn', STUBBORN)
        parent = started(supervisor, 'parent', WITH_CHILD)
        child = int(tail(supervisor.log_path('parent'))[0])
        assert is_alive(child)
    assert not any(is_alive(pid) for pid in (stubborn, parent))
    wait_until(lambda: not is_alive(child), 'the end of the child')
    supervisor.close()  # twice does no harm


def test_nothing_is_left_when_the_supervising_process_is_killed(tmp_path):
    code = f"""
import sys
from pathlib import Path
from dynamic_ofa_ros.demo.processes import Supervisor
supervisor = Supervisor(Path({str(tmp_path)!r}))
supervisor.start('parent', [sys.executable, '-c', {WITH_CHILD!r}])
print(supervisor.pids()['parent'], supervisor._guardian.pid, flush=True)
sys.stdin.read()
"""
    demo = subprocess.Popen(
        [sys.executable, '-c', code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with demo:
        parent, guardian = (int(word) for word in demo.stdout.readline().split())
        child = int(wait_until(lambda: tail(tmp_path / 'parent.log'), 'the child')[0])
        assert all(is_alive(pid) for pid in (parent, child, guardian))
        demo.kill()
        demo.wait()
    for pid in (parent, child, guardian):
        wait_until(lambda pid=pid: not is_alive(pid), f'the end of {pid}')


def test_the_guardian_keeps_account():
    assert follow(['+ 100\n', '+ 200\n', 'nonsense\n', '- 100\n', '+ 0\n', '+ 1\n']) == {200}


def test_tail_reads_the_end_and_the_last_state_of_a_progress_bar(tmp_path):
    path = tmp_path / 'log'
    path.write_bytes(b'x' * 100_000 + b'\none\n\n10 %\r20 %\r99 %\n\xff last\n')
    assert tail(path, 3) == ['one', '99 %', '\ufffd last']
    assert tail(tmp_path / 'none') == []
