"""Measure folders of restored pictures, from any program, under the protocols of the literature."""

import argparse
import csv
import io
import json
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
import torch
from tqdm import tqdm

import airnet_basicsr
from airnet_basicsr.errors import InputError, end_in_one_line
from airnet_basicsr.network.files import write_whole
from airnet_basicsr.plugin.metrics import calculate_pyiqa, load_pyiqa
from airnet_basicsr.report.harm import Harm
from airnet_basicsr.report.matching import Matches, list_pictures, match
from airnet_basicsr.report.protocols import (
    CROPS,
    DEFAULT,
    DEFAULT_KEYS,
    QUANTITIES,
    USES_CLEAN,
    VALUES,
    describe,
    measure,
    standing,
    to_bgr8,
)
from airnet_basicsr.report.runs import Mean
from airnet_basicsr.report.tables import plain, plain_mean
from airnet_basicsr.restore.image_files import read_picture

MULTIPLES = (64, 32, 16, 8, 4)
SOTS_INDOOR_BORDER = 10  # by which its clean pictures are larger than its hazy ones, on each side
SHOWN = 10  # of a long list


class Window(NamedTuple):
    """The part of a clean picture that a smaller restored one shows: its name, rows and columns."""

    words: str
    rows: slice
    columns: slice


@dataclass
class Scores:
    """What was found out about one folder.

    Attributes:
        folder, clean, degraded: The folders.
        rule: How names were matched.
        partners: The clean picture of each restored one.
        values: By restored picture, the values by key of :mod:`~airnet_basicsr.report.protocols`, or ``pyiqa_NAME``.
        before: Likewise of the degraded pictures (the default keys alone).
        not_measured: Pictures without a result, with the reason.
        notes: What a reader should know.
        eight_bits: Whether all pictures that were measured have 8 bits.
    """

    folder: Path
    clean: Path
    degraded: Path | None = None
    rule: str = ''
    partners: dict[str, str] = field(default_factory=dict)
    values: dict[str, dict[str, float]] = field(default_factory=dict)
    before: dict[str, dict[str, float]] = field(default_factory=dict)
    not_measured: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    eight_bits: bool = True

    @property
    def keys(self) -> list[str]:
        """All keys that any picture has, in one order."""
        return list(dict.fromkeys(key for values in self.values.values() for key in values))

    def of(self, key: str, before: bool = False) -> dict[str, float]:
        """A value by picture."""
        found = self.before if before else self.values
        return {name: values[key] for name, values in found.items() if key in values}

    @property
    def harm(self) -> Harm | None:
        """None without degraded pictures."""
        return Harm.of(self.of('psnr_rgb8'), self.of('psnr_rgb8', before=True))


@dataclass
class _Picture:
    values: dict[str, float] = field(default_factory=dict)
    before: dict[str, float] = field(default_factory=dict)
    reason: str | None = None  # why there are no values
    windows: dict[str, float] = field(default_factory=dict)  # of a smaller picture: the squared errors in each
    facts: set[str] = field(default_factory=set)


def score(
    folder: Path, clean: Path, degraded: Path | None = None, everything: bool = False, learnt: Sequence[str] = ()
) -> Scores:
    """Measure the pictures of a folder.

    Args:
        folder: The restored pictures.
        clean: Their clean originals.
        degraded: What they were restored from.
        everything: Every protocol, not the default ones alone.
        learnt: Metrics of pyiqa, by their names there.

    Raises:
        InputError: A folder is missing or empty, a metric cannot be loaded, or no picture can be measured.
    """
    for metric in learnt:
        load_pyiqa(metric)  # before any picture: what is missing would be missing for all
    scores = Scores(folder, clean, degraded)
    pictures, others = list_pictures(folder)
    originals, _ = list_pictures(clean)
    if others:
        scores.notes.append(f'{folder}: {len(others)} files are no pictures: {_few(others)}')
    found = match(pictures, originals)
    if found is None:
        _refuse_names(folder, clean, pictures, originals)
    scores.rule, scores.partners = found.rule, found.pairs
    scores.not_measured |= {name: f'{reason} in {clean}' for name, reason in found.alone.items()}
    if found.unused:
        scores.notes.append(f'{clean}: {len(found.unused)} clean pictures have no restored one: {_few(found.unused)}')
    inputs: dict[str, str] = {}
    if degraded is not None:
        inputs = _match_inputs(scores, degraded)
    look = partial(_look, scores, inputs, everything, tuple(learnt))
    # Decoding and filtering leave Python's lock alone; a learnt metric keeps the processor busy by itself.
    with ThreadPoolExecutor(1 if learnt else torch.get_num_threads()) as pool:
        looked = dict(zip(found.pairs, _progress(pool.map(look, found.pairs), len(found.pairs)), strict=True))
        smaller = {name: picture.windows for name, picture in looked.items() if picture.windows}
        placement = _placement(smaller)
        if placement:
            again = pool.map(partial(look, placement=placement), smaller)
            looked |= dict(zip(smaller, _progress(again, len(smaller)), strict=True))
    _collect(scores, looked)
    if placement:
        scores.notes.append(f'{len(smaller)} restored pictures are smaller than the clean ones, which were {placement}')
    if not scores.values:
        raise InputError(f'nothing in {folder} could be measured: {_reasons(scores.not_measured)}')
    _judge(scores)
    return scores


def _refuse_names(folder: Path, clean: Path, pictures: Sequence[str], originals: Sequence[str]) -> NoReturn:
    if match(originals, pictures) is not None:
        raise InputError(
            f'the names in {clean} (--gt) are those of restored or degraded pictures of {folder}: swap the two folders'
        )
    raise InputError(
        f'no name in {folder} ({_few(pictures, 3)}) has a partner in {clean} ({_few(originals, 3)}): give each '
        "restored picture its clean one's name, with or without an ending that all share, such as BasicSR's _RUN"
    )


def _match_inputs(scores: Scores, degraded: Path) -> dict[str, str]:
    pictures, _ = list_pictures(degraded)
    found = match(list(scores.partners), pictures, either_way=True) or Matches({}, '', {}, [])
    lacking = [name for name in scores.partners if name not in found.pairs]
    if lacking:
        scores.notes.append(f'{degraded}: {len(lacking)} restored pictures have no degraded one: {_few(lacking)}')
    return found.pairs


def _look(
    scores: Scores, inputs: dict[str, str], everything: bool, learnt: tuple[str, ...], name: str, placement: str = ''
) -> _Picture:
    found = _Picture()
    try:
        restored = _read(scores.folder / name, found.facts)
        clean = _read(scores.clean / scores.partners[name], set())
        degraded = _read(scores.degraded / inputs[name], set()) if scores.degraded and name in inputs else None
        windows = _windows(restored.shape, clean.shape)
        if clean.shape != restored.shape and not placement:
            found.windows = {window.words: _error(restored, clean[window.rows, window.columns]) for window in windows}
            return found
        uncut = clean.shape
        for window in windows:
            if window.words == placement:
                clean = clean[window.rows, window.columns]
                if degraded is not None and degraded.shape == uncut:
                    degraded = degraded[window.rows, window.columns]
        found.values = measure(restored, clean, everything)
        for metric in learnt:
            found.values[f'pyiqa_{metric}'] = calculate_pyiqa(
                to_bgr8(restored), to_bgr8(clean), metric, _tensor(restored), _tensor(clean)
            )
        if any(image.dtype != np.uint8 for image in (restored, clean)):
            found.facts.add('deep')
        if degraded is not None:
            if degraded.shape != clean.shape:
                sizes = [f'{image.shape[1]}x{image.shape[0]}' for image in (degraded, clean)]
                raise InputError(f'the degraded picture {inputs[name]} and the clean one differ in size: {sizes}')
            found.before = measure(degraded, clean)
            if degraded.dtype == np.uint8:
                found.facts.add('clipped input')
    except InputError as error:
        found.reason = str(error)
    return found


def _read(path: Path, facts: set[str]) -> np.ndarray:
    """H x W x 3, RGB, uint8 or uint16."""
    pixels = read_picture(path).pixels
    if path.suffix.lower() in ('.jpg', '.jpeg'):
        facts.add('jpeg')
    if pixels.ndim == 3 and pixels.shape[2] in (2, 4):
        if (pixels[..., -1] != np.iinfo(pixels.dtype).max).any():
            raise InputError(f'{path} has transparent parts, of which nobody knows the colour: save it without alpha')
        pixels = pixels[..., :-1]
    if pixels.ndim == 2 or pixels.shape[2] == 1:
        facts.add('grey')
        pixels = np.repeat(pixels.reshape(*pixels.shape[:2], 1), 3, axis=2)
    return np.ascontiguousarray(pixels)


def _windows(restored: tuple[int, ...], clean: tuple[int, ...]) -> list[Window]:
    """The parts of the clean picture that a restored one of this size may show.

    Raises:
        InputError: The sizes differ in a way that no known test makes.
    """
    if restored == clean:
        return []
    (height, width), (full_height, full_width) = restored[:2], clean[:2]
    margins = full_height - height, full_width - width
    if margins == (2 * SOTS_INDOOR_BORDER, 2 * SOTS_INDOOR_BORDER):
        border = SOTS_INDOOR_BORDER
        part = slice(border, -border)
        return [Window(f'cut by {border} pixels at each side (SOTS indoor)', part, part)]
    for multiple in MULTIPLES:
        if all(kept == full - full % multiple for kept, full in zip(restored[:2], clean[:2], strict=True)):
            top, left = margins[0] // 2, margins[1] // 2
            return [
                Window('cut around the middle', slice(top, top + height), slice(left, left + width)),
                Window('cut at the right and the bottom', slice(height), slice(width)),
            ]
    raise InputError(
        f'{width}x{height} pixels, the clean one {full_width}x{full_height}: no crop to multiples of 4, 8, 16, 32 or 64'
    )


def _error(restored: np.ndarray, clean: np.ndarray) -> float:
    scales = (np.float32(1 / np.iinfo(image.dtype).max) for image in (restored, clean))
    difference = restored * next(scales) - clean * next(scales)
    return float(np.mean(difference**2))


def _placement(smaller: dict[str, dict[str, float]]) -> str | None:
    """Where the smaller pictures were cut: where they are most like the clean ones, the whole folder alike."""
    errors: dict[str, list[float]] = {}
    for windows in smaller.values():
        for words, error in windows.items():
            errors.setdefault(words, []).append(error)
    return min(errors, key=lambda words: (-len(errors[words]), sum(errors[words])), default=None)


def _collect(scores: Scores, looked: dict[str, _Picture]) -> None:
    for name, picture in looked.items():
        if picture.reason or not picture.values:
            scores.not_measured[name] = picture.reason or 'it is cut in another way than the other pictures'
            continue
        scores.values[name] = picture.values
        if picture.before:
            scores.before[name] = picture.before
    having = {
        fact: [name for name in scores.values if fact in looked[name].facts]
        for fact in ('jpeg', 'grey', 'deep', 'clipped input')
    }
    scores.eight_bits = not having['deep']
    if having['jpeg']:
        scores.notes.append(
            f'{len(having["jpeg"])} restored pictures are JPEGs: the figures include the loss of this format'
        )
    if having['grey']:
        scores.notes.append(f'{len(having["grey"])} restored pictures are grey and count as R = G = B')
    if having['clipped input']:
        scores.notes.append(
            'the degraded pictures have 8 bits, so noise in them is clipped: do not compare denoising figures with '
            'those of unclipped noise (up to 1.7 dB apart on the same network)'
        )


def _judge(scores: Scores) -> None:
    """Notes on figures that hint at folders that were mixed up."""
    psnrs = scores.of('psnr_rgb8')
    if all(value == float('inf') for value in psnrs.values()):
        scores.notes.append('every restored picture equals its clean one: was the same folder given twice?')
    harm = scores.harm
    if harm and harm.count > 1 and harm.share == 1 and harm.given_back is None:
        scores.notes.append('every picture ends worse than it came: are the restored and the degraded folder swapped?')
    if len(psnrs) > 1 and max(psnrs.values()) < 15:
        scores.notes.append('no picture reaches 15 dB: do the folders show the same photographs?')


def compare(first: Scores, second: Scores) -> dict[str, Any]:
    """The values of the second folder minus those of the first, picture by picture, over those that both have."""
    found = match(list(second.values), list(first.values))
    pairs = found.pairs if found else {}
    pairs = {name: other for name, other in pairs.items() if second.partners[name] == first.partners[other]}
    compared: dict[str, Any] = {
        'first': str(first.folder),
        'second': str(second.folder),
        'images': len(pairs),
        'alone': [name for name in first.values if name not in pairs.values()]
        + [name for name in second.values if name not in pairs],
        'differences': {},
    }
    for key in second.keys:
        differences = {
            name: second.values[name][key] - first.values[other][key]
            for name, other in pairs.items()
            if key in second.values[name] and key in first.values[other]
        }
        if differences:
            compared['differences'][key] = plain_mean(Mean.of(differences))
    return compared


def to_json(all_scores: Sequence[Scores], comparisons: Sequence[dict[str, Any]]) -> str:
    """Everything that was found out; infinite and undefined values as ``"inf"`` and ``"nan"``."""
    keys = list(dict.fromkeys(key for scores in all_scores for key in scores.keys))
    described = {
        'date': datetime.now().astimezone().isoformat(timespec='seconds'),
        'airnet_basicsr': airnet_basicsr.__version__,
        'protocols': {key: describe(key) for key in keys if not key.startswith('pyiqa_')},
        'folders': [_described(scores) for scores in all_scores],
        'comparisons': list(comparisons),
    }
    return json.dumps(plain(described), indent=1, ensure_ascii=False) + '\n'


def _described(scores: Scores) -> dict[str, Any]:
    stands = {pair.name: standing(pair, scores.eight_bits) for pair in DEFAULT}
    return {
        'folder': str(scores.folder),
        'gt': str(scores.clean),
        'input': scores.degraded and str(scores.degraded),
        'names': scores.rule,
        'notes': scores.notes,
        'not_measured': scores.not_measured,
        'means': {key: plain_mean(Mean.of(scores.of(key))) for key in scores.keys},
        'means_of_input': {key: plain_mean(Mean.of(scores.of(key, True))) for key in DEFAULT_KEYS if scores.before},
        'harm': scores.harm and scores.harm.plain(),
        'standing': {
            name: {'may_stand_beside': beside, 'not_beside': apart} for name, (beside, apart) in stands.items()
        },
        'pictures': [
            {'restored': name, 'gt': scores.partners[name], 'values': values, 'input': scores.before.get(name)}
            for name, values in scores.values.items()
        ],
    }


def to_csv(all_scores: Sequence[Scores]) -> str:
    """A line for each picture; keys of the degraded picture begin with ``input_``."""
    keys = list(dict.fromkeys(key for scores in all_scores for key in scores.keys))
    before = [key for key in DEFAULT_KEYS if any(scores.before for scores in all_scores)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    writer.writerow(['folder', 'restored', 'gt', *keys, *(f'input_{key}' for key in before)])
    for scores in all_scores:
        for name, values in scores.values.items():
            degraded = scores.before.get(name, {})
            cells = [*(values.get(key, '') for key in keys), *(degraded.get(key, '') for key in before)]
            writer.writerow([scores.folder, name, scores.partners[name], *cells])
    return text.getvalue()


def to_text(scores: Scores) -> Iterable[str]:
    """What the program prints about a folder."""
    yield f'{scores.folder}: {len(scores.values)} pictures, names matched: {scores.rule}'
    for pair in DEFAULT:
        told = f'{describe(pair.ssim, brief=True)}, {describe(pair.psnr, brief=True)}'
        yield f'  {pair.name}: PSNR {_shown(scores, pair.psnr)} dB, SSIM {_shown(scores, pair.ssim)} ({told})'
        if scores.before:
            before = (_shown(scores, key, before=True) for key in (pair.psnr, pair.ssim))
            yield '    of the degraded pictures: PSNR {} dB, SSIM {}'.format(*before)
    if scores.harm:
        yield f'  Harm: {scores.harm}'
    if any(key.startswith('psnr_y') for key in scores.keys):
        yield from _grid(scores)
    for key in scores.keys:
        if key.startswith('pyiqa_'):
            yield f'  {key.removeprefix("pyiqa_")} (pyiqa): {_shown(scores, key)}'
    yield from (f'  Note: {note}' for note in scores.notes)


def standing_text(eight_bits: bool) -> Iterable[str]:
    """Which published figures the default ones can be compared with."""
    for pair in DEFAULT:
        beside, apart = standing(pair, eight_bits)
        yield f'{pair.name}: comparable with: {"; ".join(beside)}'
        yield from (f'  not with: {reason}' for reason in apart)


def _grid(scores: Scores) -> Iterable[str]:
    """All protocols: a line for the values that are measured, a column for each quantity."""
    rows = [['', *QUANTITIES]]
    for values in VALUES:
        for crop in CROPS:
            ending = f'{values}_{crop}' if crop else values
            cells = [_shown(scores, f'{quantity}_{ending}', interval=False) for quantity in QUANTITIES]
            if any(cell != '-' for cell in cells):
                rows.append([ending + (' (!)' if values == USES_CLEAN else ''), *cells])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield '  ' + '  '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
    yield from (f'  {name}: {words}' for name, words in (QUANTITIES | VALUES | CROPS).items() if name)
    yield '  (!) uses the clean picture: nobody could reach this without it.'


def _shown(scores: Scores, key: str, before: bool = False, interval: bool = True) -> str:
    values = scores.of(key, before)
    if not values:
        return '-'
    mean = Mean.of(values)
    digits = 2 if key.startswith('psnr') else 4
    if not mean.count:
        return str(mean.logged)
    half = f' ± {mean.interval:.{digits}f}' if interval and mean.interval is not None else ''
    left_out = f' ({len(mean.left_out)} infinite ones left out)' if mean.left_out and interval else ''
    return f'{mean.value:.{digits}f}{half}{left_out}'


def _few(names: Sequence[str], shown: int = SHOWN) -> str:
    more = f' and {len(names) - shown} more' if len(names) > shown else ''
    return ', '.join(names[:shown]) + more


def _reasons(not_measured: dict[str, str]) -> str:
    return _few([f'{name}: {reason}' for name, reason in not_measured.items()], 3)


def _tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image / np.float32(np.iinfo(image.dtype).max)).permute(2, 0, 1)[None]


def _progress(pictures: Iterable[_Picture], total: int) -> Iterable[_Picture]:
    return tqdm(pictures, total=total, unit='picture', disable=None, leave=False)


def main(argv: Sequence[str] | None = None) -> None:
    """Score the folders that the command line names; print the scores and, where asked, write them."""
    end_in_one_line()
    parser = argparse.ArgumentParser(prog='airnet score', description=__doc__)
    parser.add_argument(
        'restored', type=Path, nargs='+', help='folders of restored pictures; the others are compared with the first'
    )
    parser.add_argument('--gt', type=Path, required=True, metavar='CLEAN', help='folder of the clean pictures')
    parser.add_argument(
        '--input', type=Path, metavar='DEGRADED', help='folder of the degraded pictures, to measure harm'
    )
    parser.add_argument('--all', action='store_true', help='every protocol, not only the two default ones')
    parser.add_argument('--pyiqa', nargs='+', default=[], metavar='NAME', help='metrics of pyiqa, such as lpips')
    parser.add_argument('--out', type=Path, metavar='FOLDER', help='write score.json and score.csv into this folder')
    arguments = parser.parse_args(argv)
    if len(set(arguments.restored)) < len(arguments.restored):
        parser.error('a folder of restored pictures is named twice')
    all_scores = []
    for folder in arguments.restored:
        scores = score(folder, arguments.gt, arguments.input, arguments.all, arguments.pyiqa)
        all_scores.append(scores)
        print('\n'.join(to_text(scores)))
    comparisons = [compare(all_scores[0], scores) for scores in all_scores[1:]]
    for compared in comparisons:
        print(f'{compared["second"]} minus {compared["first"]}, over {compared["images"]} pictures that both have:')
        for key in DEFAULT_KEYS:
            found = compared['differences'].get(key)
            if found:
                half = '' if found['interval'] is None else f' ± {found["interval"]:.4f}'
                print(f'  {key}: {found["value"]:+.4f}{half} (95 %)')
        if compared['alone']:
            print(f'  Note: without a partner: {_few(compared["alone"])}')
    print('\n'.join(standing_text(all(scores.eight_bits for scores in all_scores))))
    if arguments.out:
        write_whole(arguments.out / 'score.json', to_json(all_scores, comparisons))
        write_whole(arguments.out / 'score.csv', to_csv(all_scores))
        print(f'Written: {arguments.out / "score.json"} and score.csv beside it')
    lost = {f'{scores.folder}/{name}': reason for scores in all_scores for name, reason in scores.not_measured.items()}
    if lost:
        raise InputError(f'{len(lost)} pictures were not measured and are in no mean: {_reasons(lost)}')


if __name__ == '__main__':
    main()
