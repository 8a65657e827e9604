"""The ImageNet family: time to build it, and accuracy and latency of its levels.

    python -m benchmarks.imagenet [--data FOLDER] [--threads 1]

With class folders of photographs, also top-1 and mean top score of every level on them.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import print_table, write_results
from dynamic_ofa_ros.family import Family
from dynamic_ofa_ros.offline.data.datasets import ImageDataset
from dynamic_ofa_ros.offline.data.labelled import open_labelled
from dynamic_ofa_ros.offline.latency.family_profile import DeviceSettings
from dynamic_ofa_ros.offline.networks.imagenet import build_imagenet_family
from dynamic_ofa_ros.progress import progress
from dynamic_ofa_ros.runtime.classifier import Classifier
from dynamic_ofa_ros.runtime.engine import create_engine
from dynamic_ofa_ros.runtime.host import OthersLoad


def main() -> None:
    """Build the family, print its table and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--data', help='class folders of photographs, named by WordNet id')
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('--output', type=Path, default=None, help='folder of the JSON file')
    options = parser.parse_args()
    load = OthersLoad()
    device_settings = DeviceSettings('cpu', 'onnxruntime', options.threads)
    with tempfile.TemporaryDirectory() as folder:
        started_s = time.monotonic()
        built = build_imagenet_family(Path(folder) / 'stated', device_settings=device_settings)
        build_s = time.monotonic() - started_s
        levels: list[dict[str, Any]] = [
            {
                'level': level.index,
                'name': level.name,
                'resolution': level.resolution,
                'top1': level.accuracy,
                'top1_is': level.accuracy_source,
                'macs_m': round(level.macs / 1e6, 1),
                'median_ms': round(latency.median_ms, 2),
                'p95_ms': round(latency.p95_ms, 2),
            }
            for level, latency in zip(built.family.levels, built.profile.levels, strict=True)
        ]
        images = open_labelled(options.data, built.family.labels) if options.data else None
        if images is not None:
            for row, (right, score) in zip(levels, _on(images, built.family), strict=True):
                row['measured_top1'], row['mean_top_score'] = round(right, 3), round(score, 3)
    print_table('ImageNet family', list(levels[0]), [list(row.values()) for row in levels])
    print(f'built in {build_s:.0f} s')
    write_results(
        'imagenet',
        {
            'platform': built.profile.platform,
            'build_s': round(build_s, 1),
            'photographs': len(images) if images is not None else 0,
            'levels': levels,
        },
        configuration={'threads': options.threads, 'batch': 1},
        input_checksum=built.family.checksum,
        load=load,
        **({'folder': options.output} if options.output else {}),
    )


def _on(images: ImageDataset, family: Family) -> list[tuple[float, float]]:
    """Return the top-1 and the mean score of the best class, by level."""
    engine = create_engine(family, device='cpu', threads=os.cpu_count() or 1)
    classifier = Classifier(family, engine)
    right, scores = np.zeros(len(family.levels)), np.zeros(len(family.levels))
    with progress('classifying photographs', len(images)) as report:
        for index in range(len(images)):
            image = images.image(index)
            for position, level in enumerate(family.levels):
                best = classifier.classify(image, level.index, top_k=1).scores[0]
                right[position] += best.class_id == images.label(index)
                scores[position] += best.score
            report.update(index + 1)
    engine.close()
    return list(zip((right / len(images)).tolist(), (scores / len(images)).tolist(), strict=True))


if __name__ == '__main__':
    main()
