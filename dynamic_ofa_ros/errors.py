"""Typed errors. Each message is a sentence for the user: what was found, where, what to do."""

from __future__ import annotations


class DynamicOfaError(Exception):
    """Base of every error this package raises on bad input; the CLI prints it and exits with 2."""


class ArchitectureError(DynamicOfaError, ValueError):
    """An architecture that is not a point of the search space."""


class BackboneError(DynamicOfaError):
    """A supernet that cannot be built or does not fit its weights."""


class CheckpointError(DynamicOfaError):
    """A checkpoint that is missing, damaged or of another backbone."""


class ConstraintError(DynamicOfaError, ValueError):
    """A latency or accuracy constraint that makes no sense."""


class DatasetError(DynamicOfaError):
    """A dataset that cannot be read."""


class EngineError(DynamicOfaError):
    """An inference engine that is not available or gives wrong answers."""


class FamilyError(DynamicOfaError):
    """A family directory that is missing, damaged or written by another version."""


class ImageError(DynamicOfaError, ValueError):
    """An image message that cannot be decoded.

    `cause` is a short stable word (encoding, step, buffer, size) under which frames are counted.
    """

    def __init__(self, cause: str, message: str) -> None:
        super().__init__(message)
        self.cause = cause


class LatencyTableError(DynamicOfaError):
    """A table of operator latencies that cannot be used."""


class MissingPackageError(DynamicOfaError):
    """A package that is needed here and cannot be imported."""


class PredictorError(DynamicOfaError):
    """An accuracy predictor that cannot be read or does not fit the search space."""


class RecordingError(DynamicOfaError):
    """A recording that cannot be read, or that does not hold what is asked for."""


class SearchError(DynamicOfaError, ValueError):
    """A search that was asked for something impossible."""


class LevelFileError(DynamicOfaError):
    """A file of levels that cannot be read or does not fit its backbone."""


class DownloadError(DynamicOfaError):
    """A file that cannot be fetched, or that is not what was to be fetched."""


class EvaluationError(DynamicOfaError):
    """Workers that measure accuracy and cannot be started or do not survive their task."""


class SimulationError(DynamicOfaError, ValueError):
    """A trace, scenario or setting that cannot be simulated."""
