"""The layout of `--help`."""

from __future__ import annotations

import argparse


class DefaultsHelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Appends the default value to the help of an option, unless the option is empty or off."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        is_shown = action.default not in (None, '', []) and action.default is not False
        return super()._get_help_string(action) if is_shown else action.help
