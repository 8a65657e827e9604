"""Log lines in ROS's format."""

import re

import pytest
from rclpy_zenoh import support  # noqa: F401 - skips this module where ROS 2 serves

from dynamic_ofa_ros.rclpy_zenoh import logging

from rclpy.clock import ROSClock  # isort: skip
from rclpy.logging import LoggingSeverity, get_logger  # isort: skip


@pytest.fixture(autouse=True)
def plain(monkeypatch):
    monkeypatch.setenv('RCUTILS_COLORIZED_OUTPUT', '0')
    yield
    logging.clear_config()
    logging.enable_console(True)


def lines(capfd):
    return capfd.readouterr().err.splitlines()


def test_format(capfd):
    get_logger('robot.node').info('all well')
    assert re.fullmatch(r'\[INFO\] \[\d{10}\.\d{9}\] \[robot\.node\]: all well', lines(capfd)[0])


def test_levels(capfd):
    logger = get_logger('n')
    assert not logger.debug('hidden')
    assert logger.warning('shown')
    logger.set_level(LoggingSeverity.ERROR)
    assert not logger.get_child('part').warn('hidden')
    assert logger.get_child('part').fatal('shown')
    logger.get_child('part').set_level(LoggingSeverity.DEBUG)
    assert logger.get_child('part').debug('shown')
    assert [line.split(']')[0] for line in lines(capfd)] == ['[WARN', '[FATAL', '[DEBUG']


def test_once_and_skip_first(capfd):
    logger = get_logger('n')
    for _ in range(3):
        logger.info('once', once=True)
    for number in range(3):
        logger.info(f'skip {number}', skip_first=True)
    texts = [line.split(']: ')[1] for line in lines(capfd)]
    assert texts == ['once', 'skip 1', 'skip 2']


def test_throttle_is_per_line_and_follows_its_clock(capfd):
    logger = get_logger('n')
    clock = ROSClock()
    for now_s in (1.0, 1.5, 2.1, 2.9, 3.2):
        clock.set_sim_time(int(now_s * 1e9))
        logger.warning(f'{now_s}', throttle_duration_sec=1.0, throttle_time_source_type=clock)
    logger.warning('another line', throttle_duration_sec=1.0, throttle_time_source_type=clock)
    texts = [line.split(']: ')[1] for line in lines(capfd)]
    assert texts == ['1.0', '2.1', '3.2', 'another line']


def test_unknown_keyword():
    with pytest.raises(TypeError, match='nonsense'):
        get_logger('n').info('x', nonsense=1)


def test_own_format(capfd, monkeypatch):
    monkeypatch.setenv('RCUTILS_CONSOLE_OUTPUT_FORMAT', '{severity}|{name}|{message}')
    get_logger('n').error('bad')
    assert lines(capfd) == ['ERROR|n|bad']


def test_colours(capfd, monkeypatch):
    monkeypatch.setenv('RCUTILS_COLORIZED_OUTPUT', '1')
    get_logger('n').error('bad')
    assert lines(capfd)[0].startswith('\x1b[31m[ERROR]')


def test_console_can_be_switched_off(capfd):
    logging.enable_console(False)
    get_logger('n').error('bad')
    assert lines(capfd) == []


def test_rosout_goes_to_the_nearest_owner():
    got = []

    def publish(severity, name, message, frame):
        got.append((severity, name, message))

    logging.add_rosout('a.b', publish)
    try:
        get_logger('a.b.c').error('x')
        get_logger('a').error('y')
    finally:
        logging.remove_rosout('a.b', publish)
    get_logger('a.b').error('z')
    assert got == [(LoggingSeverity.ERROR, 'a.b.c', 'x')]


def test_closed_stderr_does_not_raise(monkeypatch, tmp_path):
    import sys

    stream = (tmp_path / 'err').open('w')
    stream.close()
    monkeypatch.setattr(sys, 'stderr', stream)
    assert get_logger('n').error('bad')
