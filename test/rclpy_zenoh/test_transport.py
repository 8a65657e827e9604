"""Publishers and subscriptions over a real router, between processes where it matters."""

import contextlib
import signal
import threading
import time

import pytest
from rclpy_zenoh.support import Node, environment_for, ros, spin_until, wait_until

import rclpy  # isort: skip
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor  # isort: skip
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy  # isort: skip
from sensor_msgs.msg import Image  # isort: skip
from std_msgs.msg import String, UInt8  # isort: skip

LATCHED = QoSProfile(depth=2, durability=DurabilityPolicy.TRANSIENT_LOCAL)
BEST_EFFORT = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)

TALKER = """
rclpy.init()
node = Node('talker')
latched = node.create_publisher(
    String, 'latched', QoSProfile(depth=2, durability=DurabilityPolicy.TRANSIENT_LOCAL))
for number in range(3):
    latched.publish(String(data=f'latched {number}'))
chatter = node.create_publisher(String, 'chatter', 10)
count = 0
def tick():
    global count
    count += 1
    chatter.publish(String(data=str(count)))
node.create_timer(0.02, tick)
say('ready')
try:
    rclpy.spin(node)
except KeyboardInterrupt:
    say('interrupted')
except ExternalShutdownException:
    say('terminated')
finally:
    node.destroy_node()
    rclpy.try_shutdown()
say('clean')
"""


def test_between_processes(router, processes):
    talker = processes(TALKER)
    talker.wait_for('ready')
    with ros() as context:
        node = Node('listener', context=context)
        received = []
        node.create_subscription(String, 'chatter', received.append, 10)
        spin_until(node, lambda: len(received) >= 5)
        numbers = [int(message.data) for message in received]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))


def test_late_joiner_gets_the_latched_samples(router, processes):
    processes(TALKER).wait_for('ready')
    with ros() as context:
        node = Node('listener', context=context)
        latched, volatile = [], []
        node.create_subscription(String, 'latched', latched.append, LATCHED)
        node.create_subscription(String, 'latched', volatile.append, 10)
        spin_until(node, lambda: len(latched) == 2)
        assert [message.data for message in latched] == ['latched 1', 'latched 2']
        assert volatile == []


def test_latched_subscription_that_waits_for_the_publisher(router, processes):
    with ros() as context:
        node = Node('listener', context=context)
        latched = []
        node.create_subscription(String, 'latched', latched.append, LATCHED)
        processes(TALKER).wait_for('ready')
        spin_until(node, lambda: latched and latched[-1].data == 'latched 2')


def test_router_restart(monkeypatch, processes):
    from dynamic_ofa_ros.rclpy_zenoh.router import launch_router

    first = launch_router()
    monkeypatch.setenv('DYNAMIC_OFA_ROUTER', first.endpoint)
    talker = processes(TALKER, environment=environment_for(first))
    talker.wait_for('ready')
    with ros() as context:
        node = Node('listener', context=context)
        received = []
        node.create_subscription(String, 'chatter', received.append, 10)
        spin_until(node, lambda: received)
        first.kill()
        wait_until(lambda: 'talker' not in node.get_node_names(), what='loss of the talker')
        second = launch_router(first.port)
        try:
            received.clear()
            spin_until(node, lambda: received, what='a message after the restart')
            wait_until(lambda: 'talker' in node.get_node_names())
            latched = []
            node.create_subscription(String, 'latched', latched.append, LATCHED)
            spin_until(node, lambda: len(latched) == 2, what='latched samples after the restart')
        finally:
            second.stop()


def test_killed_peer_leaves_the_graph(router, processes):
    talker = processes(TALKER)
    talker.wait_for('ready')
    with ros() as context:
        node = Node('watcher', context=context)
        wait_until(lambda: node.count_publishers('chatter') == 1)
        talker.signal(signal.SIGKILL)
        wait_until(lambda: node.count_publishers('chatter') == 0)
        assert 'talker' not in node.get_node_names()


@pytest.mark.parametrize(
    ('number', 'word'), [(signal.SIGINT, 'interrupted'), (signal.SIGTERM, 'terminated')]
)
def test_signals_end_spinning_cleanly(router, processes, number, word):
    talker = processes(TALKER)
    talker.wait_for('ready')
    talker.signal(number)
    assert talker.wait() == 0
    # As in rclpy, spin() returns without an exception if SIGTERM arrives during a callback.
    assert talker.lines[1:] in ([word, 'clean'], ['clean'] if number == signal.SIGTERM else [])
    assert talker.errors == []


def test_domains_are_isolated(router):
    with ros(domain_id=1) as one, ros(domain_id=2) as two:
        here, there = Node('here', context=one), Node('there', context=two)
        received = []
        here.create_subscription(String, 'a', received.append, LATCHED)
        same = here.create_publisher(String, 'a', LATCHED)
        other = there.create_publisher(String, 'a', LATCHED)
        other.publish(String(data='other'))
        same.publish(String(data='same'))
        spin_until(here, lambda: received)
        # 'other' was published first and would have come by now.
        assert [message.data for message in received] == ['same']
        assert here.get_node_names() == ['here']


def test_domain_comes_from_the_environment(router, monkeypatch):
    monkeypatch.setenv('ROS_DOMAIN_ID', '7')
    with ros() as context:
        assert context.get_domain_id() == 7
    monkeypatch.setenv('ROS_DOMAIN_ID', 'seven')
    with pytest.raises(Exception, match='seven'), ros():
        pass


def test_slow_subscriber_of_depth_one_gets_the_newest(router):
    with ros() as one, ros() as two:
        publisher = Node('p', context=one).create_publisher(UInt8, 'a', BEST_EFFORT)
        node = Node('s', context=two)
        received = []

        def slow(message):
            time.sleep(0.2)
            received.append(message.data)

        node.create_subscription(UInt8, 'a', slow, BEST_EFFORT)
        wait_until(lambda: publisher.get_subscription_count() == 1)
        # Called back for each of them, it would need ten seconds.
        for number in range(50):
            publisher.publish(UInt8(data=number))
        spin_until(node, lambda: received and received[-1] == 49)
        assert len(received) < 50
        assert received == sorted(received)


def test_queue_keeps_as_many_as_its_depth(router):
    with ros() as context:
        node = Node('n', context=context)
        received = []
        subscription = node.create_subscription(UInt8, 'a', received.append, 3)
        publisher = node.create_publisher(UInt8, 'a', 10)
        for number in range(10):
            publisher.publish(UInt8(data=number))
        wait_until(subscription.is_ready)
        spin_until(node, lambda: received and received[-1].data == 9)
        assert [message.data for message in received] == [7, 8, 9]


def test_publishing_does_not_wait_for_a_stopped_subscriber(router, processes):
    stopped = processes(
        """
        rclpy.init()
        node = Node('stopped')
        node.create_subscription(String, 'a', lambda _: None, 1)
        say('ready')
        rclpy.spin(node)
        """
    )
    stopped.wait_for('ready')
    with ros() as context:
        publisher = Node('p', context=context).create_publisher(String, 'a', 1)
        wait_until(lambda: publisher.get_subscription_count() == 1)
        stopped.signal(signal.SIGSTOP)
        message = String(data='x' * 1_000_000)
        publishing = threading.Thread(
            target=lambda: [publisher.publish(message) for _ in range(40)], daemon=True
        )  # far more than the sockets' buffers hold
        publishing.start()
        publishing.join(30.0)
        assert not publishing.is_alive(), 'publishing waits for the stopped process'


def test_many_reliable_messages_arrive_in_order(router):
    with ros() as one, ros() as two:
        publisher = Node('p', context=one).create_publisher(String, 'a', 2000)
        node = Node('s', context=two)
        received = []
        node.create_subscription(String, 'a', received.append, 2000)
        wait_until(lambda: publisher.get_subscription_count() == 1)
        for number in range(1000):
            publisher.publish(String(data=str(number)))
        spin_until(node, lambda: len(received) == 1000)
        assert [message.data for message in received] == [str(number) for number in range(1000)]


def test_images_arrive_whole(router):
    with ros() as one, ros() as two:
        publisher = Node('p', context=one).create_publisher(Image, 'image', BEST_EFFORT)
        node = Node('s', context=two)
        received = []
        node.create_subscription(Image, 'image', received.append, BEST_EFFORT)
        wait_until(lambda: publisher.get_subscription_count() == 1)
        pixels = bytes(range(256)) * 3600
        message = Image(height=480, width=640, encoding='rgb8', step=1920, data=pixels)
        for _ in range(20):
            received.clear()
            publisher.publish(message)
            spin_until(node, lambda: received)
            assert received == [message]


def test_callback_can_ask_for_the_message_info(router):
    with ros() as context:
        node = Node('n', context=context)
        received = []
        node.create_subscription(String, 'a', lambda m, info: received.append(info), 10)
        before_ns = time.time_ns()
        publisher = node.create_publisher(String, 'a', 10)
        publisher.publish(String())
        publisher.publish(String())
        spin_until(node, lambda: len(received) == 2)
        assert [info['publication_sequence_number'] for info in received] == [1, 2]
        assert before_ns <= received[0]['source_timestamp'] <= received[0]['received_timestamp']


def test_malformed_sample_is_dropped_and_said(router, capfd):
    with ros() as context:
        node = Node('n', context=context)
        received = []
        node.create_subscription(String, 'a', received.append, 10)
        publisher = node.create_publisher(String, 'a', 10)
        publisher.publish(b'\x00\x01\x00\x00\xff\xff\xff\x7f')
        publisher.publish(b'')
        publisher.publish(String(data='fine'))
        spin_until(node, lambda: received)
        assert [message.data for message in received] == ['fine']
        assert "malformed std_msgs/msg/String on '/a'" in capfd.readouterr().err


def test_destroyed_subscription_receives_nothing(router):
    with ros() as context:
        node = Node('n', context=context)
        destroyed, received = [], []
        subscription = node.create_subscription(String, 'a', destroyed.append, 10)
        node.create_subscription(String, 'a', received.append, 10)
        publisher = node.create_publisher(String, 'a', 10)
        wait_until(lambda: publisher.get_subscription_count() == 2)
        assert node.destroy_subscription(subscription)
        wait_until(lambda: publisher.get_subscription_count() == 1)
        publisher.publish(String())
        spin_until(node, lambda: received)
        assert not subscription.is_ready()
        assert destroyed == []


def test_raw_subscription(router):
    from dynamic_ofa_ros.rclpy_zenoh.messages import serialize

    with ros() as context:
        node = Node('n', context=context)
        received = []
        node.create_subscription(String, 'a', received.append, 10, raw=True)
        node.create_publisher(String, 'a', 10).publish(String(data='x'))
        spin_until(node, lambda: received)
        assert received == [bytes(serialize(String(data='x')))]


def test_exception_in_a_callback_ends_spinning(router):
    with ros() as context:
        node = Node('n', context=context)

        def fail(_):
            raise ValueError('on purpose')

        node.create_subscription(String, 'a', fail, 10)
        node.create_publisher(String, 'a', 10).publish(String())
        with pytest.raises(ValueError, match='on purpose'):
            rclpy.spin(node)


def test_shutdown_in_another_thread_wakes_a_spinning_node(router):
    with ros() as context:
        # Nothing but the shutdown would ever wake it.
        executor = SingleThreadedExecutor(context=context)
        executor.add_node(Node('idle', context=context))
        ended = []

        def run():
            with contextlib.suppress(ExternalShutdownException):
                executor.spin()
            ended.append(True)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        wait_until(lambda: not executor._ready and thread.is_alive())
        context.shutdown()
        thread.join(10.0)
        assert ended == [True]
