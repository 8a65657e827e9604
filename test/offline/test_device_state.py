from __future__ import annotations

from pathlib import Path

import pytest

from dynamic_ofa_ros.offline.latency import device_state
from dynamic_ofa_ros.offline.latency.device_state import DeviceWatch


def test_unknown_values_are_omitted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_state, '_cpu_mhz', lambda: float('nan'))
    state = DeviceWatch('cpu', sysfs=tmp_path).state()
    assert not {'temperature_celsius', 'cpu_mhz', 'cpu_governor', 'gpu_mhz'} & state.keys()
    assert all(value == value for value in state.values())  # no NaN


def test_clocks_and_sensors_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    governor = tmp_path / 'devices/system/cpu/cpu0/cpufreq/scaling_governor'
    governor.parent.mkdir(parents=True)
    governor.write_text('performance\n')
    zone = tmp_path / 'class/thermal/thermal_zone0'
    zone.mkdir(parents=True)
    (zone / 'type').write_text('cpu-thermal\n')
    (zone / 'temp').write_text('48500\n')
    monkeypatch.setattr(device_state, '_cpu_mhz', lambda: 1510.4)
    state = DeviceWatch('cpu', sysfs=tmp_path).state()
    assert state['cpu_governor'] == 'performance'
    assert state['temperature_celsius'] == 48.5
    assert state['cpu_mhz'] == 1510.4


def test_the_clock_of_a_gpu_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_state, '_gpu_mhz', lambda index: 1000.0 + index)
    assert DeviceWatch('cuda:1', sysfs=tmp_path).state()['gpu_mhz'] == 1001.0
    assert 'gpu_mhz' not in DeviceWatch('cpu', sysfs=tmp_path).state()
