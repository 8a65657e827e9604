from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dynamic_ofa_ros.errors import PredictorError
from dynamic_ofa_ros.offline.accuracy import predictor_fit
from dynamic_ofa_ros.offline.accuracy.accuracy_predictor import (
    AccuracyPredictor,
    read_predictor,
    save_predictor,
)
from dynamic_ofa_ros.offline.accuracy.agreement import Agreement
from dynamic_ofa_ros.offline.accuracy.predictor_fit import encode_pairs, fit_predictor
from dynamic_ofa_ros.space.genome import GenomeEncoding, Genomes
from dynamic_ofa_ros.space.spaces import SPACES, search_space

RESOLUTIONS = (32, 48, 64, 96)
NOISE = 0.002


def measured(
    kind: str, count: int, seed: int = 0, is_saturating: bool = False
) -> tuple[Genomes, np.ndarray]:
    """Draw architectures whose accuracy is a sum over choices, with a little noise."""
    space = search_space(kind, RESOLUTIONS)
    rng = np.random.default_rng(seed)
    genomes = GenomeEncoding(space).encode(
        [space.sample_leaning(rng, rng.uniform(-1.5, 1.5)) for _ in range(count)]
    )
    genomes = GenomeEncoding(space).canonical(genomes)
    worth = np.random.default_rng(9).uniform(0.5, 1.5, genomes.shape[1])
    score = genomes @ worth / ((GenomeEncoding(space).choices - 1) @ worth)
    top1 = 0.95 - 0.6 * np.exp(-8 * score) if is_saturating else 0.5 + 0.4 * score
    return genomes, top1 + rng.normal(0, NOISE, count)


@pytest.mark.parametrize('kind', SPACES)
def test_unseen_architectures_of_any_space_are_predicted(kind: str) -> None:
    space = search_space(kind, RESOLUTIONS)
    predictor, report = fit_predictor(*measured(kind, 120), space)
    genomes, top1 = measured(kind, 200, seed=5)
    unseen = Agreement.of(predictor.predict(genomes, space), top1)
    assert unseen.kendall_tau > 0.85
    assert unseen.mae < 0.25 * report.held_out['mean'].mae
    # The report agrees with the error on unseen networks.
    assert unseen.rmse == pytest.approx(report.held_out_rmse, rel=0.5)
    assert report.pairs == 120
    assert report.held_out_mae == report.held_out['predictor'].mae


def test_few_pairs_are_enough_where_blocks_have_similar_effects() -> None:
    space = search_space('ofa_mobilenetv3', RESOLUTIONS)
    genomes, top1 = measured(space.kind, 40)
    predictor, _ = fit_predictor(genomes, top1, space)
    unseen, truth = measured(space.kind, 200, seed=5)
    found = Agreement.of(predictor.predict(unseen, space), truth)
    assert found.kendall_tau > 0.85
    features = AccuracyPredictor(
        (), (), predictor.resolutions, is_interpolating=True, kind=space.kind
    ).features
    known, other = (features(g, space).astype(float) for g in (genomes, unseen))
    slopes, offset = predictor_fit._fit_ridge(known, top1)
    without_sums = Agreement.of(other @ slopes + offset, truth)
    assert found.rmse < 0.8 * without_sums.rmse


def test_saturating_accuracies_are_predicted() -> None:
    space = search_space('ofa_mobilenetv3', RESOLUTIONS)
    predictor, report = fit_predictor(*measured(space.kind, 200, is_saturating=True), space)
    assert report.held_out_rmse < 0.5 * report.held_out['mean'].rmse
    genomes, top1 = measured(space.kind, 200, seed=5, is_saturating=True)
    unseen = Agreement.of(predictor.predict(genomes, space), top1)
    assert unseen.rmse == pytest.approx(report.held_out_rmse, rel=0.4)


def test_the_same_seed_gives_the_same_predictor() -> None:
    space = search_space('ofa_mobilenetv3', RESOLUTIONS)
    pairs = measured(space.kind, 60)
    first, again = (fit_predictor(*pairs, space, seed=3) for _ in range(2))
    assert first[1] == again[1]
    for one, other in zip(first[0].weights, again[0].weights, strict=True):
        assert np.array_equal(one, other)


@pytest.mark.parametrize('is_saturating', [False, True])
def test_a_saved_predictor_predicts_the_same(tmp_path: Path, is_saturating: bool) -> None:
    space = search_space('ofa_resnet50', RESOLUTIONS)
    genomes, top1 = measured(space.kind, 60, is_saturating=is_saturating)
    predictor, _ = fit_predictor(genomes, top1, space)
    save_predictor(predictor, tmp_path / 'p.npz')
    read = read_predictor(tmp_path / 'p.npz')
    assert read.kind == 'ofa_resnet50'
    assert np.array_equal(read.predict(genomes, space), predictor.predict(genomes, space))


def test_predictions_are_interpolated_between_resolutions() -> None:
    space = search_space('ofa_mobilenetv3', RESOLUTIONS)
    predictor, _ = fit_predictor(*measured(space.kind, 120), space)
    finer = search_space('ofa_mobilenetv3', (64, 72, 80, 96))
    architecture = finer.largest()
    genomes = np.repeat(GenomeEncoding(finer).encode([architecture]), 4, axis=0)
    genomes[:, -1] = range(4)
    at = predictor.predict(genomes, finer)
    assert at[0] < at[1] < at[2] < at[3]
    outside = search_space('ofa_mobilenetv3', (96, 128))
    with pytest.raises(PredictorError, match='valid up to 96 px, not for 128'):
        predictor.predict(GenomeEncoding(outside).encode([outside.largest()]), outside)


def test_repeated_measurements_count_once() -> None:
    space = search_space('ofa_mobilenetv3', RESOLUTIONS)
    genomes, top1 = measured(space.kind, 40)
    _, report = fit_predictor(np.tile(genomes, (3, 1)), np.tile(top1, 3), space)
    assert report.pairs == 40


NAN, ONE_NAN = float('nan'), [0.5 + i / 100 for i in range(29)] + [float('nan')]


@pytest.mark.parametrize(
    ('top1', 'message'),
    [
        (np.linspace(0.5, 0.6, 19), '19 different architectures .* too few .* at least 20'),
        (np.full(30, 0.5), r'all 30 accuracies are 0\.5: check that'),
        (np.linspace(50, 76.5, 30), r'an accuracy is 76\.5; give top-1 as a fraction'),
        (np.linspace(-0.1, 0.5, 30), r'an accuracy is -0\.1; give top-1 as a fraction'),
        (np.array(ONE_NAN), 'the accuracy of pair 30 is nan, which is not a number'),
    ],
)
def test_invalid_accuracies_are_explained(top1: np.ndarray, message: str) -> None:
    genomes, _ = measured('ofa_mobilenetv3', len(top1))
    with pytest.raises(PredictorError, match=message):
        fit_predictor(genomes, top1, search_space('ofa_mobilenetv3', RESOLUTIONS))


def test_repetitions_of_one_architecture_are_too_few() -> None:
    genomes, top1 = measured('ofa_mobilenetv3', 40)
    with pytest.raises(PredictorError, match='1 different architectures'):
        fit_predictor(genomes[:1].repeat(40, axis=0), top1, search_space('ofa_mobilenetv3'))


def test_an_architecture_outside_the_space_is_named() -> None:
    space = search_space('ofa_mobilenetv3', RESOLUTIONS)
    inside, outside = space.largest(), search_space('ofa_mobilenetv3', (40,)).largest()
    with pytest.raises(PredictorError, match=r'pairs\.csv: architecture 2 .* r is 40'):
        encode_pairs([inside, outside], space, 'pairs.csv')


def test_another_kind_of_backbone_is_rejected() -> None:
    space = search_space('ofa_mobilenetv3', RESOLUTIONS)
    predictor, _ = fit_predictor(*measured(space.kind, 30), space)
    other = search_space('ofa_proxyless', RESOLUTIONS)
    with pytest.raises(PredictorError, match='is for ofa_mobilenetv3, not for ofa_proxyless'):
        predictor.predict(GenomeEncoding(other).encode([other.largest()]), other)
