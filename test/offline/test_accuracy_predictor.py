from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from reference import reference_file

from dynamic_ofa_ros.architecture import SearchSpace, SubnetArchitecture
from dynamic_ofa_ros.errors import PredictorError
from dynamic_ofa_ros.offline.accuracy_predictor import AccuracyPredictor, read_predictor
from dynamic_ofa_ros.offline.genome import Genetics

SPACE = SearchSpace()
GENETICS = Genetics(SPACE)


@pytest.fixture(scope='module')
def published() -> AccuracyPredictor:
    return read_predictor(reference_file('acc_predictor.npz'))


@pytest.mark.parametrize('device', ['gpu', 'cpu'])
def test_predictions_are_the_published_ones(published: AccuracyPredictor, device: str) -> None:
    found = json.loads(reference_file(f'published_search_{device}.json').read_text())['found']
    genomes = GENETICS.encode(
        [SubnetArchitecture.from_mapping({**f['arch'], 'r': f['arch']['r'][0]}) for f in found]
    )
    predicted = published.predict(genomes, SPACE)
    np.testing.assert_allclose(predicted, [f['pred_acc'] for f in found], atol=1e-6)


def test_torch_agrees(published: AccuracyPredictor) -> None:
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


def test_features_are_the_architectures_encoding(published: AccuracyPredictor) -> None:
    genomes = GENETICS.sample(np.random.default_rng(2), 50)
    expected = [SPACE.encode(GENETICS.decode(genome)) for genome in genomes]
    assert np.array_equal(published.features(genomes, SPACE), expected)


def test_bad_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(PredictorError, match='is missing'):
        read_predictor(tmp_path / 'p.npz')
    (tmp_path / 'p.npz').write_bytes(b'garbage')
    with pytest.raises(PredictorError, match=r'p\.npz is not an accuracy predictor'):
        read_predictor(tmp_path / 'p.npz')
    np.savez(tmp_path / 'q.npz', w0=np.zeros((2, 3)), b0=np.zeros(2))
    with pytest.raises(PredictorError, match='does not end in one output'):
        read_predictor(tmp_path / 'q.npz')


def test_resolutions_below_the_predictors_are_refused(published: AccuracyPredictor) -> None:
    space = SearchSpace(resolutions=(64,))
    genomes = Genetics(space).sample(np.random.default_rng(0), 1)
    with pytest.raises(PredictorError, match='knows resolutions from 112 px, not 64'):
        published.predict(genomes, space)
