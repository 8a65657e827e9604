"""classifier_node with the ALERT-style policy as one more of its policies: `alert`.

    python -m benchmarks.policy_node --ros-args -p manager.policy:=alert ...

What a user installs has no such policy: it is there to compare with.
"""

from __future__ import annotations

import sys

from dynamic_ofa_ros.nodes.start import classifier_node
from dynamic_ofa_ros.runtime.policies import add_policy
from dynamic_ofa_ros.simulation.alert import AlertPolicy

ALERT = 'alert'


def main() -> int:
    """Run the node; return the exit status."""
    add_policy(ALERT, lambda table, _: AlertPolicy(table))
    return classifier_node()


if __name__ == '__main__':
    sys.exit(main())
