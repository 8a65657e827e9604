"""The 1,000 classes of ImageNet (ILSVRC 2012), in the order of the networks' outputs."""

from __future__ import annotations

from functools import cache

from dynamic_ofa_ros.files import share_directory

FILE = 'imagenet_labels.txt'


def imagenet_labels() -> tuple[str, ...]:
    """Return a short, unique name of each class."""
    return tuple(label for _, label in _classes())


def imagenet_wnids() -> tuple[str, ...]:
    """Return the WordNet 3.0 id of each class, the usual name of the folder of its images."""
    return tuple(wnid for wnid, _ in _classes())


@cache
def _classes() -> tuple[tuple[str, str], ...]:
    text = (share_directory() / 'resource' / FILE).read_text(encoding='utf-8')
    lines = (line for line in text.splitlines() if not line.startswith('#'))
    return tuple((wnid, label) for wnid, _, label in (line.partition(' ') for line in lines))
