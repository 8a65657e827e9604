"""classifier_node: images in; labels, telemetry and the reasons for every switch out.

Wiring only. The image callback leaves the message in the worker's mailbox; decoding, inference
and publishing happen on the worker's thread.
"""

from __future__ import annotations

import dataclasses
import math
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock, ClockType
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.parameter import Parameter
from sensor_msgs.msg import Image
from std_srvs.srv import SetBool
from vision_msgs.msg import Classification, LabelInfo, VisionInfo

from dynamic_ofa_ros.family import Family, LatencyProfile
from dynamic_ofa_ros.msg import ActiveLevel, Constraints, LevelArray, Telemetry
from dynamic_ofa_ros.nodes import conversions, parameters, qos
from dynamic_ofa_ros.nodes.collective import Collective
from dynamic_ofa_ros.nodes.diagnostics import Diagnostician, InputMonitor, Snapshot
from dynamic_ofa_ros.nodes.parameter_table import NodeParameters
from dynamic_ofa_ros.nodes.parameters import ClassifierSettings
from dynamic_ofa_ros.nodes.runner import Throttle, forward_logging, run, stop_forwarding
from dynamic_ofa_ros.runtime.classifier import (
    Classifier,
    ClassifierWorker,
    Frame,
    Result,
    Switch,
)
from dynamic_ofa_ros.runtime.decisions import Decision
from dynamic_ofa_ros.runtime.engine import Engine, create_engines, load_or_measure_profile
from dynamic_ofa_ros.runtime.host import HostMonitor
from dynamic_ofa_ros.runtime.manager import RuntimeManager
from dynamic_ofa_ros.runtime.policies import LevelTable, create_policy
from dynamic_ofa_ros.runtime.telemetry import FrameTelemetry

DIAGNOSTICS_PERIOD_S = 1.0


class ClassifierNode(Node):  # type: ignore[misc]  # rclpy has no types where ROS 2 is absent
    """Classifies the images of a topic with whichever level fits the moment."""

    def __init__(self) -> None:
        super().__init__('classifier')
        self._log_forwarder = forward_logging(self)
        self._settings = NodeParameters(self, self._checked_settings, self._on_settings)
        fixed = self._settings.declare(parameters.CLASSIFIER_FIXED)
        self._family = Family.load(fixed['family'])
        self._engines = create_engines(
            self._family,
            device=fixed['device'],
            engine=fixed['engine'],
            threads=fixed['threads'],
            progress=self._on_progress,
        )
        self._profiles = [self._profile_of(engine) for engine in self._engines]
        self._settings.declare(parameters.classifier_live(len(self._family.levels)))
        settings = self._settings.activate()
        self._manager = RuntimeManager(
            self._family.levels,
            self._profiles,
            constraints=settings.constraints,
            policy=settings.policy,
        )
        device = _device_of(self._engines[0].platform, fixed['device'])
        self._host = HostMonitor(device)
        self._worker = ClassifierWorker(
            Classifier(self._family, *self._engines),
            self._manager,
            on_result=self._on_result,
            on_telemetry=self._on_telemetry,
            on_error=self._on_error,
            on_switch=self._on_switch,
            settings=settings.worker,
            host=self._host,
        )
        self._worker.set_enabled(settings.is_enabled)
        self._throttle = Throttle()
        self._input = InputMonitor()
        self._diagnostician = Diagnostician()
        self._last_telemetry: FrameTelemetry | None = None
        self._inference_error = ''
        self._rejected_constraints = 0
        self._asking_source = ''
        self._constraints_source = ''
        self._create_topics()
        self._publish_latched(settings)
        self._collective = Collective(
            self, self._manager, device, lambda: self._worker.mailbox.received
        )
        self._collective.configure(settings.is_collective, settings.importance)
        self._host.start()
        self._worker.start()
        self._log_ready()

    def _create_topics(self) -> None:
        self._classification_pub = self.create_publisher(
            Classification, 'classification', qos.CLASSIFICATION
        )
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
        self._image_sub = self.create_subscription(
            Image,
            'image_raw',
            self._on_image,
            qos.IMAGE,
            qos_overriding_options=qos.overridable(),
        )
        # Steady: diagnostics must go on when simulated time stands still.
        self.create_timer(
            DIAGNOSTICS_PERIOD_S,
            self._on_diagnostics,
            clock=Clock(clock_type=ClockType.STEADY_TIME),
        )

    def close(self) -> None:
        """Let the frame in work finish and free the engine."""
        has_stopped = self._worker.stop()
        self._host.stop()
        if has_stopped:
            for engine in self._engines:
                engine.close()
        stop_forwarding(self._log_forwarder)

    # Callbacks of the executor.

    def _on_image(self, message: Any) -> None:
        received_ns = time.perf_counter_ns()
        stamp = message.header.stamp
        now_ns = self.get_clock().now().nanoseconds
        age_ms = self._input.add(received_ns, stamp.sec * 10**9 + stamp.nanosec, now_ns)
        self._worker.submit(
            Frame(conversions.raw_image(message), message.header, received_ns, age_ms)
        )
        if not stamp.sec and not stamp.nanosec and self._throttle.passes('zero stamp'):
            self.get_logger().warning('images carry no stamp: their age is unknown')
        if age_ms < 0.0 and self._throttle.passes('future stamp'):
            self.get_logger().warning(
                f'an image is stamped {-age_ms:.1f} ms in the future; the stamp is kept as it is'
            )

    def _on_constraints(self, message: Any) -> None:
        """Change what the message names; through parameters, so that everybody sees the same."""
        changes = [
            Parameter(name, Parameter.Type.DOUBLE, value)
            for name, value in (
                (parameters.MAX_LATENCY, message.max_latency_ms),
                (parameters.MIN_ACCURACY, message.min_accuracy),
            )
            if not math.isnan(value)
        ]
        if not changes:
            return
        source = message.source or 'a constraints message'
        self._asking_source = source
        result = self.set_parameters_atomically(changes)
        self._asking_source = ''
        if not result.successful:
            self._rejected_constraints += 1
            if self._throttle.passes('constraints'):
                self.get_logger().warning(
                    f'constraints of {source} are rejected: {result.reason} '
                    f'({self._rejected_constraints} rejected so far)'
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
        """Make a snapshot of all parameters; refuse a policy that these platforms cannot have."""
        settings = parameters.classifier_settings(values)
        create_policy(LevelTable.of(self._family.levels, *self._profiles), settings.policy)
        return settings

    def _on_settings(self, before: ClassifierSettings, after: ClassifierSettings) -> None:
        """Hand changed settings on; the next frame obeys them."""
        if after.constraints != before.constraints:
            self._constraints_source = self._asking_source
            self._manager.set_constraints(after.constraints)
        if after.policy != before.policy:
            self._manager.set_policy(after.policy)
        self._worker.set_settings(after.worker)
        self._collective.configure(after.is_collective, after.importance)
        if after.is_enabled != before.is_enabled:
            self._worker.set_enabled(after.is_enabled)
        if after.worker.score_threshold != before.worker.score_threshold:
            self._publish_label_info(after)

    def _on_diagnostics(self) -> None:
        if self._worker.failure is not None:
            raise self._worker.failure
        snapshot = self._snapshot(time.perf_counter_ns())
        message = conversions.diagnostic_array(
            conversions.stamped_header(self.get_clock()),
            self.get_fully_qualified_name().strip('/'),
            self._manager.active_platform,
            self._diagnostician.diagnose(snapshot),
        )
        self._publish(self._diagnostics_pub, message)

    def _snapshot(self, now_ns: int) -> Snapshot:
        device = self._host.latest
        state = self._manager.state
        return Snapshot(
            time_ns=now_ns,
            input=self._input.snapshot(now_ns),
            manager=state,
            last=self._last_telemetry,
            is_enabled=self._worker.is_enabled,
            publishers=self.count_publishers(self._image_sub.topic_name),
            processed_frames=self._worker.processed_frames,
            dropped_frames=self._worker.dropped_frames,
            rejected=self._worker.rejected.snapshot(),
            inference_errors=self._worker.inference_errors,
            inference_error=self._inference_error,
            rejected_constraints=self._rejected_constraints,
            level_count=len(self._family.levels),
            level_accuracy=self._family.level(state.level).accuracy,
            device_load=device.load,
            device_temperature_celsius=device.temperature_celsius,
            device_power_w=device.power_w,
            engine_notes=self._engine_notes,
        )

    # Callbacks of the worker's thread.

    def _on_result(self, frame: Frame, result: Result) -> None:
        self._publish(self._classification_pub, conversions.classification(frame.header, result))

    def _on_telemetry(self, frame: Frame, values: FrameTelemetry) -> None:
        self._last_telemetry = values
        if (values.sequence - 1) % self._settings.snapshot.telemetry_every_n == 0:
            self._publish(self._telemetry_pub, conversions.telemetry(frame.header, values))

    def _on_error(self, frame: Frame, error: Exception, cause: str) -> None:
        if cause in ('inference', 'internal'):
            self._inference_error = str(error)
        if self._throttle.passes(f'error {cause}'):
            count = self._worker.rejected.snapshot().get(cause, self._worker.inference_errors)
            self.get_logger().error(f'image dropped ({cause}, {count} so far): {error}')

    def _on_switch(self, switch: Switch) -> None:
        decision = switch.decision
        source = self._constraints_source
        if source and (
            not math.isnan(decision.max_latency_ms) or not math.isnan(decision.min_accuracy)
        ):
            decision = dataclasses.replace(
                decision, reason=f'{decision.reason}; constraints set by {source}'
            )
        self._publish_active_level(decision, switch.header, switch.switch_ms)
        self.get_logger().debug(
            f'level {decision.from_level} -> {decision.to_level}: {decision.reason}'
        )

    # Publishing.

    def _publish(self, publisher: Any, message: Any) -> None:
        """Publish; a publisher that a shutdown has just invalidated is no error."""
        try:
            publisher.publish(message)
        except Exception:
            if self.context.ok():
                raise

    def _publish_latched(self, settings: ClassifierSettings) -> None:
        header = conversions.stamped_header(self.get_clock())
        label_topic = self.resolve_topic_name('label_info')
        self._publish_label_info(settings)
        self._publish(
            self._vision_info_pub, conversions.vision_info(header, self._family, label_topic)
        )
        self._publish(
            self._levels_pub, conversions.level_array(header, self._family, self._profiles[0])
        )
        self._publish_active_level(self._manager.initial_decision, header, math.nan)

    def _publish_label_info(self, settings: ClassifierSettings) -> None:
        header = conversions.stamped_header(self.get_clock())
        threshold = settings.worker.score_threshold
        self._publish(
            self._label_info_pub, conversions.label_info(header, self._family.labels, threshold)
        )

    def _publish_active_level(self, decision: Decision, header: Any, switch_ms: float) -> None:
        if header is None:  # nothing was classified before this switch
            header = conversions.stamped_header(self.get_clock())
        message = conversions.active_level(header, decision, self._family, switch_ms)
        self._publish(self._active_level_pub, message)

    # Start-up.

    def _profile_of(self, engine: Engine) -> LatencyProfile:
        if engine.platform not in self._family.platforms:
            self._on_progress(f'looking up the latency of each level on {engine.platform}')
        return load_or_measure_profile(engine, self._family)

    @property
    def _engine_notes(self) -> tuple[str, ...]:
        return tuple(note for engine in self._engines for note in engine.notes)

    def _on_progress(self, text: str) -> None:
        # Building takes a while and cannot be interrupted otherwise.
        if not rclpy.ok(context=self.context):
            raise ExternalShutdownException()
        self.get_logger().info(text)

    def _log_ready(self) -> None:
        topic = self._image_sub.topic_name
        platforms = '; and on '.join(
            f'{profile.platform}, levels of '
            + ', '.join(f'{level.median_ms:.2f}' for level in profile.levels)
            + ' ms'
            for profile in self._profiles
        )
        self.get_logger().info(
            f'ready: family {self._family.name} on {platforms}, '
            f'at level {self._manager.active_level}; images from {topic}'
        )
        for note in self._engine_notes:
            self.get_logger().warning(note)


def _device_of(platform: str, asked: str) -> str:
    """Return the device to watch: what inference really runs on, 'cpu' or 'cuda[:N]'."""
    if not platform.startswith('cuda'):
        return 'cpu'
    return asked if asked.startswith('cuda') else 'cuda'


def main(args: Sequence[str] | None = None) -> int:
    """Run the node; return the exit status."""
    return run('classifier', ClassifierNode, args)


if __name__ == '__main__':
    sys.exit(main())
