"""Read recordings: bags with telemetry, frames.csv of the demo, files of `simulate --frames`."""

from __future__ import annotations

import csv
import math
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

from dynamic_ofa_ros import adaptation
from dynamic_ofa_ros.constraints import LATENCY_SCOPES
from dynamic_ofa_ros.errors import RecordingError
from dynamic_ofa_ros.recordings.bag import Bag, Message
from dynamic_ofa_ros.recordings.frames import FrameRecord
from dynamic_ofa_ros.recordings.measures import Run
from dynamic_ofa_ros.recordings.messages import class_id_of, named_labels, stamp_of

TELEMETRY = 'dynamic_ofa_ros/msg/Telemetry'
CLASSIFICATION = 'vision_msgs/msg/Classification'
STAGES = (
    'input_age_ms', 'executor_wait_ms', 'queue_wait_ms', 'preprocess_ms', 'inference_ms',
    'postprocess_ms', 'processing_ms', 'node_ms', 'end_to_end_ms',
)  # fmt: skip
DROPS = ('lost_frames', 'dropped_frames', 'rejected_frames', 'failed_frames')
COUNTS = ('sequence', *DROPS, 'violations')
MAX_THINNING = 1000
"""Largest value of `telemetry.every_n`: a higher first sequence number is not that of a start."""

MAX_RATE_HZ = 10_000.0
"""More images per second than this are attributed to damage."""

MAX_RESTARTS = 0.1
"""More restarts per message than this are attributed to a second classifier on the topic."""


@dataclass(frozen=True)
class Recording:
    """A recording of one classifier.

    run: images in order, including those without an answer. scope: scope of the limit; empty if
    unknown. stages: latencies of the answered images, by the field names of Telemetry. drops:
    images without an answer, by cause. answers: number of answered images during the recording,
    which is larger than in `run` if telemetry is thinned.
    """

    source: str
    kind: str
    run: Run
    stages: Mapping[str, Sequence[float]]
    scope: str = ''
    drops: Mapping[str, int] = field(default_factory=dict)
    answers: int = 0
    family: str = ''
    platforms: tuple[str, ...] = ()
    policies: tuple[str, ...] = ()

    @property
    def has_truth(self) -> bool:
        """Whether the truth of any image is known."""
        return any(frame.truth for frame in self.run.frames)

    @property
    def limits_ms(self) -> tuple[float, ...]:
        """Return the limits that applied, ascending; empty without a limit."""
        limits = {frame.limit_ms for frame in self.run.frames}
        return tuple(sorted(limit for limit in limits if math.isfinite(limit)))


def read(source: str, title: str) -> Recording:
    """Read a recording: PATH, or PATH:NAME if it contains several.

    NAME is a classifier of a bag (/front/classifier), a run of the demo (switching) or a model of
    a simulation. Raises RecordingError if the recording cannot be read or NAME is missing.
    """
    path, name = _split(source)
    if path.suffix == '.csv':
        return _read_csv(path, name, source, title)
    with Bag(path) as bag:
        return _read_bag(bag, name, source, title)


def _split(source: str) -> tuple[Path, str]:
    if not Path(source).expanduser().exists():
        before, colon, name = source.rpartition(':')
        if colon and Path(before).expanduser().exists():
            return Path(before).expanduser(), name
    return Path(source).expanduser(), ''


def _chosen(found: Sequence[str], name: str, source: str, what: str) -> str:
    """Return the chosen name; raise RecordingError with the available names if none is chosen."""
    if name in found or (not name and len(found) == 1):
        return name or found[0]
    problem = f'no {what} {name}' if name else f'several {what}s'
    path = source.removesuffix(f':{name}') if name else source
    raise RecordingError(f'{path} has {problem}; give {path}:NAME, NAME of {", ".join(found)}')


# Bags.


class _Answers:
    """The telemetry of one classifier, stored as numbers."""

    def __init__(self) -> None:
        self.frames: list[FrameRecord] = []
        self.stamps_ns = array('q')
        self.class_ids = array('i')
        self.stages = {name: array('d') for name in STAGES}
        self.counts = {name: array('Q') for name in COUNTS}
        self.platforms: dict[str, None] = {}
        self.policies: dict[str, None] = {}
        self.level_count = 0
        self._begin_ns = 0

    def add(self, message: Any, time_ns: int) -> None:
        node_ms = float(message.node_ms)
        self._begin_ns = self._begin_ns or time_ns
        published_s = (time_ns - self._begin_ns) / 1e9
        self.frames.append(
            FrameRecord(
                run='',
                time_s=published_s - (node_ms / 1e3 if math.isfinite(node_ms) else 0.0),
                is_loaded=False,
                truth='',
                label=str(message.top1_label),
                level=int(message.level),
                level_accuracy=float(message.level_accuracy),
                latency_ms=node_ms,
                inference_ms=float(message.inference_ms),
                limit_ms=float(message.max_latency_ms),
            )
        )
        self.stamps_ns.append(stamp_of(message.header))
        self.class_ids.append(int(message.top1_class_id))
        for name, values in self.stages.items():
            values.append(float(getattr(message, name)))
        for name, counts in self.counts.items():
            counts.append(int(getattr(message, name)))
        self.platforms[str(message.platform)] = None
        self.policies[str(message.policy)] = None
        self.level_count = max(self.level_count, int(message.level_count))

    def is_restarted(self, index: int) -> bool:
        """Return whether the classifier was restarted before a message."""
        return self.counts['sequence'][index] <= self.counts['sequence'][index - 1]

    def rise(self, name: str, index: int) -> int:
        """Return the increase of a count since the previous message.

        After a restart, this is the whole count if the first messages were recorded; otherwise
        the increase during the recording is unknown, and only the answer itself is counted.
        """
        counts = self.counts[name]
        if not self.is_restarted(index):
            return max(0, counts[index] - counts[index - 1])
        is_first = self.counts['sequence'][index] <= MAX_THINNING
        return counts[index] if is_first else int(name == 'sequence')

    def rises(self, name: str) -> int:
        return sum(self.rise(name, index) for index in range(1, len(self.frames)))


def _read_bag(bag: Bag, name: str, source: str, title: str) -> Recording:
    nodes = [topic.removesuffix('/telemetry') for topic in bag.of_type(TELEMETRY)]
    if not nodes:
        raise RecordingError(
            f'{bag.path} has no telemetry topic; record the topic ~/telemetry, such as '
            '/classifier/telemetry'
        )
    node = _chosen(nodes, name, source, 'classifier')
    truth_topic = _truth_topic(bag, node)
    answers, truths = _Answers(), dict[int, int]()
    for message in bag.messages({f'{node}/telemetry', truth_topic}):
        if message.topic == truth_topic:
            truths[stamp_of(message.value.header)] = class_id_of(message.value)
        else:
            _add(answers, message, bag)
    if not answers.frames:
        raise RecordingError(f'{bag.path} contains no message on {node}/telemetry')
    restarts = sum(answers.is_restarted(index) for index in range(1, len(answers.frames)))
    if restarts > max(2, MAX_RESTARTS * len(answers.frames)):
        raise RecordingError(
            f'{bag.path} has telemetry of several classifiers on {node}/telemetry: its sequence '
            f'falls {restarts} times; record again with different names of the nodes'
        )
    info = bag.first(f'{truth_topic}/label_info')
    _set_truths(answers, truths, named_labels(info) if info is not None else ())
    scope = _scope(answers)
    table = bag.first(f'{node}/levels')
    frames = _with_unanswered(answers, scope, bag.path)
    return Recording(
        source=source,
        kind='bag',
        run=_run(title, frames, answers.level_count),
        stages=answers.stages,
        scope=scope,
        drops={cause: answers.rises(cause) for cause in DROPS},
        answers=answers.rises('sequence') + 1,
        family=str(table.family) if table is not None else '',
        platforms=tuple(filter(None, answers.platforms)),
        policies=tuple(answers.policies),
    )


def _add(answers: _Answers, message: Message, bag: Bag) -> None:
    try:
        answers.add(message.value, message.time_ns)
    except AttributeError as error:
        raise RecordingError(
            f'{bag.path} contains telemetry of another version of this package: {error}'
        ) from error


def _truth_topic(bag: Bag, node: str) -> str:
    """Return the topic of the truth: the only `ground_truth`, or that beside the classifier."""
    beside = f'{node.rpartition("/")[0]}/ground_truth'
    found = [t for t in bag.of_type(CLASSIFICATION) if t.endswith('/ground_truth')]
    return found[0] if len(found) == 1 else beside


def _set_truths(answers: _Answers, truths: Mapping[int, int], labels: Sequence[str]) -> None:
    """Set the truth of the images, by name, or by class id if the bag contains no names."""
    for index, stamp_ns in enumerate(answers.stamps_ns):
        class_id = truths.get(stamp_ns, -1)
        if class_id < 0:
            continue
        frame = answers.frames[index]
        if class_id < len(labels):
            answers.frames[index] = replace(frame, truth=labels[class_id])
        elif not labels:
            label = str(answers.class_ids[index])
            answers.frames[index] = replace(frame, truth=str(class_id), label=label)


def _scope(answers: _Answers) -> str:
    """Return the scope of the limit: the one whose late images match the count of the node.

    Telemetry does not contain the scope. If several match, `node`, the default of the node, is
    preferred.
    """
    counted = answers.rises('violations')
    limits_ms = [frame.limit_ms for frame in answers.frames]

    def difference(scope: str) -> int:
        latencies_ms = _latencies(answers, scope)
        late = sum(map(adaptation.is_late, latencies_ms[1:], limits_ms[1:]))
        return abs(late - counted)

    return min(('node', *LATENCY_SCOPES), key=difference)


def _latencies(answers: _Answers, scope: str) -> list[float]:
    """Return the latencies in a scope; those of the scope `node` for images without a stamp."""
    return [
        node_ms if math.isnan(value) else value
        for value, node_ms in zip(
            answers.stages[f'{scope}_ms'], answers.stages['node_ms'], strict=True
        )
    ]


def _with_unanswered(answers: _Answers, scope: str, path: Path) -> list[FrameRecord]:
    """Return the answered images and, between them, those that the node counted as unanswered."""
    frames = [
        replace(frame, latency_ms=latency_ms)
        for frame, latency_ms in zip(answers.frames, _latencies(answers, scope), strict=True)
    ]
    found = frames[:1]
    for index, (before, frame) in enumerate(pairwise(frames), start=1):
        missing = sum(answers.rise(cause, index) for cause in DROPS)
        duration_s = max(1.0, frame.time_s - before.time_s)
        if missing > MAX_RATE_HZ * duration_s:
            raise RecordingError(
                f'{path} is damaged: its telemetry counts {missing} images without an answer in '
                f'{duration_s:.1f} s'
            )
        step_s = (frame.time_s - before.time_s) / (missing + 1)
        found += [
            unanswered(before.time_s + step_s * number, frame.limit_ms)
            for number in range(1, missing + 1)
        ]
        found.append(frame)
    return found


def unanswered(time_s: float, limit_ms: float) -> FrameRecord:
    """Return an image without an answer."""
    nan = math.nan
    return FrameRecord('', time_s, False, '', '', 0, nan, math.inf, nan, limit_ms)


# CSV files.


def _read_csv(path: Path, name: str, source: str, title: str) -> Recording:
    if not path.is_file():
        raise RecordingError(
            f'{path} is not a file; give frames.csv of the demo or a file of simulate --frames'
        )
    try:
        with path.open(encoding='utf-8-sig', newline='') as file:  # spreadsheets write a BOM
            rows = list(csv.DictReader(file, strict=True))
    except (csv.Error, UnicodeDecodeError) as error:
        raise RecordingError(f'{path} is not a CSV file: {error}') from error
    if not rows:
        raise RecordingError(f'{path} has no rows')
    is_demo = 'run' in rows[0]
    column = 'run' if is_demo else 'model'
    for number, row in enumerate(rows, start=2):
        if None in row or None in row.values():  # more or fewer columns
            raise RecordingError(
                f'{path}: line {number} and the first line have different numbers of columns; '
                'delete the line if the file is incomplete'
            )
    try:
        chosen = _chosen(list(dict.fromkeys(row[column] for row in rows)), name, source, column)
        mine = [row for row in rows if row[column] == chosen]
        frames = [_demo_frame(row) if is_demo else _simulated_frame(row) for row in mine]
        if not all(math.isfinite(frame.time_s) for frame in frames):
            raise ValueError('a time is not finite')
    except (KeyError, ValueError) as error:
        problem = f'it has no column {error}' if isinstance(error, KeyError) else error
        raise RecordingError(
            f'{path} is neither frames.csv of the demo nor a file of simulate --frames: {problem}'
        ) from error
    stages = {'inference_ms': [f.inference_ms for f in frames if f.is_answered]}
    if is_demo:
        stages['node_ms'] = [f.latency_ms for f in frames if f.is_answered]
    levels = max(frame.level for frame in frames)
    missing = sum(not frame.is_answered for frame in frames)
    return Recording(
        source=source,
        kind='demo' if is_demo else 'simulation',
        run=_run(title, frames, levels),
        stages=stages,
        scope='node' if is_demo else '',
        drops={'unanswered': missing} if is_demo else {},
        answers=len(frames) - missing,
        policies=(chosen,) if is_demo else (),
    )


def _demo_frame(row: Mapping[str, str]) -> FrameRecord:
    return FrameRecord(
        run=row['run'],
        time_s=float(row['time_s']),
        is_loaded=row['is_loaded'] == '1',
        truth=row['truth'],
        label=row['label'],
        level=int(row['level']),
        level_accuracy=_number(row['level_accuracy']),
        latency_ms=_number(row['latency_ms'], math.inf),
        inference_ms=_number(row['inference_ms']),
        limit_ms=_number(row['limit_ms']),
    )


def _simulated_frame(row: Mapping[str, str]) -> FrameRecord:
    return FrameRecord(
        run=row['model'],
        time_s=(float(row['time_ms']) - float(row['wait_ms'])) / 1e3,
        is_loaded=False,
        truth='',
        label='',
        level=int(row['level']),
        level_accuracy=float(row['accuracy']),
        latency_ms=float(row['latency_ms']),
        inference_ms=_number(row['inference_ms']),
        limit_ms=_number(row['limit_ms']),
    )


def _number(text: str, blank: float = math.nan) -> float:
    return float(text) if text else blank


def _run(title: str, frames: Iterable[FrameRecord], level_count: int) -> Run:
    """Return a run whose times begin at the first image, with the loads of the frames."""
    ordered = sorted(frames, key=lambda frame: frame.time_s)
    begin_s = ordered[0].time_s
    shifted = [replace(frame, run=title, time_s=frame.time_s - begin_s) for frame in ordered]
    loads, end_s = [], shifted[-1].time_s
    for is_loaded, group in groupby(shifted, key=lambda frame: frame.is_loaded):
        first_s = next(group).time_s
        if is_loaded:
            loads.append((first_s, end_s))
        elif loads:
            loads[-1] = (loads[-1][0], first_s)
    return Run(title, end_s, shifted, loads=loads, level_count=level_count)
