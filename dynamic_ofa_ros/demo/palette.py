"""Colours of the levels on a terminal, and the signs it can show."""

from __future__ import annotations

from dataclasses import dataclass

# From level 1 to the highest: blue to yellow with growing lightness, so that colour-blind readers
# can order them too. Light enough for a dark background.
_STOPS = ((74, 134, 255), (38, 178, 214), (58, 200, 140), (164, 214, 60), (255, 214, 64))


def level_colour(level: int, level_count: int) -> str:
    """Return the terminal colour of a level (from 1) as #rrggbb."""
    position = (level - 1) / max(1, level_count - 1) * (len(_STOPS) - 1)
    position = min(max(position, 0.0), len(_STOPS) - 1.0)
    low = min(int(position), len(_STOPS) - 2)
    share = position - low
    channels = (
        round(a + (b - a) * share) for a, b in zip(_STOPS[low], _STOPS[low + 1], strict=True)
    )
    return '#' + ''.join(f'{channel:02x}' for channel in channels)


@dataclass(frozen=True)
class Glyphs:
    """Signs to draw with. `bars` rise from empty to a full cell."""

    check: str
    cross: str
    unknown: str
    done: str
    now: str
    later: str
    arrow: str
    limit: str
    over: str
    full: str
    empty: str
    dot: str
    bars: str


UNICODE = Glyphs(
    check='✔', cross='✘', unknown='?', done='✔', now='▶', later='·', arrow='→', limit='╌',
    over='▲', full='█', empty='░', dot='·', bars=' ▁▂▃▄▅▆▇█',
)  # fmt: skip

ASCII = Glyphs(
    check='+', cross='x', unknown='?', done='+', now='>', later='.', arrow='>', limit='-',
    over='^', full='#', empty='.', dot='|', bars=' .:|',
)  # fmt: skip


def glyphs_for(encoding: str | None) -> Glyphs:
    """Return the signs that an output encoding can show."""
    try:
        (''.join(UNICODE.__dict__.values())).encode(encoding or 'ascii')
    except (UnicodeEncodeError, LookupError):
        return ASCII
    return UNICODE
