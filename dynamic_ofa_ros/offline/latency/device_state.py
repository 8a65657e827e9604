"""What state a device was in while it was measured: clocks, load, temperature, power."""

from __future__ import annotations

import math
from contextlib import suppress
from pathlib import Path

from dynamic_ofa_ros.runtime.host import HostMonitor, OthersLoad, gpu_index, nvml_device

_GOVERNOR = Path('devices/system/cpu/cpu0/cpufreq/scaling_governor')


class DeviceWatch:
    """Watches a device from its creation until `state` is asked for. device: as for engines."""

    def __init__(self, device: str, sysfs: Path = Path('/sys')) -> None:
        self._device, self._sysfs = device, sysfs
        self._others = OthersLoad(device)
        self._monitor = HostMonitor(device, sysfs=sysfs)
        self._monitor.sample()  # loads and power are means since the last sample

    @property
    def load_of_others(self) -> float:
        """The share of the device that others used since the creation; NaN when unknown."""
        return self._others.fraction()

    def state(self) -> dict[str, float | str]:
        """Return what is known of the device since the creation; what is not is left out."""
        status = self._monitor.sample()
        numbers = {
            'load_of_others': self.load_of_others,
            'device_load': status.load,
            'temperature_celsius': status.temperature_celsius,
            'power_w': status.power_w,
            'cpu_mhz': _cpu_mhz(),
        }
        if self._device.startswith('cuda'):
            numbers['gpu_mhz'] = _gpu_mhz(gpu_index(self._device))
        state: dict[str, float | str] = {
            name: round(value, 3) for name, value in numbers.items() if not math.isnan(value)
        }
        with suppress(OSError):  # virtual machines and containers have none
            state['cpu_governor'] = (self._sysfs / _GOVERNOR).read_text(encoding='utf-8').strip()
        return state


def _cpu_mhz() -> float:
    try:
        import psutil

        frequency = psutil.cpu_freq()
    except (ImportError, OSError, NotImplementedError, RuntimeError):
        return math.nan
    return float(frequency.current) if frequency else math.nan


def _gpu_mhz(index: int) -> float:
    device = nvml_device(index)
    if device is None:
        return math.nan
    nvml, handle = device
    try:
        return float(nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM))
    except nvml.NVMLError:
        return math.nan
