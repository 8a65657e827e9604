from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from figure_texts import texts
from reference import reference_file

from dynamic_ofa_ros.cli.main import main
from dynamic_ofa_ros.errors import FamilyError
from dynamic_ofa_ros.family import Family
from dynamic_ofa_ros.offline.search.candidates import (
    FINALIST,
    Candidate,
    key_of,
    read_candidates,
    sample_candidates,
    spread,
    write_candidates,
)
from dynamic_ofa_ros.plotting.family import plot_family
from dynamic_ofa_ros.plotting.published_curves import OURS, PublishedCurves, read_published_curves
from dynamic_ofa_ros.space.spaces import search_space

SPACE = search_space('ofa_mobilenetv3', (32, 48))
CURVES = PublishedCurves(
    {OURS: ((40.0, 74.0), (60.0, 79.0))},
    {OURS: ((500.0, 72.5), (1800.0, 78.5))},
    {OURS: ((235.0, 74.0), (731.0, 79.0))},
    (), (), (), {}, 2.0, {},
)  # fmt: skip


@pytest.fixture(scope='module')
def family() -> Family:
    return Family.load('signs')


@pytest.fixture(scope='module')
def candidates() -> list[Candidate]:
    """Return 12 candidates: every third is a finalist, every fourth has a predicted latency."""
    found = []
    for index, architecture in enumerate(sample_candidates(SPACE, 12, 1)):
        macs = SPACE.count_cost(architecture, 0.35, 28).macs
        found.append(
            Candidate(
                architecture,
                FINALIST if index % 3 == 0 else 'sampled',
                macs,
                top1=0.6 + 0.01 * index,
                latency_ms=math.nan if index % 4 == 1 else macs / 1e6,
                predicted_latency_ms=macs / 0.9e6,
            )
        )
    return found


def points(axes: object) -> int:
    return sum(len(collection.get_offsets()) for collection in axes.collections)


def test_candidates_front_and_levels_are_drawn(
    family: Family, candidates: list[Candidate]
) -> None:
    platform = next(iter(family.platforms))
    figure = plot_family(family, {platform: candidates}, CURVES)
    scatter, latency, macs, *published = figure.axes
    assert points(scatter) == 12 + len(family.levels)
    assert points(latency) == len(family.platforms) * len(family.levels)
    assert points(macs) == len(family.levels)
    assert len(published) == 2
    written = '|'.join(texts(figure)).replace('\n', ' ')
    for text in (
        f'latency [ms], {platform}', 'MACs [M]', 'top-1 [%]', 'sampled (8)', '(4)',
        'Pareto front', 'Dynamic-OFA (published)', 'latencies of 3 sampled ones are predicted',
    ):  # fmt: skip
        assert text in written
    (front,) = [line for line in scatter.lines if line.get_label() == 'Pareto front']
    assert list(front.get_ydata()) == sorted(front.get_ydata())
    ticks = [
        t for t in scatter.get_xticks() if scatter.get_xlim()[0] <= t <= scatter.get_xlim()[1]
    ]
    assert len(ticks) >= 3


def test_a_family_without_candidates_or_platforms_can_be_drawn(family: Family) -> None:
    assert len(plot_family(family, {}).axes) == 2
    bare = replace(family, platforms={})
    assert len(plot_family(bare, {}).axes) == 2


def test_one_line_per_platform_is_drawn(family: Family) -> None:
    (name, profile), *_ = family.platforms.items()
    several = replace(family, platforms={name: profile, 'cuda-other': profile})
    figure = plot_family(several, {})
    assert points(figure.axes[0]) == 2 * len(family.levels)
    assert 'cuda-other' in texts(figure)


def test_candidates_can_be_written_and_read(tmp_path: Path, candidates: list[Candidate]) -> None:
    write_candidates(tmp_path, 'somewhere', candidates)
    path = tmp_path / 'candidates' / 'somewhere.csv'
    for before, after in zip(candidates, read_candidates(path), strict=True):
        assert key_of(after.architecture) == key_of(before.architecture)
        assert after.latency_ms == pytest.approx(before.latency_ms, rel=1e-4, nan_ok=True)
        assert (after.kind, after.macs, after.level) == (before.kind, before.macs, before.level)
    path.write_text(path.read_text().replace('finalist,', 'finalist,x', 1))
    with pytest.raises(FamilyError, match=r'somewhere\.csv is damaged'):
        read_candidates(path)


def test_sampled_candidates_cover_the_range_and_are_reproducible() -> None:
    few, many = sample_candidates(SPACE, 20, 1), sample_candidates(SPACE, 60, 1)
    assert many[:20] == few, 'more candidates include the same first ones'
    assert len(set(many)) == 60
    macs = np.array([SPACE.count_cost(a, 0.35, 28).macs for a in many])
    ends = [SPACE.count_cost(a, 0.35, 28).macs for a in (SPACE.smallest(), SPACE.largest())]
    assert [macs.min(), macs.max()] == ends
    share = np.sort((np.log(macs) - np.log(ends[0])) / np.log(ends[1] / ends[0]))
    assert np.diff(share).max() < 0.25, 'no large gap'


def test_spread_includes_both_ends() -> None:
    assert spread([5.0, 1.0, 3.0, 2.0, 4.0], 3) == [1, 2, 0]
    assert spread([2.0, 1.0], 5) == [1, 0]


def test_the_published_curves_are_read() -> None:
    curves = read_published_curves()
    assert curves.gpu_ms[OURS][0] == (48.77, 74.202)
    assert curves.figure_3[0] == (41.1589, 74.202)
    assert len(curves.cpu_ms[OURS]) == 7
    assert curves.macs_m[OURS][0] == (235.467, 74.202)
    assert 'autoslim_mnasnet' in curves.cpu_ms


def test_the_published_points_are_those_of_the_reference_data() -> None:
    document = json.loads(reference_file('levels_xavier_nx.json').read_text())
    curves = read_published_curves()
    theirs = document['comparison']['gpu_latency_ms']
    assert {name: [list(p) for p in curves.gpu_ms[name]] for name in theirs} == theirs
    assert len(curves.measured) == len(document['measured_top1_vs_published_flops_M'])


@pytest.mark.parametrize('text', ['gpu_levels: 3', '[1, 2]', 'gpu_levels: [{top1: 3}]'])
def test_damaged_published_points_are_reported(text: str, tmp_path: Path) -> None:
    path = tmp_path / 'published.yaml'
    for missing in (True, False):
        with pytest.raises(FamilyError, match='not the table of published levels'):
            read_published_curves(path)
        if missing:
            path.write_text(text)


def test_the_command_levels_writes_a_plot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv('DYNAMIC_OFA_REFERENCE', str(tmp_path / 'nowhere'))
    picture = tmp_path / 'signs.png'
    assert main(['levels', 'signs', '--plot', str(picture)]) == 0
    assert f'picture: {picture}' in capsys.readouterr().out
    image = cv2.imread(str(picture))
    assert image.shape[1] == 1200
    assert image.std() > 10.0
    assert main(['levels', 'signs', '--plot', str(tmp_path / 'signs.jpg')]) == 2
    assert 'its name must end with .png' in capsys.readouterr().err
    assert main(['levels', 'signs', '--plot', str(picture), '--platform', 'moon']) == 2
    assert 'was not measured on moon' in capsys.readouterr().err
    assert main(['levels', 'signs', '--platform', 'moon']) == 2
    assert 'add --plot FILE' in capsys.readouterr().err
