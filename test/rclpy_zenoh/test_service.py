"""Services and clients."""

import pytest
from rclpy_zenoh.support import Node, ros, spin_until, spinning

import rclpy  # isort: skip
from std_srvs.srv import SetBool, Trigger  # isort: skip

SERVER = """
from std_srvs.srv import SetBool
rclpy.init()
node = Node('server')
def answer(request, response):
    response.success = request.data
    response.message = f'got {request.data}'
    return response
node.create_service(SetBool, '~/enable', answer)
say('ready')
rclpy.spin(node)
"""


@pytest.fixture
def node(router):
    with ros() as context:
        yield Node('client', context=context)


def test_between_processes(node, processes):
    processes(SERVER).wait_for('ready')
    client = node.create_client(SetBool, '/server/enable')
    assert client.wait_for_service(10.0)
    futures = [client.call_async(SetBool.Request(data=value)) for value in (True, False)]
    spin_until(node, lambda: all(future.done() for future in futures))
    assert [future.result().message for future in futures] == ['got True', 'got False']


def test_call_waits_while_another_thread_spins(node, processes):
    processes(SERVER).wait_for('ready')
    client = node.create_client(SetBool, '/server/enable')
    assert client.wait_for_service(10.0)
    with spinning(node):
        assert client.call(SetBool.Request(data=True), timeout_sec=10.0).success


def test_absent_service(node):
    client = node.create_client(Trigger, 'nobody')
    assert not client.service_is_ready()
    assert not client.wait_for_service(0.05)
    future = client.call_async(Trigger.Request())
    rclpy.spin_until_future_complete(node, future, timeout_sec=0.2)
    assert not future.done()
    with spinning(node), pytest.raises(TimeoutError):
        client.call(Trigger.Request(), timeout_sec=0.1)


def test_service_of_another_type_is_not_ready(node):
    node.create_service(SetBool, 'serve', lambda request, response: response)
    right, wrong = node.create_client(SetBool, 'serve'), node.create_client(Trigger, 'serve')
    assert right.wait_for_service(10.0)
    assert not wrong.wait_for_service(0.05)


def test_wrong_request_and_wrong_response(node):
    client = node.create_client(Trigger, 'serve')
    with pytest.raises(TypeError):
        client.call_async(SetBool.Request())
    node.create_service(Trigger, 'serve', lambda request, response: None)
    client.call_async(Trigger.Request())
    with pytest.raises(TypeError, match="'/serve' must return"):
        rclpy.spin(node)


def test_done_callback_and_removed_request(node):
    node.create_service(Trigger, 'serve', lambda request, response: response)
    client = node.create_client(Trigger, 'serve')
    assert client.wait_for_service(10.0)
    dropped = client.call_async(Trigger.Request())
    client.remove_pending_request(dropped)
    results = []
    kept = client.call_async(Trigger.Request())
    kept.add_done_callback(lambda future: results.append(future.result()))
    spin_until(node, lambda: results)
    assert results == [Trigger.Response()]
    assert not dropped.done()


def test_destroyed_client_cancels_its_requests(node):
    client = node.create_client(Trigger, 'nobody')
    future = client.call_async(Trigger.Request())
    node.destroy_client(client)
    assert future.cancelled()


def test_destroyed_service_leaves_the_graph(node):
    service = node.create_service(Trigger, 'serve', lambda request, response: response)
    client = node.create_client(Trigger, 'serve')
    assert client.wait_for_service(10.0)
    node.destroy_service(service)
    spin_until(node, lambda: not client.service_is_ready())
