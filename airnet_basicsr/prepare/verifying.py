"""Checks finished LMDBs, and shows samples of them."""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import lmdb
import numpy as np
from tqdm import tqdm

from airnet_basicsr.errors import InputError
from airnet_basicsr.network.files import write_whole
from airnet_basicsr.prepare.images import inspect
from airnet_basicsr.prepare.workers import ordered
from airnet_basicsr.restore.stored_images import Entry, decode, is_lmdb, read_lmdb_list

_CHUNK = 32
_TILE = (240, 180)


class Checked(NamedTuple):
    """What :func:`verify` found in one dataset.

    Attributes:
        name: Of the LMDB, or of the pair without _gt and _lq.
        images: Number of images, in both LMDBs of a pair together.
        pairs: Number of pairs, 0 for clean sets.
        megabytes: Size of the data files.
        sides: Shortest and longest side of an image, in pixels.
        problems: One sentence each.
    """

    name: str
    images: int
    pairs: int
    megabytes: float
    sides: tuple[int, int]
    problems: list[str]


def find(folder: Path) -> dict[str, tuple[Path, ...]]:
    """The datasets in ``folder`` (or the one LMDB that it is): name to (LMDB,) or (clean LMDB, degraded LMDB).

    Raises:
        InputError: There is none.
    """
    below = sorted(path for path in folder.glob('*') if path.is_dir())
    there = [folder] if is_lmdb(folder) else list(filter(is_lmdb, below))
    paths = {path.name.removesuffix('.lmdb'): path for path in there}
    if not paths or not folder.is_dir():
        raise InputError(f'there is no LMDB in {folder}; give the folder that --out named')
    found: dict[str, tuple[Path, ...]] = {}
    for stem, path in paths.items():
        name = stem.removesuffix('_lq').removesuffix('_gt')
        gt, lq = paths.get(f'{name}_gt'), paths.get(f'{name}_lq')
        if gt and lq:
            found[name] = gt, lq
        else:
            found[stem] = (path,)
    return found


def verify(name: str, paths: tuple[Path, ...], workers: int) -> Checked:
    """Read everything in one dataset: keys, decodability, sizes, channels, pairs.

    Args:
        name: For the table.
        paths: As :func:`find` gives them.
        workers: Number of processes that decode.
    """
    problems: list[str] = []
    sides: list[int] = []
    metas: list[dict[str, Entry]] = []
    for path in paths:
        try:
            entries = read_lmdb_list(path)
            stored = _number_stored(path)
        except (InputError, OSError, lmdb.Error) as error:
            return Checked(name, 0, 0, 0.0, (0, 0), [f'{path.name}: {error}'])
        if not entries:
            return Checked(name, 0, 0, 0.0, (0, 0), [f'{path.name}: meta_info.txt names no image'])
        metas.append({entry.key: entry for entry in entries})
        if len(metas[-1]) < len(entries):
            problems.append(f'{path.name}: meta_info.txt names {len(entries) - len(metas[-1])} keys twice')
        if stored != len(metas[-1]):
            problems.append(f'{path.name}: {stored} images stored, {len(metas[-1])} listed in meta_info.txt')
        sides += [side for entry in entries for side in entry.shape[:2]]
        chunks = [entries[start : start + _CHUNK] for start in range(0, len(entries), _CHUNK)]
        results = ordered(functools.partial(_check, path), chunks, workers)
        for found in tqdm(results, total=len(chunks), desc=path.stem, unit_scale=_CHUNK, unit='image', leave=False):
            problems += found
    if len(paths) == 2:
        problems += _check_pairs(name, *metas)
    megabytes = sum((path / 'data.mdb').stat().st_size for path in paths) / 1e6
    pairs = len(metas[1]) if len(paths) == 2 else 0
    extremes = min(sides, default=0), max(sides, default=0)
    return Checked(name, sum(map(len, metas)), pairs, megabytes, extremes, problems)


def table(rows: list[Checked]) -> str:
    """The result as text, a line for each dataset."""
    lines = [f'{"dataset":<20} {"images":>8} {"pairs":>8} {"MB":>10} {"sides":>11}  result']
    for row in rows:
        result = f'{len(row.problems)} problems' if row.problems else 'ok'
        sides = f'{row.sides[0]}..{row.sides[1]}'
        lines.append(f'{row.name:<20} {row.images:>8} {row.pairs:>8} {row.megabytes:>10.1f} {sides:>11}  {result}')
    return '\n'.join(lines)


def save_samples(name: str, paths: tuple[Path, ...], count: int, folder: Path) -> Path:
    """Write a contact sheet of ``count`` images spread over a dataset, each degraded one beside its clean one.

    Returns:
        The PNG file.
    """
    entries = read_lmdb_list(paths[-1])
    chosen = [entries[int(at)] for at in np.linspace(0, len(entries) - 1, min(count, len(entries)))]
    environments = [_open(path) for path in paths]
    tiles = []
    for entry in chosen:
        row = [_tile(environments[-1], entry.key)]
        if len(paths) == 2:
            row.append(_tile(environments[0], entry.clean or entry.key))
        tile = np.hstack(row)
        tile[:18] //= 3
        cv2.putText(tile, entry.key, (4, 14), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (255, 255, 255), 1, cv2.LINE_AA)
        tiles.append(tile)
    for environment in environments:
        environment.close()
    columns = min(len(tiles), 2 if len(paths) == 2 else 4)
    tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % columns)
    rows = [np.hstack(tiles[start : start + columns]) for start in range(0, len(tiles), columns)]
    path = folder / f'{name}.png'
    write_whole(path, cv2.imencode('.png', np.vstack(rows))[1].tobytes())
    return path


def _open(path: Path) -> lmdb.Environment:
    return lmdb.open(str(path), readonly=True, lock=False, readahead=False)


def _number_stored(path: Path) -> int:
    with _open(path) as environment:
        return environment.stat()['entries']


def _check(path: Path, entries: list[Entry]) -> list[str]:
    """The problems of some images of an LMDB."""
    return [f'{path.name}: {entry.key} {problem}' for entry, problem in _problems(path, entries)]


def _problems(path: Path, entries: list[Entry]) -> Iterator[tuple[Entry, str]]:
    with _open(path) as environment, environment.begin() as transaction:
        for entry in entries:
            data = transaction.get(entry.key.encode())
            if data is None:
                yield entry, 'is listed in meta_info.txt but not stored'
                continue
            try:
                found = inspect(data)
            except ValueError as error:
                yield entry, f'cannot be decoded ({error})'
                continue
            if found.remark:
                yield entry, f'is not a plain 8-bit colour image ({found.remark.split(",")[0]})'
            if (*found.size, 3) != entry.shape:
                listed = f'{entry.shape[1]}x{entry.shape[0]}' if len(entry.shape) > 1 else 'of no known size'
                yield entry, f'is {found.size[1]}x{found.size[0]}, in meta_info.txt {listed}'


def _check_pairs(name: str, clean: dict[str, Entry], degraded: dict[str, Entry]) -> Iterator[str]:
    used = set()
    for entry in degraded.values():
        partner = clean.get(entry.clean or entry.key)
        if partner is None:
            yield f'{name}: {entry.key} has no clean image {entry.clean or entry.key}'
            continue
        used.add(partner.key)
        if partner.shape != entry.shape:
            yield f'{name}: {entry.key} is {entry.shape}, its clean image {partner.key} {partner.shape}'
    if not any(entry.clean for entry in degraded.values()) and len(used) < len(clean):
        yield f'{name}: {len(clean) - len(used)} clean images have no degraded one'


def _tile(environment: lmdb.Environment, key: str) -> np.ndarray:
    with environment.begin() as transaction:
        data = transaction.get(key.encode())
    image = None if data is None else decode(data, cv2.IMREAD_COLOR)
    assert image is not None, f'{key} was verified before'
    scale = min(_TILE[0] / image.shape[1], _TILE[1] / image.shape[0])
    size = [max(1, round(scale * side)) for side in (image.shape[1], image.shape[0])]
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    tile = np.zeros((_TILE[1], _TILE[0], 3), np.uint8)
    tile[: small.shape[0], : small.shape[1]] = small
    return tile
