"""Load, temperature and power of the machine, and names of its devices. Unknown values are NaN.

They are sampled about once per second on a separate thread, because reading some of the files
takes milliseconds.
"""

from __future__ import annotations

import math
import os
import platform
import re
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NAN = math.nan

# GPU load of a Jetson in per mille, by generation: Xavier and older, Orin, older kernels.
_JETSON_GPU_LOAD = (
    'devices/gpu.0/load',
    'devices/platform/gpu.0/load',
    'devices/platform/17000000.gpu/load',
    'devices/platform/17000000.ga10b/load',
    'devices/57000000.gpu/load',
)
# On JetPack 6, the folder of the device is found through its clock, such as 17000000.gpu.
_JETSON_GPU_CLOCKS = 'class/devfreq/*.g[vpa]*/device/load'
_NVIDIA_NODES = ('/dev/nvidiactl', '/dev/nvhost-gpu', '/dev/nvgpu', '/dev/dxg')
_NOT_TELLING = re.compile(
    r'\((R|TM)\)|\bCPU\b|\bProcessor\b|\b\d+th Gen\b|\b\d+-Core\b|(\bwith|\bw/) .*', re.IGNORECASE
)
"""Parts of a processor's name other than the model, including integrated graphics."""

_MODEL_NUMBER = re.compile(r'\b(?!\w*xx)(?=\w{3})\w*[1-9]\w*\d')
"""Matches 1165G7, 8481C, 7B13 and N100, but not 2.5 in 'QEMU Virtual CPU version 2.5+' or E312xx.
"""

_CPU_NUMBERS = (
    'cpu family', 'model', 'stepping',
    'CPU implementer', 'CPU part', 'CPU variant', 'CPU revision',
)  # fmt: skip
_DRIVER_UUIDS = ('GPU-', 'MIG-')
_FADE_S, _FADE_STEP_S, _FADED = 1.2, 0.1, 0.1
"""Maximum time to wait for the load of a GPU to drop, period of readings, and load of an idle GPU.
Drivers average the load over a second."""

_CPU_SENSORS = ('coretemp', 'k10temp', 'cpu_thermal', 'zenpower', 'soc_thermal', 'cpu-thermal')


@dataclass(frozen=True)
class HostStatus:
    """One sample. `load` is that of the device that runs inference, a fraction in [0, 1]."""

    load: float = NAN
    temperature_celsius: float = NAN
    power_w: float = NAN


class HostMonitor:
    """Samples the device's state in the background; `latest` never blocks.

    device: 'cpu', or 'cuda' / 'cuda:N' for a GPU (NVML on a desktop, sysfs on a Jetson).
    """

    def __init__(
        self, device: str = 'cpu', period_s: float = 1.0, sysfs: Path = Path('/sys')
    ) -> None:
        self._period_s = period_s
        self._latest = HostStatus()
        self._stopping = threading.Event()
        self._read = _reader_of(device, sysfs)
        self._thread = threading.Thread(target=self._run, name='host monitor', daemon=True)

    @property
    def latest(self) -> HostStatus:
        """The last sample; all NaN before the first."""
        return self._latest

    def start(self) -> None:
        """Start sampling."""
        self._thread.start()

    def stop(self, timeout_s: float = 2.0) -> None:
        """Stop sampling."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)

    def sample(self) -> HostStatus:
        """Take a sample on the calling thread."""
        self._latest = self._read()
        return self._latest

    def _run(self) -> None:
        while not self._stopping.is_set():
            self.sample()
            self._stopping.wait(self._period_s)


def _reader_of(device: str, sysfs: Path) -> Callable[[], HostStatus]:
    """Return the function that samples this device."""
    if device.startswith('cuda'):
        load_path = _jetson_gpu_load(sysfs)
        if load_path is not None:
            return lambda: HostStatus(
                load=_number(load_path) / 1000.0,
                temperature_celsius=_thermal_zone(sysfs, ('gpu',)),
                power_w=_ina_power_w(sysfs),
            )
        nvml_reader = _nvml_reader(gpu_index(device))
        if nvml_reader is not None:
            return nvml_reader
        return HostStatus
    cpu_load = CpuLoad()
    energy = _EnergyCounter(sysfs)
    return lambda: HostStatus(
        load=cpu_load.sample(),
        temperature_celsius=_cpu_temperature(sysfs),
        power_w=_first_known(energy.power_w, lambda: _ina_power_w(sysfs)),
    )


def _jetson_gpu_load(sysfs: Path) -> Path | None:
    """Return the file with a Jetson's GPU load; None if there is none."""
    paths = [sysfs / name for name in _JETSON_GPU_LOAD]
    paths += _sorted_glob(sysfs, _JETSON_GPU_CLOCKS)
    return next((path for path in paths if path.is_file()), None)


class CpuLoad:
    """The share of CPU time used by all processes since the last sample; NaN for the first."""

    def __init__(self) -> None:
        self._before: tuple[float, float] | None = None

    def sample(self) -> float:
        """Return the load since the last call, a fraction in [0, 1]."""
        now = _cpu_seconds()
        before, self._before = self._before, now
        if now is None or before is None:
            return NAN
        total = now[1] - before[1]
        if total <= 0.0:
            return NAN
        return min(1.0, max(0.0, (now[0] - before[0]) / total))


def _cpu_seconds() -> tuple[float, float] | None:
    """Return CPU seconds spent busy and in total since boot, over all cores."""
    try:
        import psutil
    except ImportError:
        return None
    times = psutil.cpu_times()
    # Guest time is included in user time, so it must not be counted twice.
    total = sum(times) - getattr(times, 'guest', 0.0) - getattr(times, 'guest_nice', 0.0)
    idle = times.idle + getattr(times, 'iowait', 0.0)
    return total - idle, total


class OthersLoad:
    """Measures how much of a device other processes use, from creation to `fraction`.

    device: as for engines. A GPU's driver does not report the load by process, so it is read
    before and after the work of this process; creation and `fraction` then take up to `_FADE_S`
    each.
    """

    def __init__(self, device: str = 'cpu') -> None:
        self._gpu = _reader_of(device, Path('/sys')) if device.startswith('cuda') else None
        self._gpu_before = _idle_load(self._gpu) if self._gpu else NAN
        self._before = _cpu_seconds()
        self._own_before_s = time.process_time()

    def fraction(self) -> float:
        """Return the share that other processes used, in [0, 1]; NaN if unknown."""
        if self._gpu:
            readings = (self._gpu_before, _idle_load(self._gpu))
            return max((load for load in readings if not math.isnan(load)), default=NAN)
        now = _cpu_seconds()
        if now is None or self._before is None or now[1] <= self._before[1]:
            return NAN
        own_s = time.process_time() - self._own_before_s
        others_s = now[0] - self._before[0] - own_s
        return min(1.0, max(0.0, others_s / (now[1] - self._before[1])))


def _idle_load(read: Callable[[], HostStatus]) -> float:
    """Return a GPU's load without this process; wait until the own load no longer counts."""
    load = read().load
    for _ in range(round(_FADE_S / _FADE_STEP_S)):
        if not load > _FADED:
            break
        time.sleep(_FADE_STEP_S)
        load = min(load, read().load)
    return load


class _EnergyCounter:
    """Power of the CPU package from Intel's and AMD's energy counter (RAPL)."""

    def __init__(self, sysfs: Path) -> None:
        folder = sysfs / 'class' / 'powercap' / 'intel-rapl:0'
        self._path = folder / 'energy_uj'
        self._range_uj = _number(folder / 'max_energy_range_uj')
        self._before: tuple[float, float] | None = None

    def power_w(self) -> float:
        """Return the mean power since the last call; NaN for the first, or without a counter."""
        energy_uj, now_s = _number(self._path), time.monotonic()
        before, self._before = self._before, (energy_uj, now_s)
        if before is None or math.isnan(energy_uj) or now_s <= before[1]:
            return NAN
        used_uj = energy_uj - before[0]
        if used_uj < 0.0:
            used_uj += self._range_uj  # the counter wrapped around
        return used_uj / 1e6 / (now_s - before[1])


def _first_known(*sources: Callable[[], float]) -> float:
    for source in sources:
        value = source()
        if not math.isnan(value):
            return value
    return NAN


def _cpu_temperature(sysfs: Path) -> float:
    for name_path in _sorted_glob(sysfs / 'class' / 'hwmon', 'hwmon*/name'):
        if _text(name_path) in _CPU_SENSORS:
            celsius = _number(name_path.parent / 'temp1_input') / 1000.0
            if not math.isnan(celsius):
                return celsius
    return _thermal_zone(sysfs, ('cpu', 'x86_pkg', 'soc'))


def _thermal_zone(sysfs: Path, words: Iterable[str]) -> float:
    zones = _sorted_glob(sysfs / 'class' / 'thermal', 'thermal_zone*/type')
    for word in words:
        for type_path in zones:
            if word in _text(type_path).lower():
                celsius = _number(type_path.parent / 'temp') / 1000.0
                if not math.isnan(celsius):
                    return celsius
    return NAN


def _ina_power_w(sysfs: Path) -> float:
    """Return the board's input power from a Jetson's INA3221 monitor."""
    for label_path in _sorted_glob(sysfs / 'class' / 'hwmon', 'hwmon*/in*_label'):
        if _text(label_path) in ('VDD_IN', '5V_IN', 'POM_5V_IN'):
            channel = label_path.name[len('in') : -len('_label')]
            volt = _number(label_path.parent / f'in{channel}_input') / 1000.0
            ampere = _number(label_path.parent / f'curr{channel}_input') / 1000.0
            return volt * ampere
    for power_path in _sorted_glob(
        sysfs / 'bus' / 'i2c' / 'drivers' / 'ina3221x', '*/iio:device*/in_power0_input'
    ):
        return _number(power_path) / 1000.0
    return NAN


def nvml_device(index: int) -> tuple[Any, Any] | None:
    """Return NVIDIA's management library and its handle of GPU `cuda:<index>`, or None."""
    try:
        import pynvml
    except ImportError:
        return None
    nvml: Any = pynvml
    uuid = gpu_uuid(index)
    try:
        nvml.nvmlInit()
        if uuid.startswith(_DRIVER_UUIDS):
            return nvml, nvml.nvmlDeviceGetHandleByUUID(uuid.encode())
        return nvml, nvml.nvmlDeviceGetHandleByIndex(index)
    except nvml.NVMLError:
        return None


def _nvml_reader(index: int) -> Callable[[], HostStatus] | None:
    """Return a function that reads NVIDIA's management library, or None without it."""
    device = nvml_device(index)
    if device is None:
        return None
    nvml, handle = device

    def read(query: Callable[[], float]) -> float:
        try:
            return float(query())
        except nvml.NVMLError:
            return NAN

    return lambda: HostStatus(
        load=read(lambda: nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100.0),
        temperature_celsius=read(lambda: nvml.nvmlDeviceGetTemperature(handle, 0)),
        power_w=read(lambda: nvml.nvmlDeviceGetPowerUsage(handle) / 1000.0),
    )


def _sorted_glob(folder: Path, pattern: str) -> list[Path]:
    try:
        return sorted(folder.glob(pattern))
    except OSError:
        return []


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding='utf-8', errors='replace').strip()
    except OSError:
        return ''


def _number(path: Path) -> float:
    try:
        return float(_text(path))
    except ValueError:
        return NAN


def cpu_name(proc: Path = Path('/proc')) -> str:
    """Return the model of the board or CPU, so that processors of different speed differ.

    The name in a virtual machine is often just 'Intel Xeon Processor', and ARM cores have numbers
    only. To such a name are added the numbers that identify the microarchitecture (Skylake and
    Cascade Lake differ only in the stepping), the clock if stated, and the size of the cache.
    """
    board = _board(proc)
    if board:
        return board
    facts: dict[str, str] = {}
    for line in _text(proc / 'cpuinfo').splitlines():
        key, _, value = line.partition(':')
        facts.setdefault(key.strip(), value.strip())
    full = _NOT_TELLING.sub(' ', facts.get('model name', ''))
    name, _, clock = full.partition('@')
    words = name.split()
    if not _MODEL_NUMBER.search(name):
        words += clock.split() if words else [platform.machine() or 'unknown']
        words += [facts[key] for key in _CPU_NUMBERS if key in facts]
        cache_kb = facts.get('cache size', '').partition(' ')[0]
        words += [f'{int(cache_kb) / 1024:g}MB'] if cache_kb.isdecimal() else []
    return ' '.join(words)


def cpu_features(proc: Path = Path('/proc')) -> str:
    """Return the features of the first CPU as Linux lists them, or '' if unknown.

    CPUs of the same name can differ in them, because a virtual machine can hide features.
    """
    found = re.search(r'^(?:flags|Features)\s*: (.*)$', _text(proc / 'cpuinfo'), re.MULTILINE)
    return found[1] if found else ''


def _board(proc: Path) -> str:
    """Return the name of the board, with the module's number for a Jetson; '' if there is none.

    The module's number distinguishes an Orin NX with 16 GB from the slower one with 8 GB.
    """
    board = _text(proc / 'device-tree' / 'model').strip('\0')
    if 'virt' in board:  # 'linux,dummy-virt' is the name of all virtual machines
        return ''
    modules = re.findall(
        r'p\d{4}-\d{4}', _text(proc / 'device-tree' / 'compatible').split('\0')[0]
    )
    return ' '.join([board, *modules[-1:]]) if board else ''


def gpu_name(index: int, unknown: str = 'gpu', proc: Path = Path('/proc')) -> str:
    """Return the name of the board, or else of the NVIDIA GPU `cuda:<index>`, or `unknown`."""
    board = _board(proc)
    if board:
        return board
    device = nvml_device(index)
    if device is not None:
        nvml, handle = device
        try:
            name = nvml.nvmlDeviceGetName(handle)
        except nvml.NVMLError:
            name = ''
        if name:
            return name.decode() if isinstance(name, bytes) else str(name)
    return _driver_gpus(proc).get(gpu_uuid(index, proc)) or unknown


def gpu_index(device: str) -> int:
    """Return N for a device cuda:N, and 0 for cuda."""
    return int(device.partition(':')[2] or 0)


def gpu_uuid(index: int, proc: Path = Path('/proc')) -> str:
    """Return a unique identifier of GPU `cuda:<index>` of this process, such as 'GPU-5f2c...'.

    This is the driver's UUID as printed by nvidia-smi; `CUDA_VISIBLE_DEVICES` is considered. On a
    machine without UUIDs (a Jetson), the board's serial number or else the boot id is used.
    """
    known = list(_driver_gpus(proc)) or _nvml_uuids()
    chosen = os.environ.get('CUDA_VISIBLE_DEVICES')
    names = list(known) if chosen is None else [part.strip() for part in chosen.split(',')]
    if index < len(names):
        name = names[index]
        if name.isdecimal() and int(name) < len(known):
            return known[int(name)]
        if name.startswith(_DRIVER_UUIDS):  # may be abbreviated
            return next((uuid for uuid in known if uuid.startswith(name)), name)
    board = _text(proc / 'device-tree' / 'serial-number').strip('\0')
    boot = _text(proc / 'sys' / 'kernel' / 'random' / 'boot_id')
    return f'{board or boot or "unknown"}-gpu{index}'


def device_identity(device: str, proc: Path = Path('/proc')) -> str:
    """Return an identifier that all processes on the same device, and only they, have in common.

    It consists of the boot id, which containers share with their host, and 'cpu' or the GPU's
    UUID. device: cpu, cuda or cuda:N.
    """
    boot = _text(proc / 'sys' / 'kernel' / 'random' / 'boot_id') or platform.node()
    if not device.startswith('cuda'):
        return f'{boot}/cpu'
    return f'{boot}/{gpu_uuid(gpu_index(device), proc)}'


def _driver_gpus(proc: Path) -> dict[str, str]:
    """Return UUID and model of all GPUs in the order of the bus, from the driver's files."""
    found = {}
    for path in _sorted_glob(proc / 'driver' / 'nvidia' / 'gpus', '*/information'):
        text = _text(path)
        uuid = re.search(r'GPU UUID:\s*(GPU-[0-9a-fA-F-]+)', text)
        model = re.search(r'Model:\s*(\S.*)', text)
        if uuid:
            found[uuid.group(1)] = model.group(1).strip() if model else ''
    return found


def _nvml_uuids() -> list[str]:
    """Return the UUIDs of all GPUs in the order of the bus, from NVML."""
    try:
        import pynvml

        pynvml.nvmlInit()
        handles = [
            pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())
        ]
        uuids = [pynvml.nvmlDeviceGetUUID(handle) for handle in handles]
    except Exception:  # NVML is optional, so no error may stop the caller
        return []
    return [uuid.decode() if isinstance(uuid, bytes) else str(uuid) for uuid in uuids]


def usable_cpus(cgroups: Path = Path('/sys/fs/cgroup'), proc: Path = Path('/proc')) -> int:
    """Return how many processors this process may use by its affinity and quota, at least 1.

    A quota (Docker's --cpus, systemd's CPUQuota) stops all threads when it is used up, so the
    number of threads should not exceed the number of whole processors in it.
    """
    has_affinity = hasattr(os, 'sched_getaffinity')  # missing on macOS
    count = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    group = re.search(r'^0::/(.*)$', _text(proc / 'self/cgroup'), re.MULTILINE)
    limit = re.match(r'(\d+) (\d+)', _text(cgroups / (group[1] if group else '') / 'cpu.max'))
    return max(1, min(count, int(limit[1]) // int(limit[2]))) if limit else count


def has_nvidia_device() -> bool:
    """Return whether this machine seems to have an NVIDIA GPU; no library is loaded."""
    return any(Path(node).exists() for node in _NVIDIA_NODES)
