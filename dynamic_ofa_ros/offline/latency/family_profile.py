"""Measure a family's latencies on this machine with the real engine."""

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
from dynamic_ofa_ros.runtime.profiling import BUSY_ABOVE

logger = logging.getLogger(__name__)

SECONDS_A_LEVEL = 0.5
FEWEST_SECONDS = 5.0


@dataclass(frozen=True)
class DeviceSettings:
    """Where latency is measured: device and engine (each may be auto), threads, precision."""

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
    """Measure every level of a family; the conditions say how to measure there again.

    `check_platform` gets the platform's name before the measurement, and may raise.
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
    """Return where a profile was measured; None for one that does not say."""
    try:
        return DeviceSettings(
            profile.conditions['device'],
            profile.conditions['engine'],
            int(profile.conditions['threads']),
            profile.conditions.get('precision', 'fp32'),
        )
    except (KeyError, ValueError):
        return None


def others_load(profile: LatencyProfile) -> float:
    """Return the share of the device that other programs used meanwhile; 0.0 when unknown."""
    try:
        return float(profile.conditions.get('load_of_others', '0'))
    except ValueError:
        return 0.0


def warn_when_busy(profile: LatencyProfile, advice: str) -> None:
    """Warn that latencies may be too high when other programs were busy meanwhile."""
    if others_load(profile) > BUSY_ABOVE:
        logger.warning(
            'other programs used %.0f %% of the device while latencies were measured, so they may '
            'be too high: %s',
            others_load(profile) * 100,
            advice,
        )


def add_platform(
    family: Family,
    settings: DeviceSettings,
    is_forced: bool,
    progress: Callable[[str], None] | None = None,
    accuracies: Callable[[DeviceSettings], tuple[float, ...]] | None = None,
) -> LatencyProfile:
    """Measure a family here and write the platform's file into it; return the profile.

    accuracies: measures them at the settings that `settings` turned out to be.
    Raise FamilyError where the family has this platform already, unless `is_forced`.
    """

    def check(platform: str) -> None:
        earlier = family.platforms.get(platform)
        if earlier is not None and not is_forced:
            raise FamilyError(
                f'{family.name} has latencies of {platform} already, measured at '
                f'{earlier.measured_at}; --force measures and replaces them'
            )

    profile = profile_family(family, settings, progress=progress, check_platform=check)
    used = settings_of(profile)
    if accuracies is not None and used is not None:
        profile = replace(profile, accuracies=accuracies(used))
    path = family.directory / PLATFORMS_FOLDER / f'{profile.platform}.yaml'
    write_profile(profile, path)
    return read_profile(path)
