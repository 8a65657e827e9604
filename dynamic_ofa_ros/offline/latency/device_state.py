"""The state of a device during a measurement: clocks, load, temperature, power."""

from __future__ import annotations

import math
from contextlib import suppress
from pathlib import Path

from dynamic_ofa_ros.runtime.host import HostMonitor, OthersLoad, gpu_index, nvml_device

_GOVERNOR = Path('devices/system/cpu/cpu0/cpufreq/scaling_governor')


class DeviceWatch:
    """Observes a device from its creation until `state` is called. device: as for engines."""

    def __init__(self, device: str, sysfs: Path = Path('/sys')) -> None:
        self._device, self._sysfs = device, sysfs
        self._others = OthersLoad(device)
        self._monitor = HostMonitor(device, sysfs=sysfs)
        self._monitor.sample()  # load and power are averages since the last sample

    @property
    def load_of_others(self) -> float:
        """The fraction of the device used by others since the creation; NaN if unknown."""
        return self._others.fraction()

    def state(self) -> dict[str, float | str]:
        """Return the available measurements of the device since the creation."""
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
        with suppress(OSError):  # not available in virtual machines and containers
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
