from __future__ import annotations

import math
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from programs import wait_until

from dynamic_ofa_ros.runtime import host
from dynamic_ofa_ros.runtime.host import CpuLoad, HostMonitor, HostStatus, OthersLoad

DEADLINE_S = 10.0
UUIDS = [
    'GPU-8d1f4ad6-0f4b-7a3f-21e0-6c9d0a7f1a01',
    'GPU-1c0e77b2-93a5-4de1-b7a2-3f1d2c4b5a02',
]


def write(root: Path, **files: str) -> None:
    """Write files; in their names, __ stands for /."""
    for name, text in files.items():
        path = root / name.replace('__', '/')
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_unknown_values_are_nan(tmp_path):
    status = HostMonitor('cpu', sysfs=tmp_path).sample()
    assert math.isnan(status.temperature_celsius)
    assert math.isnan(status.power_w)
    assert math.isnan(status.load)  # the first sample has no reference
    assert all(math.isnan(v) for v in (HostStatus().load, HostStatus().power_w))


def test_cpu_temperature_from_hwmon(tmp_path):
    write(
        tmp_path,
        class__hwmon__hwmon0__name='nvme\n',
        class__hwmon__hwmon0__temp1_input='99000\n',
        class__hwmon__hwmon1__name='k10temp\n',
        class__hwmon__hwmon1__temp1_input='45500\n',
    )
    assert HostMonitor('cpu', sysfs=tmp_path).sample().temperature_celsius == 45.5


def test_load_temperature_and_power_of_a_jetson_are_read(tmp_path):
    write(
        tmp_path,
        devices__gpu_0__load='0',
        class__thermal__thermal_zone0__type='CPU-therm\n',
        class__thermal__thermal_zone0__temp='50000\n',
        class__thermal__thermal_zone1__type='GPU-therm\n',
        class__thermal__thermal_zone1__temp='61500\n',
        class__hwmon__hwmon3__in1_label='VDD_IN\n',
        class__hwmon__hwmon3__in1_input='5000\n',
        class__hwmon__hwmon3__curr1_input='2400\n',
    )
    (tmp_path / 'devices/gpu.0').mkdir()
    (tmp_path / 'devices/gpu.0/load').write_text('730\n')
    status = HostMonitor('cuda', sysfs=tmp_path).sample()
    assert status == HostStatus(load=0.73, temperature_celsius=61.5, power_w=12.0)


@pytest.mark.parametrize('name', ['17000000.gpu', '17000000.ga10b', '17000000.gv11b'])
def test_jetson_gpu_load_on_jetpack_6(tmp_path, name):
    for other, load in (('13e40000.host1x', '9'), (name, '415')):
        folder = tmp_path / 'class/devfreq' / other / 'device'
        folder.mkdir(parents=True)
        (folder / 'load').write_text(f'{load}\n')
    assert HostMonitor('cuda', sysfs=tmp_path).sample().load == pytest.approx(0.415)


@pytest.mark.parametrize('garbage', ['', 'N/A', '\x00\x00'])
def test_invalid_values_in_sysfs_are_nan(tmp_path, garbage):
    write(
        tmp_path,
        class__thermal__thermal_zone0__type='cpu',
        class__thermal__thermal_zone0__temp=garbage,
    )
    assert math.isnan(HostMonitor('cpu', sysfs=tmp_path).sample().temperature_celsius)


def test_power_is_the_slope_of_the_energy_counter(tmp_path, monkeypatch):
    folder = tmp_path / 'class/powercap/intel-rapl:0'
    folder.mkdir(parents=True)
    (folder / 'max_energy_range_uj').write_text('1000000000')
    (folder / 'energy_uj').write_text('990000000')
    times_s = iter((10.0, 12.0))
    monkeypatch.setattr(host, 'time', SimpleNamespace(monotonic=lambda: next(times_s)))
    monitor = HostMonitor('cpu', sysfs=tmp_path)
    assert math.isnan(monitor.sample().power_w)
    (folder / 'energy_uj').write_text('20000000')  # wrapped around: 30 J later
    assert monitor.sample().power_w == pytest.approx(15.0)


def test_cpu_load_is_that_of_the_interval(monkeypatch):
    samples = iter([(100.0, 200.0), (103.0, 204.0), (103.0, 204.0), None])
    monkeypatch.setattr(host, '_cpu_seconds', lambda: next(samples))
    load = CpuLoad()
    assert math.isnan(load.sample())
    assert load.sample() == 0.75
    assert math.isnan(load.sample())
    assert math.isnan(load.sample())


def test_the_load_of_others_excludes_this_process(monkeypatch):
    samples = iter([(100.0, 200.0), (108.0, 210.0)])
    own = iter([1.0, 4.0])
    monkeypatch.setattr(host, '_cpu_seconds', lambda: next(samples))
    monkeypatch.setattr(host.time, 'process_time', lambda: next(own))
    assert OthersLoad().fraction() == pytest.approx(0.5)


class Gpus:
    """A fake of NVIDIA's management library with two GPUs and sequences of loads."""

    class NVMLError(Exception):
        pass

    def __init__(self) -> None:
        self.names = dict(zip(UUIDS, ('NVIDIA L4', 'NVIDIA H200'), strict=True))
        self.loads_percent = {uuid: [0.0] for uuid in UUIDS}

    def nvmlInit(self) -> None:  # noqa: N802
        pass

    def nvmlDeviceGetHandleByUUID(self, uuid: bytes) -> str:  # noqa: N802
        if uuid.decode() not in self.names:
            raise self.NVMLError(uuid)
        return uuid.decode()

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:  # noqa: N802
        return UUIDS[index]

    def nvmlDeviceGetName(self, handle: str) -> str:  # noqa: N802
        return self.names[handle]

    def nvmlDeviceGetUtilizationRates(self, handle: str) -> SimpleNamespace:  # noqa: N802
        loads = self.loads_percent[handle]
        return SimpleNamespace(gpu=loads.pop(0) if len(loads) > 1 else loads[0])

    def nvmlDeviceGetTemperature(self, handle: str, sensor: int = 0) -> float:  # noqa: N802
        raise self.NVMLError

    nvmlDeviceGetPowerUsage = nvmlDeviceGetTemperature  # noqa: N815


@pytest.fixture
def nvml(monkeypatch):
    gpus = Gpus()
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
    monkeypatch.setitem(sys.modules, 'pynvml', gpus)
    monkeypatch.setattr(host, '_driver_gpus', lambda _: dict.fromkeys(UUIDS, ''))
    monkeypatch.setattr(host.time, 'sleep', lambda _: None)
    return gpus


@pytest.mark.parametrize(
    ('visible', 'expected'), [(None, ['NVIDIA L4', 'NVIDIA H200']), ('1', ['NVIDIA H200'])]
)
def test_name_and_load_are_those_of_the_gpu_in_use(nvml, monkeypatch, visible, expected):
    """NVML ignores CUDA_VISIBLE_DEVICES."""
    nvml.loads_percent = {UUIDS[0]: [10.0], UUIDS[1]: [90.0]}
    if visible is not None:
        monkeypatch.setenv('CUDA_VISIBLE_DEVICES', visible)
    for index, name in enumerate(expected):
        assert host.gpu_name(index) == name
        load = HostMonitor(f'cuda:{index}').sample().load
        assert load == pytest.approx(0.9 if name == 'NVIDIA H200' else 0.1)


@pytest.mark.parametrize(
    ('before', 'after', 'expected'),
    [
        ([0.0], [5.0], 0.05),
        ([90.0, 50.0, 20.0, 4.0], [80.0, 8.0], 0.08),  # load of this process, which decays
        ([70.0], [70.0], 0.7),
        ([0.0], [100.0, 95.0], 0.95),  # another process started meanwhile
        ([80.0], [0.0], 0.8),
    ],
)
def test_the_load_of_others_on_a_gpu_is_measured_without_own_work(nvml, before, after, expected):
    nvml.loads_percent[UUIDS[1]] = before
    load = OthersLoad('cuda:1')
    nvml.loads_percent[UUIDS[1]] = after
    assert load.fraction() == pytest.approx(expected)


def test_load_and_name_of_an_unknown_gpu_are_unknown(monkeypatch):
    monkeypatch.setitem(sys.modules, 'pynvml', None)
    monkeypatch.setattr(host, '_driver_gpus', lambda _: {})
    monkeypatch.setattr(host, '_jetson_gpu_load', lambda _: None)
    assert math.isnan(OthersLoad('cuda').fraction())
    assert host.gpu_name(0, unknown='Some GPU') == 'Some GPU'


def test_the_real_cpu_load_is_a_fraction():
    load = CpuLoad()
    load.sample()
    samples = []

    def is_known():
        samples.append(load.sample())
        return not math.isnan(samples[-1])

    wait_until(is_known, 'a load')
    assert 0.0 <= samples[-1] <= 1.0


def test_samples_in_the_background(tmp_path):
    write(
        tmp_path,
        class__thermal__thermal_zone0__type='cpu',
        class__thermal__thermal_zone0__temp='40000',
    )
    monitor = HostMonitor('cpu', period_s=0.001, sysfs=tmp_path)
    assert math.isnan(monitor.latest.temperature_celsius)
    monitor.start()
    try:
        wait_until(lambda: not math.isnan(monitor.latest.temperature_celsius), 'a temperature')
    finally:
        monitor.stop()
    assert monitor.latest.temperature_celsius == 40.0


def test_a_monitor_that_never_started_can_be_stopped():
    HostMonitor('cpu').stop()


def test_names_of_the_machine_are_never_empty():
    assert host.cpu_name()
    assert host.gpu_name(0)


def cpu_info(name: str, model: int = 85, stepping: int = 7, cache: str = '39424 KB') -> str:
    return (
        f'processor\t: 0\ncpu family\t: 6\nmodel\t\t: {model}\nmodel name\t: {name}\n'
        f'stepping\t: {stepping}\ncache size\t: {cache}\n\nprocessor\t: 1\nmodel\t\t: 0\n'
    )


CPU_INFO = {
    cpu_info('Intel(R) Core(TM) i7-8550U CPU @ 1.8GHz'): 'Intel Core i7-8550U',
    cpu_info('11th Gen Intel(R) Core(TM) i7-1165G7 @ 2.80GHz'): 'Intel Core i7-1165G7',
    cpu_info('Intel(R) Xeon(R) CPU E5-2680 v4 @ 2.40GHz'): 'Intel Xeon E5-2680 v4',
    cpu_info('AMD Ryzen 9 5900X 12-Core Processor'): 'AMD Ryzen 9 5900X',
    cpu_info('AMD Ryzen 7 PRO 5850U with Radeon Graphics'): 'AMD Ryzen 7 PRO 5850U',
    cpu_info('AMD Ryzen 7 7840HS w/ Radeon 780M Graphics'): 'AMD Ryzen 7 7840HS',
    cpu_info('AMD EPYC 7B13'): 'AMD EPYC 7B13',
    cpu_info('Intel(R) N100'): 'Intel N100',
    # Names without a model.
    cpu_info('Intel(R) Xeon(R) Processor', 207, 2, '307200 KB'): 'Intel Xeon 6 207 2 300MB',
    cpu_info('Intel(R) Xeon(R) CPU @ 2.20GHz'): 'Intel Xeon 2.20GHz 6 85 7 38.5MB',
    cpu_info('Intel Xeon Processor (Cascadelake)'): 'Intel Xeon (Cascadelake) 6 85 7 38.5MB',
    cpu_info('Intel Xeon E312xx (Sandy Bridge)', 42, 1, '?'): (
        'Intel Xeon E312xx (Sandy Bridge) 6 42 1'
    ),
    cpu_info('QEMU Virtual CPU version 2.5+', 6, 3): 'QEMU Virtual version 2.5+ 6 6 3 38.5MB',
    'CPU implementer\t: 0x41\nCPU variant\t: 0x1\nCPU part\t: 0xd40\nCPU revision\t: 1\n': (
        'aarch64 0x41 0xd40 0x1 1'
    ),
    'model name\t: ARMv8 Processor rev 0 (v8l)\nCPU implementer\t: 0x4e\nCPU part\t: 0x004\n': (
        'ARMv8 rev 0 (v8l) 0x4e 0x004'
    ),
    '': 'aarch64',
}


@pytest.mark.parametrize(('text', 'expected'), CPU_INFO.items())
def test_cpus_have_different_names(tmp_path, monkeypatch, text, expected):
    monkeypatch.setattr(host.platform, 'machine', lambda: 'aarch64')
    (tmp_path / 'cpuinfo').write_text(text)
    assert host.cpu_name(tmp_path) == expected


SKYLAKE = cpu_info('Intel(R) Xeon(R) Processor', 85, 4)


@pytest.mark.parametrize(
    'other',
    [
        cpu_info('Intel(R) Xeon(R) Processor', 85, 7),  # Cascade Lake
        cpu_info('Intel(R) Xeon(R) Processor', 85, 4, '25344 KB'),
        cpu_info('Intel(R) Xeon(R) Processor @ 2.2GHz', 85, 4),
    ],
)
def test_virtual_machines_with_the_same_cpu_name_are_distinguished(tmp_path, other):
    names = []
    for text in (SKYLAKE, other):
        (tmp_path / 'cpuinfo').write_text(text)
        names.append(host.cpu_name(tmp_path))
    assert names[0] != names[1]


@pytest.mark.parametrize(
    ('text', 'expected'),
    [
        ('processor\t: 0\nflags\t\t: fpu avx2\nvmx flags\t: ept\n\nflags\t\t: fpu\n', 'fpu avx2'),
        ('processor\t: 0\nFeatures\t: fp asimd\nCPU part\t: 0xd0c\n', 'fp asimd'),
        ('processor\t: 0\n', ''),
    ],
)
def test_the_features_of_the_cpu_are_read(tmp_path, text, expected):
    (tmp_path / 'cpuinfo').write_text(text)
    assert host.cpu_features(tmp_path) == expected


def test_the_name_of_a_board_is_used(tmp_path):
    (tmp_path / 'device-tree').mkdir()
    (tmp_path / 'device-tree/model').write_text('NVIDIA Jetson Xavier NX Developer Kit\0')
    assert host.cpu_name(tmp_path) == 'NVIDIA Jetson Xavier NX Developer Kit'
    assert host.gpu_name(0, proc=tmp_path) == 'NVIDIA Jetson Xavier NX Developer Kit'


def test_modules_of_the_same_board_are_distinguished(tmp_path):
    """An Orin NX with 16 GB and one with 8 GB have the same model in the device tree."""
    (tmp_path / 'device-tree').mkdir()
    (tmp_path / 'device-tree/model').write_text('NVIDIA Jetson Orin NX Developer Kit\0')
    (tmp_path / 'device-tree/compatible').write_text(
        'nvidia,p3768-0000+p3767-0001\0nvidia,p3767-0000\0nvidia,tegra234\0'
    )
    assert host.cpu_name(tmp_path) == 'NVIDIA Jetson Orin NX Developer Kit p3767-0001'


def test_the_name_of_a_virtual_board_is_ignored(tmp_path):
    write(tmp_path, cpuinfo='CPU implementer\t: 0x41\nCPU part\t: 0xd0c\n')
    (tmp_path / 'device-tree').mkdir()
    (tmp_path / 'device-tree/model').write_text('linux,dummy-virt\0')
    assert host.cpu_name(tmp_path).endswith(' 0x41 0xd0c')


@pytest.fixture
def two_gpus(tmp_path, monkeypatch):
    """Return a fake /proc with the files of NVIDIA's driver, not created in the order of names."""
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
    monkeypatch.setattr(host, '_nvml_uuids', list)
    for place, uuid in (('0000:af:00.0', UUIDS[1]), ('0000:3b:00.0', UUIDS[0])):
        folder = tmp_path / 'driver/nvidia/gpus' / place
        folder.mkdir(parents=True)
        (folder / 'information').write_text(f'Model: \t\t Fake\nGPU UUID: \t {uuid}\nIRQ: 7\n')
    return tmp_path


@pytest.mark.parametrize(
    ('visible', 'expected'),
    [
        (None, UUIDS),
        ('1', UUIDS[1:]),
        ('1, 0', UUIDS[::-1]),
        ('GPU-1c0e', UUIDS[1:]),
        (f'{UUIDS[1]},{UUIDS[0]}', UUIDS[::-1]),
        ('MIG-5c2a', ['MIG-5c2a']),
    ],
)
def test_gpus_are_identified_by_uuid(two_gpus, monkeypatch, visible, expected):
    if visible is not None:
        monkeypatch.setenv('CUDA_VISIBLE_DEVICES', visible)
    assert [host.gpu_uuid(index, two_gpus) for index in range(len(expected))] == expected


def test_the_model_of_a_gpu_is_read_from_the_driver_without_nvml(two_gpus, monkeypatch):
    monkeypatch.setitem(sys.modules, 'pynvml', None)
    assert host.gpu_name(1, proc=two_gpus) == 'Fake'


def test_the_uuid_is_read_from_nvml_without_driver_files(tmp_path, monkeypatch):
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
    monkeypatch.setattr(host, '_nvml_uuids', lambda: UUIDS)
    assert host.gpu_uuid(1, tmp_path) == UUIDS[1]


def test_a_gpu_without_a_uuid_is_identified_by_board_or_boot(tmp_path, monkeypatch):
    monkeypatch.setattr(host, '_nvml_uuids', list)
    write(tmp_path, sys__kernel__random__boot_id='0b5e-11\n')
    assert host.gpu_uuid(0, tmp_path) == '0b5e-11-gpu0'
    (tmp_path / 'device-tree').mkdir()
    (tmp_path / 'device-tree/serial-number').write_text('1423020012345\0')
    assert host.gpu_uuid(0, tmp_path) == '1423020012345-gpu0'
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '')
    assert host.gpu_uuid(0, tmp_path) == '1423020012345-gpu0'


@pytest.mark.parametrize('index', [0, 7])
def test_a_gpu_always_has_an_identifier(index):
    assert host.gpu_uuid(index)
    assert host.gpu_uuid(index) != host.gpu_uuid(index + 1)


def test_the_uuid_on_cuda_is_that_of_nvidia_smi():
    torch = pytest.importorskip('torch')
    if not torch.cuda.is_available():
        pytest.skip('no CUDA device')
    assert host.gpu_uuid(0) == f'GPU-{torch.cuda.get_device_properties(0).uuid}'


def test_device_identity_is_the_boot_and_the_processor_or_gpu(tmp_path, monkeypatch):
    """It contains neither the host name nor `cuda` or `cuda:0`."""
    boot = tmp_path / 'sys' / 'kernel' / 'random' / 'boot_id'
    boot.parent.mkdir(parents=True)
    boot.write_text('0f3c-11\n')
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
    for index, uuid in enumerate(('GPU-0aa', 'GPU-0bb')):
        card = tmp_path / 'driver' / 'nvidia' / 'gpus' / f'0000:0{index}' / 'information'
        card.parent.mkdir(parents=True)
        card.write_text(f'Model: X\nGPU UUID: {uuid}\n')
    names = {
        name: host.device_identity(name, tmp_path) for name in ('cpu', 'cuda', 'cuda:0', 'cuda:1')
    }
    assert names['cpu'] == '0f3c-11/cpu'
    assert names['cuda'] == names['cuda:0'] == '0f3c-11/GPU-0aa'
    assert names['cuda:1'] == '0f3c-11/GPU-0bb'
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '1')
    assert host.device_identity('cuda:0', tmp_path) == names['cuda:1']


def test_usable_processors_follow_the_affinity(tmp_path):
    may_use = sorted(os.sched_getaffinity(0))
    assert host.usable_cpus(tmp_path, tmp_path) == len(may_use)  # without a quota
    os.sched_setaffinity(0, may_use[:1])
    try:
        assert host.usable_cpus(tmp_path, tmp_path) == 1
    finally:
        os.sched_setaffinity(0, may_use)


@pytest.mark.parametrize(
    ('group', 'limit', 'expected'),
    [
        ('0::/\n', 'max 100000\n', 8),
        ('0::/\n', '200000 100000\n', 2),
        ('0::/\n', '250000 100000\n', 2),
        ('0::/\n', '50000 100000\n', 1),
        ('0::/\n', '1600000 100000\n', 8),
        ('0::/system.slice/robot.service\n', '300000 100000\n', 3),
        ('1:cpu:/\n', '', 8),
        ('', 'nonsense\n', 8),
    ],
)
def test_a_quota_is_rounded_down_to_whole_processors(
    tmp_path, monkeypatch, group, limit, expected
):
    monkeypatch.setattr(os, 'sched_getaffinity', lambda _: set(range(8)))
    proc, cgroups = tmp_path / 'proc', tmp_path / 'cgroup'
    folder = cgroups / group.strip().removeprefix('0::/').removeprefix('1:cpu:/')
    folder.mkdir(parents=True)
    (proc / 'self').mkdir(parents=True)
    (proc / 'self' / 'cgroup').write_text(group)
    (folder / 'cpu.max').write_text(limit)
    assert host.usable_cpus(cgroups, proc) == expected
