"""Several classifiers on one device: a collective choice of levels, without a central node.

Every manager tells the others its status ten times a second: levels, limit, importance, and its
last frames with their times (`status`). From everybody's frames follows how the device is shared
(`sharing`), from that the combination with the highest weighted accuracy that meets every limit
(`choice`; Dynamic-OFA switches two models collectively, its figure 8). The first of the living by
name proposes it, and corrects it by what is measured (`proposer`); the others take it over, and
leave it when their own frames speak against it (`coordinator`).
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
