"""The classifier node with the additional policy `alert` in the style of ALERT.

    python -m benchmarks.policy_node --ros-args -p manager.policy:=alert ...

The policy is only for comparison and not part of the installed package.
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
