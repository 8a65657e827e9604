"""The texts of a figure."""

from __future__ import annotations

from matplotlib.figure import Figure


def texts(figure: Figure) -> list[str]:
    """Return the caption, the titles, labels and texts of all axes, and those of all legends."""
    found = list(figure.texts)
    legends = [*figure.legends, *(axes.get_legend() for axes in figure.axes)]
    for axes in figure.axes:
        found += [*axes.texts, axes.xaxis.label, axes.yaxis.label]
    for legend in filter(None, legends):
        found += legend.get_texts()
    titles = [axes.get_title(loc) for axes in figure.axes for loc in ('left', 'center')]
    return [text.get_text() for text in found] + titles
