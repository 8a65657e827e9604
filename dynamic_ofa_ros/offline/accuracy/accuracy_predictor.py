"""The accuracy predictor: a small network that maps an architecture to its top-1.

It has three hidden layers of 400 units; the input is OFA's one-hot encoding (Cai et al., ICLR
2020, section 3.4). NumPy evaluates whole populations at once. Predictors for other supernets are
fitted by `predictor_fit.py` and stored in the same format.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from dynamic_ofa_ros.errors import PredictorError
from dynamic_ofa_ros.files import replacing
from dynamic_ofa_ros.space.architecture import SearchSpace
from dynamic_ofa_ros.space.genome import GenomeEncoding, Genomes

Float32Array = npt.NDArray[np.float32]
FloatArray = npt.NDArray[np.float64]

# The published predictor was trained at these resolutions; for a resolution between two of them,
# it uses the lower one.
PUBLISHED_RESOLUTIONS = tuple(range(112, 225, 16))


@dataclass(frozen=True)
class AccuracyPredictor:
    """A multi-layer perceptron with ReLU: layer i computes `values @ weights[i].T + biases[i]`.

    resolutions: those of the last inputs; is_interpolating: whether a resolution between two of
    them is encoded as a mixture of both (fitted predictors) or as the lower one (the published
    predictor); kind: the kind of backbone it was fitted for.
    """

    weights: tuple[Float32Array, ...]
    biases: tuple[Float32Array, ...]
    resolutions: tuple[int, ...] = PUBLISHED_RESOLUTIONS
    is_interpolating: bool = False
    kind: str = SearchSpace.kind

    def predict(self, genomes: Genomes, space: SearchSpace) -> FloatArray:
        """Return (N,) predicted top-1, fractions; raise PredictorError for another space."""
        if space.kind != self.kind:
            raise PredictorError(
                f'the predictor is for {self.kind}, not for {space.kind}; fit one for this '
                'backbone with: dynamic-ofa predictor fit'
            )
        features = self.features(genomes, space)
        inputs = self.weights[0].shape[1]
        if features.shape[1] != inputs:
            raise PredictorError(
                f'the predictor has {inputs} inputs, but an architecture of this space has '
                f'{features.shape[1]}'
            )
        return self.forward(features)

    def effects(self, genomes: Genomes, space: SearchSpace) -> FloatArray:
        """Estimate the change of top-1 if a gene takes another choice: (N, genes, choices).

        This is a first-order estimate, from the gradient at each genome. Choices that a gene does
        not have, and depths, which are not inputs of the predictor, are NaN.
        """
        encoding = GenomeEncoding(space)
        gradient = self.gradient(self.features(genomes, space))
        known = encode_resolutions(
            np.asarray(space.resolutions), self.resolutions, self.is_interpolating
        )
        by_resolution = gradient[:, -len(self.resolutions) :] @ known.T
        genes, choices = encoding.one_hot
        values = np.full((*genomes.shape, max(encoding.choices)), np.nan)
        values[:, genes, choices] = np.concatenate(
            [gradient[:, : -len(self.resolutions)], by_resolution], axis=1
        )
        own = np.take_along_axis(values, genomes[:, :, None], axis=2)
        return np.asarray(values - own, np.float64)

    def gradient(self, features: Float32Array) -> Float32Array:
        """Return the (N, inputs) derivatives of top-1 with respect to the features."""
        values, passing = features, []
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            values = values @ weight.T + bias
            passing.append(values > 0)
            values = np.maximum(values, 0.0)
        gradient = np.repeat(self.weights[-1], len(features), axis=0)
        for weight, passes in zip(self.weights[-2::-1], reversed(passing), strict=True):
            gradient = (gradient * passes) @ weight
        return gradient

    def features(self, genomes: Genomes, space: SearchSpace) -> Float32Array:
        """Return (N, inputs) float32: one-hot choices of active blocks, then the resolution."""
        encoding = GenomeEncoding(space)
        choices = encoding.features(genomes)[:, : -len(space.resolutions)]
        resolution = encode_resolutions(
            encoding.resolutions(genomes), self.resolutions, self.is_interpolating
        )
        return np.concatenate([choices, resolution], axis=1)

    def forward(self, features: Float32Array) -> FloatArray:
        """Run the network on (N, inputs); return (N,)."""
        values = features
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            values = np.maximum(values @ weight.T + bias, 0.0)
        return np.asarray((values @ self.weights[-1].T + self.biases[-1])[:, 0], np.float64)


def encode_resolutions(
    pixels: npt.NDArray[np.int64], known: tuple[int, ...], is_interpolating: bool
) -> Float32Array:
    """Return (N, known) float32, each row with the sum 1; raise PredictorError if out of range.

    A known resolution is one-hot. A resolution between two known ones is encoded as the lower one,
    or interpolated, so that the predictor can be fitted to a few of many resolutions.
    """
    lowest, highest = known[0], known[-1]
    if pixels.min() < lowest:
        raise PredictorError(f'the predictor is valid from {lowest} px, not for {pixels.min()} px')
    if is_interpolating and pixels.max() > highest:
        raise PredictorError(
            f'the predictor is valid up to {highest} px, not for {pixels.max()} px'
        )
    classes = np.searchsorted(known, pixels, side='right') - 1
    encoded: Float32Array = np.equal.outer(classes, np.arange(len(known))).astype(np.float32)
    if is_interpolating and len(known) > 1:
        lower = np.minimum(classes, len(known) - 2)
        steps = np.diff(known)[lower]
        share = (pixels - np.asarray(known)[lower]) / steps
        rows = np.arange(len(pixels))
        encoded[:] = 0.0
        encoded[rows, lower] = 1.0 - share
        encoded[rows, lower + 1] = share
    return encoded


def save_predictor(predictor: AccuracyPredictor, path: str | Path) -> None:
    """Write the layers `w0, b0, w1, ...` and the other fields to an .npz file, atomically."""
    arrays: dict[str, npt.NDArray[np.generic]] = {
        'resolutions': np.array(predictor.resolutions, np.int64),
        'is_interpolating': np.array(predictor.is_interpolating),
        'kind': np.array(predictor.kind),  # a NumPy string, which needs no pickle
    }
    for i, (weight, bias) in enumerate(zip(predictor.weights, predictor.biases, strict=True)):
        arrays |= {f'w{i}': weight, f'b{i}': bias}
    write_arrays(Path(path).expanduser(), arrays)


def write_arrays(path: Path, arrays: Mapping[str, npt.NDArray[np.generic]]) -> None:
    """Write arrays to an .npz file, atomically."""
    buffer = io.BytesIO()  # on a full disk, NumPy 1 leaves an open archive behind
    np.savez(buffer, **cast(Any, arrays))
    with replacing(path) as temporary:
        temporary.write_bytes(buffer.getvalue())


def read_predictor(path: str | Path) -> AccuracyPredictor:
    """Read a file of `save_predictor`, or the published file, which contains only the layers.

    Raise PredictorError if the file is missing or damaged.
    """
    path = Path(path).expanduser()
    try:
        if path.is_file() and not zipfile.is_zipfile(path):
            raise PredictorError(f'{path} is not an accuracy predictor: it is not an .npz file')
        with np.load(path, allow_pickle=False) as stored:
            layers = sum(name[0] == 'w' and name[1:].isdecimal() for name in stored.files)
            weights = tuple(stored[f'w{i}'].astype(np.float32) for i in range(layers))
            biases = tuple(stored[f'b{i}'].astype(np.float32) for i in range(layers))
            known = {name: stored[name] for name in stored.files}
        predictor = AccuracyPredictor(
            weights,
            biases,
            tuple(int(r) for r in known.get('resolutions', PUBLISHED_RESOLUTIONS)),
            bool(known.get('is_interpolating', False)),
            str(known.get('kind', SearchSpace.kind)),
        )
    except FileNotFoundError:
        raise PredictorError(f'{path} is missing') from None
    except (OSError, EOFError, ValueError, LookupError, AttributeError, TypeError) as error:
        raise PredictorError(f'{path} is not an accuracy predictor: {error}') from None
    except zipfile.BadZipFile as error:
        raise PredictorError(f'{path} is not an accuracy predictor: {error}') from None
    problem = _problem(predictor)
    if problem:
        raise PredictorError(f'{path} is not an accuracy predictor: {problem}')
    return predictor


def _problem(predictor: AccuracyPredictor) -> str:
    if not predictor.weights or predictor.weights[-1].shape[:1] != (1,):
        return 'its last layer does not have exactly one output'
    outputs = predictor.weights[0].shape[-1]
    for i, (weight, bias) in enumerate(zip(predictor.weights, predictor.biases, strict=True)):
        if weight.ndim != 2 or weight.shape[1] != outputs or bias.shape != weight.shape[:1]:
            return f'layer {i} has shape {weight.shape}, which does not match the previous layer'
        if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
            return f'layer {i} contains NaN or infinity'
        outputs = weight.shape[0]
    if list(predictor.resolutions) != sorted(set(predictor.resolutions)):
        return f'its resolutions {predictor.resolutions} are not ascending'
    return ''
