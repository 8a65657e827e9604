"""The ImageNet family: how long it takes to make, and its levels' accuracy and latency.

    python -m benchmarks.imagenet [--data FOLDER] [--threads 1]

With class folders of photographs the family is made a second time, with every level's top-1
measured on them.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.common import print_table, write_results
from dynamic_ofa_ros.offline.device_profile import Place
from dynamic_ofa_ros.offline.imagenet import build_imagenet_family
from dynamic_ofa_ros.runtime.host import OthersLoad


def main() -> None:
    """Make the family, print its table and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--data', help='class folders of photographs, called by WordNet id')
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('--output', type=Path, default=None, help='folder of the JSON file')
    options = parser.parse_args()
    load = OthersLoad()
    place = Place('cpu', 'onnxruntime', options.threads)
    with tempfile.TemporaryDirectory() as folder:
        started_s = time.monotonic()
        built = build_imagenet_family(Path(folder) / 'stated', place=place)
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
        accuracy = ''
        if options.data:
            measured = build_imagenet_family(
                Path(folder) / 'measured', data=options.data, place=place
            )
            top1 = {level.name: level.accuracy for level in measured.family.levels}
            accuracy = str(measured.family.provenance['accuracy'])
            for row in levels:
                row['measured_top1'] = top1.get(row['name'])
    print_table('ImageNet family', list(levels[0]), [list(row.values()) for row in levels])
    print(f'made in {build_s:.0f} s')
    write_results(
        'imagenet',
        {
            'platform': built.profile.platform,
            'build_s': round(build_s, 1),
            'measured_on': accuracy,
            'levels': levels,
        },
        configuration={'threads': options.threads, 'batch': 1},
        input_checksum=built.family.checksum,
        load=load,
        **({'folder': options.output} if options.output else {}),
    )


if __name__ == '__main__':
    main()
