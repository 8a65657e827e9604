"""Installs the package with pip: for machines without ROS 2 and for virtual environments.

On a ROS 2 machine colcon builds it from CMakeLists.txt; this file is not used there.
"""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent
PACKAGE = 'dynamic_ofa_ros'
SHARED_FOLDERS = ('config', 'launch', 'msg', 'resource')


def version() -> str:
    """Return the version that package.xml states, the one place for it."""
    text = (ROOT / 'package.xml').read_text(encoding='utf-8')
    match = re.search(r'<version>(.*?)</version>', text)
    if match is None:
        raise ValueError('package.xml states no version')
    return match[1]


def shared_files() -> list[tuple[str, list[str]]]:
    """Return what colcon installs under share/, by folder."""
    folders: dict[str, list[str]] = {'': ['package.xml']}
    for name in SHARED_FOLDERS:
        for path in sorted((ROOT / name).rglob('*')):
            relative = path.relative_to(ROOT)
            if path.is_file() and '__pycache__' not in relative.parts:
                folders.setdefault(relative.parent.as_posix(), []).append(relative.as_posix())
    return [(f'share/{PACKAGE}/{folder}'.rstrip('/'), files) for folder, files in folders.items()]


setup(
    name=PACKAGE,
    version=version(),
    description='Runtime switching between the sub-networks of a Once-for-all supernet, for ROS 2',
    license='Apache-2.0',
    python_requires='>=3.10',
    packages=find_packages(include=[PACKAGE, f'{PACKAGE}.*']),
    data_files=shared_files(),
    # The exact versions that are tested together: constraints.txt.
    install_requires=[
        'matplotlib',
        'numpy>=1.24',
        'ofa',
        'onnx',
        'onnxruntime',
        'opencv-python-headless',
        'psutil',
        'pymoo',
        'pyyaml',
        'rich',
        'safetensors',
        'scipy',
        'torch',
    ],
    extras_require={
        'gpu': ['nvidia-ml-py'],
        'ray': ['ray'],
        'dev': ['hypothesis', 'mypy', 'pytest', 'ruff', 'types-PyYAML'],
    },
    entry_points={
        'console_scripts': [
            f'dynamic-ofa = {PACKAGE}.cli.main:main',
            f'camera_node = {PACKAGE}.nodes.camera_node:main',
            f'classifier_node = {PACKAGE}.nodes.classifier_node:main',
            f'contention_node = {PACKAGE}.nodes.contention_node:main',
        ]
    },
)
