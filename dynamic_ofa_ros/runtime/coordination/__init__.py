"""Coordinate the levels of several classifiers on one device without a central node.

Every manager publishes its status ten times per second: levels, limit, importance, and the times
of its last frames (`status`). The frames of all managers show how the models share the device
(`sharing`). From this, the combination of levels is computed that meets every limit with the
highest weighted accuracy (`choice`; Dynamic-OFA switches two models together, its figure 8). The
manager with the alphabetically first name proposes the combination and corrects it according to
measured latencies (`proposer`). The others adopt it (`coordinator`).
"""

from dynamic_ofa_ros.runtime.coordination.coordinator import SILENCE_NS, Coordinator
from dynamic_ofa_ros.runtime.coordination.status import (
    FRAMES_TOLD,
    MAX_COUNT,
    STATUS_PERIOD_NS,
    Agreement,
    Allowance,
    Frame,
    FrameInterval,
    Status,
)

__all__ = [
    'FRAMES_TOLD',
    'MAX_COUNT',
    'SILENCE_NS',
    'STATUS_PERIOD_NS',
    'Agreement',
    'Allowance',
    'Coordinator',
    'Frame',
    'FrameInterval',
    'Status',
]
