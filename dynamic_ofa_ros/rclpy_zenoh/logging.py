"""`rclpy.logging`: ROS's log lines on stderr, and on `/rosout` through the node of that name."""

from __future__ import annotations

import inspect
import os
import sys
import threading
import time
from collections.abc import Callable
from enum import IntEnum
from typing import Any

# format, arguments: [INFO] [1700000000.123456789] [node]: text
DEFAULT_FORMAT = '[{severity}] [{time}] [{name}]: {message}'


class LoggingSeverity(IntEnum):
    """Severity of a log line."""

    UNSET = 0
    DEBUG = 10
    INFO = 20
    WARN = 30
    ERROR = 40
    FATAL = 50


_COLOURS = {
    LoggingSeverity.DEBUG: '\x1b[32m',
    LoggingSeverity.WARN: '\x1b[33m',
    LoggingSeverity.ERROR: '\x1b[31m',
    LoggingSeverity.FATAL: '\x1b[31m',
}

_lock = threading.RLock()
_levels: dict[str, LoggingSeverity] = {}
_rosout: dict[str, Callable[[LoggingSeverity, str, str, Any], None]] = {}
_console_enabled = True


class RcutilsLogger:
    """A named logger; `get_child` appends to the name with a dot."""

    def __init__(self, name: str = '') -> None:
        self.name = name
        # State of throttle_duration_sec, once and skip_first, per calling line.
        self._callers: dict[tuple[str, int], float] = {}
        self._seen: set[tuple[str, int]] = set()

    def get_child(self, name: str) -> RcutilsLogger:
        """Return the logger `<this name>.<name>`."""
        if not name:
            raise ValueError('Child logger name must not be empty.')
        return RcutilsLogger(f'{self.name}.{name}' if self.name else name)

    def set_level(self, level: LoggingSeverity | int) -> None:
        """Set the lowest severity that is logged by this logger and its children."""
        set_logger_level(self.name, level)

    def get_effective_level(self) -> LoggingSeverity:
        """Return the lowest severity that is logged."""
        return get_logger_effective_level(self.name)

    def is_enabled_for(self, severity: LoggingSeverity | int) -> bool:
        """Return whether a line of this severity is logged."""
        return severity >= self.get_effective_level()

    def log(self, message: str, severity: LoggingSeverity | int, **kwargs: Any) -> bool:
        """Log a message; return whether it was.

        `throttle_duration_sec` (with `throttle_time_source_type`), `once` and `skip_first` act per
        calling line.
        """
        severity = LoggingSeverity(severity)
        unknown = set(kwargs) - {
            'throttle_duration_sec', 'throttle_time_source_type', 'once', 'skip_first', 'name',
        }  # fmt: skip
        if unknown:
            raise TypeError(f'Unexpected keyword arguments: {sorted(unknown)}')
        if not self.is_enabled_for(severity):
            return False
        frame = _calling_frame()
        if kwargs and not self._passes(frame, kwargs):
            return False
        _emit(severity, str(kwargs.get('name') or self.name), str(message), frame)
        return True

    def _passes(self, frame: Any, kwargs: dict[str, Any]) -> bool:
        caller = (frame.f_code.co_filename, frame.f_lineno)
        if kwargs.get('skip_first') and caller not in self._seen:
            self._seen.add(caller)
            return False
        if kwargs.get('once'):
            if caller in self._callers:
                return False
            self._callers[caller] = 0.0
        throttle_s = kwargs.get('throttle_duration_sec')
        if throttle_s is not None:
            source = kwargs.get('throttle_time_source_type')
            now_s = source.now_ns() / 1e9 if source is not None else time.monotonic()
            last_s = self._callers.get(caller)
            if last_s is not None and 0 <= now_s - last_s < throttle_s:
                return False
            self._callers[caller] = now_s
        return True

    def debug(self, message: str, **kwargs: Any) -> bool:
        """Log for those who search a fault."""
        return self.log(message, LoggingSeverity.DEBUG, **kwargs)

    def info(self, message: str, **kwargs: Any) -> bool:
        """Log what a user wants to see."""
        return self.log(message, LoggingSeverity.INFO, **kwargs)

    def warning(self, message: str, **kwargs: Any) -> bool:
        """Log what may be wrong."""
        return self.log(message, LoggingSeverity.WARN, **kwargs)

    def warn(self, message: str, **kwargs: Any) -> bool:
        """Log what may be wrong."""
        return self.log(message, LoggingSeverity.WARN, **kwargs)

    def error(self, message: str, **kwargs: Any) -> bool:
        """Log what went wrong."""
        return self.log(message, LoggingSeverity.ERROR, **kwargs)

    def fatal(self, message: str, **kwargs: Any) -> bool:
        """Log what ends the program."""
        return self.log(message, LoggingSeverity.FATAL, **kwargs)


def _calling_frame() -> Any:
    frame = inspect.currentframe()
    while frame is not None and frame.f_code.co_filename == __file__:
        frame = frame.f_back
    return frame


def _emit(severity: LoggingSeverity, name: str, message: str, frame: Any) -> None:
    now_ns = time.time_ns()
    if _console_enabled:
        line = os.environ.get('RCUTILS_CONSOLE_OUTPUT_FORMAT', DEFAULT_FORMAT)
        for token, value in (
            ('{severity}', severity.name),
            ('{time}', f'{now_ns // 10**9}.{now_ns % 10**9:09d}'),
            ('{time_as_nanoseconds}', str(now_ns)),
            ('{name}', name),
            ('{file_name}', frame.f_code.co_filename if frame else ''),
            ('{function_name}', frame.f_code.co_name if frame else ''),
            ('{line_number}', str(frame.f_lineno) if frame else '0'),
            ('{message}', message),
        ):
            line = line.replace(token, value)
        if severity in _COLOURS and _colours_wanted():
            line = f'{_COLOURS[severity]}{line}\x1b[0m'
        try:
            # One write a line, so that lines of several threads and processes stay whole.
            sys.stderr.write(line + '\n')
            sys.stderr.flush()
        except (OSError, ValueError):
            pass  # stderr is closed or a broken pipe: logging must never end a node
    publish = _rosout_publisher_of(name)
    if publish is not None:
        publish(severity, name, message, frame)


def _colours_wanted() -> bool:
    setting = os.environ.get('RCUTILS_COLORIZED_OUTPUT')
    if setting in ('0', '1'):
        return setting == '1'
    return sys.stderr is not None and sys.stderr.isatty()


def _rosout_publisher_of(name: str) -> Callable[[LoggingSeverity, str, str, Any], None] | None:
    with _lock:
        while name:
            if name in _rosout:
                return _rosout[name]
            name = name.rpartition('.')[0]
    return None


def add_rosout(name: str, publish: Callable[[LoggingSeverity, str, str, Any], None]) -> None:
    """Send what the logger `name` and its children log to `publish` as well."""
    with _lock:
        _rosout[name] = publish


def remove_rosout(name: str, publish: Callable[[LoggingSeverity, str, str, Any], None]) -> None:
    """Undo `add_rosout`, unless another node of the same name has taken over since."""
    with _lock:
        if _rosout.get(name) == publish:
            del _rosout[name]


def enable_console(enabled: bool) -> None:
    """Switch the output on stderr (`--disable-stdout-logs`)."""
    global _console_enabled
    _console_enabled = enabled


def get_logger(name: str) -> RcutilsLogger:
    """Return the logger of a name."""
    if not name:
        raise ValueError('Logger name must not be empty.')
    return RcutilsLogger(name)


def set_logger_level(
    name: str, level: LoggingSeverity | int, detailed_error: bool = False
) -> None:
    """Set the lowest severity that a logger logs; UNSET returns to its parent's."""
    with _lock:
        _levels[name] = LoggingSeverity(level)


def get_logger_level(name: str) -> LoggingSeverity:
    """Return the level set for exactly this name."""
    return _levels.get(name, LoggingSeverity.UNSET)


def get_logger_effective_level(name: str) -> LoggingSeverity:
    """Return the level of a name: its own, its nearest ancestor's, or the default."""
    with _lock:
        while True:
            level = _levels.get(name, LoggingSeverity.UNSET)
            if level != LoggingSeverity.UNSET:
                return level
            if not name:
                return LoggingSeverity.INFO
            name = name.rpartition('.')[0]


def get_logging_severity_from_string(log_severity: str) -> LoggingSeverity:
    """Return the severity of a name; RuntimeError if there is none."""
    try:
        return LoggingSeverity[log_severity.upper()]
    except KeyError:
        raise RuntimeError(f'failed to convert log severity from {log_severity!r}') from None


def initialize() -> None:
    """Prepare logging (nothing to do here)."""


def shutdown() -> None:
    """End logging (nothing to do here)."""


def clear_config() -> None:
    """Forget all levels."""
    with _lock:
        _levels.clear()
