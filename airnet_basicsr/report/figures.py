"""Histograms and maps, as SVG for the page."""

import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure

from airnet_basicsr.report.runs import Run

if TYPE_CHECKING:
    from matplotlib.typing import RcKeyType

# Okabe and Ito's colours, which the colour-blind can tell apart; shapes say it once more.
COLOURS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9', '#000000')
MARKERS = ('o', 's', '^', 'D', 'v', 'P', 'X')
HATCHES = (None, '///', '...', 'xxx')  # of bars, where there are more than colours
STYLE: 'dict[RcKeyType, Any]' = {
    'svg.fonttype': 'none',
    'svg.hashsalt': 'report',  # the same page for the same results
    'text.parse_math': False,  # names may hold $
    'font.family': 'sans-serif',
    'font.size': 9,
    'axes.spines.top': False,
    'axes.spines.right': False,
    'axes.edgecolor': '#8a8f98',
    'axes.labelcolor': '#3b4048',
    'xtick.color': '#3b4048',
    'ytick.color': '#3b4048',
    'legend.frameon': False,
}


def gain_histogram(runs: Sequence[Run], dataset: str) -> Markup | None:
    """How many images gained how much PSNR; None where nothing was restored and measured."""
    gains = {}
    metric_of_all = next((run.metrics[run.pairs[0].psnr] for run in runs if run.pairs), None)
    for run in runs:
        if run.info.get('model_type') == 'NoRestoration':
            continue  # gains nothing
        metric = run.named(metric_of_all) if metric_of_all else None
        values = run.values(dataset, metric, 'gain') if metric else {}
        finite = [value for value in values.values() if math.isfinite(value)]
        if finite:
            gains[run.name] = finite
    if not gains:
        return None
    bins = np.histogram_bin_edges(np.concatenate(list(gains.values())), bins='auto').tolist()
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.6, 2.1), layout='constrained')
        axes = figure.add_subplot()
        handles: list[Any] = []
        for i, gained in enumerate(gains.values()):
            colour = COLOURS[i % len(COLOURS)]
            hatch = HATCHES[i // len(COLOURS) % len(HATCHES)]
            alpha = 0.75 if len(gains) == 1 else 0.35
            handles.append(axes.hist(gained, bins, color=colour, alpha=alpha, hatch=hatch)[2])
            if len(gains) > 1:
                axes.hist(gained, bins, histtype='step', color=colour, linewidth=1.4)
        axes.axvline(0, color='#3b4048', linewidth=0.8, linestyle=':')
        axes.set_xlabel('gain in PSNR, dB')
        axes.set_ylabel('images')
        axes.locator_params(axis='y', integer=True)
        if len(gains) > 1:
            axes.legend(handles, list(gains), fontsize=8)  # by itself it leaves out names that begin with _
        return to_svg(figure)


def embedding_map(understood: dict[str, Any]) -> Markup:
    """The t-SNE map of :func:`~airnet_basicsr.report.understanding.understand`."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 4.4), layout='constrained')
        axes = figure.add_subplot()
        handles = []
        for i, name in enumerate(understood['datasets']):
            points = [point for point in understood['points'] if point['dataset'] == name]
            x, y = ([point[axis] for point in points] for axis in 'xy')
            colour, marker = COLOURS[i % len(COLOURS)], MARKERS[(i + i // len(COLOURS)) % len(MARKERS)]
            handles.append(axes.scatter(x, y, s=20, c=colour, marker=marker, alpha=0.8, linewidths=0))
        axes.set_xticks([])
        axes.set_yticks([])
        for spine in axes.spines.values():
            spine.set_visible(False)
        figure.legend(handles, understood['datasets'], loc='outside right upper', fontsize=8.5)
        return to_svg(figure)


def to_svg(figure: Figure) -> Markup:
    """The figure as an ``<svg>`` element, the same text for the same figure."""
    file = io.StringIO()
    figure.savefig(file, format='svg', transparent=True, metadata={'Date': None})
    return Markup(file.getvalue()[file.getvalue().index('<svg') :])
