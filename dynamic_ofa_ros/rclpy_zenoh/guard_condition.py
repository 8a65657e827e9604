"""`rclpy.guard_condition`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class GuardCondition:
    """Runs a callback in the executor after any thread has triggered it."""

    def __init__(
        self,
        callback: Callable[[], Any] | None,
        callback_group: Any,
        *,
        context: Any = None,
        wake: Callable[[], None] = lambda: None,
    ) -> None:
        self.callback = callback
        self.callback_group = callback_group
        self._wake = wake
        self._is_triggered = False

    def trigger(self) -> None:
        """Ask for the callback."""
        self._is_triggered = True
        self._wake()

    def is_ready(self) -> bool:
        """Return whether the callback was asked for."""
        return self._is_triggered

    def execute(self) -> None:
        """Call back."""
        self._is_triggered = False
        if self.callback is not None:
            self.callback()

    def destroy(self) -> None:
        """Forget the callback."""
        self._is_triggered = False
        self.callback = None
