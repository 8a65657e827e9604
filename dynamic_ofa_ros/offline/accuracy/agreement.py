"""How well predictions agree with measurements: error, bias and order."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Agreement:
    """mae, rmse and bias (mean of predicted - measured) in the unit of what was measured.

    kendall_tau: 1 = the same order, 0 = no relation, -1 = the opposite order; NaN without order.
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
    """Return Kendall's tau-b, which allows for ties; NaN when either is constant.

    Compares all pairs: memory grows with N squared, 200 MB at N = 5,000.
    """
    a, b = np.asarray(first, float), np.asarray(second, float)
    upper = np.triu_indices(len(a), 1)
    order_a = np.sign(a[upper[0]] - a[upper[1]])
    order_b = np.sign(b[upper[0]] - b[upper[1]])
    untied = np.sqrt(float((order_a != 0).sum()) * float((order_b != 0).sum()))
    return float((order_a * order_b).sum() / untied) if untied else float('nan')
