"""Measure the latency profile of a family on this machine with the engine of the runtime."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from dynamic_ofa_ros.errors import FamilyError
from dynamic_ofa_ros.family import (
    PLATFORMS_FOLDER,
    Family,
    LatencyProfile,
    read_profile,
    write_profile,
)
from dynamic_ofa_ros.runtime.engine import create_engine, profile_engine

logger = logging.getLogger(__name__)

SECONDS_A_LEVEL = 0.5
FEWEST_SECONDS = 5.0

MEASURE_AGAIN = 'run dynamic-ofa measure --force on an idle machine'
"""Advice when a family was measured on a busy device."""


@dataclass(frozen=True)
class DeviceSettings:
    """The device and the engine (`auto`: chosen by the runtime), threads, and precision."""

    device: str = 'auto'
    engine: str = 'auto'
    threads: int = 1
    precision: str = 'fp32'


def profile_family(
    family: Family,
    settings: DeviceSettings,
    cache: Path | None = None,
    seconds_a_level: float = SECONDS_A_LEVEL,
    progress: Callable[[str], None] | None = None,
    check_platform: Callable[[str], None] | None = None,
) -> LatencyProfile:
    """Measure every level of a family; the conditions contain the settings that were used.

    `check_platform` is called with the name of the platform before the measurement; it may raise.
    """
    engine = create_engine(
        family,
        device=settings.device,
        engine=settings.engine,
        precision=settings.precision,
        threads=settings.threads,
        cache_dir=cache,
        progress=progress,
    )
    try:
        for note in engine.notes:
            logger.warning('%s', note)
        if check_platform is not None:
            check_platform(engine.platform)
        if progress is not None:
            progress(f'measuring {len(family.levels)} levels on {engine.platform}')
        profile = profile_engine(
            engine, family, max_seconds=max(FEWEST_SECONDS, seconds_a_level * len(family.levels))
        )
        device = settings.device
        if device == 'auto':
            device = engine.platform.partition('-')[0]
        used = replace(settings, device=device, engine=engine.name)
    finally:
        engine.close()
    again = {name: str(value) for name, value in asdict(used).items()}
    return replace(profile, conditions={**profile.conditions, **again})


def settings_of(profile: LatencyProfile) -> DeviceSettings | None:
    """Return the settings that a profile was measured with; None if it does not contain them."""
    try:
        return DeviceSettings(
            profile.conditions['device'],
            profile.conditions['engine'],
            int(profile.conditions['threads']),
            profile.conditions.get('precision', 'fp32'),
        )
    except (KeyError, ValueError):
        return None


def add_platform(
    family: Family,
    settings: DeviceSettings,
    is_forced: bool,
    progress: Callable[[str], None] | None = None,
    accuracies: Callable[[DeviceSettings], tuple[float, ...]] | None = None,
) -> LatencyProfile:
    """Measure a family here and write the profile of the platform into it; return the profile.

    accuracies: returns the accuracies of the levels with the settings that were used. Raise
    FamilyError if the family already has this platform, unless `is_forced`.
    """

    def check(platform: str) -> None:
        earlier = family.platforms.get(platform)
        if earlier is not None and not is_forced:
            raise FamilyError(
                f'{family.name} already has latencies of {platform}, measured at '
                f'{earlier.measured_at}; --force replaces them'
            )

    profile = profile_family(family, settings, progress=progress, check_platform=check)
    used = settings_of(profile)
    if accuracies is not None and used is not None:
        profile = replace(profile, accuracies=accuracies(used))
    path = family.directory / PLATFORMS_FOLDER / f'{profile.platform}.yaml'
    write_profile(profile, path)
    return read_profile(path)
