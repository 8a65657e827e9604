from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dynamic_ofa_ros.cli.main import EXIT_BAD_INPUT, main
from dynamic_ofa_ros.offline.latency import measure_model
from dynamic_ofa_ros.offline.latency.family_profile import DeviceSettings

QUALITY = {
    'mean_error': 0.021,
    'largest_error': 0.055,
    'within_10_percent': 1.0,
    'kendall_tau': 0.97,
}
HEAD = {'format': 'test', 'platform': 'cpu-test', 'resolutions': [32, 48], 'conditions': {}}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Replace the measurement by one that records its options and writes a small document."""
    asked: dict[str, Any] = {}

    def operators(trained: Any, output: Path, settings: Any, **options: Any) -> None:
        asked.update(options, what='operators', kind=trained.backbone.kind, settings=settings)
        correction = {'offset_ms': 1.25, 'factor': 1.5, 'leave_one_out': QUALITY}
        document = {'correction': correction, 'networks': [0] * 12, 'operators': {'stem': {}}}
        output.write_text(json.dumps({**HEAD, **document}))

    def networks(trained: Any, output: Path, settings: Any, **options: Any) -> None:
        asked.update(options, what='networks')
        document = {'leave_one_out': QUALITY, 'networks': [0] * options['networks']}
        output.write_text(json.dumps({**HEAD, **document}))

    monkeypatch.setattr(measure_model, 'measure_operator_table', operators)
    monkeypatch.setattr(measure_model, 'measure_latency_predictor', networks)
    return asked


def test_the_summary_of_a_table_is_printed(
    asked: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = str(tmp_path / 'lut.json')
    arguments = ['--backbone', 'signs', '--output', output, '--resolutions', '48,32']
    assert main(['profile', *arguments, '--engine', 'pytorch', '--threads', '2']) == 0
    assert asked['what'] == 'operators'
    assert asked['kind'] == 'ofa_mobilenetv3'
    assert sorted(asked['resolutions']) == [32, 48]
    assert asked['settings'] == DeviceSettings('auto', 'pytorch', threads=2)
    assert asked['resume']
    text = capsys.readouterr().out
    assert 'corrected: 1.25 ms + 1.5 x sum' in text
    assert 'error 2.1% on average, 5.5% at most, 100% within 10 %' in text
    assert output in text


def test_whole_networks_and_json(
    asked: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ['--backbone', 'signs', '--output', str(tmp_path / 'p.json'), '--fresh', '--json']
    assert main(['profile', *arguments, '--whole-networks', '50']) == 0
    assert (asked['what'], asked['networks'], asked['resume']) == ('networks', 50, False)
    summary = json.loads(capsys.readouterr().out)
    assert summary['networks'] == 50
    assert summary['leave_one_out'] == QUALITY


def test_a_folder_without_a_backbone_is_bad_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ['--backbone', str(tmp_path), '--output', str(tmp_path / 'lut.json')]
    assert main(['profile', *arguments]) == EXIT_BAD_INPUT
    assert 'is not the output folder' in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
