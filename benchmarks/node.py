"""Overhead of transport, executor and node over inference, and lost images.

    python -m benchmarks.node [--seconds 20] [--quick] [--only TEXT]

The image publisher, the classifier and this program are separate processes on ROS 2. Each row is
one stream with an image size, a rate and a reliability, with or without the package's Fast DDS
profile. In the last row, the executor is disturbed by setting parameters 20 times per second and
by coordination. For the stream with a target, a loop that only computes as long as the node needs
per image shows how many images the machine itself would drop.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

# The processes are started with the helpers of the tests.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / 'test'))

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from programs import Program
from rcl_interfaces.srv import SetParameters
from rclpy.parameter import Parameter
from ros_harness import Ros, ros
from vision_msgs.msg import Classification

from benchmarks.common import RESULTS, print_table, summary, write_results
from dynamic_ofa_ros.demo.domain import PROFILES_VARIABLES
from dynamic_ofa_ros.family import Family, default_family
from dynamic_ofa_ros.msg import LevelArray, Telemetry
from dynamic_ofa_ros.nodes import qos
from dynamic_ofa_ros.runtime.host import OthersLoad

NODE = '/classifier'
WARM_UP_FRAMES = 30
START_TIMEOUT_S = 120.0
DISTURBANCE_S = 0.05

STAGES: dict[str, Callable[[Any], float]] = {
    'transport (stamp to arrival)': lambda t: t.input_age_ms,
    'executor (arrival to callback)': lambda t: t.executor_wait_ms,
    'queue (callback to worker)': lambda t: t.queue_wait_ms,
    'decode and preprocess': lambda t: t.preprocess_ms,
    'inference': lambda t: t.inference_ms,
    'postprocess': lambda t: t.postprocess_ms,
    'publish and the rest of the node': lambda t: (
        t.node_ms - t.executor_wait_ms - t.queue_wait_ms - t.processing_ms
    ),
    'node (arrival to label)': lambda t: t.node_ms,
    'end to end (stamp to label)': lambda t: t.end_to_end_ms,
    'end to end - inference': lambda t: t.end_to_end_ms - t.inference_ms,
}


CALIBRATIONS, CALIBRATION_STEPS = 50, 100_000


@dataclass(frozen=True)
class Stream:
    """One row: a stream of images."""

    width: int
    height: int
    rate_hz: float
    reliability: str
    has_profile: bool
    is_disturbed: bool = False

    @property
    def has_target(self) -> bool:
        """Whether no image of this stream should be dropped."""
        return self == Stream(640, 480, 60.0, 'reliable', has_profile=True)

    def __str__(self) -> str:
        profile = 'profile' if self.has_profile else 'no profile'
        reliability = self.reliability.replace('_', ' ')
        disturbed = ', disturbed' if self.is_disturbed else ''
        size = f'{self.width}x{self.height}'
        return f'{size} {self.rate_hz:g} Hz {reliability}, {profile}{disturbed}'


def streams(*, is_quick: bool) -> list[Stream]:
    """Return the rows."""
    sizes = ((640, 480),) if is_quick else ((640, 480), (1920, 1080))
    rates = (30.0,) if is_quick else (30.0, 60.0)
    rows = [
        Stream(width, height, rate_hz, reliability, has_profile)
        for width, height in sizes
        for rate_hz in rates
        for reliability in ('best_effort', 'reliable')
        for has_profile in (False, True)
    ]
    return [*rows, Stream(640, 480, 30.0, 'reliable', has_profile=True, is_disturbed=True)]


def main() -> None:
    """Measure, print the tables and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--family', default=default_family(), help='name or path of a family')
    parser.add_argument('--seconds', type=float, default=20.0, help='length of each stream')
    parser.add_argument('--quick', action='store_true', help='640x480 at 30 Hz only')
    parser.add_argument('--only', help='measure the streams with this text again; keep the others')
    parser.add_argument('--output', type=Path, default=RESULTS, help='folder of the JSON file')
    options = parser.parse_args()
    load = OthersLoad()
    with tempfile.TemporaryDirectory() as folder:
        rows = [
            {'stream': str(stream), **asdict(stream), **measured(folder, stream, options)}
            for stream in streams(is_quick=options.quick)
            if (options.only or '') in str(stream)
        ]
        if options.only is None:
            starts = measure_starts(Path(folder), options.family)
        else:
            known = json.loads((options.output / 'node.json').read_text(encoding='utf-8'))
            starts = known['results']['start_to_first_label_s']
            again = {row['stream']: row for row in rows}
            rows = [again.get(row['stream'], row) for row in known['results']['streams']]
    print_stages(rows)
    print_table(
        'Images',
        ('stream', 'sent', 'labels', 'lost', 'dropped', 'loss reported'),
        [
            (row['stream'], row['sent'], row['labels'], row['lost'], row['dropped'], row['said'])
            for row in rows
        ],
    )
    print_table('Start to first label, s', ('cold', 'warm'), [(starts['cold'], starts['warm'])])
    write_results(
        'node',
        {'streams': rows, 'start_to_first_label_s': starts},
        configuration={
            'family': options.family,
            'seconds': options.seconds,
            'policy': 'fixed at the highest level',
            'middleware': rclpy.get_rmw_implementation_identifier(),
        },
        input_checksum=hashlib.sha256(Family.load(options.family).checksum.encode()).hexdigest(),
        load=load,
        folder=options.output,
    )


def measure_starts(folder: Path, family: str) -> dict[str, float]:
    """Return the seconds from start to first label with an empty and a filled cache."""
    times_s = {}
    with ros(folder) as session:
        session.environment['DYNAMIC_OFA_CACHE'] = str(folder / 'cache')
        camera = session.start('camera_node', {'rate_hz': 30})
        for name in ('cold', 'warm'):
            labels = session.listen(Classification, '/classification', qos.CLASSIFICATION)
            start_s = time.monotonic()
            classifier = session.start('classifier_node', {'family': family})
            session.wait_until(
                lambda labels=labels: labels.messages, 'the first label', START_TIMEOUT_S
            )
            times_s[name] = round(time.monotonic() - start_s, 2)
            end(classifier)
        end(camera)
    return times_s


def measured(folder: str, stream: Stream, options: argparse.Namespace) -> dict[str, Any]:
    """Run one stream; return its stage timings and counts of images."""
    with ros(Path(folder)) as session:
        if not stream.has_profile:
            for variable in PROFILES_VARIABLES:
                session.environment.pop(variable, None)
        telemetry = session.listen(Telemetry, f'{NODE}/telemetry', qos.TELEMETRY)
        levels = session.listen(LevelArray, f'{NODE}/levels', qos.LATCHED)
        diagnostics = session.listen(DiagnosticArray, '/diagnostics', 50)
        classifier = session.start(
            'classifier_node',
            {
                'family': options.family,
                'manager.policy': 'fixed',
                'manager.coordination': 'collective' if stream.is_disturbed else 'none',
            },
        )
        session.wait_until(lambda: levels.messages, 'the classifier', START_TIMEOUT_S)
        source = start_source(session, stream, options.seconds)
        session.wait_until(
            lambda: source.poll() is not None,
            'the end of the stream',
            options.seconds + 60.0,
            meanwhile=disturb(session) if stream.is_disturbed else None,
        )
        session.wait_until(lambda: telemetry.messages, 'telemetry')
        end(classifier)
    sent = int(source.stdout.read())
    last = telemetry.last
    loop = {}
    if stream.has_target:
        median_ms = statistics.median(frame.node_ms for frame in telemetry.messages)
        loop = {'dropped_by_loop': dropped_by_loop(sent, stream.rate_hz, median_ms)}
    frames = telemetry.messages[WARM_UP_FRAMES:]  # none if nearly all images were lost
    return {
        'sent': sent,
        'labels': last.sequence,
        'lost': last.lost_frames,
        'dropped': last.dropped_frames,
        'unaccounted': sent - last.sequence - last.lost_frames - last.dropped_frames,
        'said': any(
            'lost in transport' in status.message
            for message in diagnostics.messages
            for status in message.status
        ),
        'stages': {name: stage(frames, read) for name, read in STAGES.items() if frames},
        **loop,
    }


def dropped_by_loop(count: int, rate_hz: float, busy_ms: float) -> int:
    """Return how many of `count` images a loop drops that computes for `busy_ms` per image.

    Like the node, it continues with the newest image.
    """

    def compute(steps: int) -> float:
        begin_s, total = time.perf_counter(), 0
        for step in range(steps):
            total += step
        return time.perf_counter() - begin_s

    step_s = statistics.median(compute(CALIBRATION_STEPS) for _ in range(CALIBRATIONS))
    steps = round(busy_ms / 1e3 / step_s * CALIBRATION_STEPS)
    start_s, image, dropped = time.perf_counter(), 0, 0
    while image < count:
        time.sleep(max(0.0, start_s + image / rate_hz - time.perf_counter()))
        compute(steps)
        newest = int((time.perf_counter() - start_s) * rate_hz)
        dropped += max(0, newest - image - 1)
        image = max(image + 1, newest)
    return dropped


def disturb(session: Ros) -> Callable[[], None]:
    """Return a function to call in a loop, which sets a parameter 20 times per second."""
    client = session.node.create_client(SetParameters, f'{NODE}/set_parameters')
    next_s = time.monotonic()

    def set_one() -> None:
        nonlocal next_s
        if time.monotonic() >= next_s:
            next_s += DISTURBANCE_S
            value = Parameter('manager.hold_s', value=0.5 + next_s % 1.0).to_parameter_msg()
            client.call_async(SetParameters.Request(parameters=[value]))

    return set_one


def start_source(session: Ros, stream: Stream, seconds: float) -> subprocess.Popen[str]:
    """Start the process that publishes."""
    numbers = (stream.width, stream.height, stream.rate_hz, stream.reliability, seconds)
    command = [sys.executable, '-m', 'benchmarks.image_publisher', *map(str, numbers)]
    return subprocess.Popen(
        command, env=session.environment, stdout=subprocess.PIPE, text=True, cwd=os.getcwd()
    )


def end(node: Program) -> None:
    """End a node; raise RuntimeError if its exit status is not 0."""
    if status := node.stop():
        raise RuntimeError(f'{node.name} ended with status {status}:\n{node.output()}')


def stage(frames: list[Any], read: Callable[[Any], float]) -> dict[str, float]:
    """Return the summary of one timing over all frames with this timing."""
    return summary([value for value in map(read, frames) if not math.isnan(value)])


def print_stages(rows: list[dict[str, Any]]) -> None:
    """Print a table with the stages of each stream."""
    for row in rows:
        print_table(
            f'{row["stream"]}, ms',
            ('stage', 'median', 'p95', 'p99'),
            [
                (name, values['median_ms'], values['p95_ms'], values['p99_ms'])
                for name, values in row['stages'].items()
            ],
        )


if __name__ == '__main__':
    main()
