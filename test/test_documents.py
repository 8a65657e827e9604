"""Commands, parameters, links and numbers in README.md and docs/ are correct."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from benchmarks import tables
from dynamic_ofa_ros.cli import main as cli
from dynamic_ofa_ros.cli.ros import COMMANDS
from dynamic_ofa_ros.nodes.parameters import CAMERA, CLASSIFIER, CONTENTION

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = tables.documents()
PARAMETERS = {
    node: {spec.name for spec in table}
    for node, table in (('classifier', CLASSIFIER), ('camera', CAMERA), ('contention', CONTENTION))
}
LINK = re.compile(r'\]\(([^)\s]+)\)')
README_LINES = 150

MEASURED = re.compile(r'\d\.\d+ (?:%|points\b)|\| *\d+\.\d+ *(?:\||\()')
"""Pattern of a measured number: a decimal share, or a cell of a table."""

documents = pytest.mark.parametrize(
    'path', DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT))
)


def code(text: str) -> list[str]:
    """Return the indented lines, with continuation lines joined, and the code spans of a text."""
    text = re.sub(r'\\\n\s*', '', text)
    lines = [line.strip() for line in text.splitlines() if line.startswith('    ')]
    prose = '\n'.join(line for line in text.splitlines() if not line.startswith('    '))
    return lines + [' '.join(span.split()) for span in re.findall(r'`([^`]+)`', prose)]


def options_of(words: list[str], capsys: pytest.CaptureFixture[str]) -> set[str]:
    """Return the long options in the help of a verb, or of a verb and its subcommand."""
    with pytest.raises(SystemExit):
        cli.main([*words, '--help'])
    return set(re.findall(r'--[a-z][a-z0-9-]*', capsys.readouterr().out))


def command_problem(line: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Return the problem of the `dynamic-ofa` command in a line, or ''."""
    found = re.search(r'(?:^|[\s/])dynamic-ofa(?: ([a-z-]+))(.*)', line.split('  #')[0])
    if found is None:
        return ''
    verb, rest = found[1], found[2].split('`')[0]
    if verb.startswith('--'):
        return ''
    if verb not in cli.VERBS:
        return f'no verb {verb}'
    if verb == 'ros':
        words = rest.split()[:2]
        return '' if not words or ' '.join(words) in COMMANDS else f'no command {words}'
    words = [verb, *rest.split()[:1]] if verb in ('family', 'predictor') else [verb]
    unknown = set(re.findall(r'(?<=\s)--[a-z][a-z0-9-]*', rest)) - options_of(words, capsys)
    return f'{verb} has no {unknown}' if unknown else ''


def slugs(path: Path) -> set[str]:
    """Return the anchors of the headings of a document."""
    headings = re.findall(r'^#+ (.+)$', path.read_text(encoding='utf-8'), re.MULTILINE)
    return {re.sub(r'[^\w\- ]', '', text.lower()).replace(' ', '-') for text in headings}


def link_problem(source: Path, target: str) -> str:
    """Return the problem of a link, or ''; links to other hosts are not checked."""
    if '://' in target:
        return ''
    name, _, anchor = target.partition('#')
    path = (source.parent / name).resolve() if name else source
    if not path.exists():
        return f'there is no {name}'
    if anchor and anchor not in slugs(path):
        return f'{path.name} has no heading {anchor}'
    return ''


def parameter_problems(text: str) -> list[str]:
    """Return the parameters in `param set` commands that the node does not have."""
    found = re.findall(r'param set (?:/\w+)*/(\w+) ([\w.]+)', text)
    return [
        f'{node} {name}'
        for node, name in found
        if name not in PARAMETERS.get(node, set()) | {'use_sim_time'}
    ]


@documents
def test_commands_exist(path, capsys):
    lines = code(path.read_text(encoding='utf-8'))
    assert [text for line in lines if (text := command_problem(line, capsys))] == []


@documents
def test_launch_files_benchmarks_and_make_targets_exist(path):
    text = path.read_text(encoding='utf-8')
    for name in re.findall(r'\b(\w+\.launch\.py)', text):
        assert (ROOT / 'launch' / name).is_file(), name
    for name in re.findall(r'python3? -m benchmarks\.(\w+)', text):
        assert (ROOT / 'benchmarks' / f'{name}.py').is_file(), name
    makefile = (ROOT / 'Makefile').read_text(encoding='utf-8')
    targets = set(re.findall(r'^([a-z-]+):', makefile, re.MULTILINE))
    for line in code(text):
        if found := re.match(r'make ([a-z-]+)', line):
            assert found[1] in targets, line


@documents
def test_parameters_that_are_set_exist(path):
    assert parameter_problems(path.read_text(encoding='utf-8')) == []


@documents
def test_link_targets_exist(path):
    links = LINK.findall(path.read_text(encoding='utf-8'))
    assert [text for link in links if (text := link_problem(path, link))] == []


def test_readme_contains_commands_links_and_every_verb():
    text = (ROOT / 'README.md').read_text(encoding='utf-8')
    lines = code(text)
    assert sum('dynamic-ofa' in line for line in lines) >= 6
    assert 'param set /classifier constraints.max_latency_ms' in text
    assert len(LINK.findall(text)) >= 10
    for verb in cli.VERBS:
        assert any(
            re.search(rf'dynamic-ofa {verb}\b|^{verb}$|make {verb}', line) for line in lines
        )


@pytest.mark.parametrize(
    ('line', 'words'),
    [
        ('dynamic-ofa router &', 'no verb router'),
        ('.venv/bin/dynamic-ofa levels mine --draw x', '--draw'),
        ('dynamic-ofa ros topic find /image_raw', 'no command'),
    ],
)
def test_wrong_commands_are_found(line, words, capsys):
    assert words in command_problem(line, capsys)


def test_wrong_parameters_and_links_are_found():
    assert parameter_problems('ros2 param set /classifier constraint.max_latency_ms 2.0')
    assert link_problem(ROOT / 'README.md', 'docs/router.md')
    assert link_problem(ROOT / 'README.md', 'docs/install.md#no-such-heading')
    assert not link_problem(ROOT / 'README.md', 'docs/install.md#a-jetson')


@documents
def test_numbers_are_those_of_the_results(path):
    text = path.read_text(encoding='utf-8')
    assert tables.renewed(text) == text, 'run python -m benchmarks.tables'


@documents
def test_measured_numbers_occur_in_generated_blocks_only(path):
    text = path.read_text(encoding='utf-8')
    prose = [
        line for line in tables.BLOCK.sub('', text).splitlines() if not line.startswith('    ')
    ]
    assert MEASURED.findall('\n'.join(prose)) == []


@pytest.mark.parametrize(
    'text', ['21.8 % late', '0.25 points', '| 1 | 84.1 | 48 |', '| 1 busy | 96.4 (2.8) |']
)
def test_measured_numbers_are_recognized(text):
    assert MEASURED.search(text)


def test_every_block_is_used():
    text = ''.join(path.read_text(encoding='utf-8') for path in DOCUMENTS)
    assert {name for _, name, _, _ in tables.BLOCK.findall(text)} == set(tables.BLOCKS)


def test_a_wrong_number_is_found_and_corrected(tmp_path):
    path = tmp_path / 'page.md'
    page = '# A page\n\n<!-- generated: demo -->\n{}\n<!-- generated: end -->\n\nMore.\n'
    path.write_text(page.format('*Highest level: 0.1 % late.*'), encoding='utf-8')
    assert tables.renew(path, write=False)
    assert tables.renew(path, write=True)
    assert path.read_text(encoding='utf-8') == page.format(tables.demo())
    assert not tables.renew(path, write=True)


@pytest.mark.parametrize(
    ('text', 'words'),
    [
        ('<!-- generated: demos -->\n<!-- generated: end -->\n', "unknown block 'demos'"),
        ('<!-- generated: demo -->\nno end\n', 'no end'),
    ],
)
def test_wrong_blocks_are_found(text, words):
    with pytest.raises(tables.BlockError, match=words):
        tables.renewed(text)


@pytest.mark.parametrize('name', ['README.md', 'docs/demo.md'])
def test_the_quoted_result_of_the_demo_is_the_recorded_one(name):
    result = json.loads(
        (ROOT / 'benchmarks' / 'results' / 'demo.json').read_text(encoding='utf-8')
    )
    text = ' '.join((ROOT / name).read_text(encoding='utf-8').split())
    assert result['result'][-1].lower() in text.lower()


def test_readme_is_short_and_names_the_tested_gpu_and_middleware():
    text = (ROOT / 'README.md').read_text(encoding='utf-8')
    assert len(text.splitlines()) <= README_LINES
    gpu = tables.results('gpu_check')['results']['gpu']['gpu']
    assert f'one {gpu}' in text
    middleware = tables.results('node')['configuration']['middleware']
    assert {'rmw_fastrtps_cpp': 'Fast DDS'}[middleware] in text


def test_the_index_names_every_page():
    index = (ROOT / 'docs' / 'README.md').read_text(encoding='utf-8')
    pages = {path.name for path in DOCUMENTS if path.parent == ROOT / 'docs'} - {'README.md'}
    assert set(LINK.findall(index)) == pages | {'../CONTRIBUTING.md'}
