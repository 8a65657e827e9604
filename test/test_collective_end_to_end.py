"""Two real classifiers on one CPU choose their levels together, until one of them is killed."""

from __future__ import annotations

import os
import signal
from typing import Any

import numpy as np
import pytest
from families import make_random_family
from ros_harness import ros
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from dynamic_ofa_ros.msg import ActiveLevel, ClassifierStatus, LevelArray
from dynamic_ofa_ros.nodes import conversions, qos
from dynamic_ofa_ros.nodes.collective import TOPIC

START_TIMEOUT_S = 120.0
SWITCH_TIMEOUT_S = 30.0
IMPOSSIBLE = 0.2
"""Limit of one classifier, as a share of the latency of its fastest level."""


class Pair:
    """Two classifiers, each with its own image topic."""

    def __init__(self, session: Any, family: str) -> None:
        self.ros = session
        self.statuses = session.listen(ClassifierStatus, TOPIC, qos.STATUS)
        self.switches, self.processes, self._images, self._levels = {}, {}, {}, {}
        for name in 'ab':
            node = f'/{name}/classifier'
            self.switches[name] = session.listen(ActiveLevel, f'{node}/active_level', qos.LATCHED)
            self._levels[name] = session.listen(LevelArray, f'{node}/levels', qos.LATCHED)
            self._images[name] = session.node.create_publisher(Image, f'/{name}/image_raw', 5)
            self.processes[name] = session.start_classifier(
                family, name, **{'manager.coordination': 'collective'}
            )
            # One after the other, so that the second one uses the engines of the first.
            session.wait_until(
                lambda name=name: self._levels[name].last, f'levels of {name}', START_TIMEOUT_S
            )
        if hasattr(os, 'sched_setaffinity'):  # on two CPUs they would not compete
            for process in self.processes.values():
                process.confine({min(os.sched_getaffinity(0))})

    @property
    def levels(self) -> list[Any]:
        return self._levels['a'].last.levels

    def feed(self) -> None:
        """Publish an image to both; called in a loop."""
        header = Header(stamp=self.ros.node.get_clock().now().to_msg(), frame_id='camera')
        image = conversions.image_message(np.zeros((48, 64, 3), np.uint8), header, 'rgb8')
        for name, process in self.processes.items():
            if process.is_running:
                self._images[name].publish(image)

    def wait(self, condition: Any, what: str) -> Any:
        return self.ros.wait_until(condition, what, SWITCH_TIMEOUT_S, meanwhile=self.feed)


@pytest.fixture(scope='module')
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp('collective')
    with ros(folder) as session:
        yield Pair(session, str(make_random_family(folder / 'family', levels=2)))


@pytest.mark.long
def test_one_lowers_its_level_for_the_other_until_that_is_killed(pair):
    """The limit of b cannot be met, so a runs a lower level until b is killed."""
    pair.wait(
        lambda: (
            {status.name for status in pair.statuses.messages}
            >= {'/a/classifier', '/b/classifier'}
        ),
        'the statuses of both',
    )
    top = max(pair.levels, key=lambda level: level.accuracy)
    limit_ms = IMPOSSIBLE * min(level.latency_ms for level in pair.levels)
    result = pair.ros.set_parameter('/b/classifier', 'constraints.max_latency_ms', limit_ms)
    assert result.successful, result.reason
    switch = pair.wait(
        lambda: [m for m in pair.switches['a'].messages if 'collective' in m.reason],
        'a lower level of a',
    )[-1]
    assert switch.to_level != top.index
    assert '/b/classifier' in switch.reason
    pair.processes['b'].stop(signal.SIGKILL)
    pair.wait(
        lambda: pair.switches['a'].last.to_level == top.index, 'a at its top level, alone again'
    )
    assert pair.processes['a'].is_running
    assert pair.processes['a'].stop(signal.SIGINT) == 0, pair.processes['a'].output()
