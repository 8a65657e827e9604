from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from reference import reference_file

from dynamic_ofa_ros.errors import PredictorError
from dynamic_ofa_ros.offline.accuracy.accuracy_predictor import (
    AccuracyPredictor,
    encode_resolutions,
    read_predictor,
    save_predictor,
)
from dynamic_ofa_ros.space.architecture import SearchSpace, SubnetArchitecture
from dynamic_ofa_ros.space.genome import GenomeEncoding

SPACE = SearchSpace()
GENETICS = GenomeEncoding(SPACE)


@pytest.fixture(scope='module')
def published() -> AccuracyPredictor:
    return read_predictor(reference_file('acc_predictor.npz'))


@pytest.mark.parametrize('device', ['gpu', 'cpu'])
def test_predictions_equal_the_published_ones(published: AccuracyPredictor, device: str) -> None:
    found = json.loads(reference_file(f'published_search_{device}.json').read_text())['found']
    genomes = GENETICS.encode(
        [SubnetArchitecture.from_mapping({**f['arch'], 'r': f['arch']['r'][0]}) for f in found]
    )
    predicted = published.predict(genomes, SPACE)
    np.testing.assert_allclose(predicted, [f['pred_acc'] for f in found], atol=1e-6)


def test_predictions_equal_those_of_torch(published: AccuracyPredictor) -> None:
    genomes = GENETICS.sample(np.random.default_rng(1), 200)
    layers: list[torch.nn.Module] = []
    for weight, bias in zip(published.weights, published.biases, strict=True):
        linear = torch.nn.Linear(weight.shape[1], weight.shape[0])
        linear.weight.data, linear.bias.data = torch.from_numpy(weight), torch.from_numpy(bias)
        layers += [linear, torch.nn.ReLU()]
    network = torch.nn.Sequential(*layers[:-1])
    with torch.inference_mode():
        expected = network(torch.from_numpy(published.features(genomes, SPACE)))[:, 0].numpy()
    np.testing.assert_allclose(published.predict(genomes, SPACE), expected, atol=1e-6)


def test_features_are_the_published_encoding(published: AccuracyPredictor) -> None:
    (genome,) = GENETICS.encode([SPACE.smallest()])
    (features,) = published.features(genome[None], SPACE)
    blocks, resolution = features[:120].reshape(2, 5, 4, 3), features[120:]
    assert (blocks[:, :, :2, 0] == 1).all(), 'the first choice in the two blocks of each stage'
    assert blocks.sum() == 2 * 5 * 2, 'inactive blocks are zero'
    assert resolution.tolist() == [0, 1, 0, 0, 0, 0, 0, 0], '128 px'


@pytest.mark.parametrize(
    ('pixels', 'is_interpolating', 'encoded'),
    [
        (32, True, [1, 0, 0]),
        (40, True, [0.5, 0.5, 0]),
        (60, True, [0, 0.25, 0.75]),
        (64, True, [0, 0, 1]),
        (60, False, [0, 1, 0]),
        (90, False, [0, 0, 1]),
    ],
)
def test_a_resolution_is_interpolated(
    pixels: int, is_interpolating: bool, encoded: list[float]
) -> None:
    assert encode_resolutions(np.array([pixels]), (32, 48, 64), is_interpolating).tolist() == [
        encoded
    ]


def test_damaged_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(PredictorError, match='is missing'):
        read_predictor(tmp_path / 'p.npz')
    (tmp_path / 'p.npz').write_bytes(b'garbage')
    with pytest.raises(PredictorError, match=r'p\.npz is not an accuracy predictor'):
        read_predictor(tmp_path / 'p.npz')
    np.savez(tmp_path / 'q.npz', w0=np.zeros((2, 3)), b0=np.zeros(2))
    with pytest.raises(PredictorError, match='does not have exactly one output'):
        read_predictor(tmp_path / 'q.npz')


def test_resolutions_below_those_of_the_predictor_are_rejected(
    published: AccuracyPredictor,
) -> None:
    space = SearchSpace(resolutions=(64,))
    genomes = GenomeEncoding(space).sample(np.random.default_rng(0), 1)
    with pytest.raises(PredictorError, match='valid from 112 px, not for 64'):
        published.predict(genomes, space)


@pytest.mark.parametrize(
    ('changed', 'message'),
    [
        ({'b0': np.zeros(3)}, 'layer 0 has shape'),
        ({'w1': np.zeros((1, 5))}, 'layer 1 has shape'),
        ({'w0': np.full((4, 128), np.nan)}, 'contains NaN'),
        ({'resolutions': np.array([64, 32])}, 'are not ascending'),
        ({'b1': np.array([{}], object)}, 'is not an accuracy predictor'),
    ],
)
def test_inconsistent_layers_are_named(
    tmp_path: Path, changed: dict[str, np.ndarray], message: str
) -> None:
    arrays = {'w0': np.zeros((4, 128)), 'b0': np.zeros(4), 'w1': np.zeros((1, 4)), 'b1': [0.5]}
    np.savez(tmp_path / 'p.npz', **arrays)
    assert read_predictor(tmp_path / 'p.npz').predict(GENETICS.encode([SPACE.largest()]), SPACE)
    np.savez(tmp_path / 'p.npz', **{**arrays, **changed})
    with pytest.raises(PredictorError, match=message):
        read_predictor(tmp_path / 'p.npz')


def test_the_published_predictor_can_be_saved(
    published: AccuracyPredictor, tmp_path: Path
) -> None:
    save_predictor(published, tmp_path / 'p.npz')
    genomes = GENETICS.sample(np.random.default_rng(3), 20)
    again = read_predictor(tmp_path / 'p.npz').predict(genomes, SPACE)
    assert np.array_equal(again, published.predict(genomes, SPACE))
