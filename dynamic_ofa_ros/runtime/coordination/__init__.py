"""Several classifiers on one device: a collective choice of levels, without a central node.

Every manager tells the others its status ten times a second: levels, limit, importance, and its
last frames with their times (`status`). From everybody's frames follows which of them ran side by
side (`frames`), how the device is shared (`learning`, with the model in `sharing`), and how often
each combination of levels was late (`record`). From that follows the combination with the highest
weighted accuracy that meets every limit (`choice`; Dynamic-OFA, section 4.4, switches two models
collectively). The first of the living by name proposes it (`proposer`), the others take it over
(`coordinator`); each leaves it when its own frames speak against it (`obedience`).
"""

from dynamic_ofa_ros.runtime.coordination.coordinator import (
    FAREWELL_NS,
    IDLE_NS,
    SILENCE_NS,
    Coordinator,
)
from dynamic_ofa_ros.runtime.coordination.obedience import Obedience
from dynamic_ofa_ros.runtime.coordination.status import (
    FRAMES_TOLD,
    STATUS_PERIOD_NS,
    Agreement,
    Ceiling,
    Frame,
    FrameInterval,
    Status,
)

__all__ = [
    'FAREWELL_NS',
    'FRAMES_TOLD',
    'IDLE_NS',
    'SILENCE_NS',
    'STATUS_PERIOD_NS',
    'Agreement',
    'Ceiling',
    'Coordinator',
    'Frame',
    'FrameInterval',
    'Obedience',
    'Status',
]
