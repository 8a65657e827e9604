"""The parameters of one node: descriptions, values and changes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rcl_interfaces.msg import Parameter as ParameterMessage
from rcl_interfaces.srv import (
    DescribeParameters,
    GetParameters,
    ListParameters,
    SetParametersAtomically,
)
from rclpy.callback_groups import CallbackGroup
from rclpy.parameter import Parameter

from dynamic_ofa_ros.monitor.records import clean

ANSWER_TIMEOUT_S = 5.0
MAX_PENDING = 16
"""Largest number of unanswered requests; further requests are rejected."""

MAX_TEXT = 256
CHOICES = 'One of: '
"""Prefix of the allowed values of a string in the descriptors of this package."""

HIDDEN = ('qos_overrides.', 'use_sim_time', 'start_type_description_service')
KINDS = {
    Parameter.Type.BOOL.value: 'bool',
    Parameter.Type.INTEGER.value: 'int',
    Parameter.Type.DOUBLE.value: 'float',
    Parameter.Type.STRING.value: 'str',
}

Answer = Callable[[bool, str], None]
"""Called with whether a value was accepted and, if not, the reason."""


class ParameterClient:
    """Reads and sets the parameters of a node. Use it on the executor's thread.

    on_parameters: called with all writable parameters, by name, each time they were read.
    """

    def __init__(
        self, node: Any, name: str, on_parameters: Callable[[dict[str, dict[str, Any]]], None]
    ) -> None:
        self._node = node
        self._on_parameters = on_parameters
        self._pending: dict[Any, tuple[Any, float, Answer | None]] = {}
        self._is_asked = False
        group = _GroupWhilePending(self._pending)
        self._list, self._describe, self._get, self._set = (
            node.create_client(kind, f'{name}/{service}', callback_group=group)
            for kind, service in (
                (ListParameters, 'list_parameters'),
                (DescribeParameters, 'describe_parameters'),
                (GetParameters, 'get_parameters'),
                (SetParametersAtomically, 'set_parameters_atomically'),
            )
        )

    def update(self) -> None:
        """Request the parameters once the node is available; cancel requests that timed out."""
        now_s = time.monotonic()
        for future, (client, deadline_s, answer) in list(self._pending.items()):
            if now_s > deadline_s:
                del self._pending[future]
                client.remove_pending_request(future)
                self._is_asked = False
                if answer is not None:
                    answer(False, f'no answer from the node within {ANSWER_TIMEOUT_S:g} s')
        if not self._is_asked and self._list.service_is_ready() and self._get.service_is_ready():
            self._is_asked = True
            self._call(self._list, ListParameters.Request(), self._on_names)

    def ask_again(self) -> None:
        """Request all parameters again at the next update, because the node was restarted."""
        self._is_asked = False

    def set(self, parameter: Mapping[str, Any], value: Any, answer: Answer) -> None:
        """Set a parameter, given by its description; `answer` is called once."""
        problem = problem_of(parameter, value)
        if problem:
            answer(False, problem)
        elif len(self._pending) >= MAX_PENDING:
            answer(False, 'too many changes at once')
        elif not self._set.service_is_ready():
            answer(False, 'the node does not answer')
        else:
            kind = Parameter.Type(parameter['type'])
            if kind is Parameter.Type.DOUBLE:
                value = float(value)
            message = Parameter(parameter['name'], kind, value).to_parameter_msg()
            request = SetParametersAtomically.Request(parameters=[message])

            def finish(response: Any) -> None:
                result = response.result
                answer(bool(result.successful), str(result.reason))

            self._call(self._set, request, finish, answer)

    def close(self) -> None:
        """Cancel all requests."""
        for client in (self._list, self._describe, self._get, self._set):
            self._node.destroy_client(client)
        pending = list(self._pending.values())
        self._pending.clear()
        for _, _, answer in pending:
            if answer is not None:
                answer(False, 'the node has stopped')

    def _call(
        self,
        client: Any,
        request: Any,
        finish: Callable[[Any], None],
        answer: Answer | None = None,
    ) -> None:
        future = client.call_async(request)
        self._pending[future] = client, time.monotonic() + ANSWER_TIMEOUT_S, answer

        def done(future: Any) -> None:
            if self._pending.pop(future, None) is not None and future.result() is not None:
                finish(future.result())

        future.add_done_callback(done)

    def _on_names(self, response: Any) -> None:
        names = sorted(name for name in response.result.names if not name.startswith(HIDDEN))
        request = DescribeParameters.Request(names=names)
        self._call(self._describe, request, lambda found: self._on_descriptors(found.descriptors))

    def _on_descriptors(self, descriptors: Sequence[Any]) -> None:
        live = [descriptor for descriptor in descriptors if not descriptor.read_only]
        request = GetParameters.Request(names=[descriptor.name for descriptor in live])

        def finish(response: Any) -> None:
            if len(response.values) != len(live):  # one of them no longer exists
                self._is_asked = False
                return
            pairs = zip(live, response.values, strict=True)
            found = (described(descriptor, value) for descriptor, value in pairs)
            self._on_parameters({item['name']: item for item in found if item is not None})

        self._call(self._get, request, finish)


class _GroupWhilePending(CallbackGroup):  # type: ignore[misc]  # rclpy is untyped
    """A callback group that the executor ignores while there are no requests.

    The executor takes most of its time to wait for many clients.
    """

    def __init__(self, pending: Mapping[Any, Any]) -> None:
        super().__init__()
        self._pending = pending

    def can_execute(self, entity: Any) -> bool:
        return bool(self._pending)

    def beginning_execution(self, entity: Any) -> bool:
        return True

    def ending_execution(self, entity: Any) -> None:
        pass


def described(descriptor: Any, value: Any) -> dict[str, Any] | None:
    """Return a parameter in the format of pages; None for lists and for unset parameters."""
    kind = KINDS.get(value.type)
    if kind is None:
        return None
    ranges = [*descriptor.floating_point_range, *descriptor.integer_range]
    constraints = descriptor.additional_constraints
    choices = constraints[len(CHOICES) :].split(', ') if constraints.startswith(CHOICES) else []
    return {
        'name': descriptor.name,
        'kind': kind,
        'type': value.type,
        'value': clean(value_of(descriptor.name, value)),
        'lowest': ranges[0].from_value if ranges else None,
        'highest': ranges[0].to_value if ranges else None,
        'choices': choices,
        'description': descriptor.description,
    }


def value_of(name: str, value: Any) -> Any:
    """Return the Python value of a rcl_interfaces/ParameterValue."""
    return Parameter.from_parameter_msg(ParameterMessage(name=name, value=value)).value


def problem_of(parameter: Mapping[str, Any], value: Any) -> str:
    """Return why a value from a page has the wrong type for a parameter, or ''.

    The node itself checks whether the value is allowed.
    """
    kind = parameter['kind']
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    is_fit = {
        'bool': isinstance(value, bool),
        'int': is_number and isinstance(value, int) and -(2**63) <= value < 2**63,
        'float': is_number and abs(value) <= 1e300 and math.isfinite(value),
        'str': isinstance(value, str) and len(value) <= MAX_TEXT and _is_encodable(value),
    }[kind]
    words = {'bool': 'true or false', 'int': 'an integer', 'float': 'a number', 'str': 'a text'}
    return '' if is_fit else f'{parameter["name"]} must be {words[kind]}'


def _is_encodable(text: str) -> bool:
    """Return whether a text is valid UTF-8; JSON can contain half a character."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
