"""`rclpy.task`: futures."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from typing import Any

from dynamic_ofa_ros.rclpy_zenoh.exceptions import MissingFeatureError


class Future:
    """A result that arrives later; callbacks run in the thread that sets it."""

    def __init__(self, *, executor: Any = None) -> None:
        self._lock = threading.Lock()
        self._is_done = False
        self._is_cancelled = False
        self._result: Any = None
        self._exception: BaseException | None = None
        self._callbacks: list[Callable[[Future], None]] = []
        self._executor = executor

    def done(self) -> bool:
        """Return whether there is a result, an exception or a cancellation."""
        return self._is_done or self._is_cancelled

    def cancelled(self) -> bool:
        """Return whether the future was cancelled."""
        return self._is_cancelled

    def cancel(self) -> None:
        """Cancel the future unless it is done."""
        self._finish(is_cancelled=True)

    def result(self) -> Any:
        """Return the result, None if there is none yet; raises the exception that was set."""
        if self._exception is not None:
            raise self._exception
        return self._result

    def exception(self) -> BaseException | None:
        """Return the exception that was set."""
        return self._exception

    def set_result(self, result: Any) -> None:
        """Set the result."""
        self._finish(result=result)

    def set_exception(self, exception: BaseException) -> None:
        """Set an exception."""
        self._finish(exception=exception)

    def _finish(
        self,
        *,
        result: Any = None,
        exception: BaseException | None = None,
        is_cancelled: bool = False,
    ) -> None:
        with self._lock:
            if self.done() and is_cancelled:
                return
            self._result = result
            self._exception = exception
            self._is_cancelled = is_cancelled
            self._is_done = not is_cancelled
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback(self)
        if self._executor is not None:
            self._executor.wake()

    def add_done_callback(self, callback: Callable[[Future], None]) -> None:
        """Call `callback` with this future when it is done (now, if it is already)."""
        with self._lock:
            if not self.done():
                self._callbacks.append(callback)
                return
        callback(self)

    def __await__(self) -> Generator[Any, None, Any]:
        raise MissingFeatureError('Awaiting a future')


class Task(Future):
    """Not available: coroutines are not part of the subset."""

    def __init__(self, *_: Any, **__: Any) -> None:
        raise MissingFeatureError('rclpy.task.Task')
