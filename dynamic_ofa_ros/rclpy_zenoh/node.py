"""`rclpy.node`: a node and everything it is made of."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from dynamic_ofa_ros.rclpy_zenoh import arguments, logging, names, wire
from dynamic_ofa_ros.rclpy_zenoh.callback_groups import MutuallyExclusiveCallbackGroup
from dynamic_ofa_ros.rclpy_zenoh.client import Client
from dynamic_ofa_ros.rclpy_zenoh.clock import Clock, ROSClock
from dynamic_ofa_ros.rclpy_zenoh.context import Context
from dynamic_ofa_ros.rclpy_zenoh.exceptions import (
    MissingFeatureError,
    NotInitializedException,
    NoTypeSupportImportedException,
)
from dynamic_ofa_ros.rclpy_zenoh.graph_queries import GraphQueries
from dynamic_ofa_ros.rclpy_zenoh.guard_condition import GuardCondition
from dynamic_ofa_ros.rclpy_zenoh.messages import message_class
from dynamic_ofa_ros.rclpy_zenoh.parameter import Parameter
from dynamic_ofa_ros.rclpy_zenoh.parameter_service import ParameterService
from dynamic_ofa_ros.rclpy_zenoh.parameters import ParameterMethods, Parameters
from dynamic_ofa_ros.rclpy_zenoh.publisher import Publisher
from dynamic_ofa_ros.rclpy_zenoh.qos import (
    QoSProfile,
    as_profile,
    qos_profile_parameter_events,
    qos_profile_rosout_default,
    qos_profile_services_default,
)
from dynamic_ofa_ros.rclpy_zenoh.qos_overriding_options import (
    QoSOverridingOptions,
    overridden_profile,
)
from dynamic_ofa_ros.rclpy_zenoh.service import Service
from dynamic_ofa_ros.rclpy_zenoh.subscription import Subscription
from dynamic_ofa_ros.rclpy_zenoh.time_source import TimeSource
from dynamic_ofa_ros.rclpy_zenoh.timer import Timer
from dynamic_ofa_ros.rclpy_zenoh.utilities import get_default_context

__all__ = ['MutuallyExclusiveCallbackGroup', 'Node', 'Parameter']


class Node(ParameterMethods, GraphQueries):
    """A node. Callbacks run in the thread that spins it; publishing is safe in any thread."""

    def __init__(
        self,
        node_name: str,
        *,
        context: Context | None = None,
        cli_args: Sequence[str] | None = None,
        namespace: str | None = None,
        use_global_arguments: bool = True,
        enable_rosout: bool = True,
        start_parameter_services: bool = True,
        parameter_overrides: Sequence[Parameter] | None = None,
        allow_undeclared_parameters: bool = False,
        automatically_declare_parameters_from_overrides: bool = False,
        enable_logger_service: bool = False,
    ) -> None:
        if enable_logger_service:
            raise MissingFeatureError('Node(enable_logger_service=True)')
        self._context = get_default_context() if context is None else context
        if not self._context.ok():
            raise NotInitializedException('cannot create node')
        self.executor: Any = None
        self.publishers: list[Publisher] = []
        self.subscriptions: list[Subscription] = []
        self.services: list[Service] = []
        self.clients: list[Client] = []
        self.timers: list[Timer] = []
        self.guards: list[GuardCondition] = []
        self._is_destroyed = False
        self._name, self._namespace = '', '/'
        self._apply_arguments(node_name, namespace, cli_args, use_global_arguments)
        self.identity = wire.NodeIdentity(
            domain_id=self._context.get_domain_id(),
            session_id=str(self._context.session.zid()),
            node_id=self._context.next_node_id(),
            name=self._name,
            namespace=self._namespace,
        )
        self._token = self._context.session.liveliness().declare_token(self.identity.token_key())
        self._default_callback_group = MutuallyExclusiveCallbackGroup()
        self._clock = ROSClock()
        logger_name = f'{self._namespace}/{self._name}'.strip('/').replace('/', '.')
        self._logger = logging.get_logger(logger_name.lstrip('.'))
        self._rosout: Publisher | None = None
        if enable_rosout and self._rosout_enabled:
            self._rosout = self._create_internal_publisher(
                'rcl_interfaces/msg/Log', '/rosout', qos_profile_rosout_default
            )
            logging.add_rosout(self._logger.name, self._publish_log)
        self._parameter_events = self._create_internal_publisher(
            'rcl_interfaces/msg/ParameterEvent', '/parameter_events', qos_profile_parameter_events
        )
        overrides = {
            name: Parameter(name, value=value)
            for rules in self._all_arguments
            for name, value in rules.overrides_for(self._name, self._namespace).items()
        }
        overrides.update({p.name: p for p in parameter_overrides or ()})
        self._parameters = Parameters(
            overrides,
            allow_undeclared=allow_undeclared_parameters,
            publish_event=self._publish_parameter_event,
        )
        self._time_source = TimeSource(self, self._clock)
        if automatically_declare_parameters_from_overrides:
            for name, parameter in overrides.items():
                if not self.has_parameter(name):
                    descriptor = message_class('rcl_interfaces/msg/ParameterDescriptor')
                    self.declare_parameter(name, parameter.value, descriptor(dynamic_typing=True))
        if start_parameter_services:
            self._parameter_service = ParameterService(self)
        self._context.track_node(self)

    def _apply_arguments(
        self,
        node_name: str,
        namespace: str | None,
        cli_args: Sequence[str] | None,
        use_global_arguments: bool,
    ) -> None:
        own = arguments.parse(cli_args)
        # The node's own arguments count before the program's; for parameters the last one wins.
        first = (own, self._context.arguments) if use_global_arguments else (own,)
        self._remaps = tuple(rule for parsed in first for rule in parsed.remaps)
        self._all_arguments = tuple(reversed(first))
        self._rosout_enabled = all(parsed.rosout_enabled for parsed in first)
        namespace = namespace or '/'
        if not namespace.startswith('/'):
            namespace = f'/{namespace}'
        names.validate_node_name(node_name)
        names.validate_namespace(namespace)
        self._original_name = node_name
        self._name, renamed = names.renamed_node(node_name, namespace, self._remaps)
        self._namespace = renamed if renamed.startswith('/') else f'/{renamed}'
        names.validate_node_name(self._name)
        names.validate_namespace(self._namespace)

    # What the node is

    @property
    def context(self) -> Context:
        """Return the context."""
        return self._context

    @property
    def default_callback_group(self) -> MutuallyExclusiveCallbackGroup:
        """Return the group of entities that were created without one."""
        return self._default_callback_group

    def get_name(self) -> str:
        """Return the name without the namespace."""
        return self._name

    def get_namespace(self) -> str:
        """Return the namespace."""
        return self._namespace

    def get_fully_qualified_name(self) -> str:
        """Return namespace and name."""
        return f'{self._namespace.rstrip("/")}/{self._name}'

    def get_clock(self) -> ROSClock:
        """Return the node's clock."""
        return self._clock

    def get_logger(self) -> logging.RcutilsLogger:
        """Return the node's logger."""
        return self._logger

    def resolve_topic_name(self, topic: str, *, only_expand: bool = False) -> str:
        """Return a topic's fully qualified name, remapped unless `only_expand`."""
        return self._resolve(topic, is_service=False, only_expand=only_expand)

    def resolve_service_name(self, service: str, *, only_expand: bool = False) -> str:
        """Return a service's fully qualified name, remapped unless `only_expand`."""
        return self._resolve(service, is_service=True, only_expand=only_expand)

    def _resolve(self, name: str, *, is_service: bool, only_expand: bool = False) -> str:
        expanded = names.expand(name, self._name, self._namespace, is_service=is_service)
        if only_expand or not self._remaps:
            return expanded
        return names.remap_name(expanded, self._remaps, self._name, self._namespace)

    # Entities

    def entities(self) -> Iterator[Any]:
        """Iterate over everything an executor may have to run."""
        for group in (self.timers, self.subscriptions, self.guards, self.clients, self.services):
            yield from list(group)

    def wake(self) -> None:
        """Make the executor look at the node."""
        executor = self.executor
        if executor is not None:
            executor.wake()

    def _create_internal_publisher(self, kind: str, topic: str, qos: QoSProfile) -> Publisher:
        publisher = Publisher(self, message_class(kind), topic, qos)
        self.publishers.append(publisher)
        return publisher

    def create_publisher(
        self,
        msg_type: Any,
        topic: str,
        qos_profile: QoSProfile | int,
        *,
        callback_group: Any = None,
        event_callbacks: Any = None,
        qos_overriding_options: QoSOverridingOptions | None = None,
        publisher_class: Any = None,
    ) -> Publisher:
        """Create a publisher."""
        check_type(msg_type, 'msg')
        qos = as_profile(qos_profile)
        name = self._resolve(topic, is_service=False)
        if qos_overriding_options is not None:
            qos = overridden_profile(self, 'publisher', name, qos, qos_overriding_options)
        publisher = Publisher(self, msg_type, name, qos)
        self.publishers.append(publisher)
        return publisher

    def create_subscription(
        self,
        msg_type: Any,
        topic: str,
        callback: Callable[..., Any],
        qos_profile: QoSProfile | int,
        *,
        callback_group: Any = None,
        event_callbacks: Any = None,
        qos_overriding_options: QoSOverridingOptions | None = None,
        raw: bool = False,
    ) -> Subscription:
        """Create a subscription; `raw` gives the callback serialised bytes."""
        check_type(msg_type, 'msg')
        qos = as_profile(qos_profile)
        name = self._resolve(topic, is_service=False)
        if qos_overriding_options is not None:
            qos = overridden_profile(self, 'subscription', name, qos, qos_overriding_options)
        group = callback_group or self._default_callback_group
        subscription = Subscription(
            self, msg_type, name, callback, qos, raw=raw, callback_group=group
        )
        self.subscriptions.append(subscription)
        self.wake()
        return subscription

    def create_service(
        self,
        srv_type: Any,
        srv_name: str,
        callback: Callable[[Any, Any], Any],
        *,
        qos_profile: QoSProfile = qos_profile_services_default,
        callback_group: Any = None,
    ) -> Service:
        """Create a service."""
        check_type(srv_type, 'srv')
        name = self._resolve(srv_name, is_service=True)
        group = callback_group or self._default_callback_group
        service = Service(self, srv_type, name, callback, qos_profile, callback_group=group)
        self.services.append(service)
        self.wake()
        return service

    def create_client(
        self,
        srv_type: Any,
        srv_name: str,
        *,
        qos_profile: QoSProfile = qos_profile_services_default,
        callback_group: Any = None,
    ) -> Client:
        """Create a client of a service."""
        check_type(srv_type, 'srv')
        name = self._resolve(srv_name, is_service=True)
        group = callback_group or self._default_callback_group
        client = Client(self, srv_type, name, qos_profile, callback_group=group)
        self.clients.append(client)
        return client

    def create_timer(
        self,
        timer_period_sec: float,
        callback: Callable[[], Any] | None,
        callback_group: Any = None,
        clock: Clock | None = None,
        autostart: bool = True,
    ) -> Timer:
        """Create a timer, by default on the node's clock."""
        timer = Timer(
            callback,
            callback_group or self._default_callback_group,
            int(float(timer_period_sec) * 1e9),
            self._clock if clock is None else clock,
            context=self._context,
            autostart=autostart,
            wake=self.wake,
        )
        self.timers.append(timer)
        self.wake()
        return timer

    def create_guard_condition(
        self, callback: Callable[[], Any], callback_group: Any = None
    ) -> GuardCondition:
        """Create something that any thread can trigger to run a callback in the executor."""
        guard = GuardCondition(callback, callback_group, context=self._context, wake=self.wake)
        self.guards.append(guard)
        return guard

    def create_rate(self, frequency: float, clock: Clock | None = None) -> Any:
        """Not available."""
        raise MissingFeatureError('Node.create_rate')

    def add_waitable(self, waitable: Any) -> None:
        """Not available."""
        raise MissingFeatureError('Node.add_waitable')

    def destroy_publisher(self, publisher: Publisher) -> bool:
        """Destroy a publisher; False if it is not this node's."""
        return self._destroy(self.publishers, publisher)

    def destroy_subscription(self, subscription: Subscription) -> bool:
        """Destroy a subscription; False if it is not this node's."""
        return self._destroy(self.subscriptions, subscription)

    def destroy_service(self, service: Service) -> bool:
        """Destroy a service; False if it is not this node's."""
        return self._destroy(self.services, service)

    def destroy_client(self, client: Client) -> bool:
        """Destroy a client; False if it is not this node's."""
        return self._destroy(self.clients, client)

    def destroy_timer(self, timer: Timer) -> bool:
        """Destroy a timer; False if it is not this node's."""
        return self._destroy(self.timers, timer)

    def destroy_guard_condition(self, guard: GuardCondition) -> bool:
        """Destroy a guard condition; False if it is not this node's."""
        return self._destroy(self.guards, guard)

    def _destroy(self, group: list[Any], entity: Any) -> bool:
        if entity not in group:
            return False
        group.remove(entity)
        entity.destroy()
        return True

    def destroy_node(self) -> None:
        """Destroy everything and leave the graph; a second call does nothing."""
        if self._is_destroyed:
            return
        self._is_destroyed = True
        if self.executor is not None:
            self.executor.remove_node(self)
        self._context.untrack_node(self)
        self.forget_logging()
        with contextlib.suppress(Exception):  # the session may be closed already
            self._token.undeclare()
        for group in (
            self.timers, self.guards, self.clients, self.services, self.subscriptions,
            self.publishers,
        ):  # fmt: skip
            while group:
                group.pop().destroy()

    def __enter__(self) -> Node:
        return self

    def __exit__(self, *_: object) -> None:
        self.destroy_node()

    # Logs and events

    def forget_logging(self) -> None:
        """Stop sending logs to `/rosout`."""
        logging.remove_rosout(self._logger.name, self._publish_log)

    def _publish_log(self, severity: int, name: str, message: str, frame: Any) -> None:
        if self._rosout is None:
            return
        log = message_class('rcl_interfaces/msg/Log')(
            stamp=self._clock.now().to_msg(),
            level=int(severity),
            name=name,
            msg=message,
            file=frame.f_code.co_filename if frame else '',
            function=frame.f_code.co_name if frame else '',
            line=frame.f_lineno if frame else 0,
        )
        with contextlib.suppress(Exception):  # a log must never end a node
            self._rosout.publish(log)

    def _publish_parameter_event(self, event: Any) -> None:
        event.node = self.get_fully_qualified_name()
        event.stamp = self._clock.now().to_msg()
        self._parameter_events.publish(event)


def check_type(candidate: Any, kind: str) -> None:
    """Raise NoTypeSupportImportedException unless it is a class of this kind (`msg`, `srv`)."""
    type_name = getattr(candidate, 'TYPE_NAME', '')
    is_service = hasattr(candidate, 'Request')
    if not type_name or is_service != (kind == 'srv'):
        raise NoTypeSupportImportedException(
            f'{candidate!r} is no {"service" if kind == "srv" else "message"} class'
        )
