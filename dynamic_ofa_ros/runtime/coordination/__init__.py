from dynamic_ofa_ros.runtime.coordination.coordinator import Coordinator
from dynamic_ofa_ros.runtime.coordination.status import (
    FRAMES_TOLD,
    STATUS_PERIOD_NS,
    Agreement,
    Allowance,
    Frame,
    FrameInterval,
    Status,
)

__all__ = [
    'FRAMES_TOLD',
    'STATUS_PERIOD_NS',
    'Agreement',
    'Allowance',
    'Coordinator',
    'Frame',
    'FrameInterval',
    'Status',
]
