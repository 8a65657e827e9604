"""The parameters of each node as a table, and the snapshot of the classifier's live parameters.

Descriptors, validation and the tables of docs/nodes.md are generated from these tables.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dynamic_ofa_ros.constraints import (
    LATENCY_SCOPES,
    MAX_LATENCY_MS,
    MAX_QUANTILE,
    MIN_QUANTILE,
    PRIORITIES,
    Constraints,
)
from dynamic_ofa_ros.family import default_family
from dynamic_ofa_ros.nodes.parameter_table import ParameterSpec
from dynamic_ofa_ros.runtime.classifier import WorkerSettings
from dynamic_ofa_ros.runtime.engine import PRECISIONS, engine_names
from dynamic_ofa_ros.runtime.policies import PolicySettings, policy_names

MAX_LATENCY = 'constraints.max_latency_ms'
MIN_ACCURACY = 'constraints.min_accuracy'
FIXED_LEVEL = 'manager.fixed_level'
ENABLED = 'enabled'
COORDINATIONS = ('none', 'collective')

DEVICE_PATTERN = r'auto|cpu|cuda(:\d+)?'
MAX_LEVELS = 1000
"""Maximum of the fixed level while the family and its number of levels are not known."""

CLASSIFIER_FIXED = (
    ParameterSpec(
        'family',
        default_family(),
        'Path or name of a family.',
        is_live=False,
    ),
    ParameterSpec(
        'device',
        'auto',
        'Device for inference.',
        choices=('auto', 'cpu', 'cuda', 'cuda:N'),
        pattern=DEVICE_PATTERN,
        is_live=False,
    ),
    ParameterSpec(
        'engine',
        'auto',
        '`auto` = the fastest, measured at the first start.',
        choices=('auto', *engine_names()),
        is_live=False,
    ),
    ParameterSpec(
        'precision',
        'fp32',
        '`bf16` requires `openvino`; `fp16` requires `openvino` or `tensorrt`.',
        choices=PRECISIONS,
        is_live=False,
    ),
    ParameterSpec(
        'threads',
        1,
        'Threads for inference and preprocessing.',
        lowest=1,
        highest=64,
        is_live=False,
    ),
    ParameterSpec(
        'max_resident_mb',
        0.0,
        'Memory for loaded levels, in MB; 0 = no limit.',
        lowest=0.0,
        highest=1e6,
        is_live=False,
    ),
    ParameterSpec(
        'nice',
        0,
        'Niceness of the inference thread; below 0 requires permission.',
        lowest=-20,
        highest=19,
        is_live=False,
    ),
    ParameterSpec(
        'image_transport',
        'raw',
        '`compressed` subscribes to `image_raw/compressed` (JPEG, PNG).',
        choices=('raw', 'compressed'),
        is_live=False,
    ),
    ParameterSpec(
        'autostart',
        True,
        'Whether the node activates itself.',
        is_live=False,
    ),
    ParameterSpec(
        'bond',
        False,
        "Whether to keep a bond with nav2's lifecycle manager.",
        is_live=False,
    ),
)

CLASSIFIER_LIVE = (
    ParameterSpec(
        MAX_LATENCY,
        0.0,
        'Latency limit, in ms; 0 = no limit.',
        lowest=0.0,
        highest=MAX_LATENCY_MS,
    ),
    ParameterSpec(
        MIN_ACCURACY,
        0.0,
        'Minimum top-1 accuracy, a fraction; 0 = no minimum.',
        lowest=0.0,
        highest=1.0,
    ),
    ParameterSpec(
        'constraints.latency_scope',
        'node',
        'Limited latency: `inference`, from arrival to label (`node`), or from stamp to label '
        '(`end_to_end`).',
        choices=LATENCY_SCOPES,
    ),
    ParameterSpec(
        'constraints.quantile',
        0.95,
        'Fraction of frames that must meet the limit.',
        lowest=MIN_QUANTILE,
        highest=MAX_QUANTILE,
    ),
    ParameterSpec(
        'constraints.priority',
        'latency',
        'Constraint to keep when both cannot be met.',
        choices=PRIORITIES,
    ),
    ParameterSpec(
        'manager.policy',
        PolicySettings().name,
        'Policy that chooses the level.',
        choices=policy_names(),
    ),
    ParameterSpec(
        FIXED_LEVEL,
        PolicySettings().fixed_level,
        'Level of the policy `fixed`; 0 = the highest.',
        lowest=0,
        highest=MAX_LEVELS,
    ),
    ParameterSpec(
        'manager.window',
        PolicySettings().window,
        'Number of frames that `reactive` averages.',
        lowest=1,
        highest=1000,
    ),
    ParameterSpec(
        'manager.hold_s',
        PolicySettings().hold_s,
        'Time for which a higher level must be predicted on time before a move up, in s.',
        lowest=0.0,
        highest=60.0,
    ),
    ParameterSpec(
        'manager.max_switches_per_minute',
        PolicySettings().max_switches_per_minute,
        'Maximum number of moves up per minute.',
        lowest=0.0,
        highest=6000.0,
    ),
    ParameterSpec(
        'manager.coordination',
        COORDINATIONS[0],
        '`collective` = choose levels together with other classifiers.',
        choices=COORDINATIONS,
    ),
    ParameterSpec(
        'manager.importance',
        1.0,
        "Weight of this classifier's accuracy in collective choices.",
        lowest=0.01,
        highest=100.0,
    ),
    ParameterSpec(
        'max_frame_age_ms',
        WorkerSettings().max_frame_age_ms,
        'Age above which frames are dropped, in ms; 0 = no limit.',
        lowest=0.0,
        highest=60000.0,
    ),
    ParameterSpec(
        'top_k',
        WorkerSettings().top_k,
        'Number of classes in each result.',
        lowest=1,
        highest=1000,
    ),
    ParameterSpec(
        'score_threshold',
        WorkerSettings().score_threshold,
        'Minimum score of a class in a result.',
        lowest=0.0,
        highest=1.0,
    ),
    ParameterSpec(
        'telemetry.every_n',
        1,
        'Publish telemetry for every n-th processed frame.',
        lowest=1,
        highest=1000,
    ),
    ParameterSpec(ENABLED, True, 'Whether frames are processed.'),
)

CLASSIFIER = CLASSIFIER_FIXED + CLASSIFIER_LIVE

CAMERA = (
    ParameterSpec(
        'source',
        'signs',
        'Source of the images.',
        choices=('signs', 'folder', 'video', 'webcam', 'bag'),
        is_live=False,
    ),
    ParameterSpec(
        'path',
        '',
        'Path of the folder, video, bag or webcam.',
        is_live=False,
    ),
    ParameterSpec(
        'rate_hz',
        30.0,
        'Frame rate, in Hz; bags keep their recorded times.',
        lowest=0.1,
        highest=1000.0,
    ),
    ParameterSpec(
        'width',
        0,
        'Width of the images, in px; 0 = as in the source.',
        lowest=0,
        highest=8192,
        is_live=False,
    ),
    ParameterSpec(
        'height',
        0,
        'Height of the images, in px; 0 = as in the source.',
        lowest=0,
        highest=8192,
        is_live=False,
    ),
    ParameterSpec(
        'encoding',
        'rgb8',
        'Encoding of the published images.',
        choices=('rgb8', 'bgr8', 'mono8'),
        is_live=False,
    ),
    ParameterSpec(
        'frame_id',
        'camera_optical_frame',
        "The frame_id in the images' header.",
        is_live=False,
    ),
    ParameterSpec(
        'seed',
        1,
        'Random seed of `signs` and of the order of a folder with classes.',
        lowest=0,
        highest=2**31 - 1,
        is_live=False,
    ),
    ParameterSpec(
        'scene_period_s',
        2.0,
        'Duration of each scene of `signs`, in s; 0 = a new scene in every image.',
        lowest=0.0,
        highest=3600.0,
        is_live=False,
    ),
    ParameterSpec(
        'loop',
        True,
        'Whether to repeat a folder, video or bag; otherwise the node exits after it.',
        is_live=False,
    ),
    ParameterSpec(
        'bag.topic',
        '',
        'Image topic of the bag; empty = its only one.',
        is_live=False,
    ),
    ParameterSpec(
        'bag.stamps',
        'live',
        '`live` = time of publication, `recorded` = stamp and frame_id from the bag.',
        choices=('live', 'recorded'),
        is_live=False,
    ),
    ParameterSpec(
        'bag.rate',
        1.0,
        'Playback speed of a bag.',
        lowest=0.01,
        highest=100.0,
        is_live=False,
    ),
)

CONTENTION = (
    ParameterSpec(
        'workload',
        'none',
        'Competing load: none, arithmetic (`busy`), memory traffic, or training of a small '
        'network.',
        choices=('none', 'busy', 'memory', 'training'),
    ),
    ParameterSpec('workers', 1, 'Number of load processes.', lowest=1, highest=64),
    ParameterSpec(
        'duty_cycle',
        1.0,
        'Fraction of the time that each load process is busy.',
        lowest=0.0,
        highest=1.0,
    ),
    ParameterSpec(
        'device',
        'cpu',
        'Device of the load processes.',
        choices=('cpu', 'cuda', 'cuda:N'),
        pattern=r'cpu|cuda(:\d+)?',
    ),
    ParameterSpec('cpus', '', 'CPUs for the load processes, such as `0,2-3`; empty = all.'),
)

MONITOR = (
    ParameterSpec(
        'address',
        '127.0.0.1',
        'IP address of the page; `0.0.0.0` = all network interfaces.',
        is_live=False,
    ),
    ParameterSpec(
        'port',
        8090,
        'Port of the page; 0 = any free port.',
        lowest=0,
        highest=65535,
        is_live=False,
    ),
    ParameterSpec(
        'token',
        '',
        'Secret in the address, at least 16 characters; empty = none on a loopback address, '
        'otherwise a new one at each start.',
        is_live=False,
    ),
    ParameterSpec(
        'picture.rate_hz',
        5.0,
        'Maximum number of pictures per second from all cameras; 0 = none.',
        lowest=0.0,
        highest=5.0,
        is_live=False,
    ),
    ParameterSpec(
        'picture.max_width',
        640,
        'Maximum width of the pictures, in px.',
        lowest=64,
        highest=1920,
        is_live=False,
    ),
)


@dataclass(frozen=True)
class ClassifierSettings:
    """The classifier's live parameters; they are replaced as a whole."""

    constraints: Constraints
    policy: PolicySettings
    worker: WorkerSettings
    telemetry_every_n: int
    is_enabled: bool
    is_collective: bool
    importance: float


def classifier_settings(values: Mapping[str, Any]) -> ClassifierSettings:
    """Create a snapshot of all values; raise DynamicOfaError for an invalid combination."""
    return ClassifierSettings(
        constraints=Constraints(
            max_latency_ms=values[MAX_LATENCY] or math.nan,
            min_accuracy=values[MIN_ACCURACY] or math.nan,
            latency_scope=values['constraints.latency_scope'],
            quantile=values['constraints.quantile'],
            priority=values['constraints.priority'],
        ),
        policy=PolicySettings(
            name=values['manager.policy'],
            fixed_level=values[FIXED_LEVEL],
            window=values['manager.window'],
            hold_s=values['manager.hold_s'],
            max_switches_per_minute=values['manager.max_switches_per_minute'],
        ),
        worker=WorkerSettings(
            top_k=values['top_k'],
            score_threshold=values['score_threshold'],
            max_frame_age_ms=values['max_frame_age_ms'],
        ),
        telemetry_every_n=values['telemetry.every_n'],
        is_enabled=values[ENABLED],
        is_collective=values['manager.coordination'] == COORDINATIONS[1],
        importance=values['manager.importance'],
    )
