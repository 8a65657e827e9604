"""Agreement of predictions with measurements: errors, bias and rank correlation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Agreement:
    """Errors and bias (mean of predicted - measured) in the unit of the measurements.

    kendall_tau: 1 = same order, 0 = no relation, -1 = opposite order; NaN if either is constant.
    """

    mae: float
    rmse: float
    bias: float
    kendall_tau: float

    @classmethod
    def of(cls, predicted: npt.ArrayLike, measured: npt.ArrayLike) -> Agreement:
        """Compare (N,) predictions with (N,) measurements."""
        predicted, measured = np.asarray(predicted, float), np.asarray(measured, float)
        errors = predicted - measured
        return cls(
            mae=float(np.abs(errors).mean()),
            rmse=float(np.sqrt((errors**2).mean())),
            bias=float(errors.mean()),
            kendall_tau=kendall_tau(predicted, measured),
        )


def kendall_tau(first: npt.ArrayLike, second: npt.ArrayLike) -> float:
    """Return Kendall's tau-b, which accounts for ties; NaN if either is constant."""
    from scipy.stats import kendalltau

    return float(kendalltau(first, second).statistic)
