"""The accuracy predictor: a small network from an architecture's encoding to its top-1.

Three hidden layers of 400 over OFA's one-hot encoding (Cai et al., ICLR 2020, section 3.4). It is
so small that numpy runs it as fast as anything else, on whole populations at once. Predictors for
other supernets are fitted by `predictor_fit.py` and have the same form and file.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dynamic_ofa_ros.errors import PredictorError
from dynamic_ofa_ros.files import replacing
from dynamic_ofa_ros.space.architecture import SearchSpace
from dynamic_ofa_ros.space.genome import GenomeEncoding, Genomes

Float32Array = npt.NDArray[np.float32]
FloatArray = npt.NDArray[np.float64]

# The published predictor knows eight resolutions, 112 to 224 in steps of 16; those between count
# as the next lower one.
PUBLISHED_RESOLUTIONS = tuple(range(112, 225, 16))


@dataclass(frozen=True)
class AccuracyPredictor:
    """A multi-layer perceptron with ReLU: layer i computes `values @ weights[i].T + biases[i]`.

    resolutions: the classes of its last inputs; is_interpolating: whether a resolution between
    two of them is a mixture of both (a fitted predictor) or counts as the lower one (the
    published one); kind: the kind of backbone whose architectures it knows.
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
                f'the predictor is one for {self.kind}, not for {space.kind}; fit one for this '
                'backbone with: dynamic-ofa predictor fit'
            )
        features = self.features(genomes, space)
        inputs = self.weights[0].shape[1]
        if features.shape[1] != inputs:
            raise PredictorError(
                f'the predictor takes {inputs} inputs, an architecture of this space gives '
                f'{features.shape[1]}'
            )
        return self.forward(features)

    def effects(self, genomes: Genomes, space: SearchSpace) -> FloatArray:
        """Estimate how top-1 changes where a gene takes a choice: (N, genes, most choices).

        First order: the gradient at each genome, by one forward and one backward pass. The one of
        a depth that blocks tell, and of a choice that there is not, is NaN.
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
        """Return (N, inputs) derivatives of top-1 by the features."""
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
        """Return (N, inputs) float32: one-hot choices of used blocks, then the resolution."""
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
    """Return (N, known) float32 that sum to 1 in each row; raise PredictorError out of range.

    One-hot for a known resolution. One between two known is the lower one, or their mixture, so
    that a few resolutions are enough to learn from where the space has many.
    """
    lowest, highest = known[0], known[-1]
    if pixels.min() < lowest:
        raise PredictorError(
            f'the predictor knows resolutions from {lowest} px, not {pixels.min()}'
        )
    if is_interpolating and pixels.max() > highest:
        raise PredictorError(
            f'the predictor knows resolutions up to {highest} px, not {pixels.max()}'
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
    """Write `w0, b0, w1, ...` and what else the predictor knows into an .npz, atomically."""
    arrays: dict[str, npt.NDArray[np.generic]] = {
        'resolutions': np.array(predictor.resolutions, np.int64),
        'is_interpolating': np.array(predictor.is_interpolating),
        'kind': np.array(predictor.kind),  # as text of numpy's own, not a pickled object
    }
    for i, (weight, bias) in enumerate(zip(predictor.weights, predictor.biases, strict=True)):
        arrays |= {f'w{i}': weight, f'b{i}': bias}
    with replacing(Path(path).expanduser()) as temporary, temporary.open('wb') as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def read_predictor(path: str | Path) -> AccuracyPredictor:
    """Read what `save_predictor` wrote, or the published file; raise PredictorError.

    The published file has the layers only.
    """
    path = Path(path).expanduser()
    try:
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
        return 'it does not end in one output'
    outputs = predictor.weights[0].shape[-1]
    for i, (weight, bias) in enumerate(zip(predictor.weights, predictor.biases, strict=True)):
        if weight.ndim != 2 or weight.shape[1] != outputs or bias.shape != weight.shape[:1]:
            return f'layer {i} has shape {weight.shape}, which does not fit the others'
        if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
            return f'layer {i} holds values that are no numbers'
        outputs = weight.shape[0]
    if list(predictor.resolutions) != sorted(set(predictor.resolutions)):
        return f'its resolutions {predictor.resolutions} do not rise'
    return ''
