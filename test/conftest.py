"""What every test relies on: the packages of the extra `dev`, and logs that pytest can read."""

from __future__ import annotations

import importlib.util
import logging

import pytest

NEEDED = {
    'cv2': 'opencv-python-headless', 'hypothesis': 'hypothesis', 'matplotlib': 'matplotlib',
    'ofa': 'ofa', 'onnx': 'onnx', 'onnxruntime': 'onnxruntime', 'psutil': 'psutil',
    'pymoo': 'pymoo', 'rich': 'rich', 'safetensors': 'safetensors', 'scipy': 'scipy',
    'torch': 'torch', 'yaml': 'PyYAML',
}  # fmt: skip


def pytest_sessionstart(session: pytest.Session) -> None:
    """End at once, with the remedy: launch_testing's plugin ends at the first failed import."""
    missing = [name for module, name in NEEDED.items() if not importlib.util.find_spec(module)]
    if missing:
        raise pytest.UsageError(
            f"the tests need {', '.join(missing)}; install them with: pip install '.[dev]' "
            '(docs/install.md says how beside a ROS 2 of the system)'
        )


@pytest.fixture(autouse=True)
def readable_logs() -> None:
    """Let `caplog` see the package's log beside ROS 2's launch.

    Once imported, by a test or by launch_testing's plugin, `launch` makes every new logger one
    that does not propagate.
    """
    logging.setLoggerClass(logging.Logger)
    for name, logger in list(logging.root.manager.loggerDict.items()):
        is_ours = name.split('.')[0] == 'dynamic_ofa_ros' and isinstance(logger, logging.Logger)
        if is_ours and type(logger) is not logging.Logger:
            logger.propagate = True
