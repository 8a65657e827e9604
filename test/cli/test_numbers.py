"""Numbers of options are checked where they are parsed."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import pytest

from dynamic_ofa_ros.cli import numbers, simulate
from dynamic_ofa_ros.cli.main import _parser, main
from dynamic_ofa_ros.offline.accuracy.predictor_fit import FEWEST_PAIRS
from dynamic_ofa_ros.runtime.policies.settings import MAX_HOLD_S
from dynamic_ofa_ros.simulation.traces import MAX_DURATION_S
from dynamic_ofa_ros.supernet.batch_norm import FEWEST_IMAGES

# No option may accept them: they make a run without end, or are no number.
WITHOUT_BOUND = ('nan', 'inf', '1e300', '9' * 5000)


def options(
    parser: argparse.ArgumentParser, verb: str = ''
) -> Iterator[tuple[str, argparse.Action]]:
    """Yield the verb and every option of a parser and of the parsers of its verbs."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, sub_parser in action.choices.items():
                yield from options(sub_parser, f'{verb} {name}'.strip())
        else:
            yield verb, action


def numeric_options() -> dict[str, argparse.Action]:
    """Return the options of all verbs that reject a text without digits."""
    found = {}
    for verb, action in options(_parser()):
        if action.type is not None:
            try:
                action.type('x')  # type: ignore[operator]
            except (argparse.ArgumentTypeError, ValueError):
                found[f'{verb} {action.option_strings[-1]}'] = action
    return found


NUMERIC = numeric_options()


def test_the_numeric_options_of_all_verbs_are_found() -> None:
    expected = {'train --epochs', 'build --candidates', 'search --limit-ms', 'demo --seconds'}
    assert expected <= set(NUMERIC)
    assert {'ros topic pub --rate', 'family from-onnx --mean', 'export --levels'} <= set(NUMERIC)


@pytest.mark.parametrize('option', NUMERIC)
def test_numbers_without_bound_are_rejected(option: str) -> None:
    for text in WITHOUT_BOUND:
        with pytest.raises(argparse.ArgumentTypeError, match=r'^is .*; give ') as caught:
            NUMERIC[option].type(text)  # type: ignore[operator, misc]
        assert len(str(caught.value)) <= 110


@pytest.mark.parametrize(
    ('arguments', 'sentence'),
    [
        ('train --epochs 1e300', "--epochs is '1e300'; give a number above 0 and at most 10000"),
        ('train --epochs 0', "--epochs is '0'; give a number above 0"),
        ('train --epochs -1', "--epochs is '-1'; give a number above 0"),
        ('train --label-smoothing 1', "'1'; give a number from 0 to below 1"),
        ('train --body-rate 2', "--body-rate is '2'; give a number from 0 to 1"),
        ('train --random-subnets 99999999', "'99999999'; give a whole number, from 0 to 100"),
        ('train --seed 1.5', "--seed is '1.5'; give a whole number, from 0"),
        ('train --resolutions 64,99999', "is '99999'; give a whole number, from 32 to 512"),
        ('train --resolutions 64,', "--resolutions is ''; give a whole number, from 32 to 512"),
        ('build --resolutions 99999', "is '99999'; give a whole number, from 32 to 2048"),
        ('build --candidates 99999999', "--candidates is '99999999'; give a whole number"),
        ('build --threads 99999', "--threads is '99999'; give a whole number, from 1 to 1024"),
        ('build --levels 0', "--levels is '0'; give a whole number, from 1 to 64"),
        ('build --levels -1', "--levels is '-1'; give a whole number, from 1 to 64"),
        ('build --count 65', "--count is '65'; give a whole number, from 1 to 64"),
        ('search --evaluations 1e9', "--evaluations is '1e9'; give a whole number"),
        ('simulate --limit-ms -5', "--limit-ms is '-5'; give a number above 0"),
        ('demo --seconds 1', "--seconds is '1'; give a number from 15 to 3600"),
        ('family from-onnx --mean 1,2', "--mean is '1,2'; give one number, or one for each"),
        ('family from-onnx --std 1,x,2', "--std is 'x'; give a number above 0"),
        ('export --levels 1,one', "--levels is 'one'; give a whole number, from 1 to 64"),
        ('ros topic pub /a b -r 0', "-r/--rate is '0'; give a number above 0 and at most 10000"),
    ],
)
def test_an_error_is_one_line_with_the_option_that_was_typed(
    arguments: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match='2'):
        main(arguments.split())
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith('dynamic-ofa')
    assert sentence in line


def test_copied_bounds_are_those_of_the_calculations() -> None:
    assert numbers.FEWEST_CALIBRATION_IMAGES == FEWEST_IMAGES
    assert numbers.FEWEST_PAIRS == FEWEST_PAIRS
    assert simulate.LONGEST_HOLD_S == MAX_HOLD_S
    assert simulate.LONGEST_S == MAX_DURATION_S
