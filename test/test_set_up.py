"""The set-up of `make`: repeated stages, interrupted set-ups, and errors."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from reference import reference_file

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / 'scripts' / 'set_up.py'
STAGES = ('make_base', 'install_libraries', 'install_wheels', 'build_messages')
VISION_MESSAGES = (
    'Classification',
    'LabelInfo',
    'ObjectHypothesis',
    'VisionClass',
    'VisionInfo',
)


@pytest.fixture
def set_up(monkeypatch):
    """The script as a module, without a sourced ROS 2."""
    spec = importlib.util.spec_from_file_location('set_up', SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.delenv('AMENT_PREFIX_PATH', raising=False)
    return module


@pytest.fixture
def stages(set_up, monkeypatch):
    """Replace the stages by fakes that only record their calls; `stages.fail` is interrupted."""

    class Ran(list):
        fail = ''

    ran = Ran()

    def fake(name):
        def stage(environment, *arguments):
            ran.append(name)
            if name == 'make_base':
                environment.folder.mkdir(exist_ok=True)
            with environment.stage(STAGE_OF[name], arguments[-1], name):
                if ran.fail == name:
                    raise KeyboardInterrupt

        return stage

    for name in STAGES:
        monkeypatch.setattr(set_up, name, fake(name))
    return ran


STAGE_OF = dict(zip(STAGES, ('base', 'libraries', 'wheels', 'messages'), strict=True))


def run(set_up, folder, stages):
    del stages[:]
    set_up.set_up(folder, 'jazzy')
    return list(stages)


def test_every_stage_runs_once(set_up, stages, tmp_path):
    assert run(set_up, tmp_path / 'venv', stages) == list(STAGES)
    assert run(set_up, tmp_path / 'venv', stages) == []


def test_only_the_stages_with_changed_inputs_are_repeated(set_up, stages, tmp_path, monkeypatch):
    root = tmp_path / 'root'
    (root / 'msg').mkdir(parents=True)
    for name in ('constraints.txt', 'setup.py', 'pyproject.toml'):
        (root / name).write_text(name)
    monkeypatch.setattr(set_up, 'ROOT', root)
    run(set_up, tmp_path / 'venv', stages)
    (root / 'msg' / 'New.msg').write_text('float64 value\n')
    assert run(set_up, tmp_path / 'venv', stages) == ['build_messages']
    (root / 'setup.py').write_text('changed')
    assert run(set_up, tmp_path / 'venv', stages) == ['install_libraries']


@pytest.mark.parametrize('killed', STAGES)
def test_an_interrupted_set_up_starts_again(set_up, stages, tmp_path, killed):
    folder = tmp_path / 'venv'
    stages.fail = killed
    with pytest.raises(KeyboardInterrupt):
        run(set_up, folder, stages)
    (folder / 'half.written').touch()
    stages.fail = ''
    again = run(set_up, folder, stages)
    # pip does not detect partial installations, so the environment is created again. Messages are
    # only built again.
    assert again == (['build_messages'] if killed == 'build_messages' else list(STAGES))
    assert (folder / 'half.written').exists() == (killed == 'build_messages')
    assert run(set_up, folder, stages) == []


def test_another_distribution_creates_a_new_environment(set_up, stages, tmp_path):
    run(set_up, tmp_path / 'venv', stages)
    del stages[:]
    set_up.set_up(tmp_path / 'venv', 'kilted')
    assert list(stages) == list(STAGES)


def test_networks_for_imagenet_are_installed_once_and_again_after_an_interruption(
    set_up, stages, tmp_path, monkeypatch
):
    commands = []

    def pip(environment, what, *arguments):
        commands.append(arguments)
        if len(commands) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(set_up, 'pip', pip)
    run(set_up, tmp_path / 'venv', stages)
    assert commands == []
    with pytest.raises(KeyboardInterrupt):
        set_up.set_up(tmp_path / 'venv', 'jazzy', with_imagenet=True)
    assert run(set_up, tmp_path / 'venv', stages) == []  # `make demo` does not need them
    assert len(commands) == 1
    for _ in range(2):
        set_up.set_up(tmp_path / 'venv', 'jazzy', with_imagenet=True)
    assert len(commands) == 2
    assert {'--force-reinstall', '--no-deps', '--require-hashes'} < set(commands[1])
    assert list(stages) == []


def test_a_folder_that_is_not_an_environment_is_not_changed(set_up, tmp_path):
    (tmp_path / 'photographs').mkdir()
    (tmp_path / 'photographs' / 'cat.jpg').touch()
    with pytest.raises(set_up.SetUpError, match='neither empty nor a virtual environment'):
        set_up.make_base(set_up.Environment(tmp_path / 'photographs', 'jazzy'), '')
    assert (tmp_path / 'photographs' / 'cat.jpg').is_file()


def test_a_second_set_up_waits_for_the_first(set_up, tmp_path):
    code = (
        f'import importlib.util, pathlib; '
        f"spec = importlib.util.spec_from_file_location('set_up', {str(SCRIPT)!r}); "
        'module = importlib.util.module_from_spec(spec); spec.loader.exec_module(module)\n'
        f'with module.folder_lock(pathlib.Path({str(tmp_path / "venv")!r})):\n'
        '    print("in", flush=True)'
    )
    with set_up.folder_lock(tmp_path / 'venv'):
        other = subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE, text=True)
        assert 'waiting for another set-up' in other.stdout.readline()
    with other:
        assert other.stdout.readline() == 'in\n'
    assert other.returncode == 0


def test_the_error_for_an_unknown_distribution_lists_the_known_ones(set_up, tmp_path):
    with pytest.raises(set_up.SetUpError, match="'rolling'; known: jazzy, kilted"):
        set_up.set_up(tmp_path / 'venv', 'rolling')
    assert not (tmp_path / 'venv').exists()


@pytest.mark.parametrize(
    ('change', 'sentence'),
    [
        (('platform.machine', lambda: 'aarch64'), 'for Linux on x86_64 only, and this is Linux'),
        (('platform.system', lambda: 'Darwin'), 'install ROS 2, source its setup.bash'),
        (('sys.version_info', (3, 14, 0)), 'for Python 3.10 to 3.13'),
        (('shutil.which', lambda name: None), 'cc and c++ is missing; run: apt install build-ess'),
        (('sysconfig.get_path', lambda name: '/nowhere'), 'run: apt install python3-dev'),
    ],
)
def test_a_missing_requirement_is_reported_with_a_remedy(set_up, monkeypatch, change, sentence):
    name, value = change
    module, attribute = name.split('.')
    monkeypatch.delenv('CC', raising=False)
    monkeypatch.delenv('CXX', raising=False)
    monkeypatch.setattr(getattr(set_up, module), attribute, value)
    with pytest.raises(set_up.SetUpError) as error:
        set_up.check_wheels()
    assert sentence in str(error.value)
    assert '\n' not in str(error.value)


def test_an_old_python_is_rejected(set_up, monkeypatch):
    monkeypatch.setattr(set_up.sys, 'version_info', (3, 9, 2))
    with pytest.raises(set_up.SetUpError, match='make PYTHON=python3'):
        set_up.check_python()


def test_a_sourced_ros_of_another_python_is_rejected(set_up, tmp_path, monkeypatch):
    monkeypatch.setenv('AMENT_PREFIX_PATH', '/opt/ros/humble')
    monkeypatch.setenv('ROS_DISTRO', 'humble')
    monkeypatch.setattr(set_up.importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(set_up.SetUpError, match='ROS 2 humble is sourced, but'):
        set_up.ros_is_sourced()
    monkeypatch.undo()
    monkeypatch.setenv('AMENT_PREFIX_PATH', '/opt/ros/humble')
    failed = subprocess.CompletedProcess([], 1)  # found, but compiled for another Python
    monkeypatch.setattr(set_up, 'run_python', lambda *_: failed)
    with pytest.raises(set_up.SetUpError, match='choose the Python of ROS 2'):
        set_up.make_base(set_up.Environment(tmp_path / 'venv', 'jazzy'), '')


def test_with_a_sourced_ros_no_wheels_are_installed_and_its_numpy_is_kept(
    set_up, stages, tmp_path, monkeypatch
):
    monkeypatch.setenv('AMENT_PREFIX_PATH', '/opt/ros/jazzy')
    monkeypatch.setattr(set_up, 'run_python', lambda *_: subprocess.CompletedProcess([], 0))
    assert run(set_up, tmp_path / 'venv', stages) == [
        'make_base', 'install_libraries', 'build_messages',
    ]  # fmt: skip
    numpy = subprocess.CompletedProcess([], 0, stdout='1.26.4\n')
    monkeypatch.setattr(set_up, 'run_python', lambda *_: numpy)
    environment = set_up.Environment(tmp_path / 'venv', 'jazzy')
    torch, kept = set_up.constraints_text(environment).splitlines()
    assert torch.startswith('torch==')
    assert kept == 'numpy<2'


def test_the_error_of_a_command_contains_the_end_of_its_output(set_up):
    code = 'import sys\nfor i in range(100): print("line", i)\nsys.exit(3)'
    with pytest.raises(set_up.SetUpError) as error:
        set_up.run([sys.executable, '-c', code], 'building')
    assert str(error.value).startswith('building failed (status 3):')
    assert 'line 99' in str(error.value)
    assert 'line 10\n' not in str(error.value)


def test_exports_name_this_python_and_numpy(set_up, tmp_path, monkeypatch):
    folder = tmp_path / 'share' / 'some_msgs' / 'cmake'
    folder.mkdir(parents=True)
    export = folder / 'export_some_msgs__rosidl_generator_pyExport.cmake'
    export.write_text(
        'INTERFACE_INCLUDE_DIRECTORIES "/b/include/python3.11;/b/site/numpy/_core/include"\n'
    )
    monkeypatch.setattr(
        set_up, 'run_python', lambda *_: subprocess.CompletedProcess([], 0, '/mine\n/np\n')
    )
    set_up.fix_exports(set_up.Environment(tmp_path, 'jazzy'))
    assert export.read_text() == 'INTERFACE_INCLUDE_DIRECTORIES "/mine;/np"\n'


def test_every_wheel_is_pinned_by_a_hash():
    for name, least in (('ros_jazzy', 100), ('ros_kilted', 100), ('imagenet', 4)):
        text = (ROOT / 'scripts' / f'{name}.txt').read_text()
        entries = text.replace(' \\\n', ' ').splitlines()
        packages = [line for line in entries if not line.startswith('#')]
        assert len(packages) >= least
        assert all('==' in line and '--hash=sha256:' in line for line in packages)


@pytest.mark.parametrize('name', VISION_MESSAGES)
def test_vision_messages_have_the_type_hashes_of_jazzy(name):
    """ROS 2 compares these hashes; the definitions are copies in scripts/vision_msgs."""
    vision_msgs = pytest.importorskip('vision_msgs')
    share = Path(vision_msgs.__file__).parents[4] / 'share' / 'vision_msgs' / 'msg'
    description = json.loads((share / f'{name}.json').read_text())
    hashes = {entry['type_name']: entry['hash_string'] for entry in description['type_hashes']}
    golden = json.loads(reference_file('ros2_jazzy_type_hashes.json').read_text())
    assert hashes[f'vision_msgs/msg/{name}'] == golden[f'vision_msgs/msg/{name}']


def test_a_killed_process_releases_the_lock(set_up, tmp_path):
    code = (
        f'import importlib.util, pathlib, time; '
        f"spec = importlib.util.spec_from_file_location('set_up', {str(SCRIPT)!r}); "
        'module = importlib.util.module_from_spec(spec); spec.loader.exec_module(module)\n'
        f'with module.folder_lock(pathlib.Path({str(tmp_path / "venv")!r})):\n'
        '    print("in", flush=True); time.sleep(60)'
    )
    with subprocess.Popen(
        [sys.executable, '-c', code], stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == 'in\n'
        os.kill(other.pid, signal.SIGKILL)
        start_s = time.monotonic()
        with set_up.folder_lock(tmp_path / 'venv'):
            assert time.monotonic() - start_s < 30.0
