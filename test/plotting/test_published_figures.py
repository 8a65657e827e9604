from __future__ import annotations

import math
from pathlib import Path

import pytest
from figure_texts import texts
from reference import reference_file

from dynamic_ofa_ros.cli.main import main
from dynamic_ofa_ros.offline.search.pareto import front
from dynamic_ofa_ros.plotting import published_figures
from dynamic_ofa_ros.plotting.published_curves import (
    headline,
    points_more,
    read_published_curves,
    speedup,
)
from dynamic_ofa_ros.plotting.published_figures import (
    draw_figure_3,
    search_as_published,
)


def test_the_abstracts_numbers_follow_from_the_curves() -> None:
    published = read_published_curves()
    computed = headline(published)
    assert computed.keys() == published.headline.keys()
    for name, value in published.headline.items():
        assert abs(computed[name] - value) < 0.05, name


def test_speedup_and_points_of_known_curves() -> None:
    levels, baseline = ((10.0, 70.0), (20.0, 80.0)), ((21.0, 65.0), (30.0, 75.0), (90.0, 85.0))
    assert speedup(levels, baseline) == pytest.approx(30.0 / 15.0)
    assert points_more(levels, baseline) == 15.0


def test_the_family_of_our_search_lies_on_the_front_of_all_that_is_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = reference_file('lut_xavier_nx_gpu.json').parent
    monkeypatch.setattr(published_figures, 'EVALUATIONS', 2000)
    ours = search_as_published('gpu', folder)
    assert ours is not None
    everything = [*ours.sampled, *ours.found, *read_published_curves().figure_3]
    assert len(ours.family) == published_figures.LEVEL_COUNT
    best = [everything[index] for index in front(*zip(*everything, strict=True))]
    assert set(ours.family) <= set(best)
    assert ours.offset_ms == pytest.approx(11.2, abs=0.1)
    caption = ' '.join(texts(draw_figure_3(read_published_curves(), ours)))
    assert '11.2 + 1.66 x sum' in ' '.join(caption.split())


def test_figures_all_without_reference_data(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from dynamic_ofa_ros.simulation import figures

    monkeypatch.setattr(figures, 'FIGURES', ())
    monkeypatch.setenv('DYNAMIC_OFA_REFERENCE', str(tmp_path / 'nowhere'))
    assert main(['figures', '--all', '--output', str(tmp_path)]) == 0
    out = capsys.readouterr().out
    for name in ('figure_1_bars', 'figure_2_workflow', 'figure_3_front', 'figure_4_latency',
                 'figure_5_cost', 'table_1'):  # fmt: skip
        assert (tmp_path / f'{name}.png').read_bytes().startswith(b'\x89PNG')
        assert f'{name}.png' in out
    assert 'gpu_speedup  2.40 (published: 2.4)' in out


def test_contention_slows_a_fixed_network_down_and_the_cpu_as_much() -> None:
    from dynamic_ofa_ros.simulation.figures import draw_figure_1_bars

    gpu, cpu = draw_figure_1_bars(1857.7).axes
    heights = [[bar.get_height() for bar in axes.patches] for axes in (gpu, cpu)]
    for alone, second, training, clock in heights:
        assert alone < second < training
        assert clock == pytest.approx(alone / 0.7701, rel=0.01)
    assert heights[1][0] == pytest.approx(1857.7, rel=0.01)
    assert not math.isnan(sum(heights[0]))
