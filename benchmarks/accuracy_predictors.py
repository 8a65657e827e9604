"""Compare our accuracy predictor with regressors of scikit-learn.

All are fitted to the same one-hot features of (architecture, top-1) pairs and predict networks
that they were not fitted to. There are two sources of pairs. `measured` are the measured pairs in
data/signs_pairs.jsonl, evaluated by cross-validation:

    dynamic-ofa predictor fit --backbone signs --data signs --samples 80 --resolutions 48,64,80 \\
      --images 1000 --held-out-images 1600 --selection-images 800 --calibration-images 100 \\
      --device cpu --output signs.npz

`published` is the published predictor of the reference folder: the models are fitted to its
predictions with the noise of a measurement on `IMAGES` images, and its predictions without noise
are the truth. Only this benchmark requires scikit-learn: pip install scikit-learn.

Gradient boosting is the most accurate model on the few measured pairs. It is not used, because its
trees have no gradient, which guides the search, and scikit-learn stores them only as a pickle,
which a reader would have to execute.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import sklearn
from sklearn.ensemble import GradientBoostingRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import KFold
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR

from benchmarks.common import checksum, print_table, reference_directory, write_results
from dynamic_ofa_ros.offline.accuracy.accuracy_predictor import AccuracyPredictor, read_predictor
from dynamic_ofa_ros.offline.accuracy.agreement import Agreement
from dynamic_ofa_ros.offline.accuracy.pairs import read_pairs
from dynamic_ofa_ros.offline.accuracy.predictor_fit import encode_pairs, fit_predictor
from dynamic_ofa_ros.offline.search.candidates import sample_candidates
from dynamic_ofa_ros.space.architecture import SearchSpace
from dynamic_ofa_ros.space.genome import GenomeEncoding, Genomes
from dynamic_ofa_ros.space.spaces import search_space

FloatArray = npt.NDArray[np.float64]
Fit = Callable[[FloatArray, FloatArray], Any]

PAIRS = Path(__file__).resolve().parent / 'data' / 'signs_pairs.jsonl'
FOLDS = 5
IMAGES = 10_000
PUBLISHED_RESOLUTIONS = (160, 176, 192, 208, 224)
PUBLISHED_PAIRS = (100, 400)
PUBLISHED_TEST = 1000
PENALTIES = np.logspace(-3, 3, 25)
OURS = 'ours'


def network(features: FloatArray, top1: FloatArray) -> Any:
    """Fit a perceptron of the published predictor's size to standardised accuracies."""
    model = MLPRegressor(
        hidden_layer_sizes=(400, 400, 400),
        early_stopping=True,
        n_iter_no_change=40,
        max_iter=400,
        random_state=1,
    )
    return Standardised(model).fit(features, top1)


class Standardised:
    """A regressor of accuracies that are scaled to mean 0 and standard deviation 1."""

    def __init__(self, model: Any) -> None:
        self.model, self.scaler = model, StandardScaler()

    def fit(self, features: FloatArray, top1: FloatArray) -> Standardised:
        """Fit to (N, F) features and (N,) accuracies."""
        self.model.fit(features, self.scaler.fit_transform(top1[:, None])[:, 0])
        return self

    def predict(self, features: FloatArray) -> FloatArray:
        """Return (N,) predicted top-1."""
        scaled = self.model.predict(features)[:, None]
        predicted: FloatArray = self.scaler.inverse_transform(scaled)[:, 0]
        return predicted


class LogOdds:
    """Ridge regression of log(top1 / (1 - top1)), which is not bounded."""

    def fit(self, features: FloatArray, top1: FloatArray) -> LogOdds:
        """Fit to (N, F) features and (N,) accuracies."""
        odds = np.clip(top1, 1e-3, 1 - 1e-3)
        self.ridge = RidgeCV(PENALTIES).fit(features, np.log(odds / (1 - odds)))
        return self

    def predict(self, features: FloatArray) -> FloatArray:
        """Return (N,) predicted top-1."""
        predicted: FloatArray = 1.0 / (1.0 + np.exp(-self.ridge.predict(features)))
        return predicted


THEIRS: dict[str, Fit] = {
    'RidgeCV': lambda x, y: RidgeCV(PENALTIES).fit(x, y),
    'MLPRegressor': network,
    'GradientBoostingRegressor': lambda x, y: GradientBoostingRegressor(
        n_estimators=400, learning_rate=0.05, max_depth=3, subsample=0.7, random_state=1
    ).fit(x, y),
    'SVR': lambda x, y: Standardised(
        make_pipeline(StandardScaler(), SVR(C=3.0, gamma=0.002, epsilon=0.05))
    ).fit(x, y),
    'RidgeCV of log-odds': lambda x, y: LogOdds().fit(x, y),
}


def main() -> None:
    """Compare on one source of pairs, print the tables and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('source', choices=('measured', 'published'))
    parser.add_argument('--pairs', type=Path, default=PAIRS)
    args = parser.parse_args()
    warnings.simplefilter('ignore', ConvergenceWarning)
    if args.source == 'measured':
        results, arrays = on_measured_pairs(args.pairs)
    else:
        results, arrays = on_published_predictor()
    for title, models in results.items():
        print_table(
            title,
            ('model', 'rmse, points', 'mae, points', "Kendall's tau", 'fit, s'),
            [
                (name, 100 * m['rmse'], 100 * m['mae'], m['kendall_tau'], m['fit_s'])
                for name, m in models.items()
            ],
        )
    path = write_results(
        f'accuracy_predictors_{args.source}',
        results,
        configuration={
            'scikit_learn': sklearn.__version__,
            'folds': FOLDS,
            'images': IMAGES,
            'published_resolutions': list(PUBLISHED_RESOLUTIONS),
            'published_test': PUBLISHED_TEST,
        },
        input_checksum=checksum(arrays),
    )
    print(f'written: {path}')


def on_measured_pairs(path: Path) -> tuple[dict[str, Any], list[Any]]:
    """Return agreements by model in a cross-validation on measured pairs, and the data."""
    pairs = read_pairs(path)
    kind = 'ofa_mobilenetv3'
    space = search_space(kind, sorted({pair.architecture.r for pair in pairs}))
    genomes = encode_pairs([pair.architecture for pair in pairs], space, str(path))
    top1 = np.array([pair.top1 for pair in pairs])
    predicted: dict[str, FloatArray] = {name: np.empty(len(top1)) for name in (OURS, *THEIRS)}
    seconds: dict[str, list[float]] = {name: [] for name in predicted}
    for train, test in KFold(FOLDS, shuffle=True, random_state=1).split(genomes):
        for name, (values, fit_s) in predictions(
            space, genomes[train], top1[train], genomes[test]
        ).items():
            predicted[name][test] = values
            seconds[name].append(fit_s)
    rows = {name: row(values, top1, seconds[name]) for name, values in predicted.items()}
    return {f'{len(pairs)} measured pairs': rows}, [genomes, top1]


def on_published_predictor() -> tuple[dict[str, Any], list[Any]]:
    """Return agreements by number of pairs and model with the published predictor, and data."""
    teacher = read_predictor(reference_directory() / 'acc_predictor.npz')
    space = search_space('ofa_mobilenetv3', PUBLISHED_RESOLUTIONS)
    encoding = GenomeEncoding(space)
    sampled = sample_candidates(space, PUBLISHED_TEST + max(PUBLISHED_PAIRS), 1)
    genomes = encoding.encode(sampled)
    truth = teacher.predict(genomes, space)
    results: dict[str, Any] = {}
    rng = np.random.default_rng(1)
    for count in PUBLISHED_PAIRS:
        order = rng.permutation(len(genomes))
        train, test = order[:count], order[-PUBLISHED_TEST:]
        noisy = rng.binomial(IMAGES, truth[train]) / IMAGES
        found = predictions(space, genomes[train], noisy, genomes[test])
        results[f'published predictor, {count} pairs'] = {
            name: row(values, truth[test], [fit_s]) for name, (values, fit_s) in found.items()
        }
    return results, [genomes, truth]


def predictions(
    space: SearchSpace, genomes: Genomes, top1: FloatArray, unseen: Genomes
) -> dict[str, tuple[FloatArray, float]]:
    """Fit every model to the pairs; return its predictions for `unseen` and its seconds."""
    started = time.monotonic()
    ours, _ = fit_predictor(genomes, top1, space)
    found = {OURS: (ours.predict(unseen, space), time.monotonic() - started)}
    encoding = AccuracyPredictor((), (), ours.resolutions, is_interpolating=True, kind=space.kind)
    known = encoding.features(genomes, space).astype(np.float64)
    other = encoding.features(unseen, space).astype(np.float64)
    for name, fit in THEIRS.items():
        started = time.monotonic()
        model = fit(known, top1)
        found[name] = (model.predict(other), time.monotonic() - started)
    return found


def row(predicted: FloatArray, truth: FloatArray, seconds: Sequence[float]) -> dict[str, float]:
    """Return the agreement of predictions with the truth, and the mean time of a fit."""
    return {**asdict(Agreement.of(predicted, truth)), 'fit_s': float(np.mean(seconds))}


if __name__ == '__main__':
    main()
