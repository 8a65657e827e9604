"""The tests can be collected by `colcon test`, and read logs although `launch` is imported.

The pytest plugin of launch_testing imports every test file by its name only, and ends the session
if a file raises an exception, even that of a skip.
"""

from __future__ import annotations

import ast
import logging
from collections import defaultdict
from pathlib import Path

import pytest

TEST = Path(__file__).resolve().parent
FILES = sorted(TEST.rglob('test_*.py'))
SKIPS = {'skip', 'importorskip', 'exit', 'xfail'}


def test_no_two_test_files_have_the_same_name():
    folders = defaultdict(list)
    for file in FILES:
        folders[file.name].append(file.parent.relative_to(TEST).as_posix())
    assert len(FILES) > 50
    assert {name: found for name, found in folders.items() if len(found) > 1} == {}


def test_no_test_file_skips_while_it_is_imported():
    found = []
    for file in FILES:
        for node in statements_of_import(ast.parse(file.read_text(encoding='utf-8'))):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in SKIPS
                and ast.unparse(node.func.value) == 'pytest'
            ):
                found.append(f'{file.relative_to(TEST)}:{node.lineno}')
    assert found == []


def statements_of_import(node: ast.AST):
    """Yield the nodes that run when a module is imported: all except the bodies of functions."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield child
            yield from statements_of_import(child)


class SilentLogger(logging.Logger):
    """A logger that does not propagate, like `launch.logging.LaunchLogger`."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.propagate = False


@pytest.fixture(scope='module')
def made_beside_launch():
    """A logger that the package creates after `launch` was imported."""
    before = logging.getLoggerClass()
    logging.setLoggerClass(SilentLogger)
    logger = logging.getLogger('dynamic_ofa_ros.made_beside_launch')
    yield logger
    logging.setLoggerClass(before)


@pytest.mark.parametrize('when', ['made before the test', 'made by the test'])
def test_logs_are_read_although_launch_is_imported(made_beside_launch, caplog, when):
    name = made_beside_launch.name
    logger = logging.getLogger(name if when == 'made before the test' else f'{name}.later')
    logger.warning('a warning')
    assert 'a warning' in caplog.text
