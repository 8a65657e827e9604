"""What `install` registers, and that a sourced ROS 2 wins."""

import os
import subprocess
import sys

import pytest
from rclpy_zenoh.support import REPOSITORY

from dynamic_ofa_ros.rclpy_zenoh import install, is_installed, real_ros_is_available


def run(code, *folders):
    path = os.pathsep.join([*map(str, folders), str(REPOSITORY)])
    return subprocess.run(
        [sys.executable, '-c', code], cwd=REPOSITORY, capture_output=True, text=True,
        env={**os.environ, 'PYTHONPATH': path},
    )  # fmt: skip


def test_installing_twice_changes_nothing():
    import rclpy

    assert install()
    assert is_installed()
    assert not real_ros_is_available()
    assert sys.modules['rclpy'] is rclpy


def test_ordinary_user_code_imports():
    code = """
from dynamic_ofa_ros.rclpy_zenoh import install
assert install()
import rclpy
import rclpy.node
import sensor_msgs.msg
import std_msgs.msg as messages
from builtin_interfaces.msg import Time
from cv_bridge import CvBridge, CvBridgeError
from diagnostic_msgs.msg import DiagnosticArray
from dynamic_ofa_ros.msg import Constraints, Telemetry
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.msg import FloatingPointRange, ParameterDescriptor, SetParametersResult
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup, ReentrantCallbackGroup
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, qos_profile_sensor_data
from rclpy.signals import SignalHandlerOptions
from rclpy.task import Future
from sensor_msgs.msg import *
from vision_msgs.msg import Classification, LabelInfo, ObjectHypothesis, VisionInfo
assert CompressedImage().format == ''
assert messages.String is std_msgs.msg.String if 'std_msgs' in dir() else True
print(rclpy.ok(), Node.__name__)
"""
    result = run(code)
    assert result.returncode == 0, result.stderr
    assert result.stdout == 'False Node\n'


def test_a_real_rclpy_wins(tmp_path):
    package = tmp_path / 'rclpy'
    package.mkdir()
    (package / '__init__.py').write_text("origin = 'real'\n")
    code = (
        'from dynamic_ofa_ros.rclpy_zenoh import install; print(install())\n'
        'import rclpy; print(rclpy.origin)'
    )
    assert run(code, tmp_path).stdout == 'False\nreal\n'


def test_a_broken_rclpy_does_not_win(tmp_path):
    package = tmp_path / 'rclpy'
    package.mkdir()
    (package / '__init__.py').write_text("raise ImportError('built for another Python')\n")
    code = (
        'from dynamic_ofa_ros.rclpy_zenoh import install; print(install())\n'
        'from rclpy.node import Node'
    )
    result = run(code, tmp_path)
    assert result.stdout == 'True\n', result.stderr


@pytest.mark.parametrize(
    'statement',
    [
        'import rclpy.action',
        'from rclpy.lifecycle import LifecycleNode',
        'from rclpy.node import Absent',
        'import rclpy; rclpy.spin_forever',
        'from rclpy.executors import MultiThreadedExecutor; MultiThreadedExecutor()',
    ],
)
def test_what_is_missing_is_named(statement):
    with pytest.raises(NotImplementedError, match='rclpy') as failure:
        exec(statement, {})
    assert 'rclpy-zenoh' in str(failure.value)


def test_unknown_messages_are_ordinary_import_errors():
    with pytest.raises(ImportError):
        exec('from std_msgs.msg import Sting', {})
    with pytest.raises(ImportError):
        exec('import std_msgs.action', {})
    import rclpy

    assert getattr(rclpy, '__wrapped__', None) is None
