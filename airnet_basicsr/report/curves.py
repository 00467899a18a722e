"""``python -m airnet_basicsr.report.curves``: learning curves, from the TensorBoard logs of training runs."""

from airnet_basicsr.report import _packages  # noqa: F401  (before what needs them)

# ruff: isort: split
import argparse
import itertools
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from airnet_basicsr.errors import InputError, end_in_one_line
from airnet_basicsr.network.files import write_whole
from airnet_basicsr.report.figures import COLOURS, MARKERS, STYLE, to_svg


class Curves(NamedTuple):
    """What a training run logged.

    Attributes:
        name: Of the training run.
        validation: By dataset and metric, the pairs (iteration, value).
        seconds: By the clock: all iterations at the median speed, so without validations and interruptions.
    """

    name: str
    validation: dict[tuple[str, str], list[tuple[int, float]]]
    seconds: float


def read_curves(folder: Path) -> Curves:
    """Read ``tb_logger/NAME``.

    Raises:
        InputError: It holds no validations, or no two logged iterations in a row.
    """
    events = EventAccumulator(str(folder), size_guidance={'scalars': 0}).Reload() if folder.is_dir() else None
    scalars = {tag: events.Scalars(tag) for tag in events.Tags()['scalars']} if events else {}
    validation = {}
    for tag, points in scalars.items():
        kind, _, name = tag.partition('/')
        if kind == 'metrics':
            # A resumed training run repeats what came after its checkpoint: the last value counts.
            latest = {point.step: point.value for point in points}
            validation[tuple(name.rsplit('/', 1))] = sorted(latest.items())
    if not validation:
        raise InputError(f'{folder} has no validations: give tb_logger/NAME of a training run with use_tb_logger: true')
    points = scalars.get('lr', [])
    pairs = [(before, after) for before, after in itertools.pairwise(points) if after.step > before.step]
    if not pairs:
        raise InputError(f'{folder} has no two logged iterations in a row: lower logger:print_freq')
    speeds = [(after.wall_time - before.wall_time) / (after.step - before.step) for before, after in pairs]
    return Curves(folder.name, validation, float(np.median(speeds)) * points[-1].step)


def draw_curves(runs: list[Curves], metric: str) -> str:
    """An SVG with a panel for each validation set: ``metric`` by iteration, a line for each training run.

    Raises:
        InputError: One of the training runs was not validated by that metric, or two have the same name.
    """
    names = [run.name for run in runs]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f'two training runs are named {twice!r}, which no legend could tell apart: draw one at a time')
    keys = dict.fromkeys(key for run in runs for key in run.validation)
    datasets = [name for name, found in keys if found == metric]
    for run in runs:
        known = sorted({found for _, found in run.validation})
        if metric not in known:
            raise InputError(f'--metric {metric}: {run.name} was not validated by it; choose one of {", ".join(known)}')
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(max(2.9 * len(datasets), 5), 3), layout='constrained')
        lines = {}
        for number, dataset in enumerate(datasets):
            axes = figure.add_subplot(1, len(datasets), number + 1)
            for i, run in enumerate(runs):
                points = run.validation.get((dataset, metric), [])
                if not points:
                    continue
                (lines[i],) = axes.plot(
                    *zip(*points, strict=True),
                    color=COLOURS[i % len(COLOURS)],
                    marker=MARKERS[(i + i // len(COLOURS)) % len(MARKERS)],  # never the same beside the same colour
                    markersize=3.5,
                )
            axes.set_title(dataset, fontsize=9)
            axes.set_xlabel('iteration')
            if number == 0:
                axes.set_ylabel(metric.upper())
        if len(runs) > 1:
            # Of all panels: not every run was validated on each set.
            figure.legend([lines[i] for i in range(len(runs))], names, loc='outside lower center', ncols=2)
        return to_svg(figure)


def main() -> None:
    """Draw the training runs that the command line names."""
    end_in_one_line()
    parser = argparse.ArgumentParser(prog='python -m airnet_basicsr.report.curves', description=__doc__)
    parser.add_argument('runs', nargs='+', metavar='tb_logger/NAME', type=Path)
    parser.add_argument('--metric', default='psnr')
    parser.add_argument('-o', '--output', type=Path, required=True, metavar='FILE.svg')
    arguments = parser.parse_args()
    runs = [read_curves(folder) for folder in arguments.runs]
    write_whole(arguments.output, draw_curves(runs, arguments.metric))
    print(f'Written: {arguments.output}')


if __name__ == '__main__':
    main()
