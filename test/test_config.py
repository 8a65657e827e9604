"""What looks at the classifier (rviz, rqt, PlotJuggler, Foxglove) names only what there is."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml
from layouts import (
    CONFIG,
    foxglove,
    foxglove_paths,
    foxglove_topics,
    plotjuggler,
    plotjuggler_paths,
    split_path,
)

ROOT = Path(__file__).resolve().parent.parent
NUMBER_TYPES = ('bool', 'int32', 'uint64', 'float64')

TOPICS = {
    '/classification': 'vision_msgs/Classification',
    '/label_info': 'vision_msgs/LabelInfo',
    '/vision_info': 'vision_msgs/VisionInfo',
    '/classifier/telemetry': 'Telemetry',
    '/classifier/levels': 'LevelArray',
    '/classifier/active_level': 'ActiveLevel',
    '/debug_image': 'sensor_msgs/Image',
    '/diagnostics': 'diagnostic_msgs/DiagnosticArray',
    '/image_raw': 'sensor_msgs/Image',
}
"""Absolute names, without a namespace, of what nodes publish; ours by the message's name alone."""

SHOWN = {'inference_ms', 'max_latency_ms', 'level', 'slowdown'}
"""What every plotting tool must show."""


def fields(message: str) -> dict[str, str]:
    """Return the fields of one of our messages: name to type."""
    text = (ROOT / 'msg' / f'{message}.msg').read_text(encoding='utf-8')
    lines = (line.partition('#')[0].split() for line in text.splitlines())
    return {parts[1]: parts[0] for parts in lines if len(parts) == 2}


def problem(topic: str, field: str) -> str:
    """Return why a field cannot be drawn; empty for a good one."""
    if topic not in TOPICS:
        return f'there is no topic {topic}'
    kind = fields(TOPICS[topic]).get(field)
    if kind is None:
        return f'{topic} has no field {field}'
    return '' if kind in NUMBER_TYPES else f'{topic} {field} is {kind}, not a number'


def check_paths(paths: list[tuple[str, str]]) -> None:
    assert [text for text in (problem(*path) for path in paths) if text] == []
    assert {field for _, field in paths} >= SHOWN


# The checks themselves.


def test_topic_table_is_what_nodes_publish():
    """Every name stands in the nodes' code as the code writes it."""
    sources = (ROOT / 'dynamic_ofa_ros' / 'nodes').glob('*.py')
    code = '\n'.join(source.read_text(encoding='utf-8') for source in sources)
    for topic in TOPICS:
        written = re.sub('^/classifier/', '~/', topic)
        written = written if written in ('/diagnostics',) else written.removeprefix('/')
        assert f"'{written}'" in code, topic


@pytest.mark.parametrize(
    ('topic', 'field', 'words'),
    [
        ('/classifier/telemetries', 'level', 'no topic'),
        ('/classifier/telemetry', 'levels', 'no field levels'),
        ('/classifier/telemetry', 'policy', 'not a number'),
        ('/classifier/telemetry', 'header', 'not a number'),
    ],
)
def test_wrong_paths_are_found(topic, field, words):
    assert words in problem(topic, field)


def test_good_path_has_no_problem():
    assert problem('/classifier/telemetry', 'violations') == ''


# rviz2


def rviz_topics() -> list[tuple[str, dict]]:
    document = yaml.safe_load((CONFIG / 'classifier.rviz').read_text(encoding='utf-8'))
    displays = document['Visualization Manager']['Displays']
    assert {display['Class'] for display in displays} == {'rviz_default_plugins/Image'}
    return [(display['Topic']['Value'], display) for display in displays]


def test_rviz_shows_images_that_exist():
    for topic, display in rviz_topics():
        assert TOPICS.get(topic) == 'sensor_msgs/Image', display['Name']


def test_rviz_subscribes_to_the_debug_image_only():
    """The raw images are a second stream over the network: shown when the user ticks them."""
    assert [topic for topic, display in rviz_topics() if display['Enabled']] == ['/debug_image']


# rqt


def rqt_value(entry: dict) -> object:
    assert entry['type'] == 'repr'
    return ast.literal_eval(entry['repr'])


def rqt_plugins() -> dict[str, dict[str, object]]:
    """Return the running plugins: instance to settings."""
    document = json.loads((CONFIG / 'classifier.perspective').read_text(encoding='utf-8'))
    manager = document['groups']['pluginmanager']
    running = rqt_value(manager['keys']['running-plugins'])
    names = {
        f'{plugin}__{number}'.replace('/', '__'): (plugin, number)
        for plugin, numbers in running.items()
        for number in numbers
    }
    assert {f'plugin__{name}' for name in names} == set(manager['groups'])
    return {
        name: {
            key: rqt_value(entry)
            for key, entry in manager['groups'][f'plugin__{name}']['groups']['plugin'][
                'keys'
            ].items()
        }
        for name in names
    }


def test_rqt_runs_image_plots_parameters_and_diagnostics():
    assert set(rqt_plugins()) == {
        'rqt_image_view__ImageView__1',
        'rqt_plot__Plot__1',
        'rqt_plot__Plot__2',
        'rqt_plot__Plot__3',
        'rqt_reconfigure__Param__1',
        'rqt_runtime_monitor__RuntimeMonitor__1',
    }


def test_rqt_names_what_exists():
    plugins = rqt_plugins()
    assert TOPICS[plugins['rqt_image_view__ImageView__1']['topic']] == 'sensor_msgs/Image'
    assert plugins['rqt_reconfigure__Param__1']['selected_nodes'] == ['/classifier']
    plots = [
        path
        for name, settings in plugins.items()
        if name.startswith('rqt_plot')
        for path in settings['topics']
    ]
    check_paths([split_path(path) for path in plots])


def test_rqt_arranges_every_plugin():
    """The main window's state names each plugin's dock (UTF-16, as Qt writes it)."""
    document = json.loads((CONFIG / 'classifier.perspective').read_text(encoding='utf-8'))
    entry = document['groups']['mainwindow']['keys']['state']['repr(QByteArray.hex)']
    match = re.fullmatch(r"QtCore\.QByteArray\(b'([0-9a-f]+)'\)", entry)
    state = bytes.fromhex(match[1])
    for name in rqt_plugins():
        assert f'{name}__'.encode('utf-16-be') in state, name


# PlotJuggler


def test_plotjuggler_draws_what_exists():
    check_paths(plotjuggler_paths())


def test_plotjuggler_subscribes_to_what_it_draws():
    root = plotjuggler()
    streamer = root.find('previouslyLoaded_Streamer').get('name')
    (plugin,) = (p for p in root.iter('plugin') if p.get('ID') == streamer)
    subscribed = set(plugin.find('selected_topics').get('value').split(';'))
    assert subscribed == {topic for topic, _ in plotjuggler_paths()}


def test_plotjuggler_sizes_fit_their_number():
    for splitter in plotjuggler().iter('DockSplitter'):
        sizes = [float(size) for size in splitter.get('sizes').split(';')]
        assert len(sizes) == len(list(splitter)) == int(splitter.get('count'))
        assert sum(sizes) == pytest.approx(1.0)


# Foxglove


def leaves(node: str | dict) -> list[str]:
    if isinstance(node, str):
        return [node]
    return leaves(node['first']) + leaves(node['second'])


def test_foxglove_lays_out_every_panel_once():
    document = foxglove()
    panels = leaves(document['layout'])
    assert sorted(panels) == sorted(document['configById'])


def test_foxglove_names_what_exists():
    types = {
        'Image': {'sensor_msgs/Image'},
        'RawMessages': set(TOPICS.values()),
        'DiagnosticSummary': {'diagnostic_msgs/DiagnosticArray'},
    }
    for topic, kind in foxglove_topics().items():
        assert TOPICS.get(topic) in types[kind], topic
    check_paths(foxglove_paths())


# Fast DDS


def test_fast_dds_profile_has_room_for_three_full_hd_images():
    root = ElementTree.parse(CONFIG / 'fastdds.xml').getroot()
    transports = {
        item.findtext('{*}transport_id'): item
        for item in root.findall('.//{*}transport_descriptor')
    }
    assert {item.findtext('{*}type') for item in transports.values()} == {'SHM', 'UDPv4'}
    image_bytes = 1920 * 1080 * 3
    shared = transports['shared_memory']
    assert int(shared.findtext('{*}segment_size')) > 3 * image_bytes
    assert int(shared.findtext('{*}maxMessageSize')) > image_bytes
    (participant,) = root.findall('.//{*}participant')
    assert participant.get('is_default_profile') == 'true'
    used = participant.findall('{*}rtps/{*}userTransports/{*}transport_id')
    assert {item.text for item in used} == set(transports)
    assert participant.findtext('{*}rtps/{*}useBuiltinTransports') == 'false'
