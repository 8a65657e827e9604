"""The package's descriptions agree with each other and with what is there."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml

import dynamic_ofa_ros
from dynamic_ofa_ros.nodes.parameters import CLASSIFIER

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = 'dynamic_ofa_ros'
EXECUTABLES = {'camera_node', 'classifier_node', 'contention_node', 'dynamic-ofa'}
ROS_PACKAGES = {
    'ament_index_python', 'builtin_interfaces', 'cv_bridge', 'diagnostic_msgs', 'geometry_msgs',
    'launch', 'launch_ros', 'rcl_interfaces', 'rclpy', 'sensor_msgs', 'std_msgs', 'std_srvs',
    'vision_msgs',
}  # fmt: skip


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


def test_manifest_lists_every_ros_package_that_is_imported(manifest):
    declared = {
        element.text for tag in ('depend', 'exec_depend') for element in manifest.iter(tag)
    }
    sources = [*(ROOT / PACKAGE).rglob('*.py'), *(ROOT / 'launch').glob('*.py')]
    imported = set()
    for source in sources:
        for node in ast.walk(ast.parse(source.read_text(encoding='utf-8'))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split('.')[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported.add(node.module.split('.')[0])
    assert imported & ROS_PACKAGES <= declared


def test_cmake_generates_every_message_and_installs_every_executable():
    text = (ROOT / 'CMakeLists.txt').read_text(encoding='utf-8')
    assert set(re.findall(r'"msg/(\w+\.msg)"', text)) == {
        path.name for path in (ROOT / 'msg').iterdir()
    }
    assert set(re.findall(r'scripts/([\w-]+)', text)) == EXECUTABLES
    # The order matters: the generator installs an empty __init__.py, which ours must replace.
    assert text.index('rosidl_generate_interfaces(') < text.index('install(\n')


@pytest.mark.parametrize('name', sorted(EXECUTABLES))
def test_script_can_be_run_and_imports_what_is_there(name):
    script = ROOT / 'scripts' / name
    assert os.access(script, os.X_OK)
    module = re.search(r'from (\S+) import main', script.read_text(encoding='utf-8'))
    assert module is not None
    assert (ROOT / f'{module[1].replace(".", "/")}.py').is_file()


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


def test_readme_has_the_parameter_table():
    from dynamic_ofa_ros.nodes.parameters import markdown_table

    readme = ROOT / 'README.md'
    text = readme.read_text(encoding='utf-8') if readme.is_file() else ''
    match = re.search(r'<!-- parameters:begin -->\n(.*?)<!-- parameters:end -->', text, re.DOTALL)
    if match is None:
        pytest.skip('README.md has no parameter table')
    assert match[1].strip() == markdown_table()


def test_wheel_holds_modules_shared_files_and_commands(tmp_path):
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
        pytest.skip('this setuptools builds no wheels by itself')
    assert result.returncode == 0, result.stderr
    (wheel,) = tmp_path.glob('*.whl')
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (entry_points,) = (name for name in names if name.endswith('entry_points.txt'))
        commands = archive.read(entry_points).decode()
    data = f'{wheel.name.rsplit("-", 3)[0]}.data/data/share/{PACKAGE}'
    for module in ('nodes/classifier_node.py', 'nodes/load.py', 'runtime/engines/pytorch.py'):
        assert f'{PACKAGE}/{module}' in names
    for file in ('package.xml', 'msg/Telemetry.msg', 'launch/demo.launch.py'):
        assert f'{data}/{file}' in names
    shipped = [path for path in (ROOT / 'resource').rglob('*') if path.is_file()]
    for path in shipped:
        assert f'{data}/{path.relative_to(ROOT).as_posix()}' in names
    assert {line.split(' = ')[0] for line in commands.splitlines() if ' = ' in line} == EXECUTABLES
