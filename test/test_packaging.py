"""The descriptions of the package agree with each other and with the files."""

from __future__ import annotations

import ast
import importlib
import os
import re
import runpy
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml
from packaging.markers import Marker

import dynamic_ofa_ros
from dynamic_ofa_ros.nodes.parameters import CLASSIFIER

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = 'dynamic_ofa_ros'
EXECUTABLES = {
    'camera_node', 'classifier_node', 'contention_node', 'dynamic-ofa', 'monitor_node',
}  # fmt: skip
ROS_PACKAGES = {
    'ament_index_python', 'builtin_interfaces', 'cv_bridge', 'diagnostic_msgs',
    'domain_coordinator', 'geometry_msgs', 'launch', 'launch_ros', 'lifecycle_msgs',
    'rcl_interfaces', 'rclpy', 'rosgraph_msgs', 'sensor_msgs', 'std_msgs', 'std_srvs',
    'vision_msgs',
}  # fmt: skip
DISTRIBUTIONS = {
    'cv2': 'opencv-python-headless', 'efficientnet_lite_pytorch': 'efficientnet-lite-pytorch',
    'pynvml': 'nvidia-ml-py', 'yaml': 'pyyaml',
}  # fmt: skip
OPTIONAL = {'gdown', 'torchvision'}  # used if installed; imported by `ofa`


def imports(source: Path) -> set[str]:
    """Return the top-level modules that a file imports anywhere."""
    found = set()
    for node in ast.walk(ast.parse(source.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split('.')[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split('.')[0])
    return found


@pytest.fixture(scope='module')
def manifest() -> ElementTree.Element:
    return ElementTree.parse(ROOT / 'package.xml').getroot()


def test_manifest_names_the_package_and_its_version(manifest):
    assert manifest.get('format') == '3'
    assert manifest.findtext('name') == PACKAGE
    assert manifest.findtext('version') == dynamic_ofa_ros.__version__
    assert manifest.findtext('license') == 'Apache-2.0'
    assert manifest.findtext('export/build_type') == 'ament_cmake'
    assert manifest.findtext('member_of_group') == 'rosidl_interface_packages'


def declared(manifest: ElementTree.Element, *tags: str) -> set[str]:
    return {element.text or '' for tag in tags for element in manifest.iter(tag)}


def test_manifest_lists_every_imported_ros_package(manifest):
    sources = [*(ROOT / PACKAGE).rglob('*.py'), *(ROOT / 'launch').glob('*.py')]
    imported = set().union(*map(imports, sources)) & ROS_PACKAGES
    assert (
        {'launch', 'rclpy', 'vision_msgs'}
        <= imported
        <= declared(manifest, 'depend', 'exec_depend')
    )
    by_tests = set().union(*map(imports, (ROOT / 'test').rglob('*.py'))) & ROS_PACKAGES
    assert by_tests <= declared(manifest, 'depend', 'exec_depend', 'test_depend')


def test_cmake_generates_every_message_and_installs_every_executable():
    text = (ROOT / 'CMakeLists.txt').read_text(encoding='utf-8')
    assert set(re.findall(r'"msg/(\w+\.msg)"', text)) == {
        path.name for path in (ROOT / 'msg').iterdir()
    }
    assert set(re.findall(r'scripts/([\w-]+)', text)) == EXECUTABLES
    # The order matters, because our __init__.py must replace the empty one of the generator.
    assert text.index('rosidl_generate_interfaces(') < text.index('install(\n')


@pytest.mark.parametrize('name', sorted(EXECUTABLES))
def test_script_is_executable_and_imports_an_existing_function(name):
    script = ROOT / 'scripts' / name
    assert os.access(script, os.X_OK)
    imported = re.search(r'from (\S+) import (\w+)', script.read_text(encoding='utf-8'))
    assert imported is not None
    assert callable(getattr(importlib.import_module(imported[1]), imported[2]))


@pytest.fixture(scope='module')
def requirements() -> dict[str, set[str]]:
    """The requirements in setup.py, by extra; those of the base under ''."""
    pytest.importorskip('setuptools')
    asked = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('setuptools.setup', asked.update)
        patch.chdir(ROOT)
        runpy.run_path('setup.py')
    extras = {'': asked['install_requires'], **asked['extras_require']}
    return {
        name: {re.split('[<>=]', item)[0].lower() for item in items}
        for name, items in extras.items()
    }


def test_every_imported_distribution_is_required(requirements):
    required = set().union(*requirements.values())
    imported = {
        module
        for source in (ROOT / PACKAGE).rglob('*.py')
        for module in imports(source)
        if module not in sys.stdlib_module_names | ROS_PACKAGES | OPTIONAL | {PACKAGE}
    }
    assert 'torch' in imported
    assert {DISTRIBUTIONS.get(module, module) for module in imported} <= required


def test_the_base_is_small_and_replaces_no_package_of_the_system(requirements):
    assert requirements[''] == {'numpy', 'psutil', 'pyyaml', 'rich'}
    # Binary packages for the machine are from apt or NVIDIA, unless the user chooses an extra.
    assert requirements['jetson'] == {'ofa', 'onnx', 'safetensors'}
    wheels = {'onnxruntime', 'onnxruntime-gpu', 'opencv-python-headless', 'openvino', 'torch'}
    assert {name: found & wheels for name, found in requirements.items() if found & wheels} == {
        'cpu': {'onnxruntime', 'openvino'},
        'gpu': {'onnxruntime-gpu'},
        'pytorch': {'torch'},
        'imagenet': {'torch'},
        'opencv': {'opencv-python-headless'},
        'offline': {'torch'},
        'dev': {'onnxruntime', 'opencv-python-headless', 'openvino', 'torch'},
    }


def test_requirements_of_the_tests_are_pinned_and_every_requirement_is_explained(requirements):
    pinned = (ROOT / 'constraints.txt').read_text(encoding='utf-8').lower()
    for name in requirements[''] | requirements['dev'] | requirements['imagenet']:
        assert re.search(rf'^{re.escape(name)}==', pinned, re.MULTILINE), name
    explained = (ROOT / 'docs' / 'install.md').read_text(encoding='utf-8').lower()
    for name in set().union(*requirements.values()):
        assert f'`{name}`' in explained, name


@pytest.mark.parametrize('name', ['Dockerfile', 'Dockerfile.jetson'])
def test_dockerfile_uses_existing_files_and_extras(requirements, name):
    text = (ROOT / 'docker' / name).read_text(encoding='utf-8')
    copied = re.findall(r'^COPY (\S+) \S+$', text, re.MULTILINE)
    assert len(copied) == len(re.findall('^COPY', text, re.MULTILINE)) >= 3
    constraints = re.findall(r'-c src/dynamic_ofa_ros/(\S+)', text)
    assert constraints
    for path in [*copied, *constraints]:
        assert (ROOT / path).exists(), path
    ignored = (ROOT / '.dockerignore').read_text(encoding='utf-8').split()
    assert not {path.split('/')[0] for path in [*copied, *constraints]} & set(ignored)
    entrypoint = re.search(r'^ENTRYPOINT \["/(\S+)"\]$', text, re.MULTILINE)
    assert entrypoint is not None
    assert os.access(ROOT / 'docker' / entrypoint[1], os.X_OK)
    extras = re.findall(r'ARG EXTRAS=(\S+)|dynamic_ofa_ros\[([a-z,]+)\]', text)
    assert extras
    for extra in ','.join(''.join(found) for found in extras).split(','):
        assert extra in requirements


@pytest.mark.long
@pytest.mark.parametrize('version', ['3.10', '3.13'])
def test_every_pinned_version_exists_for_the_oldest_and_the_newest_python(
    version: str, tmp_path: Path
) -> None:
    pins = []
    for line in (ROOT / 'constraints.txt').read_text(encoding='utf-8').splitlines():
        requirement, _, marker = line.partition(';')
        if not line.startswith('#') and (
            not marker or Marker(marker).evaluate({'python_version': version})
        ):
            pins.append(requirement)
    command = [sys.executable, '-m', 'pip', 'install', '-q', '--dry-run', '--no-deps']
    target = ['--target', str(tmp_path), '--python-version', version, '--only-binary=:all:']
    done = subprocess.run([*command, *target, *pins], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_installation_document_lists_every_extra(requirements):
    text = (ROOT / 'docs' / 'install.md').read_text(encoding='utf-8')
    section = text.partition('## Extras\n')[2].partition('\n## ')[0]
    listed = re.findall(r'^- `(\w+)`', section, re.MULTILINE)
    assert sorted(listed) == sorted(set(requirements) - {''})
    for extras in re.findall(r'dynamic_ofa_ros\[([\w,]+)\]', text):
        assert set(extras.split(',')) <= set(requirements)


# Keys that `rosdep resolve` knows for Ubuntu 22.04 and 24.04.
ROSDEP_KEYS = {
    'python3-numpy', 'python3-opencv', 'python3-psutil', 'python3-pytest', 'python3-rich',
    'python3-yaml',
}  # fmt: skip


def test_manifest_names_only_keys_that_rosdep_resolves(manifest, requirements):
    keys = {
        element.text or ''
        for element in manifest
        if element.tag.endswith('depend') and (element.text or '').startswith('python')
    }
    assert keys == ROSDEP_KEYS
    known = {'python3-opencv', 'python3-pytest', 'python3-yaml'}
    by_apt = {key.removeprefix('python3-') for key in keys - known}
    assert by_apt == requirements[''] - {'pyyaml'}


def test_parameter_file_has_every_parameter_with_its_default():
    document = yaml.safe_load((ROOT / 'config' / 'classifier.yaml').read_text(encoding='utf-8'))
    found = dict(flattened(document['/**']['ros__parameters']))
    assert found == {spec.name: spec.default for spec in CLASSIFIER}
    for spec in CLASSIFIER:
        assert type(found[spec.name]) is type(spec.default), spec.name


def flattened(tree: dict, prefix: str = ''):
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from flattened(value, f'{prefix}{key}.')
        else:
            yield prefix + key, value


def test_wheel_contains_modules_shared_files_and_commands(tmp_path):
    pytest.importorskip('setuptools')
    source = tmp_path / 'source'
    source.mkdir()
    for name in ('setup.py', 'pyproject.toml', 'package.xml', 'README.md'):
        if (ROOT / name).is_file():
            shutil.copy(ROOT / name, source)
    for name in (PACKAGE, 'config', 'launch', 'msg', 'resource'):
        ignore = shutil.ignore_patterns('__pycache__')
        shutil.copytree(ROOT / name, source / name, ignore=ignore)
    build = [sys.executable, 'setup.py', '--quiet', 'bdist_wheel', '--dist-dir', str(tmp_path)]
    result = subprocess.run(build, cwd=source, capture_output=True, text=True, timeout=120)
    if 'invalid command' in result.stderr:
        pytest.skip('this version of setuptools cannot build wheels')
    assert result.returncode == 0, result.stderr
    (wheel,) = tmp_path.glob('*.whl')
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (entry_points,) = (name for name in names if name.endswith('entry_points.txt'))
        commands = archive.read(entry_points).decode()
    data = f'{wheel.name.rsplit("-", 3)[0]}.data/data/share/{PACKAGE}'
    for module in (
        'nodes/classifier_node.py', 'nodes/load.py', 'runtime/engines/pytorch.py',
        'monitor/page/index.html', 'monitor/page/monitor.css', 'monitor/page/monitor.js',
        'monitor/page/icon.svg',
    ):  # fmt: skip
        assert f'{PACKAGE}/{module}' in names
    for file in ('package.xml', 'msg/Telemetry.msg', 'launch/demo.launch.py'):
        assert f'{data}/{file}' in names
    shipped = [path for path in (ROOT / 'resource').rglob('*') if path.is_file()]
    for path in shipped:
        assert f'{data}/{path.relative_to(ROOT).as_posix()}' in names
    assert {line.split(' = ')[0] for line in commands.splitlines() if ' = ' in line} == EXECUTABLES
