"""Train, build and run on photographs, with the commands of the user.

The training is short and uses a small part of CIFAR-10: the tests check only that the accuracy of
the node on JPEG files equals the accuracy offline.
"""

from __future__ import annotations

import math
import os
import statistics
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from families import make_random_family
from rclpy.qos import QoSProfile
from reference import reference_file
from ros_harness import Ros, ros
from vision_msgs.msg import Classification

from dynamic_ofa_ros.cli.main import main
from dynamic_ofa_ros.family import Family
from dynamic_ofa_ros.msg import ActiveLevel, LevelArray, Telemetry
from dynamic_ofa_ros.nodes import qos

TRAINING_IMAGES, HELD_OUT_IMAGES = 24, 12  # per class
START_TIMEOUT_S = 60.0
SLOW_HZ = 0.1
"""Initial rate: every process has discovered the others before the second image is published."""

pytestmark = pytest.mark.long
ALL = QoSProfile(depth=500)


@pytest.fixture(scope='module')
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the first photographs of each class to train/<class>/*.jpg and test/<class>/*.jpg."""
    folder = tmp_path_factory.mktemp('photographs')
    wanted = {'train': TRAINING_IMAGES, 'test': HELD_OUT_IMAGES}
    taken: dict[tuple[str, str], int] = {}
    with tarfile.open(reference_file('cifar10.tar.xz')) as archive:
        for member in archive:
            split, label = Path(member.name).parts[-3:-1] if member.isfile() else ('', '')
            count = taken.get((split, label), 0)
            if count >= wanted.get(split, 0):
                continue
            taken[split, label] = count + 1
            target = folder / split / label / Path(member.name).name
            target.parent.mkdir(parents=True, exist_ok=True)
            source = archive.extractfile(member)
            assert source is not None
            with source:
                target.write_bytes(source.read())
    assert len(taken) == 20
    return folder


@pytest.fixture(scope='module')
def family(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('cifar')
    data, run, output = str(photographs), str(folder / 'run'), folder / 'family'
    train = [
        'train', '--data', data, '--output', run, '--width-mult', '0.15', '--resolutions', '32,48',
        '--epochs', '12', '--largest-only-epochs', '6', '--batch-size', '40', '--threads', '1',
    ]  # fmt: skip
    build = [
        'build', '--backbone', run, '--data', data, '--output', str(output), '--levels', '3',
        '--candidates', '8', '--calibration-images', '120', '--engine', 'onnxruntime',
    ]  # fmt: skip
    assert main(train) == 0
    assert main(build) == 0
    return output


def offline_answers(family: Family, level: int, photographs: Path) -> list[tuple[int, int]]:
    """Return (label, answer) of every held-out file, in the order of the camera."""
    from dynamic_ofa_ros.offline.accuracy.evaluation import PreparedImages
    from dynamic_ofa_ros.offline.data.datasets import ClassFolder, Subset
    from dynamic_ofa_ros.supernet.network import load_level

    dataset = ClassFolder.open(photographs / 'test')
    order = np.random.default_rng(1).permutation(len(dataset))
    resolution = family.level(level).resolution
    images = PreparedImages(
        Subset(dataset, tuple(int(i) for i in order)), family.preprocessing, (resolution,)
    )
    network = load_level(family, level)
    answers: list[tuple[int, int]] = []
    with torch.inference_mode():
        for batch, labels in images.batches(resolution):
            answers += zip(labels.tolist(), network(batch).argmax(1).tolist(), strict=True)
    return answers


def test_accuracy_of_the_node_is_the_accuracy_offline(
    family: Path, photographs: Path, tmp_path: Path
) -> None:
    loaded = Family.load(family)
    top = len(loaded.levels)
    expected = offline_answers(loaded, top, photographs)
    with ros(tmp_path) as session:
        labels = session.listen(Classification, 'classification', ALL)
        truths = session.listen(Classification, 'ground_truth', ALL)
        levels = session.listen(LevelArray, 'classifier/levels', qos.LATCHED)
        session.start_classifier(family)
        session.wait_until(lambda: levels.last, 'the levels', START_TIMEOUT_S)
        camera = session.start(
            'camera_node',
            {'source': 'folder', 'path': photographs / 'test', 'rate_hz': SLOW_HZ, 'loop': False},
        )
        session.wait_until(lambda: truths.last, 'the first photograph', START_TIMEOUT_S)
        assert session.set_parameter('/camera', 'rate_hz', 20).successful
        session.wait_until(lambda: len(truths.messages) == len(expected), 'every photograph', 60.0)
        assert camera.wait() == 0
        answers = {(a.header.stamp.sec, a.header.stamp.nanosec): a for a in labels.messages}
        right = compared = 0
        for truth, (label, answer) in zip(truths.messages, expected, strict=True):
            assert int(truth.results[0].class_id) == label
            found = answers.get((truth.header.stamp.sec, truth.header.stamp.nanosec))
            if found is not None:  # best effort: an image may be lost on a busy machine
                assert int(found.results[0].class_id) == answer
                compared += 1
                right += answer == label
        assert compared >= 0.9 * len(expected)
        # After a training of a minute on few photographs, only some answers are correct.
        assert right > 0
        assert len({answer for _, answer in expected}) > 1


def test_a_limit_is_met_under_contention(photographs: Path, tmp_path: Path) -> None:
    """Use a random family with three levels, as the trained one may have fewer."""
    family = make_random_family(tmp_path / 'family', levels=3, classes=10)
    with ros(tmp_path) as session:
        levels = session.listen(LevelArray, 'classifier/levels', qos.LATCHED)
        session.start_classifier(family)
        session.wait_until(lambda: levels.last, 'the levels', START_TIMEOUT_S)
        check_a_limit_under_contention(session, photographs, levels.last.levels)


def check_a_limit_under_contention(session: Ros, photographs: Path, levels: list) -> None:
    """Set a limit below the latency of the top level under load, and wait for a lower level."""
    telemetry = session.listen(Telemetry, 'classifier/telemetry', 100)
    switches = session.listen(ActiveLevel, 'classifier/active_level', qos.LATCHED)
    session.start(
        'camera_node',
        {'source': 'folder', 'path': photographs / 'test', 'rate_hz': 60},
    )
    session.start('contention_node', {'workload': 'busy', 'workers': 2 * (os.cpu_count() or 1)})
    session.wait_until(lambda: len(telemetry.messages) > 30, 'telemetry')
    # Relative to the present latency, because the profile may have been measured under other load.
    limit_ms = 0.85 * statistics.median(t.inference_ms for t in telemetry.messages[-20:])
    result = session.set_parameter('/classifier', 'constraints.max_latency_ms', limit_ms)
    assert result.successful, result.reason
    lower = session.wait_until(
        lambda: next((t for t in telemetry.messages if t.level < len(levels)), None),
        'a lower level',
        40.0,
    )
    assert lower.max_latency_ms == pytest.approx(limit_ms)
    assert not math.isnan(lower.slowdown)
    assert session.wait_until(lambda: switches.last, 'the reason').reason
