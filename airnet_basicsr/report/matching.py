"""Which picture of one folder belongs to which of another: by name, in the spellings of the field's repositories."""

import itertools
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

from airnet_basicsr.errors import InputError
from airnet_basicsr.network.files import walk
from airnet_basicsr.restore.image_files import SUFFIXES

# What repositories add to a restored picture's name; BasicSR's is the name of the run, which all pictures share.
_ADDED = ('_output', '_out', '_restored', '_result', '_pred', '_rec', '_fake_B', '_derained', '_dehazed', '_denoised')
# How a degraded picture's name tells the clean one's: (in words, pattern, replacement).
_SPELLINGS = (
    ('the scene of a hazy picture (0001 of 0001_0.8_0.2)', r'(\d+)(?:_\d+(?:\.\d+)?)+', r'\1'),
    ('norain-N of rain-N', r'rain(-?\d+)', r'norain\1'),
    ('N_clean of N_rain', r'(\d+)_rain', r'\1_clean'),
    ('normalN of lowN', r'low(\d+)', r'normal\1'),
    ('im_N of im_N_sS_aA (Outdoor-Rain)', r'(.+?)_s\d+_a\d+', r'\1'),
    ('N of DEGRADATION_N (CDD-11)', r'(?:(?:low|haze|rain|snow)_)+(\d+)', r'\1'),
)


class _Reading(NamedTuple):
    """A way to read a folder's names: in words, the names by what is read, and whether several may be of one scene."""

    words: tuple[str, ...]
    names: dict[str, list[str]]
    many: bool


class Matches(NamedTuple):
    """Pictures that belong together.

    Attributes:
        pairs: Of each picture of the first folder that has one, its partner in the second; by name, sorted.
        rule: How the names were read.
        alone: The others of the first folder, with the reason.
        unused: Pictures of the second folder that belong to none.
    """

    pairs: dict[str, str]
    rule: str
    alone: dict[str, str]
    unused: list[str]


def list_pictures(folder: Path) -> tuple[list[str], list[str]]:
    """The pictures of a folder and its subfolders, and all other files but hidden ones; as sorted paths below it.

    Raises:
        InputError: There is no such folder, one cannot be read, or there is no picture.
    """
    if not folder.is_dir():
        raise InputError(f'there is no folder {folder}')
    pictures: list[str] = []
    others: list[str] = []

    def unreadable(error: OSError) -> NoReturn:
        raise InputError(f'{error.filename} cannot be read: {error.strerror}') from error

    for file in map(Path, walk(folder, unreadable)):
        (pictures if file.suffix.lower() in SUFFIXES else others).append(file.relative_to(folder).as_posix())
    if not pictures:
        raise InputError(f'{folder} has no pictures ({", ".join(SUFFIXES)})')
    return sorted(pictures), sorted(others)


def match(first: Sequence[str], second: Sequence[str], either_way: bool = False) -> Matches | None:
    """Find each picture of ``first`` its partner in ``second``; both as :func:`list_pictures` gives them.

    One rule serves the whole folder: the plainest of those that find the most partners. So no name is bent to fit.

    Args:
        either_way: Whether the names in ``second`` may be the ones that hold more (``second`` are degraded pictures).

    Returns:
        None if no rule finds any partner.
    """
    best = None
    mine = _readings(first, spelt=True)
    others = _readings(second, spelt=either_way)
    for reading, other in sorted(itertools.product(mine, others), key=lambda pair: len(pair[0].words + pair[1].words)):
        if reading.many and other.many:
            continue
        found = {
            name: other.names[key][0]
            for key in reading.names.keys() & other.names.keys()
            if len(other.names[key]) == 1 and _distinct(reading.names[key], reading.many)
            for name in reading.names[key]
        }
        if found and (best is None or len(found) > len(best[2])):
            best = reading, other, found
            if len(found) == len(first):
                break
    if best is None:
        return None
    reading, other, found = best
    alone = {}
    for key, names in reading.names.items():
        for name in (name for name in names if name not in found):
            several = other.names.get(key, ())
            alone[name] = 'no picture has its name'
            if len(several) > 1:
                alone[name] = f'several pictures could be its partner: {", ".join(several)}'
            elif several:
                alone[name] = f'it has the name of {", ".join(twin for twin in names if twin != name)}'
    words = [*reading.words, *(f'in the other folder {word}' for word in other.words)]
    used = set(found.values())
    return Matches(
        dict(sorted(found.items())),
        '; '.join(words) or 'equal names',
        dict(sorted(alone.items())),
        [name for name in second if name not in used],
    )


def _distinct(names: Sequence[str], many: bool) -> bool:
    return len(names) == 1 or (many and len({_stem(name) for name in names}) == len(names))


def _stem(name: str) -> str:
    return name.rpartition('.')[0]


def _readings(names: Sequence[str], spelt: bool) -> list[_Reading]:
    """The ways to read the names of a folder that differ in what comes out; the plainest first."""
    takes: list[tuple[tuple[str, ...], str]] = [((), '')]
    takes += [((f'{added!r} taken off',), re.escape(added)) for added in (*_ADDED, *_shared_by_most(names))]
    takes.append((('the PSNR at the end taken off',), r'_\d+\.\d+'))
    spellings = [None, *_SPELLINGS] if spelt else [None]
    folders = [False, True] if any('/' in name for name in names) else [False]
    found: dict[tuple[str, ...], _Reading] = {}
    for (taken, ending), spelling, flat in itertools.product(takes, spellings, folders):
        keys = [_read(name, ending, spelling, flat) for name in names]
        words = (*taken, *(spelling[:1] if spelling else ()), *(('subfolders left out',) if flat else ()))
        by_key: dict[str, list[str]] = {}
        for key, name in zip(keys, names, strict=True):
            by_key.setdefault(key, []).append(name)
        if tuple(keys) not in found or len(words) < len(found[tuple(keys)].words):
            found[tuple(keys)] = _Reading(words, by_key, spelling is not None)
    return sorted(found.values(), key=lambda reading: len(reading.words))


def _read(name: str, ending: str, spelling: tuple[str, str, str] | None, flat: bool) -> str:
    folder, _, base = _stem(name).rpartition('/')
    if ending:
        base = re.sub(f'(?<=.){ending}$', '', base)
    if spelling:
        fitting = re.fullmatch(spelling[1], base)
        base = fitting.expand(spelling[2]) if fitting else base
    return base if flat or not folder else f'{folder}/{base}'


def _shared_by_most(names: Sequence[str]) -> list[str]:
    """Endings, from a separator on, that more than half of the names have; the shortest first."""
    bases = [_stem(name).rpartition('/')[2] for name in names]
    counts = Counter(base[place.start() :] for base in bases for place in re.finditer(r'(?<=.)[_\-.]', base))
    return sorted((ending for ending, count in counts.items() if count > len(names) / 2), key=len)
