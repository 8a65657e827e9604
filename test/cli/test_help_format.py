from __future__ import annotations

import argparse

from dynamic_ofa_ros.cli.help_format import DefaultsHelpFormatter


def test_only_defaults_with_a_value_are_shown() -> None:
    parser = argparse.ArgumentParser(formatter_class=DefaultsHelpFormatter)
    defaults: dict[str, object] = {
        'none': None, 'empty': '', 'off': False, 'list': [], 'zero': 0, 'text': 'auto',
    }  # fmt: skip
    for name, default in defaults.items():
        parser.add_argument(f'--{name}', default=default, help=f'help of {name}')
    lines = [line.split()[2:] for line in parser.format_help().splitlines() if 'help of' in line]
    assert [' '.join(line) for line in lines] == [
        'help of none', 'help of empty', 'help of off', 'help of list',
        'help of zero (default: 0)', 'help of text (default: auto)',
    ]  # fmt: skip
