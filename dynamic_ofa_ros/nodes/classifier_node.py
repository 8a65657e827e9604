"""classifier_node publishes labels of images, telemetry, and each switch with its reason.

It is a lifecycle node: configure builds the engines, activate subscribes to the images, deactivate
keeps the engines ready, and cleanup frees them. Transitions run on a separate thread, so that
parameters, services and diagnostics remain available. The image callback puts the message into the
worker's mailbox; the worker's thread decodes, classifies and publishes.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.srv import ChangeState, GetAvailableTransitions, GetState
from rclpy.clock import Clock, ClockType
from rclpy.executors import ExternalShutdownException
from rclpy.lifecycle import LifecycleNodeMixin, TransitionCallbackReturn
from rclpy.node import Node
from rclpy.parameter import Parameter
from std_srvs.srv import SetBool
from vision_msgs.msg import Classification, LabelInfo, VisionInfo

from dynamic_ofa_ros.errors import DynamicOfaError
from dynamic_ofa_ros.files import problem_of
from dynamic_ofa_ros.msg import ActiveLevel, Constraints, LevelArray, Telemetry
from dynamic_ofa_ros.nodes import conversions, parameters, qos
from dynamic_ofa_ros.nodes.bond import Bond
from dynamic_ofa_ros.nodes.collective import Collective
from dynamic_ofa_ros.nodes.debug_image import DebugImage
from dynamic_ofa_ros.nodes.diagnostics import Diagnostician, Snapshot, idle_statuses
from dynamic_ofa_ros.nodes.executors import (
    BackgroundExecutor,
    LifecycleGroup,
    MainExecutor,
    is_transition,
)
from dynamic_ofa_ros.nodes.image_input import ImageInput
from dynamic_ofa_ros.nodes.parameter_table import NodeParameters, ParameterError
from dynamic_ofa_ros.nodes.parameters import ClassifierSettings
from dynamic_ofa_ros.nodes.runner import Throttle, forward_logging, run, stop_forwarding
from dynamic_ofa_ros.runtime.assembly import Assembly, Callbacks, Request, assemble
from dynamic_ofa_ros.runtime.classifier import Frame, Result, Switch
from dynamic_ofa_ros.runtime.decisions import Decision
from dynamic_ofa_ros.runtime.policies import OptionTable, create_policy
from dynamic_ofa_ros.runtime.telemetry import FrameTelemetry

DIAGNOSTICS_PERIOD_S = 1.0
DIAGNOSED_AGE_S = 0.5
"""Maximum age of the telemetry in the diagnostics, for every value of `telemetry.every_n`."""

MAX_LEASE_S = 30.0
"""Time after which the middleware has certainly forgotten a process that was killed."""

JOIN_TIMEOUT_S = 10.0
SWITCH_INTERVAL_S = 0.0005
"""Interval after which Python switches threads.

With Python's default of 5 ms, and without yielding after each frame, worker and executor delayed
each other: the median from arrival to label was 5.9 ms (95th percentile 10.0 ms) instead of 4.8 ms
(8.0 ms) at 640x480 and 30 Hz.
"""

MAX_SOURCE = 24
"""Maximum length of the source of constraints in logs and reasons; longer names are truncated."""


def _transition(
    callback: Callable[[ClassifierNode], None],
) -> Callable[[ClassifierNode, Any], Any]:
    """Convert a method to a transition callback that logs exceptions, which rclpy discards.

    The transition returns FAILURE after a shutdown and for errors that the user can fix
    (DynamicOfaError and those of the file system), and ERROR for any other exception. An exception
    during the autostart ends the process, which reports it; so it is not logged here.
    """

    @functools.wraps(callback)
    def wrapper(self: ClassifierNode, state: Any) -> Any:
        try:
            callback(self)
        except ExternalShutdownException:
            return TransitionCallbackReturn.FAILURE
        except Exception as error:
            self.transition_error = error
            problem = str(error) if isinstance(error, DynamicOfaError) else problem_of(error)
            if not self._is_autostarting:
                self.get_logger().error(' '.join(problem.split()) or traceback.format_exc())
            result = TransitionCallbackReturn
            return result.FAILURE if problem else result.ERROR
        return TransitionCallbackReturn.SUCCESS

    return wrapper


class ClassifierNode(LifecycleNodeMixin, Node):  # type: ignore[misc]  # rclpy is untyped
    """Classifies the images of a topic at the level that the runtime manager chooses.

    options: of rclpy's Node, such as `namespace` and `parameter_overrides`. Add the node to a
    MainExecutor, call `start`, and call `close` before `destroy_node`.
    """

    def __init__(self, node_name: str = 'classifier', **options: Any) -> None:
        Node.__init__(self, node_name, **options)
        LifecycleNodeMixin.__init__(self, callback_group=LifecycleGroup())
        self._reject_invalid_transitions()
        self.transition_error: Exception | None = None
        self._log_forwarder = forward_logging(self)
        self._throttle = Throttle()
        self._assembly: Assembly | None = None
        self._progress = ''
        self._last_telemetry: FrameTelemetry | None = None
        self._last_telemetry_s = -math.inf
        self._inference_error = ''
        self._rejection = ''
        self._rejected_constraints = 0
        self._alone_s = time.monotonic()
        self._message_source = ''
        self._constraints_source = ''
        self._diagnostician = Diagnostician()
        self._settings = NodeParameters(self, self._checked_settings, self._on_settings)
        fixed = self._settings.declare(parameters.CLASSIFIER)
        self._request = Request(
            fixed['family'],
            fixed['device'],
            fixed['engine'],
            fixed['threads'],
            fixed['precision'],
            fixed['max_resident_mb'],
            fixed['nice'],
        )
        self._is_autostarting = fixed['autostart']
        self._input = ImageInput(self, fixed['image_transport'], self._on_frame, self._on_missing)
        self._settings.activate()
        self._create_topics()
        self._debug_image = DebugImage(self, self._publish)
        self._background = BackgroundExecutor(self)
        self._collective = Collective(self, self._background.wake)
        self._bond = Bond(self, self._publish) if fixed['bond'] else None
        self._transitions = threading.Thread(
            target=self._run_transitions, name='transitions', daemon=True
        )

    def _create_topics(self) -> None:
        self._classification_pub = self.create_publisher(
            Classification, 'classification', qos.CLASSIFICATION
        )
        # Used again, because their creation takes 20 to 50 us.
        self._classification, self._telemetry = Classification(), Telemetry()
        self._label_info_pub = self.create_publisher(LabelInfo, 'label_info', qos.LATCHED)
        self._vision_info_pub = self.create_publisher(VisionInfo, 'vision_info', qos.LATCHED)
        self._telemetry_pub = self.create_publisher(Telemetry, '~/telemetry', qos.TELEMETRY)
        self._levels_pub = self.create_publisher(LevelArray, '~/levels', qos.LATCHED)
        self._active_level_pub = self.create_publisher(ActiveLevel, '~/active_level', qos.LATCHED)
        self._diagnostics_pub = self.create_publisher(
            DiagnosticArray, '/diagnostics', qos.DIAGNOSTICS
        )
        self.create_service(SetBool, '~/enable', self._on_enable)
        self.create_subscription(
            Constraints, '~/constraints', self._on_constraints, qos.CONSTRAINTS
        )
        # A steady clock, so that diagnostics continue when simulated time stops.
        self.create_timer(
            DIAGNOSTICS_PERIOD_S,
            self._on_diagnostics,
            clock=Clock(clock_type=ClockType.STEADY_TIME),
        )

    def _reject_invalid_transitions(self) -> None:
        """Reply to an invalid transition with success = false; otherwise, rclpy ends the node."""
        callbacks = {service.srv_type: service.callback for service in self.services}

        def change(request: Any, response: Any) -> Any:
            asked = request.transition
            state = callbacks[GetState](None, GetState.Response()).current_state
            found = callbacks[GetAvailableTransitions](None, GetAvailableTransitions.Response())
            possible = {
                each.transition.id: each.transition.label
                for each in found.available_transitions
                if each.start_state.id == state.id
            }
            if (asked.label or asked.id) not in (*possible, *possible.values()):
                names = ', '.join(f'{label} [{id}]' for id, label in possible.items())
                problem = f'{asked.label[:40] or asked.id} is not possible in the state '
                problem += f'{state.label} [{state.id}]; possible: {names or "none"}'
            else:
                try:
                    return callbacks[ChangeState](request, response)
                except Exception as error:
                    problem = ' '.join(str(error).split())
            if self.context.ok():
                self.get_logger().warning(f'transition rejected: {problem}')
            response.success = False
            return response

        (service,) = (entity for entity in self.services if is_transition(entity))
        service.callback = change

    # Start and end.

    def start(self) -> None:
        """Accept transitions; with `autostart`, configure and activate the node."""
        if not self._is_autostarting:
            command = f'ros2 lifecycle set {self.get_fully_qualified_name()} configure'
            self.get_logger().info(f'waiting for a lifecycle manager, or for: {command}')
        self._debug_image.start()
        self._transitions.start()

    def close(self) -> None:
        """End all threads and free all resources, in any state."""
        self._stop_input()
        self._background.shutdown(JOIN_TIMEOUT_S)
        if self._transitions.ident is not None:
            self._transitions.join(JOIN_TIMEOUT_S)
        self._free()
        self._debug_image.close()
        stop_forwarding(self._log_forwarder)

    def _run_transitions(self) -> None:
        try:
            if self._is_autostarting:
                self._autostart()
            self._background.spin()
        except ExternalShutdownException:
            pass
        except Exception as error:
            if rclpy.ok(context=self.context):
                self._raise_later(error)

    def _autostart(self) -> None:
        self.trigger_configure()
        if self.transition_error is None and self._assembly is not None:
            self.trigger_activate()
        if self.transition_error is not None:
            self._raise_later(self.transition_error)
        self._is_autostarting = False

    def _raise_later(self, error: Exception) -> None:
        """Raise an error on the main thread, which ends the process."""

        def fail() -> None:
            raise error

        self.executor.create_task(fail)

    # Transitions.

    @_transition
    def on_configure(self) -> None:
        """Build the engines; publish the levels and the names of the classes."""
        settings = self._settings.snapshot
        self.transition_error = None
        if self._bond is not None:
            self._bond.check()
        assembly = assemble(
            self._request,
            Callbacks(
                self._on_result,
                self._on_telemetry,
                self._on_error,
                self._on_switch,
                self._wants_telemetry,
            ),
            constraints=settings.constraints,
            policy=settings.policy,
            settings=settings.worker,
            progress=self._on_progress,
        )
        self._progress = ''
        self._input.reset_counts()
        self._diagnostician = Diagnostician()
        self._assembly = assembly
        # Parameters may have changed meanwhile, and some depend on the family.
        try:
            self._checked_settings(self._settings.values)
        except DynamicOfaError:
            self._free()
            raise
        self._on_settings(settings, self._settings.snapshot)
        assembly.start()
        self._publish_latched(assembly)

    @_transition
    def on_activate(self) -> None:
        """Subscribe to the images."""
        assembly = self._require_assembly()
        settings = self._settings.snapshot
        assembly.worker.set_enabled(settings.is_enabled)
        self._collective.open(assembly)
        self._collective.configure(settings.is_collective, settings.importance)
        self._input.open()
        if self._bond is not None:
            self._bond.open()
        self._log_ready(assembly)

    @_transition
    def on_deactivate(self) -> None:
        """Unsubscribe from the images; the engines stay ready."""
        self._stop_input()
        self._collective.close()
        self._require_assembly().worker.set_enabled(False)

    @_transition
    def on_cleanup(self) -> None:
        """Free the engines."""
        self._free()

    @_transition
    def on_shutdown(self) -> None:
        """Stop everything."""
        self._stop_input()
        self._free()

    @_transition
    def on_error(self) -> None:
        """Free everything after an unexpected error; the node can be configured again."""
        self._stop_input()
        self._free()

    def _stop_input(self) -> None:
        if self._bond is not None:
            self._bond.close()
        self._input.close()

    def _free(self) -> None:
        self._collective.close()
        assembly, self._assembly = self._assembly, None
        self._last_telemetry = None
        if assembly is not None:
            assembly.close()

    def _require_assembly(self) -> Assembly:
        if self._assembly is None:
            raise DynamicOfaError('the classifier is not configured')
        return self._assembly

    # Callbacks of the main executor.

    def _on_frame(self, frame: Frame) -> None:
        if self._assembly is not None:
            self._assembly.worker.submit(frame)
            time.sleep(0.0)  # lets the worker run at once

    def _on_missing(self, lost: int, overwritten: int) -> None:
        if self._assembly is not None:
            self._assembly.worker.set_missing(lost, overwritten)

    def _on_constraints(self, message: Any) -> None:
        """Set the parameters for the constraints in the message."""
        changes = [
            Parameter(name, Parameter.Type.DOUBLE, max(value, 0.0))
            for name, value in (
                (parameters.MAX_LATENCY, message.max_latency_ms),
                (parameters.MIN_ACCURACY, message.min_accuracy),
            )
            if value and not math.isnan(value)
        ]
        if not changes:
            return
        source = message.source[:MAX_SOURCE] or 'a constraints message'
        source = ''.join(letter if letter.isprintable() else '?' for letter in source)
        self._message_source = source
        result = self.set_parameters_atomically(changes)
        self._message_source = ''
        if not result.successful:
            self._rejected_constraints += 1
            if self._throttle.passes('constraints'):
                self.get_logger().warning(
                    f'constraints from {source} were rejected: {result.reason} '
                    f'({self._rejected_constraints} rejected since the start)'
                )

    def _on_enable(self, request: Any, response: Any) -> Any:
        result = self.set_parameters_atomically(
            [Parameter(parameters.ENABLED, Parameter.Type.BOOL, request.data)]
        )
        word = 'enabled' if request.data else 'disabled'
        response.success = result.successful
        response.message = f'classification {word}' if result.successful else result.reason
        return response

    def _checked_settings(self, values: Mapping[str, Any]) -> ClassifierSettings:
        """Create a snapshot of all values; raise DynamicOfaError if they do not fit the family."""
        settings = parameters.classifier_settings(values)
        assembly = self._assembly
        if assembly is not None:
            count = len(assembly.family.levels)
            if settings.policy.fixed_level > count:
                raise ParameterError(
                    f'{parameters.FIXED_LEVEL} is {settings.policy.fixed_level}; '
                    f'it must lie in [0, {count}]'
                )
            table = OptionTable.of(assembly.family.levels, *assembly.profiles)
            create_policy(table, settings.policy)
        return settings

    def _on_settings(self, before: ClassifierSettings, after: ClassifierSettings) -> None:
        """Apply changed settings from the next frame on."""
        assembly = self._assembly
        if assembly is None:
            return
        if after.constraints != before.constraints:
            self._constraints_source = self._message_source
            assembly.manager.set_constraints(after.constraints)
        if after.policy != before.policy:
            assembly.manager.set_policy(after.policy)
        assembly.worker.set_settings(after.worker)
        self._collective.configure(after.is_collective, after.importance)
        if after.is_enabled != before.is_enabled:
            assembly.worker.set_enabled(after.is_enabled)
        if after.worker.score_threshold != before.worker.score_threshold:
            self._publish_label_info(assembly)

    def _on_diagnostics(self) -> None:
        assembly = self._assembly
        if assembly is None:
            statuses, hardware = idle_statuses(self._progress), ''
        else:
            if assembly.worker.failure is not None:
                raise assembly.worker.failure
            assembly.worker.leave_hanging_engine()
            self._input.update()
            statuses = self._diagnostician.diagnose(self._snapshot(assembly))
            hardware = assembly.manager.active_platform
        message = conversions.diagnostic_array(
            conversions.stamped_header(self.get_clock()),
            self.get_fully_qualified_name().strip('/'),
            hardware,
            statuses,
        )
        self._publish(self._diagnostics_pub, message)
        for warning in self._diagnostician.new_warnings():
            self.get_logger().warning(warning)
        self._check_name()

    def _check_name(self) -> None:
        """Log a warning once a minute while another node has the name of this one."""
        topic, now_s = self._telemetry_pub.topic_name, time.monotonic()
        if self.count_publishers(topic) <= 1:
            self._alone_s = now_s
        elif now_s - self._alone_s > MAX_LEASE_S:
            self._alone_s = now_s + MAX_LEASE_S
            self.get_logger().warning(
                f'another node publishes on {topic}: give it another name or namespace'
            )

    def _snapshot(self, assembly: Assembly) -> Snapshot:
        worker, device, state = assembly.worker, assembly.host.latest, assembly.manager.state
        resident_levels, resident_mb = worker.classifier.resident(state.platform)
        now_ns = time.perf_counter_ns()
        return Snapshot(
            time_ns=now_ns,
            input=self._input.monitor.snapshot(now_ns),
            topic=self._input.topic,
            manager=state,
            last=self._last_telemetry,
            is_enabled=worker.is_enabled,
            publishers=self._input.publishers,
            qos_problem=self._input.qos_problem,
            processed_frames=worker.processed_frames,
            lost_frames=self._input.lost_frames,
            dropped_frames=worker.dropped_frames,
            dropped_old=worker.dropped_old.total,
            dropped_age_ms=worker.dropped_age_ms,
            max_frame_age_ms=worker.settings.max_frame_age_ms,
            rejected=worker.rejected.snapshot(),
            rejection=self._rejection,
            failed_frames=worker.failed_frames,
            inference_error=self._inference_error,
            rejected_constraints=self._rejected_constraints,
            level_count=len(assembly.family.levels),
            level_accuracy=assembly.family.level(state.level).accuracy,
            device_load=device.load,
            device_temperature_celsius=device.temperature_celsius,
            device_power_w=device.power_w,
            resident_levels=resident_levels,
            resident_mb=resident_mb,
            engine_notes=assembly.notes,
        )

    # Callbacks of the worker's thread.

    def _on_result(self, frame: Frame, result: Result) -> None:
        self._classification.header = frame.header
        self._classification.results = conversions.hypotheses(result)
        self._publish(self._classification_pub, self._classification)

    def _wants_telemetry(self, sequence: int) -> bool:
        """Return whether a frame's telemetry is published, drawn or needed for diagnostics."""
        return (
            self._is_published(sequence)
            or self._debug_image.is_watched
            or time.monotonic() - self._last_telemetry_s > DIAGNOSED_AGE_S
        )

    def _is_published(self, sequence: int) -> bool:
        return (sequence - 1) % self._settings.snapshot.telemetry_every_n == 0

    def _on_telemetry(self, frame: Frame, values: FrameTelemetry) -> None:
        self._last_telemetry, self._last_telemetry_s = values, time.monotonic()
        if self._is_published(values.sequence):
            conversions.fill_telemetry(self._telemetry, frame.header, values)
            self._publish(self._telemetry_pub, self._telemetry)
        scope = self._settings.snapshot.constraints.latency_scope
        self._debug_image.show(frame, values, values.latency_ms(scope))

    def _on_error(self, frame: Frame, error: Exception, cause: str) -> None:
        if cause in ('inference', 'internal'):
            self._inference_error = str(error)
        else:
            self._rejection = str(error)
        if self._throttle.passes(f'error {cause}'):
            self.get_logger().error(f'image not classified ({cause}): {error}')

    def _on_switch(self, switch: Switch) -> None:
        decision = switch.decision
        source = self._constraints_source
        if source and (
            not math.isnan(decision.max_latency_ms) or not math.isnan(decision.min_accuracy)
        ):
            decision = dataclasses.replace(decision, reason=f'{decision.reason}; set by {source}')
        self._publish_active_level(decision, switch.header, switch.switch_ms)
        self.get_logger().debug(
            f'level {decision.from_level} -> {decision.to_level}: {decision.reason}'
        )

    # Publishing.

    def _publish(self, publisher: Any, message: Any) -> None:
        """Publish a message; ignore the error of a publisher that a shutdown invalidated."""
        try:
            publisher.publish(message)
        except Exception:
            if self.context.ok():
                raise

    def _publish_latched(self, assembly: Assembly) -> None:
        header = conversions.stamped_header(self.get_clock())
        label_topic = self.resolve_topic_name('label_info')
        self._publish_label_info(assembly)
        self._publish(
            self._vision_info_pub, conversions.vision_info(header, assembly.family, label_topic)
        )
        self._publish(
            self._levels_pub,
            conversions.level_array(header, assembly.family, assembly.profiles),
        )
        self._publish_active_level(assembly.manager.initial_decision, header, math.nan)

    def _publish_label_info(self, assembly: Assembly) -> None:
        header = conversions.stamped_header(self.get_clock())
        threshold = self._settings.snapshot.worker.score_threshold
        self._publish(
            self._label_info_pub, conversions.label_info(header, assembly.family.labels, threshold)
        )

    def _publish_active_level(self, decision: Decision, header: Any, switch_ms: float) -> None:
        assembly = self._assembly
        if assembly is None:
            return
        if header is None:  # nothing was classified before this switch
            header = conversions.stamped_header(self.get_clock())
        message = conversions.active_level(header, decision, assembly.family, switch_ms)
        self._publish(self._active_level_pub, message)

    # Progress of on_configure.

    def _on_progress(self, text: str) -> None:
        # The only place where building, which takes long, can be interrupted.
        if not rclpy.ok(context=self.context):
            raise ExternalShutdownException()
        self._progress = text
        self.get_logger().info(text)

    def _log_ready(self, assembly: Assembly) -> None:
        for profile in assembly.profiles:
            times_ms = ' '.join(f'{level.median_ms:.2f}' for level in profile.levels)
            self.get_logger().info(f'{profile.platform}: {times_ms} ms')
        self.get_logger().info(
            f'ready: family {assembly.family.name} at level {assembly.manager.active_level}, '
            f'images from {self._input.topic}'
        )
        for note in assembly.notes:
            self.get_logger().warning(note)


def main(args: Sequence[str] | None = None) -> int:
    """Run the node; return the exit status."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    return run('classifier', ClassifierNode, args, executor=MainExecutor)


if __name__ == '__main__':
    sys.exit(main())
