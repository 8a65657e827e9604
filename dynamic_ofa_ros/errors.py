"""Exception types. Each message tells the user what was found, where, and what to do."""

from __future__ import annotations


class DynamicOfaError(Exception):
    """Base of all errors that this package raises on bad input.

    The command line prints the message and exits with status 2.
    """


class ArchitectureError(DynamicOfaError, ValueError):
    """An architecture is not in the search space."""


class BackboneError(DynamicOfaError):
    """A supernet cannot be built, or its weights do not match it."""


class CheckpointError(DynamicOfaError):
    """A checkpoint is missing, is damaged, or belongs to another backbone."""


class ConstraintError(DynamicOfaError, ValueError):
    """A latency or accuracy constraint is invalid."""


class DatasetError(DynamicOfaError):
    """A dataset cannot be read."""


class EngineError(DynamicOfaError):
    """An inference engine is not available or computes wrong results."""


class FamilyError(DynamicOfaError):
    """A family is missing, is damaged, or was written by an incompatible version."""


class ImageError(DynamicOfaError, ValueError):
    """An image message cannot be decoded.

    `cause` is a fixed short word (encoding, step, buffer, size); dropped frames are counted by
    it.
    """

    def __init__(self, cause: str, message: str) -> None:
        super().__init__(message)
        self.cause = cause


class LatencyTableError(DynamicOfaError):
    """A table of operator latencies cannot be used."""


class MissingPackageError(DynamicOfaError):
    """A required package cannot be imported."""


class PredictorError(DynamicOfaError):
    """An accuracy predictor cannot be read or was fitted for another search space."""


class RecordingError(DynamicOfaError):
    """A recording that cannot be read, or that does not hold what is asked for."""


class SearchError(DynamicOfaError, ValueError):
    """A search has impossible requirements."""


class LevelFileError(DynamicOfaError):
    """A level file cannot be read, or its levels do not match the backbone."""


class DownloadError(DynamicOfaError):
    """A file cannot be downloaded, or the downloaded file is not the expected one."""


class EvaluationError(DynamicOfaError):
    """Worker processes that measure accuracy cannot be started, or died."""


class SimulationError(DynamicOfaError, ValueError):
    """A trace, a scenario or a setting cannot be simulated."""
