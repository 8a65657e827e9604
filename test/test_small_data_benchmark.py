"""The benchmark of small data: the averages of the weights."""

from __future__ import annotations

import pytest

from benchmarks import small_data
from dynamic_ofa_ros.offline.training.trainer import TrainingSettings


def test_each_class_has_its_colour() -> None:
    images = small_data.colours(6, seed=1)
    brightest = [int(images.image(index).mean((0, 1)).argmax()) for index in range(6)]
    assert [images.classes[images.label(index)] for index in range(6)] == [
        ('red', 'green', 'blue')[channel] for channel in brightest
    ]


@pytest.mark.parametrize('averaging', [0.0, 0.998])
def test_without_decay_an_average_is_the_last_weights(averaging: float) -> None:
    settings = TrainingSettings((32,), epochs=4.0, batch_size=16, averaging=averaging)
    training, held_out = small_data.colours(48, seed=1), small_data.colours(90, seed=2)
    top1 = small_data.top1_by_weights('colours', training, held_out, settings)['top1']
    assert (top1['constant'] == top1['last']) == (averaging == 0.0)
