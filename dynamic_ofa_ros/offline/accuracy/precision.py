"""Compare the classifications of a family in a reduced precision with those in fp32."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from dynamic_ofa_ros.errors import DatasetError
from dynamic_ofa_ros.family import Family
from dynamic_ofa_ros.offline.data.datasets import ImageDataset, UInt8, report_damaged
from dynamic_ofa_ros.offline.latency.family_profile import DeviceSettings
from dynamic_ofa_ros.runtime.classifier import Classifier
from dynamic_ofa_ros.runtime.engine import create_engine
from dynamic_ofa_ros.runtime.host import usable_cpus


@dataclass(frozen=True)
class PrecisionReport:
    """Results as fractions of `images`.

    accuracies: top-1 of each level in the precision; in_fp32: in fp32, on the same images.
    agreement: equal classifications in both, averaged over the levels.
    """

    images: int
    accuracies: tuple[float, ...]
    in_fp32: tuple[float, ...]
    agreement: float


def measure_precision(
    family: Family,
    settings: DeviceSettings,
    images: ImageDataset,
    progress: Callable[[int], None] = lambda done: None,
) -> PrecisionReport:
    """Classify every image at every level, in the precision of `settings` and in fp32.

    Damaged images are skipped and logged. Raise DatasetError if no image is readable, and
    EngineError if the precision is not supported here.
    """
    many = replace(settings, threads=usable_cpus())
    classifiers = [
        Classifier(
            family,
            create_engine(
                family,
                device=one.device,
                engine=one.engine,
                precision=one.precision,
                threads=one.threads,
            ),
        )
        for one in dict.fromkeys((many, replace(many, precision='fp32')))
    ]
    levels = [level.index for level in family.levels]
    right = [[0] * len(levels) for _ in classifiers]
    same, damaged = 0, []
    for index in range(len(images)):
        try:
            image = images.image(index)
        except DatasetError as error:
            damaged.append(str(error))
            continue
        for position, level in enumerate(levels):
            answers = [_answer(classifier, image, level) for classifier in classifiers]
            same += answers[0] == answers[-1]
            for counts, answer in zip(right, answers, strict=True):
                counts[position] += answer == images.label(index)
        progress(index + 1)
    for classifier in classifiers:
        classifier.engine.close()
    if damaged or not len(images):
        report_damaged(damaged, len(images))
    total = len(images) - len(damaged)
    shares = [tuple(count / total for count in counts) for counts in right]
    return PrecisionReport(total, shares[0], shares[-1], same / (total * len(levels)))


def _answer(classifier: Classifier, image: UInt8, level: int) -> int:
    best = classifier.classify(image, level, top_k=1).top1
    return -1 if best is None else best.class_id
