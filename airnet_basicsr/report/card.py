"""``python -m airnet_basicsr.report.card``: a trained network's card, for those who are given its file."""

from airnet_basicsr.report import _packages  # noqa: F401  (before what needs them)

# ruff: isort: split
import argparse
import datetime
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from airnet_basicsr.errors import InputError, end_in_one_line
from airnet_basicsr.network.files import write_whole
from airnet_basicsr.network.model_files import info
from airnet_basicsr.plugin.options import read_options
from airnet_basicsr.report.curves import Curves, read_curves
from airnet_basicsr.report.harm import MARGIN, Harm
from airnet_basicsr.report.runs import Run, describe_making, read_runs
from airnet_basicsr.report.tables import incomparable
from airnet_basicsr.report.understanding import understand


def write_card(model: Path, experiments: list[Path], runs: list[Run], about: Path, out: Path) -> None:
    """Write the card, in Markdown.

    Args:
        model: The file that is given away.
        experiments: ``experiments/NAME`` of its training, or of the training runs that continued one another, in turn;
            ``tb_logger/NAME`` must still lie beside ``experiments``.
        runs: Its test, and after it tests of other methods on the same images.
        about: What no file knows, as Markdown: purpose, limits, licence. The card begins with it.
        out: Where to write it.

    Raises:
        InputError: A file is missing or damaged.
    """
    try:
        text = about.read_text(encoding='utf-8').rstrip()
    except (OSError, ValueError) as error:
        raise InputError(f'{about} cannot be read as text: {error}') from error
    lines = [text, '', '## The file', '', *(f'- {line}' for line in info(str(model))), '']
    for part, experiment in enumerate(experiments, start=1):
        lines += [f'## Training, part {part} of {len(experiments)}' if len(experiments) > 1 else '## Training', '']
        lines += [*_training(experiment), '']
    lines += ['## Measured', '', *_measured(runs), '']
    write_whole(out, '\n'.join(lines))


def _training(experiment: Path) -> Iterator[str]:
    try:
        (options_file,) = experiment.glob('*.yml')
        logs = [path.read_text(encoding='utf-8') for path in sorted(experiment.glob('train_*.log'))]
    except (OSError, ValueError) as error:
        raise InputError(f'{experiment} must hold the option file and logs of one training run: {error}') from error
    opt = read_options(options_file)
    # A run may have gone without TensorBoard, and then has no curve.
    logged = opt['logger'].get('use_tb_logger')
    curves = read_curves(experiment.parent.parent / 'tb_logger' / experiment.name) if logged else None
    yield from (f'- {fact}' for fact in _facts(opt, curves, '\n'.join(logs)))
    if curves:
        yield from ('', '### Learning curve', '', *_learning_curve(curves))


def _facts(opt: dict[str, Any], curves: Curves | None, log: str) -> Iterator[str]:
    data, train = opt['datasets']['train'], opt['train']
    processes = int(next(reversed(_told(log, r'^\s*world_size: (\d+)')), 1))
    weights = sum(degradation.get('weight', 1) for degradation in data['degradations'].values())
    patches = weights * data['batch_size_per_gpu'] * processes
    for name, degradation in data['degradations'].items():
        yield f'data, {name}: {_words(degradation)}'
    yield f'{train["total_iter"]:,} iterations of {patches} patches of {data["gt_size"]} x {data["gt_size"]} pixels'
    if train.get('encoder_warmup_iter'):
        yield f'the first {train["encoder_warmup_iter"]:,} with the contrastive loss alone, for the encoder'
    if opt['path'].get('pretrain_network_g'):
        yield f'on from {opt["path"]["pretrain_network_g"]}'
    frozen = train.get('freeze_encoder')
    unused = {True: 'contrast_opt', 'z': 'pixel_opt'}.get(frozen)
    if frozen == 'z':
        yield 'the restorer and what guides it left as they are: the rest of the encoder alone, by the contrastive loss'
    elif frozen:
        yield 'the encoder left as it is, so without the contrastive loss'
    for key in ('pixel_opt', 'contrast_opt', 'optim_g', 'scheduler'):
        if key in train and key != unused:
            yield f'{key}: {_words(train[key])}'
    yield f'precision of the restorer: {train.get("amp") or "float32"}; seed {opt["manual_seed"]}'
    if curves:
        yield f'time: {datetime.timedelta(seconds=round(curves.seconds))} by the clock, validations not included'
    # As the training's log has it: the card may be written elsewhere and later.
    machines = _told(log, r'Hardware: (.+)$') or ['not told in the log']
    versions = _told(log, r'^\s*PyTorch: (\S+)') or ['of unknown version']
    yield f'hardware: {", then ".join(machines)}; {processes} process(es); PyTorch {", then ".join(versions)}'


def _words(described: dict[str, Any]) -> str:
    return ', '.join(str(value) if key == 'type' else f'{key} {value}' for key, value in described.items())


def _told(log: str, pattern: str) -> list[str]:
    """What the logs of a training run say, each thing once and the latest last."""
    return list(dict.fromkeys(reversed(re.findall(pattern, log, re.MULTILINE))))[::-1]


def _learning_curve(curves: Curves) -> Iterator[str]:
    yield '| iteration | ' + ' | '.join(f'{dataset}, {metric}' for dataset, metric in curves.validation) + ' |'
    yield '|' + ' ---: |' * (len(curves.validation) + 1)
    columns = [dict(points) for points in curves.validation.values()]
    for step in sorted(set().union(*columns)):
        yield (
            f'| {step:,} | ' + ' | '.join(f'{column[step]:.2f}' if step in column else '' for column in columns) + ' |'
        )


def _figures(run: Run, dataset: str, which: str) -> str:
    pair = run.pairs[0]
    means = (run.mean(dataset, metric, which) for metric in (pair.psnr, pair.ssim))
    shown = ((mean.value, digits) for mean, digits in zip(means, (2, 4), strict=True) if mean)
    # A picture that nothing was done to has no finite PSNR; what becomes of it is told by the last columns.
    return ' / '.join(f'{value:.{digits}f}' if math.isfinite(value) else 'clean' for value, digits in shown)


def _harm(harm: Harm | None) -> tuple[str, str]:
    if harm is None:
        return '', ''
    if harm.given_back is not None:
        return f'clean ones come back at {harm.given_back:.2f} dB', f'the worst at {harm.least:.2f} dB'
    return f'{harm.share:.0%}', f'{harm.worst:.2f} dB' if harm.worst > 0 else 'none'


def _measured(runs: list[Run]) -> Iterator[str]:
    run, *others = runs
    if not run.pairs:
        raise InputError(
            f'{run.folder} has no PSNR: put calculate_psnr into val:metrics of its option file and test again'
        )
    pair = run.pairs[0]
    yield f'`{pair.protocol}`, means over the images of each set. Made worse: by more than {MARGIN} dB.'
    yield ''
    yield (
        '| | images | protocol | input | restored | gain | made worse | worst loss |'
        + ''.join(f' against {other.name} |' for other in others)
    )
    yield '| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: |' + ' ---: |' * len(others)
    for dataset, records in run.images.items():
        before, after = (_figures(run, dataset, which) for which in ('input', 'metrics'))
        psnr = run.mean(dataset, pair.psnr)
        cells = [dataset, str(len(records)), describe_making(*run.making(dataset)), before]
        gain = run.mean(dataset, pair.psnr, 'gain')
        cells += [
            after,
            f'{gain.value:+.2f} dB' if gain and math.isfinite(gain.value) else '',
            *_harm(run.harm(dataset)),
        ]
        for other in others:
            same_inputs = dataset in other.images and not incomparable(run, other, dataset)
            mean = other.mean(dataset, other.named(run.metrics[pair.psnr])) if same_inputs else None
            cells.append(f'{psnr.value - mean.value:+.2f} dB' if psnr and mean else '')
        yield '| ' + ' | '.join(cells) + ' |'
    understood = understand(run.folder)
    if not understood['reason']:
        yield ''
        yield (
            f'By its {understood["neighbours"]} nearest neighbours among other photographs, the embedding tells the '
            f'{len(understood["datasets"])} sets apart: accuracy {understood["accuracy"]:.1%} '
            f'(chance: {understood["chance"]:.1%}).'
        )


def main() -> None:
    """Write the card that the command line asks for."""
    end_in_one_line()
    parser = argparse.ArgumentParser(prog='python -m airnet_basicsr.report.card', description=__doc__)
    parser.add_argument('model', type=Path, help='the file that is given away')
    parser.add_argument(
        '--training', type=Path, nargs='+', required=True, metavar='experiments/NAME', help='its parts, in turn'
    )
    parser.add_argument(
        '--tests', nargs='+', required=True, metavar='results/NAME', help='of this network, then of others to compare'
    )
    parser.add_argument('--about', type=Path, required=True, metavar='FILE.md', help='purpose, limits and licence')
    parser.add_argument('-o', '--output', type=Path, required=True, metavar='FILE.md')
    arguments = parser.parse_args()
    write_card(arguments.model, arguments.training, read_runs(arguments.tests), arguments.about, arguments.output)
    print(f'Written: {arguments.output}')


if __name__ == '__main__':
    main()
