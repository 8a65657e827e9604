from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from reference import reference_file

from dynamic_ofa_ros.architecture import SearchSpace
from dynamic_ofa_ros.cli.main import main
from dynamic_ofa_ros.errors import SearchError
from dynamic_ofa_ros.offline.accuracy_predictor import read_predictor
from dynamic_ofa_ros.offline.genome import Genetics, Genomes
from dynamic_ofa_ros.offline.latency import read_table
from dynamic_ofa_ros.offline.pareto import front
from dynamic_ofa_ros.offline.search import Objectives, find_front

SMALL = Genetics(
    SearchSpace(
        kernel_sizes=(3, 5), expand_ratios=(3, 6), depths=(1, 2), resolutions=(32, 64), stages=2
    )
)


def small_objectives() -> Objectives:
    """A space of 2,048 genomes whose front is found by trying them all."""
    rng = np.random.default_rng(3)
    cost, value = rng.uniform(0.5, 2.0, 11), rng.uniform(0.0, 0.05, 11)

    def used(genomes: Genomes) -> np.ndarray:
        active = SMALL.active(genomes)
        return np.concatenate(
            [SMALL.kernels(genomes) * active, SMALL.expands(genomes) * active, genomes[:, 8:]], 1
        )

    return Objectives(
        SMALL, lambda g: 5.0 + used(g) @ cost, lambda g: 0.5 + np.sqrt(used(g)) @ value
    )


def everything() -> Genomes:
    choices = SMALL.choices
    return np.array(list(itertools.product(*(range(c) for c in choices))), np.int64)


def test_the_true_front_is_found() -> None:
    result = find_front(small_objectives(), evaluations=1500, population=50, seed=2)
    objectives = small_objectives()
    genomes = np.unique(SMALL.canonical(everything()), axis=0)
    latency_ms, top1 = objectives.evaluate(genomes)
    true = [(latency_ms[i], top1[i]) for i in front(latency_ms.tolist(), top1.tolist())]
    found = [(f.latency_ms, f.accuracy) for f in result.front]
    missed = [point for point in true if point not in found]
    assert len(missed) <= 0.1 * len(true)
    assert result.evaluations <= 1500


def test_the_same_seed_finds_the_same() -> None:
    first, second = (find_front(small_objectives(), [9.0], 400, 5, 50) for _ in range(2))
    assert first.front == second.front
    assert first.at_limits == second.at_limits


def test_limits_are_kept_in_their_order() -> None:
    result = find_front(small_objectives(), [12.0, 7.0], 600, 1, 50)
    assert [f.latency_ms <= limit for f, limit in zip(result.at_limits, (12.0, 7.0), strict=True)]
    assert result.at_limits[0].accuracy > result.at_limits[1].accuracy


def test_an_impossible_limit_names_the_nearest_possible() -> None:
    with pytest.raises(SearchError, match=r'takes 1 ms or less .* the fastest takes 5 ms'):
        find_front(small_objectives(), [1.0], 400, 1, 50)


def test_too_few_evaluations_are_refused() -> None:
    with pytest.raises(SearchError, match='50 evaluations are too few'):
        find_front(small_objectives(), [9.0], 50)


def test_nothing_is_evaluated_more_often_than_counted() -> None:
    counted = 0
    objectives = small_objectives()
    latency = objectives._latency

    def count(genomes: Genomes) -> np.ndarray:
        nonlocal counted
        counted += len(genomes)
        return latency(genomes)

    objectives._latency = count
    result = find_front(objectives, [9.0], 500, 1, 50)
    assert result.evaluations == counted <= 500


def test_warm_start_is_part_of_what_is_known() -> None:
    best = find_front(small_objectives(), [9.0], 1500, 1, 50).at_limits[0]
    again = find_front(
        small_objectives(), [9.0], 200, 9, 50, warm_start=[best.architecture]
    ).at_limits[0]
    assert again.accuracy >= best.accuracy


@pytest.mark.parametrize('device', ['gpu', 'cpu'])
def test_about_as_good_as_the_published_search_at_a_fiftieth_of_its_evaluations(
    device: str,
) -> None:
    table = read_table(reference_file(f'lut_xavier_nx_{device}.json'))
    predictor = read_predictor(reference_file('acc_predictor.npz'))
    published = json.loads(reference_file(f'published_search_{device}.json').read_text())['found']
    objectives = Objectives(
        Genetics(table.space), table.predict, lambda g: predictor.predict(g, table.space)
    )
    result = find_front(objectives, [f['constraint'] for f in published], 20000)
    gains = [
        found.accuracy - other['pred_acc']
        for found, other in zip(result.at_limits, published, strict=True)
    ]
    assert np.mean(gains) > 0.0005
    assert min(gains) > -0.004


def test_the_command_prints_what_others_can_check(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        'search', '--lut', str(reference_file('lut_xavier_nx_gpu.json')),
        '--predictor', str(reference_file('acc_predictor.npz')),
        '--limit-ms', '17', '--limit-ms', '25', '--evaluations', '2000', '--json',
    ]  # fmt: skip
    assert main(arguments) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row['limit_ms'] for row in rows] == [17.0, 25.0]
    for row in rows:
        assert row['latency_ms'] <= row['limit_ms']
        assert row['evaluations'] <= 2000
        assert set(row['architecture']) == {'ks', 'e', 'd', 'r'}


def test_the_command_names_a_missing_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(['search', '--lut', 'nowhere.json', '--predictor', 'x.npz']) == 2
    assert 'nowhere.json cannot be read' in capsys.readouterr().err
