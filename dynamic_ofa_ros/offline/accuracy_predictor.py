"""The accuracy predictor: a small network from an architecture's encoding to its top-1.

Three hidden layers of 400 over OFA's one-hot encoding (Cai et al., ICLR 2020, section 3.4). It is
so small that numpy runs it as fast as anything else, on whole populations at once.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dynamic_ofa_ros.architecture import SearchSpace
from dynamic_ofa_ros.errors import PredictorError
from dynamic_ofa_ros.offline.genome import Genetics, Genomes

Float32Array = npt.NDArray[np.float32]
FloatArray = npt.NDArray[np.float64]

# The published predictor knows eight resolutions, 112 to 224 in steps of 16; those between count
# as the next lower one.
PUBLISHED_RESOLUTIONS = tuple(range(112, 225, 16))


@dataclass(frozen=True)
class AccuracyPredictor:
    """A multi-layer perceptron with ReLU; `resolutions` are the classes of its last inputs."""

    weights: tuple[Float32Array, ...]
    biases: tuple[Float32Array, ...]
    resolutions: tuple[int, ...] = PUBLISHED_RESOLUTIONS

    def predict(self, genomes: Genomes, space: SearchSpace) -> FloatArray:
        """Return (N,) predicted top-1, fractions."""
        return self.forward(self.features(genomes, space))

    def features(self, genomes: Genomes, space: SearchSpace) -> Float32Array:
        """Return (N, inputs) one-hot kernel sizes, expand ratios and resolution."""
        genetics = Genetics(space)
        active = genetics.active(genomes)[..., None]
        count = len(genomes)
        kernels = genetics.kernels(genomes)[..., None] == np.arange(len(space.kernel_sizes))
        expands = genetics.expands(genomes)[..., None] == np.arange(len(space.expand_ratios))
        pixels = genetics.resolutions(genomes)
        if pixels.min() < self.resolutions[0]:
            raise PredictorError(
                f'the predictor knows resolutions from {self.resolutions[0]} px, '
                f'not {pixels.min()}'
            )
        classes = np.searchsorted(self.resolutions, pixels, side='right') - 1
        resolution = classes[:, None] == np.arange(len(self.resolutions))
        return np.concatenate(
            [
                (kernels & active).reshape(count, -1),
                (expands & active).reshape(count, -1),
                resolution,
            ],
            axis=1,
        ).astype(np.float32)

    def forward(self, features: Float32Array) -> FloatArray:
        """Run the network on (N, inputs); return (N,)."""
        values = features
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            values = np.maximum(values @ weight.T + bias, 0.0)
        return np.asarray((values @ self.weights[-1].T + self.biases[-1])[:, 0], np.float64)


def read_predictor(path: str | Path) -> AccuracyPredictor:
    """Read `w0, b0, w1, ...` (and `resolutions`) from an .npz; raise PredictorError."""
    path = Path(path)
    try:
        with np.load(path, allow_pickle=False) as stored:
            layers = sum(name.startswith('w') for name in stored.files)
            weights = tuple(stored[f'w{i}'].astype(np.float32) for i in range(layers))
            biases = tuple(stored[f'b{i}'].astype(np.float32) for i in range(layers))
            resolutions = (
                tuple(int(r) for r in stored['resolutions'])
                if 'resolutions' in stored.files
                else PUBLISHED_RESOLUTIONS
            )
    except FileNotFoundError:
        raise PredictorError(f'{path} is missing') from None
    except (OSError, ValueError, KeyError, AttributeError, zipfile.BadZipFile) as error:
        raise PredictorError(f'{path} is not an accuracy predictor: {error}') from None
    if not weights or weights[-1].shape[0] != 1:
        raise PredictorError(f'{path} is not an accuracy predictor: it does not end in one output')
    return AccuracyPredictor(weights, biases, resolutions)
