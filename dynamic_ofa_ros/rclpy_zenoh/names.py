"""Names of topics, services, nodes and parameters: validity, expansion, remapping."""

from __future__ import annotations

import re
from dataclasses import dataclass

from dynamic_ofa_ros.rclpy_zenoh.exceptions import (
    InvalidNamespaceException,
    InvalidNodeNameException,
    InvalidParameterException,
    InvalidServiceNameException,
    InvalidTopicNameException,
)

NODE_NAME_MAX = 255
TOPIC_NAME_MAX = 247


def validate_node_name(name: str) -> None:
    """Raise InvalidNodeNameException unless `name` is a valid base name of a node."""
    if not name:
        raise InvalidNodeNameException(name, 'node name must not be empty', 0)
    if match := re.search(r'[^A-Za-z0-9_]', name):
        raise InvalidNodeNameException(
            name,
            'node name must not contain characters other than alphanumerics or _',
            match.start(),
        )
    if name[0].isdigit():
        raise InvalidNodeNameException(name, 'node name must not start with a number', 0)
    if len(name) > NODE_NAME_MAX:
        raise InvalidNodeNameException(name, 'node name must not be too long', NODE_NAME_MAX)


def validate_namespace(namespace: str) -> None:
    """Raise InvalidNamespaceException unless `namespace` is absolute and valid."""
    problem = None
    if not namespace.startswith('/'):
        problem = ('namespace must be absolute, it must lead with a /', 0)
    elif namespace != '/':
        problem = _full_name_problem(namespace, 'namespace')
    if problem:
        raise InvalidNamespaceException(namespace, *problem)


def _full_name_problem(name: str, kind: str) -> tuple[str, int] | None:
    if name.endswith('/'):
        return f'{kind} must not end with a forward slash', len(name) - 1
    if match := re.search(r'[^A-Za-z0-9_/]', name):
        message = f'{kind} must not contain characters other than alphanumerics, _ or /'
        return message, match.start()
    if match := re.search('//', name):
        return f'{kind} must not contain repeated forward slashes', match.start()
    if match := re.search(r'/[0-9]', name):
        return f'{kind} must not have tokens that start with a number', match.start() + 1
    if len(name) > TOPIC_NAME_MAX:
        return f'{kind} must not be longer than {TOPIC_NAME_MAX} characters', TOPIC_NAME_MAX
    return None


def expand(name: str, node_name: str, namespace: str, *, is_service: bool = False) -> str:
    """Return the fully qualified form of a topic or service name (no remapping).

    `~/x` is private to the node, `x` relative to its namespace, `/x` absolute. Raises
    InvalidTopicNameException or InvalidServiceNameException.
    """
    error = InvalidServiceNameException if is_service else InvalidTopicNameException
    kind = 'service name' if is_service else 'topic name'
    if not name:
        raise error(name, f'{kind} must not be empty', 0)
    if name[0].isdigit():
        raise error(name, f'{kind} token must not start with a number', 0)
    expanded = name.replace('{node}', node_name).replace('{ns}', namespace)
    expanded = expanded.replace('{namespace}', namespace)
    prefix = namespace.rstrip('/')
    if expanded == '~' or expanded.startswith('~/'):
        expanded = f'{prefix}/{node_name}{expanded[1:]}'
    elif not expanded.startswith('/'):
        expanded = f'{prefix}/{expanded}'
    if '~' in expanded:
        raise error(name, "tilde (~) must be the first character and be followed by '/'", 0)
    if expanded == '/':
        raise error(name, f'{kind} must not be the root', 0)
    if problem := _full_name_problem(expanded, kind):
        message, index = problem
        raise error(name, message, max(0, min(index, len(name) - 1)))
    return expanded


def validate_parameter_name(name: str) -> None:
    """Raise InvalidParameterException for an empty name."""
    if not name:
        raise InvalidParameterException(name)


@dataclass(frozen=True)
class Remap:
    """One rule `[node:]from:=to`; `__node`, `__name` and `__ns` rename the node itself."""

    source: str
    target: str
    node: str | None = None

    @classmethod
    def parse(cls, text: str) -> Remap:
        """Parse a rule; ValueError if it is none."""
        match, separator, target = text.partition(':=')
        if not separator or not match or not target:
            raise ValueError(f"Couldn't parse remap rule: '{text}'. Expected: from:=to")
        node, colon, source = match.partition(':')
        if colon and not source.startswith('//'):
            return cls(source, target, node.lstrip('/') or None)
        return cls(match, target)

    def applies_to(self, node_name: str) -> bool:
        """Return whether the rule is for a node of this (original) name."""
        return self.node is None or self.node == node_name


def remap_name(
    fully_qualified: str, rules: tuple[Remap, ...], node_name: str, namespace: str
) -> str:
    """Return the name after the first rule that matches it."""
    for rule in rules:
        if rule.source.startswith('__') or not rule.applies_to(node_name):
            continue
        source = re.sub(r'^ros(topic|service)://', '', rule.source)
        if expand(source, node_name, namespace) == fully_qualified:
            return expand(rule.target, node_name, namespace)
    return fully_qualified


def renamed_node(name: str, namespace: str, rules: tuple[Remap, ...]) -> tuple[str, str]:
    """Return the node's name and namespace after `__node:=` and `__ns:=`."""
    new_name, new_namespace = name, namespace
    for rule in reversed(rules):
        if not rule.applies_to(name):
            continue
        if rule.source in ('__node', '__name'):
            new_name = rule.target
        elif rule.source == '__ns':
            new_namespace = rule.target
    return new_name, new_namespace
