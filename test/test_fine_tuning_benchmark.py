"""The benchmark of fine-tuning: unpacked images, duration of training, results."""

from __future__ import annotations

import io
import math
import tarfile
import time
from pathlib import Path

import pytest

from benchmarks import fine_tuning


@pytest.mark.parametrize(('images', 'epochs', 'batch_size'), [(2000, 5, 32), (10000, 3, 128)])
def test_the_single_network_is_trained_alone_in_all_steps_but_the_last(
    images: int, epochs: int, batch_size: int
) -> None:
    options = fine_tuning.runs(images, epochs, batch_size)['single']
    alone = float(options[options.index('--largest-only-epochs') + 1])
    steps_per_epoch = images // batch_size
    assert math.ceil(alone * steps_per_epoch) == epochs * steps_per_epoch - 1


def test_the_first_images_of_each_class_are_unpacked(tmp_path: Path) -> None:
    archive = tmp_path / 'photos.tar.xz'
    names = [
        f'photos/{split}/{name}/{index:04d}.jpg'
        for split in ('train', 'test')
        for name in ('cat', 'dog')
        for index in (0, 1, 7, 300)
    ]
    with tarfile.open(archive, 'w:xz') as tar:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = len(name)
            tar.addfile(member, io.BytesIO(name.encode()))
    fine_tuning.unpack(archive, tmp_path / 'data', 2)
    files = sorted(path for path in (tmp_path / 'data').rglob('*') if path.is_file())
    assert [str(path.relative_to(tmp_path / 'data')) for path in files] == [
        f'{split}/{name}/{index:04d}.jpg'
        for split, indices in (('test', (0, 1, 7)), ('train', (0, 1)))
        for name in ('cat', 'dog')
        for index in indices
    ]
    assert files[0].read_text() == 'photos/test/cat/0000.jpg'


def test_no_training_starts_after_the_deadline(tmp_path: Path) -> None:
    past = time.monotonic() - 1.0
    assert not fine_tuning.trained((), tmp_path, tmp_path / 'run', past)
    (tmp_path / 'run').mkdir()
    (tmp_path / 'run' / fine_tuning.FINISHED_FILE).touch()
    assert fine_tuning.trained((), tmp_path, tmp_path / 'run', past), 'it was finished before'


def test_the_time_of_a_run_is_computed_from_its_steps(tmp_path: Path) -> None:
    for split in ('train', 'test'):
        for name in ('cat', 'dog'):
            folder = tmp_path / 'data' / split / name
            folder.mkdir(parents=True)
            for index in range(30):
                (folder / f'{index}.jpg').write_bytes(b'an image that is only counted')
    (tmp_path / 'run').mkdir()
    (tmp_path / 'run' / 'metrics.csv').write_text(
        'held_out_top1_smallest,held_out_top1_largest,images_per_s\n0.1,0.9,1\n0.2,0.8,0.5\n'
    )
    assert fine_tuning.outcome(tmp_path / 'run') == {
        'top1_largest': 0.8,
        'top1_smallest': 0.2,
        'images_per_s': 0.7,
        'minutes': 3.0,
    }
