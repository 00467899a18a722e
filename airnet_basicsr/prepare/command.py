"""Makes and checks the datasets that the option files name: see docs/datasets.md."""

import argparse
import io
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

from tqdm import tqdm

from airnet_basicsr.errors import InputError
from airnet_basicsr.prepare.images import Cut
from airnet_basicsr.prepare.layouts import (
    DATASETS,
    Dataset,
    Found,
    make_jobs,
    own_clean,
    own_pairs,
    recognise,
    recognise_one_of,
)
from airnet_basicsr.prepare.workers import Item, Progress, take_large_images
from airnet_basicsr.prepare.writing import Plan, Written, write


def main() -> int:
    """Run the command line; the exit status is 0 if everything is as it should be."""
    # What is found must be said before the work starts, in a pipe or a log file too.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)
    take_large_images()
    arguments = _parser().parse_args()
    if arguments.list:
        print(_listing())
        return 0
    return arguments.run(arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description='Pack datasets into LMDBs under the names that the option files use. Manual: docs/datasets.md.'
    )
    parser.add_argument('--list', action='store_true', help='show the datasets, their layouts and their LMDBs')
    commands = parser.add_subparsers(title='datasets and commands', metavar='WHAT')
    for name, dataset in DATASETS.items():
        writes = f'writes {" and ".join(_lmdbs(dataset.lmdb, dataset.published))}'
        command = commands.add_parser(name, help=writes, description=writes)
        command.add_argument(
            '--source',
            type=_folder,
            nargs='+',
            required=True,
            metavar='FOLDER',
            help='the unpacked download, whose layout is recognised; several for sets of clean images',
        )
        _add_writing(command)
        command.set_defaults(run=_prepare, dataset=name)
    command = commands.add_parser('clean', help='pack clean images of your own')
    command.add_argument('--name', required=True, type=_name, help='name of the LMDB')
    command.add_argument('--source', type=_folder, nargs='+', required=True, metavar='FOLDER', help='with subfolders')
    _add_writing(command)
    command.set_defaults(run=_prepare, dataset='clean')
    command = commands.add_parser('pairs', help='pack pairs of your own')
    command.add_argument('--name', required=True, type=_name, help='name of the LMDBs, which end in _gt and _lq')
    command.add_argument('--gt', type=_folder, required=True, metavar='FOLDER', help='clean images')
    command.add_argument(
        '--lq',
        type=_folder,
        required=True,
        metavar='FOLDER',
        help='degraded images: of the same names, or NAME_anything for the clean image NAME',
    )
    _add_writing(command)
    command.set_defaults(run=_prepare, dataset='pairs')
    _add_verify(commands)
    _add_synthesize(commands)
    _add_noisy(commands)
    _add_weather(commands)
    _add_leaks(commands)
    parser.set_defaults(run=lambda _: parser.error('name a dataset or a command, or give --list'))
    return parser


def _add_writing(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        '--out', type=_path, default=Path('datasets'), metavar='FOLDER', help='where the LMDBs go (default: datasets)'
    )
    command.add_argument(
        '--on-error',
        choices=('stop', 'skip'),
        default='stop',
        help='at a damaged image: stop (default), or leave it out and exit with status 1 at the end',
    )
    command.add_argument('--overwrite', action='store_true', help='replace LMDBs that this program wrote before')
    command.add_argument(
        '--sub-images',
        type=int,
        nargs=2,
        metavar=('SIZE', 'STEP'),
        help='cut into squares of SIZE pixels every STEP pixels: faster to read, larger on disk',
    )
    _add_workers(command)


def _add_workers(command: argparse.ArgumentParser) -> None:
    command.add_argument('--workers', type=_positive, default=os.cpu_count(), help='processes (default: one per core)')


def _add_verify(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser('verify', help='check LMDBs; exit status 1 if anything is wrong')
    command.add_argument('folder', type=_path, help='a folder of LMDBs, or one LMDB')
    command.add_argument('--sample', type=_positive, metavar='N', help='also draw N images of each set; needs --save')
    command.add_argument('--save', type=_path, metavar='FOLDER', help='where the contact sheets go')
    _add_workers(command)
    command.set_defaults(run=_verify)


def _add_synthesize(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        'synthesize',
        help='make rainy or hazy images from clean ones',
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="""\
Make degraded images from clean ones. Each image gets all that is named: haze first, then rain, then noise.
Rain alone is named as Rain100L (prepare it with rain100l-train), anything with haze as RESIDE (prepare it with ots).
The same images and options give the same files, whatever the number of processes.

Without --depth, the depth of the haze is guessed: what is high up in the picture and what is bright and colourless
counts as far. The haze looks plausible in landscapes. It is wrong indoors, in close-ups and on white things nearby.""",
    )
    command.add_argument('what', nargs='+', choices=('rain', 'haze', 'noise'), help='one or more')
    command.add_argument('--source', type=_folder, required=True, metavar='FOLDER', help='clean images')
    command.add_argument('--out', type=_path, required=True, metavar='FOLDER', help='a new or empty folder')
    command.add_argument('--seed', type=int, default=0, help='(default: 0)')
    rain = command.add_argument_group('rain; each image draws its value from the range')
    rain.add_argument(
        '--angle',
        type=float,
        nargs=2,
        default=(-30, 30),
        metavar=('FROM', 'TO'),
        help='degrees from the vertical, above 0 leaning to the right (default: -30 30)',
    )
    rain.add_argument(
        '--density',
        type=float,
        nargs=2,
        default=(0.0015, 0.0035),
        metavar=('FROM', 'TO'),
        help='streaks per pixel (default: 0.0015 0.0035)',
    )
    rain.add_argument(
        '--length',
        type=int,
        nargs=2,
        default=(20, 40),
        metavar=('FROM', 'TO'),
        help='pixels of the longest streaks (default: 20 40)',
    )
    haze = command.add_argument_group("haze; airlight and scattering are drawn from RESIDE's 5 x 7 values")
    haze.add_argument(
        '--per-image',
        type=int,
        choices=range(1, 36),
        default=1,
        metavar='N',
        help='hazy images of each clean one, 1 to 35 (default: 1)',
    )
    haze.add_argument(
        '--depth',
        type=_folder,
        metavar='FOLDER',
        help='depth maps named as the images: .npy (about 2 near, 20 far), or grey images (white: 20)',
    )
    command.add_argument(
        '--sigma',
        type=float,
        nargs=2,
        default=(15, 50),
        metavar=('FROM', 'TO'),
        help='noise: standard deviation, drawn from the range (default: 15 50)',
    )
    _add_workers(command)
    command.set_defaults(run=_synthesize)


def _add_noisy(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        'noisy',
        help='write noisy test sets as files, for other programs',
        description='Write gt/ and sigmaN/ (or spatial/) as PNG. The noise is that of the validation datasets with '
        "noise protocol 'uint8': clipped and truncated to 8 bits, as in the official release.",
    )
    command.add_argument(
        '--source', type=_folder, required=True, metavar='FOLDER', help='clean images such as CBSD68, loose or an LMDB'
    )
    command.add_argument('--out', type=_path, required=True, metavar='FOLDER', help='a new or empty folder')
    command.add_argument('--sigma', type=float, nargs='*', default=(15, 25, 50), help='(default: 15 25 50)')
    command.add_argument(
        '--spatial',
        action='store_true',
        help='also the set of Table 6: four quarters of each image with sigma 0, 15, 25, 50',
    )
    command.add_argument('--seed', type=int, default=0, help='(default: 0)')
    command.set_defaults(run=_noisy)


def _add_weather(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        'weather',
        help='extract rain streaks and depth maps from pairs, to degrade other photographs in training',
        description='Write folders for the degradations CleanPictures, RainStreaks and Haze: clean/ and scenes/ '
        '(photographs), streaks/ (layers of rain), depth/ (depth maps), and what is held out for validation in val_*/. '
        'Photographs that a held-out rainy picture shows are left out. The same command resumes an interrupted run.',
    )
    command.add_argument('--photos', type=_folder, nargs='+', required=True, metavar='FOLDER', help='clean photographs')
    command.add_argument(
        '--rain', type=_folder, required=True, metavar='FOLDER', help='Rain100L, in any of its layouts'
    )
    command.add_argument('--haze', type=_folder, required=True, metavar='FOLDER', help='SOTS outdoor or OTS')
    command.add_argument('--out', type=_path, required=True, metavar='FOLDER', help='a new or empty folder')
    command.add_argument(
        '--hold-out',
        type=_count,
        nargs=3,
        default=(10, 40, 50),
        metavar=('RAIN', 'HAZE', 'PHOTOS'),
        help='the last pairs, scenes, and photographs of each folder but the first, for validation (default: 10 40 50)',
    )
    _add_workers(command)
    command.set_defaults(run=_weather)


def _add_leaks(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        'leaks',
        help='find test pictures that are in a training set',
        description='Find test pictures that are in a training set, by their thumbnails, rotated or flipped too. Exit '
        'status 1 if there are any.',
    )
    command.add_argument('--train', type=_folder, nargs='+', required=True, metavar='FOLDER', help='folders or LMDBs')
    command.add_argument('--test', type=_folder, nargs='+', required=True, metavar='FOLDER', help='folders or LMDBs')
    _add_workers(command)
    command.set_defaults(run=_leaks)


def _prepare(arguments: argparse.Namespace) -> int:
    cut = Cut(*arguments.sub_images) if arguments.sub_images else None
    if cut and min(cut) < 1:
        raise InputError(f'--sub-images {cut.size} {cut.step}: both must be at least 1')
    if arguments.dataset == 'pairs':
        found = own_pairs(arguments.name, arguments.gt, arguments.lq)
    elif arguments.dataset == 'clean':
        found = own_clean(arguments.name, arguments.source)
    else:
        found = recognise(arguments.dataset, arguments.source)
    _say(found, DATASETS.get(arguments.dataset))
    skip = arguments.on_error == 'skip'
    jobs, failures = make_jobs(found, skip, _bar('sizes'))
    if not jobs:
        raise InputError('no usable images are left; nothing was written')
    name = found.stores[0].removesuffix('_gt')
    plan = Plan(name, found.stores, jobs, failures, cut, found.description)
    written = write(plan, arguments.out, skip, arguments.overwrite, arguments.workers)
    return _report(plan, arguments.out, written)


def _say(found: Found, dataset: Dataset | None) -> None:
    counts = tuple(len(files) for files in found.files)
    words = f'{counts[0]} images' if len(counts) == 1 else f'{counts[1]} pairs from {counts[0]} clean images'
    print(f'Found: {found.description}: {words}')
    if found.ignored:
        print(f'{found.ignored} other images there are not part of the set and are left alone')
    if dataset and counts in dataset.others:
        print(f'Warning: {_numbers(counts)}: {dataset.others[counts]}')
    elif dataset and None not in dataset.published and counts != dataset.published:
        print(f'Warning: {_numbers(counts)} were found, {_numbers(dataset.published)} are published')


def _numbers(counts: Iterable[int | None]) -> str:
    named = zip(counts, ('clean', 'degraded'), strict=False)
    return ' and '.join(f'{"any number of" if count is None else count} {kind}' for count, kind in named)


def _report(plan: Plan, out: Path, written: Written) -> int:
    for remark, count in sorted(written.remarks.items()):
        print(f'{count} images: {remark}')
    print(f'Ready: {", ".join(str(out / f"{store}.lmdb") for store in plan.stores)}')
    if not written.failures:
        return 0
    for failure in written.failures:
        print(f'Left out: {failure.path} {failure.reason}', file=sys.stderr)
    print(f'{len(written.failures)} images were left out', file=sys.stderr)
    return 1


def _verify(arguments: argparse.Namespace) -> int:
    from airnet_basicsr.prepare.verifying import find, save_samples, table, verify

    if (arguments.sample is None) != (arguments.save is None):
        raise InputError('--sample and --save go together')
    found = find(arguments.folder)
    rows = [verify(name, paths, arguments.workers) for name, paths in found.items()]
    print(table(rows))
    problems = [problem for row in rows for problem in row.problems]
    problems += [f'{path} is unfinished' for path in sorted(arguments.folder.glob('*.partial'))]
    for problem in problems[:20]:
        print(problem, file=sys.stderr)
    if len(problems) > 20:
        print(f'... and {len(problems) - 20} more', file=sys.stderr)
    for row in rows if arguments.save else ():
        if row.problems:
            print(f'{row.name}: no contact sheet, because of its problems', file=sys.stderr)
        else:
            print(f'Samples: {save_samples(row.name, found[row.name], arguments.sample, arguments.save)}')
    return 1 if problems else 0


def _synthesize(arguments: argparse.Namespace) -> int:
    from airnet_basicsr.prepare.synthetic import Recipe, synthesize

    recipe = Recipe(frozenset(arguments.what), arguments.seed, tuple(arguments.angle), tuple(arguments.density),
                    tuple(arguments.length), arguments.per_image, arguments.depth, tuple(arguments.sigma))  # fmt: skip
    synthesize(recipe, own_clean('', [arguments.source]), arguments.out, arguments.workers, _bar('images'))
    return 0


def _noisy(arguments: argparse.Namespace) -> int:
    from airnet_basicsr.prepare.synthetic import export_noisy

    export_noisy(arguments.source, arguments.out, tuple(arguments.sigma), arguments.spatial, arguments.seed)
    return 0


def _weather(arguments: argparse.Namespace) -> int:
    from airnet_basicsr.prepare.weather import HoldOut, prepare_weather

    prepare_weather(
        arguments.photos,
        recognise_one_of(('rain100l-test', 'rain100l-train'), arguments.rain),
        recognise_one_of(('sots-outdoor', 'ots'), arguments.haze),
        arguments.out,
        HoldOut(*arguments.hold_out),
        arguments.workers,
        _bar('pictures'),
    )
    return 0


def _leaks(arguments: argparse.Namespace) -> int:
    from airnet_basicsr.prepare.thumbnails import find_leaks

    found = find_leaks(arguments.train, arguments.test, arguments.workers, _bar('pictures'))
    for tested, trained in found:
        print(f'{tested} shows the same scene as {trained}')
    print(f'{len(found)} of the test pictures are in the training sets')
    return 1 if found else 0


def _listing() -> str:
    lines = []
    for name, dataset in DATASETS.items():
        lines.append(f'{name}: {_numbers(dataset.published)} -> {", ".join(_lmdbs(dataset.lmdb, dataset.published))}')
        lines += [f'    {layout.name}' for layout in dataset.layouts]
    lines.append('clean, pairs: any images of your own -> NAME.lmdb, or NAME_gt.lmdb and NAME_lq.lmdb')
    return '\n'.join(lines)


def _lmdbs(name: str, published: tuple[int | None, ...]) -> list[str]:
    return [f'{name}.lmdb'] if len(published) == 1 else [f'{name}_gt.lmdb', f'{name}_lq.lmdb']


def _bar(what: str) -> Progress:
    def show(items: Iterable[Item], total: int | None = None) -> Iterable[Item]:
        return tqdm(items, total=total, desc=what, leave=False)

    return show


def _path(text: str) -> Path:
    return Path(text).expanduser().absolute()


def _folder(text: str) -> Path:
    path = _path(text)
    if not path.is_dir():
        raise InputError(f'there is no folder {path}')
    return path


def _name(text: str) -> str:
    if not text or '/' in text or text.startswith('.'):
        raise argparse.ArgumentTypeError('must be a plain name')
    return text.removesuffix('.lmdb')


def _count(text: str) -> int:
    if int(text) < 0:
        raise argparse.ArgumentTypeError('must be at least 0')
    return int(text)


def _positive(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError('must be at least 1')
    return int(text)


def run() -> NoReturn:
    """The program: as :func:`main`, and leaves with its exit status."""
    try:
        sys.exit(main())
    except InputError as error:
        sys.exit(f'Error: {error}')
    except KeyboardInterrupt:
        sys.exit(130)
