"""`rclpy.callback_groups`; with one thread all groups behave alike."""

from __future__ import annotations

import weakref
from typing import Any


class CallbackGroup:
    """A set of callbacks."""

    def __init__(self) -> None:
        self.entities: set[weakref.ReferenceType[Any]] = set()

    def add_entity(self, entity: Any) -> None:
        """Add an entity."""
        self.entities.add(weakref.ref(entity))

    def has_entity(self, entity: Any) -> bool:
        """Return whether an entity is in the group."""
        return weakref.ref(entity) in self.entities

    def can_execute(self, entity: Any) -> bool:
        """Return whether a callback may run now."""
        return True

    def beginning_execution(self, entity: Any) -> bool:
        """Note that a callback starts."""
        return True

    def ending_execution(self, entity: Any) -> None:
        """Note that a callback has ended."""


class MutuallyExclusiveCallbackGroup(CallbackGroup):
    """Callbacks that must not run at the same time."""


class ReentrantCallbackGroup(CallbackGroup):
    """Callbacks that may run at the same time."""
