from __future__ import annotations

import gc
import os
import threading
from collections.abc import Callable

import pytest

from dynamic_ofa_ros.runtime import scheduling
from dynamic_ofa_ros.runtime.scheduling import Scheduling, numbers_of


def on_a_thread(call: Callable[[], object]) -> object:
    """Run a call on a thread of its own: what it asks of the system ends with it."""
    found: list[object] = []
    thread = threading.Thread(target=lambda: found.append(call()))
    thread.start()
    thread.join()
    return found[0]


@pytest.mark.parametrize(
    ('text', 'expected'), [('0', {0}), ('0,2-4', {0, 2, 3, 4}), ('7-7', {7}), ('1,1', {1})]
)
def test_processors_are_numbers_and_ranges(text, expected):
    assert numbers_of(text) == expected


@pytest.mark.parametrize('text', ['', 'x', '1-', '-1', '1,,2', '1;2', ' 1'])
def test_what_names_no_processors_is_refused(text):
    with pytest.raises(ValueError, match='names no processors; write them as 0,2-3'):
        numbers_of(text)


def test_only_the_calling_thread_is_moved():
    before = os.sched_getaffinity(0)
    cpu = max(before)

    def moved() -> object:
        Scheduling(cpus=str(cpu)).begin()
        return os.sched_getaffinity(threading.get_native_id())

    assert on_a_thread(moved) == {cpu}
    assert os.sched_getaffinity(0) == before


def test_only_the_calling_thread_is_nicer():
    before = os.getpriority(os.PRIO_PROCESS, 0)

    def nicer() -> object:
        Scheduling(nice=before + 3).begin()
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    assert on_a_thread(nicer) == before + 3
    assert os.getpriority(os.PRIO_PROCESS, 0) == before


def test_what_the_system_refuses_is_a_warning(monkeypatch, caplog):
    def refuse(*_: object) -> None:
        raise PermissionError(13, 'Permission denied')

    monkeypatch.setattr(scheduling.os, 'setpriority', refuse)
    Scheduling(cpus='4000', nice=-5).begin()
    assert 'cannot be kept on 4000' in caplog.text
    assert 'cannot have niceness -5' in caplog.text
    assert 'LimitNICE=' in caplog.text


def test_garbage_is_collected_between_frames_and_left_to_python_at_the_end():
    ours = Scheduling(garbage='between_frames')
    ours.begin()
    try:
        assert not gc.isenabled()
        before = gc.get_stats()[1]['collections']
        ours.after_frame(1)
        assert gc.get_stats()[1]['collections'] == before + 1
        before = gc.get_stats()[2]['collections']
        ours.after_frame(500)
        assert gc.get_stats()[2]['collections'] == before + 1
    finally:
        ours.end()
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0


def test_nothing_is_asked_for_by_default(monkeypatch):
    monkeypatch.setattr(scheduling.os, 'sched_setaffinity', pytest.fail)
    monkeypatch.setattr(scheduling.os, 'setpriority', pytest.fail)
    Scheduling().begin()
    Scheduling().after_frame(500)
    Scheduling().end()
    assert gc.isenabled()
