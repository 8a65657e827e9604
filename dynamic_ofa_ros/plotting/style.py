"""The common style of all figures: size, font size, colours, legend and caption.

Figures use matplotlib's object interface and the Agg canvas: no global state, no display.
"""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

from dynamic_ofa_ros.errors import DynamicOfaError
from dynamic_ofa_ros.files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH_INCHES = 8.0
DPI = 150
TEXT_SIZE = 8.0
INK, QUIET, SHADE, LIMIT = '#222222', '#767676', '#ebebeb', '#c1272d'
CAPTION_COLUMNS = 140
PICTURES = ('.png', '.pdf', '.svg')


def check_picture_name(option: str, path: Path) -> None:
    """Raise a DynamicOfaError unless the file of an option has the suffix of an image format."""
    if path.suffix.lower() not in PICTURES:
        raise DynamicOfaError(f'{option} is {path}; its name must end with {", ".join(PICTURES)}')


def new_figure(height_inches: float) -> Figure:
    """Return an empty figure with space for a legend above and a caption below."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH_INCHES, height_inches), facecolor='white')
    FigureCanvasAgg(figure)
    caption_share = 0.62 / height_inches
    figure.subplots_adjust(
        left=0.085,
        right=0.98,
        top=1.0 - 0.55 / height_inches,
        bottom=caption_share + 0.47 / height_inches,
    )
    return figure


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Write a figure in the format of the suffix (.png, .pdf, .svg); return the path."""
    path = Path(path)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=DPI, format=path.suffix.lstrip('.') or 'png')
    return path


def style_axes(axes: Axes) -> None:
    """Apply the common style to axes: no frame, grey lines, a light grid behind the data."""
    axes.spines[['top', 'right']].set_visible(False)
    for side in ('left', 'bottom'):
        axes.spines[side].set_color(QUIET)
    axes.tick_params(labelsize=TEXT_SIZE, colors=INK, width=0.6, length=3)
    axes.xaxis.label.set_fontsize(TEXT_SIZE + 1)
    axes.yaxis.label.set_fontsize(TEXT_SIZE + 1)
    axes.grid(axis='y', color='#ececec', linewidth=0.6, zorder=0)
    axes.set_axisbelow(True)


def level_colour(level: int, level_count: int) -> tuple[float, float, float, float]:
    """Return the colour of a level: viridis from dark (level 1) to light, without the lightest."""
    from matplotlib import colormaps

    red, green, blue, alpha = colormaps['viridis'](0.9 * (level - 1) / max(1, level_count - 1))
    return float(red), float(green), float(blue), float(alpha)


def draw_legend(figure: Figure, axes: Axes) -> None:
    """Draw the legend of `axes` in one line above all axes."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc='upper left',
        bbox_to_anchor=(axes.get_position().x0 - 0.01, 0.995),
        ncol=len(handles),
        fontsize=TEXT_SIZE,
        frameon=False,
        handlelength=1.3,
        handletextpad=0.3,
        columnspacing=1.0,
        markerscale=1.6,
        borderaxespad=0.0,
    )


def draw_caption(figure: Figure, text: str) -> None:
    """Write a wrapped caption below all axes."""
    figure.text(
        0.02,
        0.012,
        '\n'.join(textwrap.wrap(text, CAPTION_COLUMNS)),
        ha='left',
        va='bottom',
        fontsize=TEXT_SIZE - 0.5,
        color=QUIET,
        linespacing=1.25,
        parse_math=False,
    )
