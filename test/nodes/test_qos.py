from __future__ import annotations

import pytest
from rclpy.parameter import Parameter
from rclpy.qos import ReliabilityPolicy

from dynamic_ofa_ros.nodes import qos
from dynamic_ofa_ros.nodes.parameter_table import ParameterError

PREFIX = 'qos_overrides./seen.publisher'


def profile(domain, name, **overrides):
    node = domain.create_node(
        name,
        cli_args=['--ros-args', '-r', 'image_raw:=/seen'],
        parameter_overrides=[
            Parameter(f'{PREFIX}.{policy}', value=value) for policy, value in overrides.items()
        ],
    )
    return qos.of_publisher(node, 'image_raw', qos.CAMERA)


def test_a_publisher_has_the_given_profile_unless_it_is_overridden(domain):
    assert profile(domain, 'plain') == qos.CAMERA
    overridden = profile(domain, 'overridden', depth=2, reliability='best_effort')
    assert overridden.depth == 2
    assert overridden.reliability == ReliabilityPolicy.BEST_EFFORT


@pytest.mark.parametrize(
    ('policy', 'value', 'problem'),
    [
        ('depth', 'deep', "depth is 'deep'; it must be an integer: 1 to 1000"),
        ('depth', -1, r'depth is -1; it must lie in \[1, 1000\]'),
        ('reliability', 'perfect', "reliability is 'perfect'; it must be one of: reliable, best"),
    ],
)
def test_wrong_overrides_are_rejected(domain, policy, value, problem):
    with pytest.raises(ParameterError, match=f'^{PREFIX}.{problem}'):
        profile(domain, f'wrong_{policy}_{len(str(value))}', **{policy: value})
