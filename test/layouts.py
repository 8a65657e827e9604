"""What the layouts of `config/` show, for those who check that it exists."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

CONFIG = Path(__file__).resolve().parent.parent / 'config'


def plotjuggler() -> ElementTree.Element:
    """Return PlotJuggler's layout."""
    return ElementTree.parse(CONFIG / 'plotjuggler.xml').getroot()


def plotjuggler_paths() -> list[tuple[str, str]]:
    """Return the topic and the field of each curve."""
    return [split_path(curve.get('name', '')) for curve in plotjuggler().iter('curve')]


def foxglove() -> dict[str, Any]:
    """Return Foxglove's layout."""
    document: dict[str, Any] = json.loads((CONFIG / 'foxglove.json').read_text(encoding='utf-8'))
    return document


def foxglove_paths() -> list[tuple[str, str]]:
    """Return the topic and the field of each curve."""
    return [
        tuple(path['value'].rsplit('.', 1))
        for name, panel in foxglove()['configById'].items()
        if name.startswith('Plot!')
        for path in panel['paths']
    ]


def foxglove_topics() -> dict[str, str]:
    """Return the topics that are shown as a whole, each with the kind of its panel."""
    topics = {}
    for name, panel in foxglove()['configById'].items():
        kind = name.split('!')[0]
        if kind == 'Image':
            topics[panel['imageMode']['imageTopic']] = kind
        elif kind == 'RawMessages':
            topics[panel['topicPath']] = kind
        elif kind == 'DiagnosticSummary':
            topics[panel['topicToRender']] = kind
        else:
            assert kind in ('Plot', 'Parameters'), name
    return topics


def split_path(path: str) -> tuple[str, str]:
    """Return topic and field of a path such as `/classifier/telemetry/level`."""
    topic, _, field = path.rpartition('/')
    return topic, field
