"""Where the router is, and what happens without one."""

import os
import signal

import pytest
from rclpy_zenoh.support import Process, environment_for, wait_until

from dynamic_ofa_ros.errors import TransportError
from dynamic_ofa_ros.rclpy_zenoh import session
from dynamic_ofa_ros.rclpy_zenoh.router import (
    check_port_is_free,
    free_port,
    launch_router,
    start_router,
)

WAITING = """
rclpy.init()
try:
    node = Node('patient')
    say('found it')
    rclpy.spin(node)
except KeyboardInterrupt:
    say('interrupted')
except ExternalShutdownException:
    say('terminated')
finally:
    rclpy.try_shutdown()
"""


@pytest.fixture
def nowhere():
    """Return an endpoint at which nothing listens."""
    return f'127.0.0.1:{free_port()}'


@pytest.mark.parametrize(
    ('value', 'endpoint'),
    [
        ('', 'tcp/127.0.0.1:7447'),
        ('robot:7448', 'tcp/robot:7448'),
        ('tcp/10.0.0.1:7447', 'tcp/10.0.0.1:7447'),
        ('tcp/[::1]:7447', 'tcp/[::1]:7447'),
    ],
)
def test_endpoint(monkeypatch, value, endpoint):
    monkeypatch.setenv('DYNAMIC_OFA_ROUTER', value)
    assert session.router_endpoint() == endpoint


@pytest.mark.parametrize('value', ['robot', 'robot:', ':7447', 'robot:99999', 'udp/robot:7447'])
def test_malformed_endpoint(monkeypatch, value):
    monkeypatch.setenv('DYNAMIC_OFA_ROUTER', value)
    with pytest.raises(TransportError, match='DYNAMIC_OFA_ROUTER'):
        session.router_endpoint()


@pytest.mark.parametrize('value', ['-1', '233', 'x', '1.5'])
def test_malformed_domain(value):
    with pytest.raises(TransportError, match='ROS_DOMAIN_ID'):
        session.check_domain_id(value)


def test_opening_without_a_router_says_how_to_start_one(nowhere):
    with pytest.raises(TransportError, match='dynamic-ofa router --port'):
        session.open_session(f'tcp/{nowhere}')


@pytest.mark.parametrize(
    ('number', 'word'), [(signal.SIGINT, 'interrupted'), (signal.SIGTERM, 'terminated')]
)
def test_waiting_for_the_router_speaks_and_can_be_ended(nowhere, number, word):
    process = Process(WAITING, {**os.environ, 'DYNAMIC_OFA_ROUTER': nowhere})
    try:
        process.wait_for_error('No Zenoh router answers')
        process.signal(number)
        assert process.wait() == 0
        assert process.lines == [word]
    finally:
        process.close()


def test_node_starts_when_the_router_comes(nowhere):
    process = Process(WAITING, {**os.environ, 'DYNAMIC_OFA_ROUTER': nowhere})
    try:
        process.wait_for_error('No Zenoh router answers')
        with start_router(int(nowhere.rpartition(':')[2])):
            process.wait_for('found it')
    finally:
        process.close()


def test_message_is_repeated_but_not_at_every_attempt(nowhere):
    attempts, said = [], []

    def keep_trying():
        attempts.append(1)
        return len(attempts) < 4

    opened = session.open_session_retrying(f'tcp/{nowhere}', keep_trying, said.append)
    assert opened is None
    assert len(said) == 1


def test_start_router_answers_and_ends():
    with start_router() as router:
        assert session.router_answers(router.endpoint)
        assert environment_for(router)['DYNAMIC_OFA_ROUTER'] == router.endpoint
        assert router.environment()['DYNAMIC_OFA_ROUTER'] == router.endpoint
        assert router.port > 0
    assert router.process.returncode == 0
    assert not session.router_answers(router.endpoint)


def test_port_that_is_taken():
    with start_router() as router:
        with pytest.raises(TransportError, match=r'already in use.*--port'):
            check_port_is_free('127.0.0.1', router.port)
        # Another router there would never answer as itself.
        with pytest.raises(TransportError, match=r'in use'):
            launch_router(router.port)


def test_address_of_another_machine():
    with pytest.raises(TransportError, match='--listen'):
        check_port_is_free('203.0.113.1', 7447)


def test_program_that_forgets_to_shut_down_still_ends():
    with start_router() as router:
        process = Process(
            """
            rclpy.init()
            node = Node('forgetful')
            node.create_subscription(String, 'a', lambda _: None, 1)
            say('done')
            """,
            environment_for(router),
        )
        try:
            assert process.wait() == 0
            assert process.lines == ['done']
            assert process.errors == []
        finally:
            process.close()


def test_router_ends_with_a_parent_that_was_killed():
    process = Process(
        """
        from dynamic_ofa_ros.rclpy_zenoh.router import launch_router
        say(launch_router().endpoint)
        time.sleep(600)
        """,
        dict(os.environ),
    )
    try:
        endpoint = process.wait_for('tcp/')
        assert session.router_answers(endpoint)
        process.signal(signal.SIGKILL)
        wait_until(lambda: not session.router_answers(endpoint))
    finally:
        process.close()
