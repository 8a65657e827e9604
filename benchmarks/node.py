"""What the node adds to inference, how soon it answers, and whether it keeps up with a camera.

    python -m benchmarks.node [--seconds 30] [--rate-hz 30] [--starts 3]

Camera, classifier and this program are processes of their own. Overhead is the processing time
without inference (decoding and preprocessing of 640x480 images, softmax, and what lies between).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

# The processes are started as the tests start them.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / 'test'))

from ros_harness import Ros, ros

from benchmarks.common import RESULTS, print_table, summary, write_results
from dynamic_ofa_ros.family import Family, default_family
from dynamic_ofa_ros.nodes import qos
from dynamic_ofa_ros.runtime.host import OthersLoad

from sensor_msgs.msg import Image  # isort: skip
from vision_msgs.msg import Classification  # isort: skip

from dynamic_ofa_ros.msg import Telemetry  # isort: skip

NODE = '/classifier'
WARM_UP_FRAMES = 30


def main() -> None:
    """Measure, print the tables and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--family', default=default_family(), help='name or path of a family')
    parser.add_argument('--seconds', type=float, default=30.0, help='length of the stream')
    parser.add_argument('--rate-hz', type=float, default=30.0, help='images per second')
    parser.add_argument('--starts', type=int, default=3, help='how often the node is started')
    parser.add_argument('--output', type=Path, default=RESULTS, help='folder of the JSON file')
    options = parser.parse_args()
    load = OthersLoad()
    with tempfile.TemporaryDirectory() as folder, ros(Path(folder)) as session:
        camera = session.start('camera_node', {'rate_hz': options.rate_hz})
        images = session.listen(Image, '/image_raw', qos.IMAGE)
        session.wait_until(lambda: images.messages, 'images of the camera')
        for subscription in list(session.node.subscriptions):
            session.node.destroy_subscription(subscription)
        starts_s = [
            time_to_first_label(session, options.family) for _ in range(options.starts + 1)
        ][1:]  # the first one fills the caches
        stream = measure_stream(session, options.family, options.seconds)
        camera.stop()
    print_table(
        f'One frame of 640x480 at {options.rate_hz:g} Hz, ms',
        ('stage', 'median', 'p95', 'p99'),
        [
            (name, values['median_ms'], values['p95_ms'], values['p99_ms'])
            for name, values in stream['stages'].items()
        ],
    )
    print_table(
        'Stream',
        ('images', 'labels', 'dropped', 'start to first label, s'),
        [(stream['images'], stream['labels'], stream['dropped_frames'], max(starts_s))],
    )
    write_results(
        'node',
        {**stream, 'start_to_first_label_s': [round(start_s, 3) for start_s in starts_s]},
        configuration={
            'family': options.family,
            'rate_hz': options.rate_hz,
            'seconds': options.seconds,
            'image': '640x480 rgb8',
        },
        input_checksum=hashlib.sha256(Family.load(options.family).checksum.encode()).hexdigest(),
        load=load,
        folder=options.output,
    )


def time_to_first_label(session: Ros, family: str) -> float:
    """Start the classifier beside a running camera; return the seconds until a label arrives."""
    labels = session.listen(Classification, '/classification', qos.CLASSIFICATION)
    start_s = time.monotonic()
    classifier = session.start('classifier_node', {'family': family})
    session.wait_until(lambda: labels.messages, 'the first label', 120.0)
    elapsed_s = time.monotonic() - start_s
    status = classifier.stop()
    if status != 0:
        raise RuntimeError(f'the classifier ended with status {status}:\n{classifier.output()}')
    return elapsed_s


def measure_stream(session: Ros, family: str, seconds: float) -> dict[str, Any]:
    """Let camera and classifier run; return stage timings, images, labels and drops."""
    telemetry = session.listen(Telemetry, f'{NODE}/telemetry', qos.TELEMETRY)
    truths = session.listen(Classification, '/ground_truth', qos.GROUND_TRUTH)
    labels = session.listen(Classification, '/classification', qos.CLASSIFICATION)
    classifier = session.start('classifier_node', {'family': family})
    session.wait_until(
        lambda: len(telemetry.messages) > WARM_UP_FRAMES, 'telemetry of the warm-up', 120.0
    )
    before = telemetry.last
    for topic in (telemetry, truths, labels):
        topic.messages.clear()
    deadline_s = time.monotonic() + seconds
    session.wait_until(
        lambda: time.monotonic() > deadline_s, 'the end of the stream', seconds + 60
    )
    frames = list(telemetry.messages)
    images, answers = stamps_of(truths.messages), stamps_of(labels.messages)
    classifier.stop()
    # Images still on their way at either end have no label yet: the inner ones all must.
    inner = sorted(images)[2:-2]
    return {
        'stages': {
            'overhead (processing - inference)': stage(
                frames, lambda t: t.processing_ms - t.inference_ms
            ),
            'preprocess': stage(frames, lambda t: t.preprocess_ms),
            'inference': stage(frames, lambda t: t.inference_ms),
            'postprocess': stage(frames, lambda t: t.postprocess_ms),
            'queue wait': stage(frames, lambda t: t.queue_wait_ms),
            'image callback to published label': stage(frames, lambda t: t.end_to_end_ms),
            'stamp to image callback': stage(frames, lambda t: t.input_age_ms),
        },
        'images': len(inner),
        'labels': len(set(inner) & answers),
        'dropped_frames': frames[-1].dropped_frames - before.dropped_frames,
        'levels': json.loads(json.dumps(sorted({t.level for t in frames}))),
    }


def stage(frames: list[Any], read: Any) -> dict[str, float]:
    """Return the summary of one timing over all frames that have it."""
    return summary([value for value in map(read, frames) if not math.isnan(value)])


def stamps_of(messages: list[Any]) -> set[tuple[int, int]]:
    """Return the stamps of messages: what tells one image from another."""
    return {(m.header.stamp.sec, m.header.stamp.nanosec) for m in messages}


if __name__ == '__main__':
    main()
