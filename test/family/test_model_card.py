from __future__ import annotations

import shutil
from pathlib import Path

import yaml
from families import make_random_family

from dynamic_ofa_ros.family import Family, LatencyProfile, LevelLatency, write_profile
from dynamic_ofa_ros.family.family import resolve_family
from dynamic_ofa_ros.family.model_card import UNKNOWN_LICENCE, write_model_card


def test_the_card_describes_the_family(tmp_path: Path) -> None:
    folder = make_random_family(tmp_path / 'family', levels=2, width_mult=0.1)
    document = yaml.safe_load((folder / 'family.yaml').read_text())
    document['provenance'] = {
        'training': {'data': 'bolts', 'images': 4321, 'fine_tuned_from': {'images': 99}},
        'build': {'calibration_images': 777},
        'accuracy': 'top-1 on 555 held-out images',
    }
    (folder / 'family.yaml').write_text(yaml.safe_dump(document))
    write_model_card(folder)
    text = (folder / 'model_card.md').read_text()
    for part in ('bolts: 4321 images', '99 images', 'on 777 training', 'top-1 on 555 held-out'):
        assert part in text
    assert UNKNOWN_LICENCE in text
    assert 'Latency was not measured' in text
    levels = tuple(LevelLatency(ms, ms, 0.0, ms, ms, 9) for ms in (1.25, 2.5))
    write_profile(LatencyProfile('cpu-here', levels, '2026-01-01'), folder / 'platforms/x.yaml')
    write_model_card(folder, 'MIT')
    text = (folder / 'model_card.md').read_text()
    for level, ms in zip(Family.load(folder).levels, ('1.25', '2.50'), strict=True):
        (row,) = [line for line in text.splitlines() if line.startswith(f'| {level.index} |')]
        assert row.endswith(f' {ms} |')
        assert f' {level.accuracy * 100:.1f} ' in row
    assert 'on cpu-here, measured 2026-01-01' in text
    assert text.endswith('\nMIT\n')


def test_the_shipped_family_has_its_card(tmp_path: Path) -> None:
    shipped = resolve_family('signs')
    copy = Path(shutil.copytree(shipped, tmp_path / 'signs'))
    write_model_card(copy, 'Apache-2.0')
    assert (copy / 'model_card.md').read_text() == (shipped / 'model_card.md').read_text()
