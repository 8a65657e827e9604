"""Simulated platforms: levels with accuracy, latency, noise and demand.

They are loaded from a published list of levels (config/levels/), whose noise is assumed, or from a
family that was measured on a platform.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from dynamic_ofa_ros.errors import FamilyError, LevelFileError, SimulationError
from dynamic_ofa_ros.family import Family, LatencyProfile, Level, LevelLatency
from dynamic_ofa_ros.space.spaces import search_space

DEFAULT_LEVELS = 'ofa_mbv3_w12_xavier_nx_gpu'

ASSUMED_NOISE = 0.02
"""Assumed standard deviation over mean of the latency of a published level.

From the published operator latencies of these levels follows a standard deviation of 1 % if they
vary independently, and of 3.3 to 4.5 % if they vary together.
"""

PEAK_DEMAND = 0.8
"""Assumed share of the device that the most demanding level uses while it runs alone."""

_P95, _P99 = 1.645, 2.326


@dataclass(frozen=True)
class SimulatedPlatform:
    """Levels and their uncontended latency on one platform.

    demands: share of the device that each level uses while it runs alone, in (0, 1].
    source: the source of the values, one line.
    """

    name: str
    levels: tuple[Level, ...]
    profile: LatencyProfile
    demands: tuple[float, ...]
    source: str

    @property
    def latencies_ms(self) -> tuple[float, ...]:
        """Return the median latency of every level."""
        return tuple(level.median_ms for level in self.profile.levels)

    @property
    def accuracies(self) -> tuple[float, ...]:
        """Return the top-1 accuracy of every level, fractions."""
        return tuple(level.accuracy for level in self.levels)

    @property
    def noise_sigmas(self) -> tuple[float, ...]:
        """Return the standard deviation of every level's log-latency, from the profile's sd."""
        return tuple(
            math.sqrt(math.log1p((level.sd_ms / level.mean_ms) ** 2))
            for level in self.profile.levels
        )

    def with_latencies(
        self, latencies_ms: Sequence[float], source: str, device: str | None = None
    ) -> SimulatedPlatform:
        """Return the same levels with other latencies and proportional noise.

        device: name of the device; by default, that of this platform.
        """
        noise = tuple(level.sd_ms / level.mean_ms for level in self.profile.levels)
        profile = replace(
            self.profile,
            platform=self.profile.platform if device is None else device,
            levels=tuple(_lognormal(ms, sd) for ms, sd in zip(latencies_ms, noise, strict=True)),
        )
        return SimulatedPlatform(self.name, self.levels, profile, self.demands, source)


def joined(platforms: Sequence[SimulatedPlatform]) -> SimulatedPlatform:
    """Join the same levels on several devices to one platform with an entry per device and level.

    They are numbered device by device, like the options of the runtime manager. Raise
    SimulationError if the levels differ or two devices have the same name.
    """
    first = platforms[0]
    if len(platforms) == 1:
        return first
    names = [platform.profile.platform for platform in platforms]
    if len(set(names)) != len(names):
        raise SimulationError(f'two devices have the same name, among {", ".join(names)}')
    if any(platform.accuracies != first.accuracies for platform in platforms):
        raise SimulationError(f'the levels on {", ".join(names)} differ; they must be equal')
    options = [*first.levels] + [
        replace(level, name=f'{level.index} on {name}')
        for name in names[1:]
        for level in first.levels
    ]
    return SimulatedPlatform(
        first.name,
        tuple(replace(level, index=index) for index, level in enumerate(options, start=1)),
        replace(
            first.profile,
            platform=' and '.join(names),
            levels=tuple(level for platform in platforms for level in platform.profile.levels),
        ),
        tuple(demand for platform in platforms for demand in platform.demands),
        '; '.join(
            f'{name}: {platform.source}' for platform, name in zip(platforms, names, strict=True)
        ),
    )


def load_platform(
    name_or_path: str = DEFAULT_LEVELS, platform: str | None = None, noise: float | None = None
) -> SimulatedPlatform:
    """Load published levels (a level file) or a family, by name or path.

    platform: one of the measured platforms of a family; required if there are several.
    noise: standard deviation over mean of all latencies; by default, that of the profile. Raise
    SimulationError, LevelFileError or FamilyError if they cannot be loaded.
    """
    if noise is not None and not 0.0 <= noise <= 1.0:
        raise SimulationError(f'noise is {noise:g}; it must lie in [0, 1] (share of the latency)')
    loaded = _load(name_or_path, platform)
    if noise is None:
        return loaded
    levels = tuple(_lognormal(ms, noise) for ms in loaded.latencies_ms)
    return replace(loaded, profile=replace(loaded.profile, levels=levels))


def _load(name_or_path: str, platform: str | None) -> SimulatedPlatform:
    try:
        listed = _of_level_file(name_or_path)
        if platform is not None:
            raise SimulationError(
                f'the level file {name_or_path} has only one platform, '
                f'{listed.profile.platform}; a platform can be chosen only for a family'
            )
        return listed
    except LevelFileError as error:
        not_listed = error
    try:
        family = Family.load(name_or_path)
    except FamilyError as error:
        if name_or_path.endswith(('.yaml', '.yml')):
            raise not_listed from None
        raise SimulationError(
            f'{name_or_path} is neither a level file nor a family: {not_listed}; {error}'
        ) from None
    return _of_family(family, platform)


def _of_level_file(name_or_path: str) -> SimulatedPlatform:
    from dynamic_ofa_ros.supernet.published.level_file import read_levels

    listed = read_levels(name_or_path)
    levels, latencies = [], []
    for index, entry in enumerate(listed.levels, start=1):
        if entry.accuracy is None or entry.latency_ms is None:
            raise SimulationError(
                f'{listed.path}: level {index} has no '
                f'{"accuracy" if entry.accuracy is None else "latency_ms"}; '
                'a simulation requires both for every level'
            )
        space = search_space(listed.backbone.kind, (entry.architecture.r,))
        cost = space.count_cost(
            entry.architecture, listed.backbone.width_mult, listed.backbone.classes
        )
        levels.append(
            Level(
                index,
                f'level {index}',
                entry.architecture,
                entry.accuracy,
                cost.macs,
                cost.parameters,
            )
        )
        latencies.append(_lognormal(entry.latency_ms, ASSUMED_NOISE))
    profile = LatencyProfile(listed.platform, tuple(latencies), 'published', {})
    return SimulatedPlatform(
        listed.name, tuple(levels), profile, _demands(levels, profile), listed.source
    )


def _of_family(family: Family, platform: str | None) -> SimulatedPlatform:
    names = ', '.join(sorted(family.platforms)) or 'none'
    if platform is None and len(family.platforms) != 1:
        raise SimulationError(
            f'family {family.name} was measured on {len(family.platforms)} platforms ({names}); '
            'choose one with --platform'
            if family.platforms
            else f'family {family.name} was not measured on any platform; run dynamic-ofa measure '
            'first'
        )
    if platform is not None and platform not in family.platforms:
        raise SimulationError(
            f'family {family.name} was not measured on {platform}; its platforms are: {names}'
        )
    profile = family.platforms[platform or next(iter(family.platforms))]
    return SimulatedPlatform(
        family.name,
        family.levels,
        profile,
        _demands(family.levels, profile),
        f'measured on {profile.platform}, {profile.measured_at}',
    )


def _demands(
    levels: list[Level] | tuple[Level, ...], profile: LatencyProfile
) -> tuple[float, ...]:
    """Return the demand of each level, proportional to its MACs per ms, at most PEAK_DEMAND."""
    rates = [level.macs / profile.latency_ms(level.index) for level in levels]
    return tuple(PEAK_DEMAND * rate / max(rates) for rate in rates)


def _lognormal(median_ms: float, noise: float) -> LevelLatency:
    """Return the statistics of a log-normal latency; noise: standard deviation over mean."""
    sigma = math.sqrt(math.log1p(noise**2))
    mean_ms = median_ms * math.exp(sigma**2 / 2.0)
    return LevelLatency(
        median_ms=median_ms,
        mean_ms=mean_ms,
        sd_ms=noise * mean_ms,
        p95_ms=median_ms * math.exp(_P95 * sigma),
        p99_ms=median_ms * math.exp(_P99 * sigma),
        runs=0,
    )
