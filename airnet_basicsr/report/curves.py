"""``python -m airnet_basicsr.report.curves``: learning curves of trainings, from what they logged for TensorBoard."""

import argparse
from pathlib import Path
from typing import NamedTuple

import matplotlib
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from airnet_basicsr.errors import InputError
from airnet_basicsr.report.figures import COLOURS, MARKERS, STYLE, to_svg
from airnet_basicsr.whole_files import write_whole

# A longer silence between two lines of a log is taken for an interruption, not for training.
_LONGEST_PAUSE = 600


class Curves(NamedTuple):
    """What a training logged.

    Attributes:
        name: Of the training.
        validation: By dataset and metric, the pairs (iteration, value).
        seconds: By the clock, without interruptions.
    """

    name: str
    validation: dict[tuple[str, str], list[tuple[int, float]]]
    seconds: float


def read_curves(folder: Path) -> Curves:
    """Read ``tb_logger/NAME``.

    Raises:
        InputError: It holds no validations.
    """
    events = EventAccumulator(str(folder), size_guidance={'scalars': 0}).Reload() if folder.is_dir() else None
    tags = events.Tags()['scalars'] if events else []
    scalars = {tag: events.Scalars(tag) for tag in tags}
    validation = {}
    for tag, points in scalars.items():
        kind, _, name = tag.partition('/')
        if kind == 'metrics':
            # A resumed training repeats what came after its checkpoint: the last value of an iteration counts.
            latest = {point.step: point.value for point in points}
            validation[tuple(name.rsplit('/', 1))] = sorted(latest.items())
    if not validation:
        raise InputError(f'{folder} has no validations: give tb_logger/NAME of a training with use_tb_logger: true')
    times = sorted(point.wall_time for points in scalars.values() for point in points)
    pauses = (after - before for before, after in zip(times, times[1:], strict=False))
    return Curves(folder.name, validation, sum(pause for pause in pauses if pause < _LONGEST_PAUSE))


def draw_curves(trainings: list[Curves], metric: str) -> str:
    """An SVG with a panel for each validation set: ``metric`` by iteration, a line for each training."""
    datasets = list(dict.fromkeys(name for training in trainings for name, found in training.validation))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(2.9 * len(datasets), 2.7), layout='constrained')
        for number, dataset in enumerate(datasets):
            axes = figure.add_subplot(1, len(datasets), number + 1)
            for i, training in enumerate(trainings):
                points = training.validation.get((dataset, metric), [])
                axes.plot(
                    *zip(*points, strict=True), color=COLOURS[i], marker=MARKERS[i], markersize=3.5, label=training.name
                )
            axes.set_title(dataset, fontsize=9)
            axes.set_xlabel('iteration')
            if number == 0:
                axes.set_ylabel(metric.upper())
        if len(trainings) > 1:
            figure.legend(*axes.get_legend_handles_labels(), loc='outside lower center', ncols=len(trainings))
        return to_svg(figure)


def main() -> None:
    """Draw the trainings that the command line names."""
    parser = argparse.ArgumentParser(prog='python -m airnet_basicsr.report.curves', description=__doc__)
    parser.add_argument('trainings', nargs='+', metavar='tb_logger/NAME', type=Path)
    parser.add_argument('--metric', default='psnr')
    parser.add_argument('-o', '--output', type=Path, required=True, metavar='FILE.svg')
    arguments = parser.parse_args()
    trainings = [read_curves(folder) for folder in arguments.trainings]
    write_whole(arguments.output, draw_curves(trainings, arguments.metric).encode())
    print(f'Written: {arguments.output}')


if __name__ == '__main__':
    main()
