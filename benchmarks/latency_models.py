"""Compare the operator table with a predictor fitted to whole networks.

Both are built for the backbone of the shipped family and compared on held-out networks. Networks
are measured with the real engine, so run this on an idle machine; it takes about 10 minutes.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import print_table, write_results
from dynamic_ofa_ros.offline.latency.family_profile import DeviceSettings
from dynamic_ofa_ros.offline.latency.latency_predictor import fit_latency_predictor
from dynamic_ofa_ros.offline.latency.measure_model import (
    measure_latency_predictor,
    measure_operator_table,
)
from dynamic_ofa_ros.offline.latency.on_device import measure_architectures
from dynamic_ofa_ros.offline.latency.table import read_document, report_of
from dynamic_ofa_ros.offline.search.candidates import key_of, sample_candidates
from dynamic_ofa_ros.runtime.host import OthersLoad
from dynamic_ofa_ros.space.genome import GenomeEncoding
from dynamic_ofa_ros.supernet.trained import open_backbone

NETWORKS = 100
HELD_OUT = 40
GROUP = 10
FEWER = (25, 50)


def main() -> None:
    """Build both models, measure held-out networks, and print and write the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--backbone', default='signs')
    parser.add_argument('--engine', default='onnxruntime')
    args = parser.parse_args()
    load = OthersLoad()
    with tempfile.TemporaryDirectory() as folder:
        results = compare(args.backbone, args.engine, Path(folder))
    print_table(
        'error on held-out networks',
        ('model', 'mean %', 'largest %', 'within 10 %', "Kendall's tau", 'seconds'),
        [
            (
                name,
                100 * row['mean_error'],
                100 * row['largest_error'],
                row['within_10_percent'],
                row['kendall_tau'],
                row.get('seconds', ''),
            )
            for name, row in results['models'].items()
        ],
    )
    write_results(
        'latency_models',
        results,
        configuration={**vars(args), 'networks': NETWORKS, 'held_out': HELD_OUT},
        input_checksum='noise',
        load=load,
    )


def compare(backbone: str, engine: str, folder: Path) -> dict[str, Any]:
    """Return the error of every model on held-out networks, and the effort to build it."""
    trained = open_backbone(backbone)
    settings = DeviceSettings('cpu', engine)
    started = time.monotonic()
    table = measure_operator_table(trained, folder / 'table.json', settings)
    table_s = time.monotonic() - started
    started = time.monotonic()
    predictor = measure_latency_predictor(
        trained, folder / 'networks.json', settings, networks=NETWORKS
    )
    predictor_s = time.monotonic() - started

    fitted = sample_candidates(trained.space, NETWORKS, 1)
    seen = {
        str(row['architecture'])
        for name in ('table', 'networks')
        for row in read_document(folder / f'{name}.json')['networks']
    }
    held_out = [
        a
        for a in sample_candidates(trained.space, 2 * HELD_OUT, 7)
        if str(a.to_mapping()) not in seen
    ][:HELD_OUT]
    supernet, measured = trained.load(), []
    for start in range(0, len(held_out), GROUP):
        group = held_out[start : start + GROUP]
        profile = measure_architectures(trained, supernet, group, settings, folder / 'work', 1.0)
        measured += [level.median_ms for level in profile.levels]
    truth = np.array(measured)
    genomes = GenomeEncoding(trained.space).encode(held_out)

    models: dict[str, Any] = {
        'operators, plain sum': asdict(report_of(table.sum(genomes), truth)),
        'operators, corrected': {
            **asdict(report_of(table.predict(genomes), truth)),
            'seconds': table_s,
        },
    }
    times = {
        str(row['architecture']): row['measured_ms']
        for row in read_document(folder / 'networks.json')['networks']
    }
    fitted_ms = np.array([times[str(a.to_mapping())] for a in fitted])
    fitted_genomes = GenomeEncoding(trained.space).encode(fitted)
    order = np.random.default_rng(1).permutation(NETWORKS)
    for count in FEWER:
        fewer = fit_latency_predictor(
            fitted_genomes[order[:count]], fitted_ms[order[:count]], trained.space
        )
        models[f'{count} whole networks'] = asdict(report_of(fewer.predict(genomes), truth))
    models[f'{NETWORKS} whole networks'] = {
        **asdict(report_of(predictor.predict(genomes), truth)),
        'seconds': predictor_s,
    }
    return {
        'platform': table.platform,
        'correction': asdict(table.correction),
        'models': models,
        'held_out': [
            {'architecture': key_of(a), 'measured_ms': ms}
            for a, ms in zip(held_out, measured, strict=True)
        ],
    }


if __name__ == '__main__':
    main()
