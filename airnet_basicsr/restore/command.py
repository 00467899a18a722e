"""``airnet restore``: restore people's own pictures, folder by folder."""

import argparse
import glob
import json
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import distributed
from tqdm import tqdm

from airnet_basicsr.errors import InputError, end_in_one_line, message_of
from airnet_basicsr.network.files import walk, write_whole
from airnet_basicsr.network.ops.memory import keep_freed
from airnet_basicsr.restore.image_files import (
    DEEP_FORMATS,
    FORMATS,
    READ_ONLY,
    SUFFIXES,
    Picture,
    read_picture,
    to_depth,
    write_picture,
)
from airnet_basicsr.restore.picture_metadata import only
from airnet_basicsr.restore.restorer import DEFAULT_MODEL, DTYPES, Restorer

EPILOG = """examples:
  airnet restore photos/ -o restored/
  airnet restore scan.tif -o clean.tif --compare --explain
  airnet restore 'photos/**/*.jpg' -m model.pth --format png --depth 16

AVIF, HEIC, JPEG XL, JPEG 2000, PPM and TGA are read, too, and written as PNG. Metadata that a new file cannot
hold is listed at the end.

The exit status is 0 when every picture was restored or already there, 1 when some failed (they are listed at the end,
with the reasons), 130 after Ctrl-C. The same command resumes an interrupted run.
"""
LARGEST_JPEG_SIDE = 65_500


class Job(NamedTuple):
    """One picture to restore."""

    source: Path
    target: Path
    explanation: Path | None
    comparison: Path | None

    def is_done(self) -> bool:
        return all(path is None or path.exists() for path in self[1:])


Failures = list[tuple[str, str]]


class Done(NamedTuple):
    """What became of some pictures so far."""

    written: list[str]
    """Those that were written."""
    failures: Failures
    """Those that were not, each with the reason."""
    left_out: dict[str, list[str]]
    """What the new files could not hold, and the pictures that it was in."""


def parser() -> argparse.ArgumentParser:
    """Of the command line."""
    made = argparse.ArgumentParser(
        prog='airnet restore',
        description='Remove noise, rain and haze from pictures, without being told which.',
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = made.add_argument
    add('inputs', nargs='+', metavar='PICTURE', help='files, folders (with their subfolders), or quoted patterns')
    add('-o', '--output', type=Path, default=Path('restored'), metavar='FOLDER', help='default: restored')
    add(
        '-m',
        '--model',
        default=DEFAULT_MODEL,
        help='a checkpoint of your training run or of the official release, an exported .onnx, or a MATLAB file (.mat) '
        'of DnCNN or FFDNet; default: the small network that ships',
    )
    add('--overwrite', action='store_true', help='restore again what is already there')
    add('--compare', action='store_true', help='also write NAME.compare.jpg: before and after, side by side')
    add('--explain', action='store_true', help='say what each picture suffers from, also in NAME.json')
    add('--format', choices=sorted({suffix[1:] for suffix in FORMATS}), help="default: the input's")
    add('--depth', type=int, choices=(8, 16), help="bits per sample; default: the input's")
    add('--quality', type=int, default=95, metavar='1-100', help='of JPEG and lossy WebP; default: 95')
    add(
        '--self-ensemble',
        action='store_true',
        help='average over flips and rotations: 8 times the work, slightly better',
    )
    add(
        '--strength',
        type=float,
        default=1.0,
        metavar='0..1',
        help='from 0 (the picture as it is) to 1 (full restoration, the default)',
    )
    add(
        '--leave-alone',
        action=argparse.BooleanOptionalAction,
        help='do not change a picture that looks clean, or unlike all that the network knows; default: yes, where the '
        'model can tell',
    )
    add('--sigma', type=float, metavar='LEVEL', help='noise level, 0 to 255, for FFDNet, which must be told')
    add('--dtype', choices=DTYPES, default='float32', help='precision of the network; default: float32')
    add('--device', help='cpu, cuda, cuda:1, ...; default: the GPU where there is one')
    add('--tile', type=int, metavar='PIXELS', help='side of the tiles; default: chosen from the free memory')
    add('--shard', metavar='I/N', help='restore only the I-th of N shares of the pictures; automatic under torchrun')
    return made


def _walk(folder: Path, output: Path, failures: Failures) -> Iterator[Path]:
    """Pictures below ``folder``, without hidden files and without those below ``output``."""

    def unreadable(error: OSError) -> None:
        failures.append((str(error.filename), f'the folder cannot be read: {error.strerror}'))

    inside = folder.resolve() in output.parents
    for name in walk(folder, unreadable):
        path = Path(name)
        if path.suffix.lower() in SUFFIXES and not (inside and output in path.absolute().resolve().parents):
            yield path


def _matching(pattern: str, base: Path, output: Path, failures: Failures) -> Iterator[Path]:
    """Pictures that a pattern matches, and those below the folders that it matches, as where a shell expands it."""
    for match in map(Path, sorted(glob.glob(pattern, recursive=True))):
        between = [folder.resolve() for folder in (match, *match.parents) if base in folder.parents]
        if len(set(between)) < len(between) or base.resolve() in between:
            continue  # through a link that leads back
        if match.is_dir():
            yield from _walk(match, output, failures)
        elif match.suffix.lower() in SUFFIXES and output not in match.resolve().parents:
            yield match


def _sources(inputs: Iterable[str], output: Path, failures: Failures) -> Iterator[tuple[Path, Path]]:
    """Every picture that ``inputs`` name, with its place below the output folder."""
    for given in inputs:
        if given.startswith('~') and not Path(given).exists():
            given = os.path.expanduser(given)  # which a shell leaves alone in quotes
        path = Path(given)
        if path.is_dir():
            yield from ((found, found.relative_to(path)) for found in _walk(path, output, failures))
        elif path.exists():
            yield path, Path(path.name)
        elif glob.has_magic(given):
            plain = 0
            while not glob.has_magic(path.parts[plain]):
                plain += 1
            base = Path(*path.parts[:plain])
            pictures = list(_matching(given, base, output, failures))
            if not pictures:
                failures.append((given, 'no picture matches this pattern'))
            yield from ((match, match.relative_to(base)) for match in pictures)
        else:
            failures.append((given, 'there is no such file or folder'))


def _output_file(args: argparse.Namespace) -> bool:
    """Whether -o names the file of the one picture that was given.

    Raises:
        InputError: It names a file, but cannot be that of these pictures.
    """
    suffix = args.output.suffix.lower()
    Image.init()
    if args.output.is_dir() or suffix not in {*SUFFIXES, *Image.EXTENSION}:
        return False
    if suffix not in FORMATS:
        known = ', '.join(FORMATS)
        raise InputError(f'-o {args.output}: {suffix} cannot be written. Take one of {known}, or name a folder.')
    if len(args.inputs) > 1 or not Path(args.inputs[0]).expanduser().is_file():
        raise InputError(f'-o {args.output} names one file, which takes one picture: name a folder')
    if args.format and FORMATS[suffix] != FORMATS[f'.{args.format}']:
        raise InputError(f'-o {args.output} and --format {args.format} contradict each other: leave one out')
    return True


def plan(args: argparse.Namespace) -> tuple[list[Job], Failures]:
    """What to restore to where, before anything is read; with what cannot be done, and why."""
    failures: Failures = []
    output = args.output.resolve()
    to_file = _output_file(args)
    found = list(_sources(args.inputs, output, failures))
    sources = {source.resolve() for source, _ in found}
    jobs: list[Job] = []
    taken: dict[Path, Job] = {}
    for source, place in found:
        target = args.output if to_file else args.output / place
        if args.format and not to_file:
            target = target.with_suffix(f'.{args.format}')
        elif target.suffix.lower() not in FORMATS:
            target = target.with_name(f'{target.name}.png')
        beside = [target.with_name(target.name + suffix) for suffix in ('.json', '.compare.jpg')]
        job = Job(source, target, beside[0] if args.explain else None, beside[1] if args.compare else None)
        paths = [path for path in job[1:] if path is not None]
        over = next((path for path in paths if path.resolve() in sources), None)
        other = next((taken[path] for path in paths if path in taken), None)
        if over:
            failures.append((str(source), f'would be written over {over}, an input: choose another -o'))
        elif args.depth == 16 and FORMATS[target.suffix.lower()] not in DEEP_FORMATS:
            failures.append((str(source), f'{target.name} cannot hold 16 bits: add --format png or --format tiff'))
        elif other is None:
            jobs.append(job)
            taken |= dict.fromkeys(paths, job)
        elif other.source.resolve() != source.resolve() or other.target != target:
            apart = 'restore it by itself, with another -o'
            if args.format and other.source.parent.resolve() == source.parent.resolve():
                apart += ', or leave --format out'
            elif other.target == target:
                apart = f'give the folder above both, or {apart}'
            failures.append((str(source), f'would be written to {target}, as {other.source}: {apart}'))
    if not found and not failures:
        raise InputError(f'no pictures in {", ".join(args.inputs)}: looked for {", ".join((*FORMATS, *READ_ONLY))}')
    return jobs, failures


def for_a_screen(pixels: np.ndarray) -> np.ndarray:
    """Pixels as read, as H x W or H x W x 3 of uint8: without alpha."""
    pixels = to_depth(pixels, 8)
    if pixels.ndim == 3:
        pixels = pixels[..., :3] if pixels.shape[2] > 2 else pixels[..., 0]
    return pixels


def write_view(path: Path, pixels: np.ndarray, before: Picture) -> None:
    """Write pixels :func:`for_a_screen` as a JPEG with the colours of ``before``."""
    write_picture(path, Picture(pixels, only(before.metadata, ('icc_profile',)), False))


def _comparison(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    panels = []
    for pixels in map(for_a_screen, (before, after)):
        panels += [pixels, np.full_like(pixels[:, :8], 255)]
    joined = Image.fromarray(np.concatenate(panels[:3], 1))
    joined.thumbnail((LARGEST_JPEG_SIDE, LARGEST_JPEG_SIDE))
    return np.asarray(joined)


def _write(
    job: Job, before: Picture, after: np.ndarray, explanation: dict | None, args: argparse.Namespace
) -> list[str]:
    """Gives what the file could not hold."""
    if job.comparison:
        write_view(job.comparison, _comparison(before.pixels, after), before)
    if job.explanation:
        write_whole(job.explanation, (json.dumps(explanation, indent=2) + '\n').encode())
    # Last, since it is this file by which people see that a picture is done.
    return write_picture(job.target, before._replace(pixels=after), args.quality)


def _restore_one(
    picture: Picture,
    restorer: Restorer,
    args: argparse.Namespace,
    progress: Callable[[int, int], None],
    leave_alone: bool,
) -> np.ndarray:
    pixels = to_depth(picture.pixels, 16) if args.depth == 16 else picture.pixels
    restored = pixels if leave_alone else restorer.restore(pixels, progress)
    return to_depth(restored, 8) if args.depth == 8 else restored


def run(
    jobs: Sequence[Job],
    restorer: Restorer,
    args: argparse.Namespace,
    done: Done,
    watch: Callable[[int, int], None] | None = None,
) -> None:
    """Restore ``jobs``; decoding, network and encoding of neighbouring pictures overlap.

    What became of each is added to ``done``, so that it is known after an interruption, too. ``watch`` is called with
    the tiles of a picture done so far and in all; where it raises, that picture fails.
    """
    writing: tuple[Job, Picture, Future] | None = None

    def note(job: Job, error: Exception) -> None:
        # Whatever happens to one picture, the others are restored.
        what = message_of(error) if isinstance(error, InputError) else f'{type(error).__name__}: {error}'
        done.failures.append((str(job.source), what))

    def finish() -> None:
        nonlocal writing
        if writing:
            (job, before, result), writing = writing, None
            try:
                for what in dict.fromkeys((*before.left_out, *result.result())):
                    done.left_out.setdefault(what, []).append(str(job.source))
                done.written.append(str(job.source))
            except Exception as error:
                note(job, error)

    pictures = tqdm(total=len(jobs), unit='picture', disable=None)
    tiles = tqdm(unit='tile', leave=False, disable=None)

    def progress(done: int, total: int) -> None:
        tiles.total = total
        tiles.update(done - tiles.n)
        if watch:
            watch(done, total)

    with pictures, tiles, ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        reading = [reader.submit(read_picture, job.source) for job in jobs[:1]]
        try:
            for i, job in enumerate(jobs):
                current = reading.pop()
                # One ahead and one behind: more would not be faster, and pictures can be large.
                reading += [reader.submit(read_picture, following.source) for following in jobs[i + 1 : i + 2]]
                tiles.reset()
                try:
                    picture = current.result()
                    explanation = None
                    if args.explain:
                        seen = restorer.explain(picture.pixels)
                        explanation = {'picture': str(job.source), **seen._asdict()}
                        what = seen.kind if seen.sigma is None else f'noise of about sigma {seen.sigma:.0f}'
                        pictures.write(f'{job.source}: {what} ({seen.confidence:.0%})')
                    reason = restorer.reason_to_leave_alone(picture.pixels)
                    if reason:
                        pictures.write(f'{job.source}: left alone, {reason}; --no-leave-alone restores it all the same')
                    if explanation:
                        explanation['left_alone'] = reason
                    restored = _restore_one(picture, restorer, args, progress, leave_alone=reason is not None)
                    finish()
                    writing = job, picture, writer.submit(_write, job, picture, restored, explanation, args)
                    del picture, restored  # they may be large
                except Exception as error:
                    note(job, error)
                pictures.update()
        finally:
            finish()  # the last, also after an interruption


def _share(shard: str | None) -> tuple[int, int]:
    """Which share of how many this process does, from 0."""
    if int(os.environ.get('WORLD_SIZE', 1)) > 1:
        if shard:
            raise InputError('--shard cannot be used under torchrun, which splits the pictures itself')
        # Long: the first process to finish waits for the last.
        distributed.init_process_group('gloo', timeout=timedelta(days=30))
        return distributed.get_rank(), distributed.get_world_size()
    if shard is None:
        return 0, 1
    try:
        part, of = map(int, shard.split('/'))
    except ValueError:
        part = of = 0
    if not 1 <= part <= of:
        raise InputError(f'--shard {shard}: expected I/N with I from 1 to N, as 1/4')
    return part - 1, of


def _gather(done: Done, skipped: int) -> tuple[Done, int]:
    """The sums over all processes, so that one of them can tell what happened, and all end alike."""
    gathered: list[tuple[Done, int]] = [(done, skipped)] * distributed.get_world_size()
    distributed.all_gather_object(gathered, (done, skipped))
    distributed.destroy_process_group()
    total = Done([], [], {})
    for one, _ in gathered:
        total.written.extend(one.written)
        total.failures.extend(one.failures)
        for what, names in one.left_out.items():
            total.left_out.setdefault(what, []).extend(names)
    return total, sum(count for _, count in gathered)


def _tell(done: Done, skipped: int, output: Path) -> None:
    for what, names in done.left_out.items():
        more = f' and {len(names) - 1} more' if len(names) > 1 else ''
        print(f'Left out: {what}, of {names[0]}{more}', file=sys.stderr)
    print(f'{len(done.written)} restored, {skipped} already there, {len(done.failures)} failed; results in {output}')
    for name, reason in done.failures:
        print(f'  {reason if name in reason else f"{name}: {reason}"}', file=sys.stderr)


def _prepare(args: argparse.Namespace) -> None:
    # --output=~/x comes with its ~ from the shell.
    args.output, args.model = args.output.expanduser(), os.path.expanduser(args.model)
    if not 1 <= args.quality <= 100:
        raise InputError(f'--quality {args.quality}: expected 1 to 100')
    if any(Path(given).is_dir() and Path(given).resolve() == args.output.resolve() for given in args.inputs):
        raise InputError(f'the output folder {args.output} is the input folder: choose another -o')


def _check_writable(folder: Path) -> None:
    """Hours of work must not end in a folder that takes nothing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise InputError(
            f'the output folder {folder} cannot be written: {error.strerror}. Choose another -o.'
        ) from error


def set_up() -> None:
    """What every program that restores pictures sets for its process."""
    end_in_one_line()
    keep_freed()
    # Large pictures are what tiles are for; Pillow's own limit (twice the size it warns of) stays.
    warnings.simplefilter('ignore', Image.DecompressionBombWarning)
    # What is wrong with a TIFF is said once, in our words.
    logging.getLogger('tifffile').setLevel(logging.CRITICAL)


def restorer_of(args: argparse.Namespace, device: str | None) -> Restorer:
    """The restorer that the command line asks for."""
    return Restorer(
        args.model,
        device=device,
        dtype=args.dtype,
        tile=args.tile,
        self_ensemble=args.self_ensemble,
        strength=args.strength,
        leave_alone=args.leave_alone,
        sigma=args.sigma,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; gives the exit status."""
    set_up()
    args = parser().parse_args(argv)
    _prepare(args)
    done, skipped = Done([], [], {}), 0
    try:
        part, of = _share(args.shard)
        jobs, failures = plan(args)
        if not part:
            done.failures.extend(failures)  # told by the first process
        mine = jobs[part::of]
        todo = [job for job in mine if args.overwrite or not job.is_done()]
        skipped = len(mine) - len(todo)
        device = args.device
        if device is None and 'LOCAL_RANK' in os.environ and torch.cuda.is_available():
            device = f'cuda:{int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count()}'
        restorer = restorer_of(args, device)
        if args.explain:
            restorer.check_reference()
        if todo:
            _check_writable(args.output.parent if todo[0].target == args.output else args.output)
        run(todo, restorer, args, done)
    except KeyboardInterrupt:
        print('\nInterrupted. What is written is whole; the same command resumes from here.', file=sys.stderr)
        _tell(done, skipped, args.output)
        return 130
    if distributed.is_initialized():
        done, skipped = _gather(done, skipped)
    if part == 0 or args.shard:
        _tell(done, skipped, args.output)
    return 1 if done.failures else 0


if __name__ == '__main__':
    sys.exit(main())
