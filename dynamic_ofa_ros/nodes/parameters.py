"""The parameters of the nodes, one table each, and the snapshot of the classifier's.

Descriptors, validation and the table of docs/nodes.md all come from here.
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
"""Highest fixed level before the family, and with it the number of its levels, is known."""

CLASSIFIER_FIXED = (
    ParameterSpec(
        'family',
        default_family(),
        'directory of the family, or its name: `signs`, `imagenet`, or one of your own',
        is_live=False,
    ),
    ParameterSpec(
        'device',
        'auto',
        'device that runs inference',
        choices=('auto', 'cpu', 'cuda', 'cuda:N'),
        pattern=DEVICE_PATTERN,
        is_live=False,
    ),
    ParameterSpec(
        'engine',
        'auto',
        'inference engine; auto = the fastest that gives the right answers on this machine, '
        'measured once',
        choices=('auto', *engine_names()),
        is_live=False,
    ),
    ParameterSpec(
        'precision',
        'fp32',
        'what inference computes in; `bf16` and `fp16` need a processor that has them, and engine '
        '`openvino` or, for `fp16`, `tensorrt`',
        choices=PRECISIONS,
        is_live=False,
    ),
    ParameterSpec(
        'threads', 1, 'intra-op threads of the engine', lowest=1, highest=64, is_live=False
    ),
    ParameterSpec(
        'max_resident_mb',
        0.0,
        'memory for levels; those that do not fit are loaded on the way to them, which no frame '
        'waits for; 0 = keep every level',
        lowest=0.0,
        highest=1e6,
        is_live=False,
    ),
    ParameterSpec(
        'nice',
        0,
        'niceness of the thread that classifies: below 0 it goes before other programs, which the '
        'system must allow',
        lowest=-20,
        highest=19,
        is_live=False,
    ),
    ParameterSpec(
        'image_transport',
        'raw',
        'transport of the images: `image_raw` or, compressed (JPEG, PNG), `image_raw/compressed`',
        choices=('raw', 'compressed'),
        is_live=False,
    ),
    ParameterSpec(
        'autostart',
        True,
        'configure and activate at the start; false leaves both to a lifecycle manager',
        is_live=False,
    ),
    ParameterSpec(
        'bond',
        False,
        "keep a bond with nav2's lifecycle manager while active, as its `bond_timeout` asks for; "
        'needs the package `bond`',
        is_live=False,
    ),
)

CLASSIFIER_LIVE = (
    ParameterSpec(
        MAX_LATENCY,
        0.0,
        'upper limit of the latency named by `constraints.latency_scope`, in ms; 0 = none',
        lowest=0.0,
        highest=MAX_LATENCY_MS,
    ),
    ParameterSpec(
        MIN_ACCURACY,
        0.0,
        "lower limit of the active level's top-1 accuracy, a fraction; 0 = none",
        lowest=0.0,
        highest=1.0,
    ),
    ParameterSpec(
        'constraints.latency_scope',
        'node',
        'which latency the limit is about: `inference` alone, `node` from the arrival of the '
        "image to its label, `end_to_end` from the image's stamp",
        choices=LATENCY_SCOPES,
    ),
    ParameterSpec(
        'constraints.quantile',
        0.95,
        'share of frames that must meet the limit',
        lowest=MIN_QUANTILE,
        highest=MAX_QUANTILE,
    ),
    ParameterSpec(
        'constraints.priority',
        'latency',
        'which constraint holds when both cannot',
        choices=PRIORITIES,
    ),
    ParameterSpec(
        'manager.policy',
        PolicySettings().name,
        'how the level is chosen',
        choices=policy_names(),
    ),
    ParameterSpec(
        FIXED_LEVEL,
        PolicySettings().fixed_level,
        "level of the policy `fixed`, up to the family's level count; 0 = the highest",
        lowest=0,
        highest=MAX_LEVELS,
    ),
    ParameterSpec(
        'manager.window',
        PolicySettings().window,
        'frames that the policy `reactive` averages over',
        lowest=1,
        highest=1000,
    ),
    ParameterSpec(
        'manager.hold_s',
        PolicySettings().hold_s,
        'first hold: how long a higher level must be predicted to be on time before a move up, '
        'in s; a level that proves good is taken again after a fifth of it, one that was late '
        'after up to four times',
        lowest=0.0,
        highest=60.0,
    ),
    ParameterSpec(
        'manager.max_switches_per_minute',
        PolicySettings().max_switches_per_minute,
        'most moves up in a minute, whoever asks for them, those between platforms included',
        lowest=0.0,
        highest=6000.0,
    ),
    ParameterSpec(
        'manager.coordination',
        COORDINATIONS[0],
        'whether levels are chosen together with other classifiers on the device',
        choices=COORDINATIONS,
    ),
    ParameterSpec(
        'manager.importance',
        1.0,
        "weight of this classifier's accuracy in collective choices",
        lowest=0.01,
        highest=100.0,
    ),
    ParameterSpec(
        'max_frame_age_ms',
        WorkerSettings().max_frame_age_ms,
        'frames older than this when their turn comes are dropped, in ms; 0 = off',
        lowest=0.0,
        highest=60000.0,
    ),
    ParameterSpec(
        'top_k', WorkerSettings().top_k, 'classes in each answer', lowest=1, highest=1000
    ),
    ParameterSpec(
        'score_threshold',
        WorkerSettings().score_threshold,
        'classes with a lower score are left out of the answer',
        lowest=0.0,
        highest=1.0,
    ),
    ParameterSpec(
        'telemetry.every_n',
        1,
        'publish telemetry of every n-th processed frame',
        lowest=1,
        highest=1000,
    ),
    ParameterSpec(ENABLED, True, 'whether frames are processed; mirrors `~/enable`'),
)

CLASSIFIER = CLASSIFIER_FIXED + CLASSIFIER_LIVE

CAMERA = (
    ParameterSpec(
        'source',
        'signs',
        'where images come from: rendered signs, a folder of images, a video, a webcam or a bag',
        choices=('signs', 'folder', 'video', 'webcam', 'bag'),
        is_live=False,
    ),
    ParameterSpec(
        'path',
        '',
        'the folder, the video file, the webcam (an index, /dev/videoN or a link to it), or the '
        'bag (a folder with metadata.yaml, a .mcap or a .db3 file)',
        is_live=False,
    ),
    ParameterSpec(
        'rate_hz',
        30.0,
        'images per second; a bag has its own times',
        lowest=0.1,
        highest=1000.0,
    ),
    ParameterSpec(
        'width',
        0,
        "width of the images in px; 0 = the source's own (signs: 640)",
        lowest=0,
        highest=8192,
        is_live=False,
    ),
    ParameterSpec(
        'height',
        0,
        "height of the images in px; 0 = the source's own (signs: 480)",
        lowest=0,
        highest=8192,
        is_live=False,
    ),
    ParameterSpec(
        'encoding',
        'rgb8',
        'encoding of the published images',
        choices=('rgb8', 'bgr8', 'mono8'),
        is_live=False,
    ),
    ParameterSpec(
        'frame_id', 'camera_optical_frame', "frame_id of the images' header", is_live=False
    ),
    ParameterSpec(
        'seed',
        1,
        'signs: the same seed gives the same scenes',
        lowest=0,
        highest=2**31 - 1,
        is_live=False,
    ),
    ParameterSpec(
        'scene_period_s',
        2.0,
        'signs: how long a scene stays, drifting, before the next; 0 = a new one in every image',
        lowest=0.0,
        highest=3600.0,
        is_live=False,
    ),
    ParameterSpec(
        'loop',
        True,
        'folder, video, bag: start again at the end; otherwise the node then exits with status 0',
        is_live=False,
    ),
    ParameterSpec(
        'bag.topic',
        '',
        'topic of the images (Image or CompressedImage); empty = the only one in the bag',
        is_live=False,
    ),
    ParameterSpec(
        'bag.stamps',
        'live',
        'stamps of the images: `live` = when they are published, `recorded` = as in the bag, with '
        'its frame_id',
        choices=('live', 'recorded'),
        is_live=False,
    ),
    ParameterSpec(
        'bag.rate',
        1.0,
        'speed of the playback; 2 = twice as fast as recorded',
        lowest=0.01,
        highest=100.0,
        is_live=False,
    ),
)

CONTENTION = (
    ParameterSpec(
        'workload',
        'none',
        'what competes: busy arithmetic, memory traffic, or the training of a small network',
        choices=('none', 'busy', 'memory', 'training'),
    ),
    ParameterSpec('workers', 1, 'processes that compete', lowest=1, highest=64),
    ParameterSpec('duty_cycle', 1.0, 'share of the time each works', lowest=0.0, highest=1.0),
    ParameterSpec(
        'device',
        'cpu',
        'device they work on',
        choices=('cpu', 'cuda', 'cuda:N'),
        pattern=r'cpu|cuda(:\d+)?',
    ),
    ParameterSpec('cpus', '', 'CPUs they may run on, such as `0,2-3`; empty = all'),
)

MONITOR = (
    ParameterSpec(
        'address',
        '127.0.0.1',
        'IP address that the page is served on; `0.0.0.0` = all of this machine, with a token',
        is_live=False,
    ),
    ParameterSpec(
        'port',
        8090,
        'port of the page; 0 = any that is free',
        lowest=0,
        highest=65535,
        is_live=False,
    ),
    ParameterSpec(
        'token',
        '',
        'what a browser must present, 16 characters or more; empty = none on a loopback address, '
        'a new one at each start on any other',
        is_live=False,
    ),
    ParameterSpec(
        'picture.rate_hz',
        5.0,
        'most pictures per second and classifier; 0 = none',
        lowest=0.0,
        highest=30.0,
        is_live=False,
    ),
    ParameterSpec(
        'picture.max_width',
        640,
        'most width of the pictures in px; smaller images stay as they are',
        lowest=64,
        highest=1920,
        is_live=False,
    ),
)


@dataclass(frozen=True)
class ClassifierSettings:
    """The classifier's live parameters, swapped as one."""

    constraints: Constraints
    policy: PolicySettings
    worker: WorkerSettings
    telemetry_every_n: int
    is_enabled: bool
    is_collective: bool
    importance: float


def classifier_settings(values: Mapping[str, Any]) -> ClassifierSettings:
    """Make a snapshot of all values; raise DynamicOfaError when they make no sense together."""
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
