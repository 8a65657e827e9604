"""Nodes: names, arguments, entities, what is refused."""

import pytest
from rclpy_zenoh.support import Node, ros, spin_until, spinning, wait_until

import rclpy  # isort: skip
from rclpy.context import Context  # isort: skip
from rclpy.exceptions import (  # isort: skip
    InvalidHandle,
    InvalidNodeNameException,
    InvalidTopicNameException,
    NotInitializedException,
)
from rclpy.parameter import Parameter  # isort: skip
from rclpy.qos import QoSPolicyKind, QoSProfile, ReliabilityPolicy  # isort: skip
from rclpy.qos_overriding_options import QoSOverridingOptions  # isort: skip
from std_msgs.msg import String  # isort: skip
from std_srvs.srv import Trigger  # isort: skip


def test_a_node_needs_an_initialised_context():
    with pytest.raises(NotInitializedException):
        Node('n', context=Context())


def test_a_context_is_initialised_once(router):
    with ros() as context:
        with pytest.raises(RuntimeError, match='once'):
            context.init([])
        context.shutdown()
        with pytest.raises(RuntimeError):
            context.shutdown()
        assert not context.ok()


def test_renaming_and_remapping(router):
    args = ['--ros-args', '-r', '__node:=eye', '-r', '__ns:=/robot', '-r', 'image:=/camera/rgb',
            '-r', '~/info:=/info']  # fmt: skip
    with ros(args) as context:
        node = Node('camera', context=context)
        assert node.get_fully_qualified_name() == '/robot/eye'
        assert node.get_logger().name == 'robot.eye'
        assert node.create_publisher(String, 'image', 1).topic_name == '/camera/rgb'
        assert node.resolve_topic_name('~/info') == '/info'
        assert node.resolve_topic_name('~/info', only_expand=True) == '/robot/eye/info'
        assert node.resolve_service_name('~/enable') == '/robot/eye/enable'
        assert 'camera' not in node.get_node_names()


def test_own_arguments_and_global_ones(router):
    with ros(['--ros-args', '-r', '__ns:=/global', '-p', 'a:=1', '-p', 'b:=1']) as context:
        own = ['--ros-args', '-r', '__ns:=/own', '-p', 'a:=2']
        node = Node('n', context=context, cli_args=own)
        assert node.get_namespace() == '/own'
        assert node.declare_parameter('a', 0).value == 2
        assert node.declare_parameter('b', 0).value == 1
        alone = Node('n', context=context, cli_args=own, use_global_arguments=False)
        assert alone.declare_parameter('b', 0).value == 0


def test_invalid_names(router):
    with ros() as context:
        with pytest.raises(InvalidNodeNameException):
            Node('a/b', context=context)
        node = Node('n', context=context, namespace='ns')
        assert node.get_namespace() == '/ns'
        with pytest.raises(InvalidTopicNameException):
            node.create_publisher(String, 'a b', 1)


def test_wrong_types_are_refused(router):
    with ros() as context:
        node = Node('n', context=context)
        with pytest.raises(Exception, match='no message class'):
            node.create_publisher(Trigger, 'a', 1)
        with pytest.raises(Exception, match='no service class'):
            node.create_client(String, 'a')
        publisher = node.create_publisher(String, 'a', 1)
        with pytest.raises(TypeError):
            publisher.publish('text')
        with pytest.raises(TypeError):
            node.create_publisher(String, 'a', 'ten')
        with pytest.raises(RuntimeError, match='callback'):
            node.create_subscription(String, 'a', lambda: None, 1)


def test_destroying(router):
    with ros() as context:
        node, watcher = Node('n', context=context), Node('watcher', context=context)
        publisher = node.create_publisher(String, 'a', 1)
        wait_until(lambda: watcher.count_publishers('a') == 1)
        assert node.destroy_publisher(publisher)
        assert not node.destroy_publisher(publisher)
        wait_until(lambda: watcher.count_publishers('a') == 0)
        with pytest.raises(InvalidHandle):
            publisher.publish(String())
        node.destroy_node()
        node.destroy_node()
        wait_until(lambda: watcher.get_node_names() == ['watcher'])


def test_publishing_after_shutdown_is_an_error_not_a_hang(router):
    with ros() as context:
        publisher = Node('n', context=context).create_publisher(String, 'a', 1)
        context.shutdown()
        with pytest.raises(RuntimeError, match='context is invalid'):
            publisher.publish(String())


def test_qos_overrides_are_parameters(router):
    args = ['--ros-args', '-p', 'qos_overrides./image.subscription.depth:=7',
            '-p', 'qos_overrides./image.subscription.reliability:=reliable']  # fmt: skip
    with ros(args) as context:
        node = Node('n', context=context)
        subscription = node.create_subscription(
            String, 'image', lambda _: None,
            QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT),
            qos_overriding_options=QoSOverridingOptions(
                [QoSPolicyKind.DEPTH, QoSPolicyKind.RELIABILITY]
            ),
        )  # fmt: skip
        assert subscription.qos_profile.depth == 7
        assert subscription.qos_profile.reliability == ReliabilityPolicy.RELIABLE
        name = 'qos_overrides./image.subscription.depth'
        assert node.get_parameter(name).value == 7
        refused = node.set_parameters([Parameter(name, value=8)])[0]
        assert 'read-only' in refused.reason


def test_wrong_qos_override_names_the_parameter(router):
    args = ['--ros-args', '-p', 'qos_overrides./image.publisher.reliability:=maybe']
    with ros(args) as context:
        node = Node('n', context=context)
        with pytest.raises(Exception, match=r'qos_overrides\./image\.publisher\.reliability'):
            node.create_publisher(
                String, 'image', 1,
                qos_overriding_options=QoSOverridingOptions.with_default_policies(),
            )  # fmt: skip


def test_graph_queries(router):
    with ros() as first, ros() as second:
        here, there = Node('here', context=first), Node('there', context=second, namespace='/x')
        publisher = there.create_publisher(
            String, 'topic', QoSProfile(depth=3, reliability=ReliabilityPolicy.BEST_EFFORT)
        )
        there.create_service(Trigger, 'serve', lambda request, response: response)
        wait_until(lambda: here.count_publishers('/x/topic') == 1)
        wait_until(lambda: here.count_services('/x/serve') == 1)
        assert ('there', '/x') in here.get_node_names_and_namespaces()
        assert ('/x/topic', ['std_msgs/msg/String']) in here.get_topic_names_and_types()
        assert ('/x/serve', ['std_srvs/srv/Trigger']) in here.get_service_names_and_types()
        assert ('/x/topic', ['std_msgs/msg/String']) in here.get_publisher_names_and_types_by_node(
            'there', '/x'
        )
        info = here.get_publishers_info_by_topic('/x/topic')[0]
        assert (info.node_name, info.node_namespace) == ('there', '/x')
        assert info.topic_type == 'std_msgs/msg/String'
        assert info.qos_profile.depth == 3
        assert info.qos_profile.reliability == ReliabilityPolicy.BEST_EFFORT
        assert publisher.get_subscription_count() == 0
        subscription = here.create_subscription(String, '/x/topic', lambda _: None, 1)
        wait_until(lambda: publisher.get_subscription_count() == 1)
        assert subscription.get_publisher_count() == 1


def test_rosout_and_its_switch(router):
    from rcl_interfaces.msg import Log

    with ros() as context:
        node, loud = Node('node', context=context), Node('loud', context=context)
        logs = []
        node.create_subscription(Log, '/rosout', logs.append, 10)
        wait_until(lambda: node.count_subscribers('/rosout') == 1)
        loud.get_logger().get_child('part').warning('careful')
        spin_until(node, lambda: logs)
        assert (logs[0].name, logs[0].msg, logs[0].level) == ('loud.part', 'careful', Log.WARN)
        assert logs[0].function == 'test_rosout_and_its_switch'
    with ros(['--ros-args', '--disable-rosout-logs']) as context:
        quiet = Node('quiet', context=context)
        assert '/rosout' not in [
            name for name, _ in quiet.get_publisher_names_and_types_by_node('quiet', '/')
        ]


def test_guard_condition_runs_in_the_executor(router):
    with ros() as context:
        node = Node('n', context=context)
        calls = []
        guard = node.create_guard_condition(lambda: calls.append(1))
        with spinning(node):
            guard.trigger()
            wait_until(lambda: calls == [1])


def test_init_and_shutdown_of_the_default_context(router):
    with rclpy.init(args=[]):
        assert rclpy.ok()
        node = rclpy.create_node('n')
        assert node.context is rclpy.get_default_context()
    assert not rclpy.ok()
    rclpy.try_shutdown()
    with pytest.raises(RuntimeError):
        rclpy.shutdown()
    rclpy.init(args=[])
    rclpy.shutdown()
