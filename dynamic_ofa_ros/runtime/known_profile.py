"""Load and check the latency profile of a platform, or measure it."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from dynamic_ofa_ros.errors import FamilyError
from dynamic_ofa_ros.family import LatencyProfile, read_profile, write_profile
from dynamic_ofa_ros.runtime.build_cache import BuildCache
from dynamic_ofa_ros.runtime.profile_check import check_levels
from dynamic_ofa_ros.runtime.profiling import (
    BUSY_ABOVE,
    DEFAULT_RUNS,
    MAX_SECONDS,
    PAUSE_S,
    Clock,
    profile_engine,
    warn_when_busy,
)

if TYPE_CHECKING:
    from dynamic_ofa_ros.family import Family
    from dynamic_ofa_ros.runtime.engine import Engine

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Known:
    name: str
    profile: LatencyProfile

    def __str__(self) -> str:
        kind = self.profile.platform.partition('-')[0]
        return f'{kind}: the {self.name} profile of {self.profile.measured_at[:10]}'

    @property
    def was_busy(self) -> bool:
        """Whether other programs used the device during the measurement."""
        return self.profile.load_of_others > BUSY_ABOVE


def load_or_measure_profile(
    engine: Engine,
    family: Family,
    cache_dir: Path | None = None,
    *,
    runs: int = DEFAULT_RUNS,
    max_seconds: float = MAX_SECONDS,
    pause_s: float = PAUSE_S,
    clock: Clock = time.perf_counter_ns,
) -> LatencyProfile:
    """Return the latency profile of this platform, checked with a few frames.

    This is the newest profile of the family or the build cache that matches this machine, scaled
    by the machine's present speed if that differs. If none matches, or if the device was busy
    during its measurement, a new profile is measured, which takes seconds, and cached. If the
    device is busy now, the profile is corrected for this start instead, and the engine's notes say
    so. If the check fails, the profile is used unchecked, and the notes say so.
    """
    cache = BuildCache(family, cache_dir)
    relative = f'profiles/{engine.platform}.yaml'
    cached = _read_cached(cache, relative, engine, len(family.levels))
    shipped = family.platforms.get(engine.platform)
    known = [
        *([_Known("family's", shipped)] if shipped else []),
        *([_Known('cached', cached)] if cached else []),
    ]
    known.sort(key=lambda one: one.profile.measured_at, reverse=True)
    conditions = {}
    if known:
        for check in check_levels(engine, family, pause_s=pause_s, clock=clock):
            faults = [check.fault(one.profile) for one in known]
            if not all(faults):
                break
        for failure in check.failures:
            _note(engine, f'{known[0]} could not be checked: {failure}')
        for one, fault in zip(known, faults, strict=True):
            if not fault and not one.was_busy:
                profile = check.corrected(one.profile)
                factor = profile.latency_ms(1) / one.profile.latency_ms(1)
                if not check.failures:
                    scaled = '' if factor == 1.0 else f', scaled by {factor:.2g}'
                    _log.info('%s matches this machine%s', one, scaled)
                return profile
        if check.is_busy and not faults[0]:
            _log.info('%s was measured on a busy device, and it is busy now: it is used', known[0])
            return known[0].profile
        reason = f'{known[0]} {faults[0] or "was measured on a busy device"}'
        if check.is_busy:
            _note(engine, f'{reason}: corrected until a start on an idle device')
            return replace(
                check.corrected(known[0].profile),
                conditions={**known[0].profile.conditions, 'corrected': reason},
            )
        _log.warning('%s: it is measured again', reason)
        conditions = {'replaces': reason}
    with cache.locked(relative):
        latest = _read_cached(cache, relative, engine, len(family.levels))
        if latest is not None and latest != cached:
            return latest  # measured by another process in the meantime
        profile = profile_engine(
            engine, family, runs=runs, max_seconds=max_seconds, pause_s=pause_s, clock=clock
        )
        profile = replace(profile, conditions={**profile.conditions, **conditions})
        cache.write(relative, lambda path: write_profile(profile, path))
    warn_when_busy(profile.load_of_others, 'it is measured again at the next idle start')
    return profile


def _note(engine: Engine, text: str) -> None:
    engine.notes = (*engine.notes, text)


def _read_cached(
    cache: BuildCache, relative: str, engine: Engine, level_count: int
) -> LatencyProfile | None:
    path = cache.find(relative)
    if path is None:
        return None
    try:
        profile = read_profile(path)
    except FamilyError as error:
        _log.warning('the cached profile is damaged; it is measured again: %s', error)
        return None
    if profile.platform != engine.platform or len(profile.levels) != level_count:
        _log.warning('%s belongs to another platform or family; it is measured again', path)
        return None
    return profile
