"""A router for the tests of the stand-ins, one for all of them."""

import pytest


@pytest.fixture(scope='session')
def router_process():
    from dynamic_ofa_ros.rclpy_zenoh.router import start_router

    with start_router() as router:
        yield router


@pytest.fixture
def router(router_process, monkeypatch):
    """Lead this test's contexts, and the processes it starts, to the router."""
    monkeypatch.setenv('DYNAMIC_OFA_ROUTER', router_process.endpoint)
    monkeypatch.delenv('ROS_DOMAIN_ID', raising=False)
    return router_process


@pytest.fixture
def processes(router):
    """Start processes that are ended with the test."""
    from rclpy_zenoh.support import Process, environment_for

    started = []

    def start(code, *arguments, environment=None):
        process = Process(code, environment or environment_for(router), *arguments)
        started.append(process)
        return process

    yield start
    for process in started:
        process.close()
