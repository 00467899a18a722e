"""The datasets, the layouts that they circulate in, and how a download folder is recognised as one of them."""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, NoReturn

from airnet_basicsr.errors import InputError
from airnet_basicsr.network.files import walk
from airnet_basicsr.prepare.images import SUFFIXES, Failure, Image, Job
from airnet_basicsr.prepare.workers import Progress
from airnet_basicsr.restore.image_files import read_size
from airnet_basicsr.restore.stored_images import is_lmdb, key_of


class Part(NamedTuple):
    """Where the clean or the degraded images of a layout lie.

    Attributes:
        folders: Alternatives, relative to the root of the layout; 'a+b' means both; '' is the root itself.
        pattern: Regular expression for the whole file name without suffix, or, if it has a slash, for the path below
            the folder; its groups, joined by ``_``, are the clean image's name.
        deep: Images may lie in subfolders of these.
    """

    folders: tuple[str, ...]
    pattern: str
    deep: bool = False


class Layout(NamedTuple):
    """One layout of a dataset: ``degraded`` is None for sets of clean images."""

    name: str
    clean: Part
    degraded: Part | None = None


class Dataset(NamedTuple):
    """What :func:`recognise` looks for.

    Attributes:
        lmdb: Name of the LMDB; paired sets get one ending in _gt and one in _lq.
        published: Number of images: (clean,) or (clean, degraded); None where it is not known for sure.
        layouts: In order of preference.
        shared: Several degraded images share one clean image.
        others: Other numbers of images under which the set circulates, and what they mean.
    """

    lmdb: str
    published: tuple[int | None, ...]
    layouts: tuple[Layout, ...]
    shared: bool = False
    others: Mapping[tuple[int, ...], str] = {}


ANY = r'(.+)'
OTHER_VERSION = (
    'Rain100L and Rain100H circulate in two versions, with 200 and 1,800 pairs to train on: this is the other'
)
# Equal names in two folders, with or without RESIDE's parameters.
SAME_HAZY = r'(\d+(?:_\d+(?:\.\d+)?_\d+(?:\.\d+)?)?)'
FRAME = r'(\w+)-(\d+)'
CDD11 = ('low', 'haze', 'rain', 'snow', 'low_haze', 'low_rain', 'low_snow', 'haze_rain', 'haze_snow', 'low_haze_rain',
         'low_haze_snow')  # fmt: skip
CDD11_NAME = rf'((?:{"|".join(CDD11)})_\d+)'
HAZY = r'(\d+)_\d+(?:\.\d+)?_\d+(?:\.\d+)?'
BSD = (
    Layout('BSDS500 archive (train and test)', Part(('train+test',), ANY)),
    Layout('one folder of images', Part(('',), ANY)),
)
WED = (Layout('NNNNN.bmp', Part(('pristine_images', ''), r'(\d+)')),)

DATASETS = {
    'bsd400': Dataset('BSD400', (400,), BSD),
    'wed': Dataset('WED', (4744,), WED),
    'bsd400-wed': Dataset('BSD400_WED', (5144,), (Layout('WED archive', Part(('pristine_images',), r'(\d+)')), *BSD)),
    'cbsd68': Dataset(
        'CBSD68',
        (68,),
        (
            Layout('archive (original_png)', Part(('original_png', 'original'), ANY)),
            Layout('one folder of images', Part(('',), ANY)),
        ),
    ),
    'urban100': Dataset(
        'Urban100',
        (100,),
        (
            Layout('img_NNN', Part(('',), r'(img_\d+)')),
            Layout('img_NNN_SRF_4_HR', Part(('image_SRF_4', ''), r'(img_\d+)_SRF_4_HR')),
        ),
    ),
    'rain100l-train': Dataset(
        'Rain100L_train',
        (200, 200),
        (
            Layout('release (rainy, gt)', Part(('gt',), r'norain-(\d+)'), Part(('rainy',), r'rain-(\d+)')),
            Layout('original archive (rain, norain)', Part(('norain',), r'norain-(\d+)'),
                   Part(('rain',), r'norain-(\d+)x2')),
        ),
        others={(1800, 1800): OTHER_VERSION},
    ),
    'rain100l-test': Dataset(
        'Rain100L_test',
        (100, 100),
        (
            Layout('release (input, target)', Part(('target',), r'(\d+)'), Part(('input',), r'(\d+)')),
            Layout('original archive (rainy, norain-NNN)', Part(('', 'norain', 'rainy'), r'norain-(\d+)'),
                   Part(('rainy',), r'rain-(\d+)')),
            Layout('original archive (rain/X2)', Part(('norain', ''), r'norain-(\d+)'),
                   Part(('rain/X2',), r'norain-(\d+)x2')),
        ),
    ),
    'ots': Dataset(
        'OTS',
        (2061, 72135),
        (
            Layout('RESIDE (haze, clear)', Part(('clear',), r'(\d+)', True), Part(('haze',), HAZY, True)),
            Layout('release (synthetic, original)', Part(('original',), r'(\d+)', True),
                   Part(('synthetic',), HAZY, True)),
        ),
        shared=True,
    ),
    'sots-outdoor': Dataset(
        'SOTS_outdoor',
        (492, 500),
        (
            Layout('RESIDE (hazy, gt)', Part(('gt',), r'(\d+)', True), Part(('hazy',), HAZY, True)),
            Layout('release (input, target)', Part(('target',), r'(\d+)', True), Part(('input',), HAZY, True)),
            Layout('copy (hazy, clear)', Part(('clear',), r'(\d+)', True), Part(('hazy',), HAZY, True)),
            Layout('copy with equal names', Part(('gt', 'clear', 'target'), SAME_HAZY),
                   Part(('hazy', 'input'), SAME_HAZY)),
        ),
        shared=True,
    ),
    'rain100h-train': Dataset(
        'Rain100H_train',
        (1800, 1800),
        (
            Layout('original archive (rain, norain)', Part(('norain',), r'norain-(\d+)(?:x2)?'),
                   Part(('rain', 'rain/X2'), r'norain-(\d+)x2')),
            Layout('release (rainy, gt)', Part(('gt',), r'norain-(\d+)'), Part(('rainy',), r'rain-(\d+)')),
        ),
        others={(200, 200): OTHER_VERSION},
    ),
    'rain100h-test': Dataset(
        'Rain100H_test',
        (100, 100),
        (
            Layout('original archive (rainy, norain-NNN)', Part(('', 'norain', 'rainy'), r'norain-(\d+)'),
                   Part(('rainy',), r'rain-(\d+)')),
            Layout('original archive (rain/X2)', Part(('norain', ''), r'norain-(\d+)'),
                   Part(('rain/X2',), r'norain-(\d+)x2')),
            Layout('release (input, target)', Part(('target',), r'(\d+)'), Part(('input',), r'(\d+)')),
        ),
    ),
    **{
        f'gopro{gamma and "-gamma"}-{split}': Dataset(
            f'GoPro{gamma}_{split}',
            (count, count),
            (
                Layout(f'GOPRO_Large (SEQUENCE/blur{gamma}, SEQUENCE/sharp)',
                       Part((split, ''), r'([^/]+)/sharp/(\d+)', True),
                       Part((split, ''), rf'([^/]+)/blur{gamma}/(\d+)', True)),
                *(() if gamma else (
                    Layout('pairs (input, target)', Part(('target',), FRAME), Part(('input',), FRAME)),
                    Layout('crops (input_crops, target_crops)', Part(('target_crops',), rf'{FRAME}_(s\d+)'),
                           Part(('input_crops',), rf'{FRAME}_(s\d+)')),
                )),
            ),
        )
        for gamma in ('', '_gamma') for split, count in (('train', 2103), ('test', 1111))
    },
    'lol-train': Dataset('LOL_train', (485, 485), (
        Layout('LOL-v1 (our485)', Part(('our485/high',), r'(\d+)'), Part(('our485/low',), r'(\d+)')),
    )),
    'lol-test': Dataset('LOL_test', (15, 15), (
        Layout('LOL-v1 (eval15)', Part(('eval15/high',), r'(\d+)'), Part(('eval15/low',), r'(\d+)')),
    )),
    **{
        f'cdd11-{split}': Dataset(
            f'CDD11_{split}',
            (None, None),
            (
                Layout('OneRestore (clear, low, haze, ...)',
                       Part((f'{split}/clear', 'clear'), r'(\d+)'),
                       Part((f'{split}', ''), rf'(?:{"|".join(CDD11)})/(\d+)', True)),
                Layout('flat (input, target)', Part((f'{split}/target', 'target'), CDD11_NAME),
                       Part((f'{split}/input', 'input'), CDD11_NAME)),
            ),
            shared=True,
        )
        for split in ('train', 'test')
    },
    'snow100k-train': Dataset('Snow100K_train', (None, None), (
        Layout('Snow100K (gt, synthetic)', Part(('all/gt', 'gt'), ANY), Part(('all/synthetic', 'synthetic'), ANY)),
    )),
    'snow100k-test': Dataset('Snow100K_test', (None, None), (
        Layout('Snow100K (gt, synthetic)', Part(('gt',), ANY), Part(('synthetic',), ANY)),
    )),
    'raindrop-train': Dataset('RainDrop_train', (None, None), (
        Layout('RainDrop (gt, data)', Part(('train/gt', 'gt'), r'(\d+)_clean'),
               Part(('train/data', 'data'), r'(\d+)_rain')),
    )),
    'raindrop-test': Dataset('RainDrop_test', (None, None), (
        Layout('RainDrop (gt, data)', Part(('test_a/gt', 'gt'), r'(\d+)_clean'),
               Part(('test_a/data', 'data'), r'(\d+)_rain')),
    )),
    **{
        f'outdoor-rain-{split}': Dataset(
            f'Outdoor_Rain_{split}',
            (None, None),
            (Layout('Outdoor-Rain (gt, in)', Part((f'{split}/gt', 'gt'), r'(im_\d+)'),
                    Part((f'{split}/in', 'in'), r'(im_\d+)_s\d+_a\d+')),),
            shared=True,
        )
        for split in ('train', 'test')
    },
    'kodak24': Dataset('Kodak24', (24,), (Layout('kodimNN', Part(('',), r'(kodim\d+)')),)),
    'mcmaster': Dataset('McMaster', (18,), (Layout('N.tif', Part(('',), r'(\d+)')),)),
}  # fmt: skip

# RESIDE copies differ by a few pixels; a pair that differs by more is taken for two different pictures.
LARGEST_DIFFERENCE = 32
LAYOUT_DEPTH = 4


class Found(NamedTuple):
    """What a download folder turned out to be.

    Attributes:
        description: The layout, in words.
        stores: Names of the LMDBs to write, without suffix; clean images go to the first.
        files: (path, key, key of the clean image) of each image, for each store in order of keys.
        shared: Several degraded images share one clean image.
        ignored: Images that lie in these folders but are not named as the layout says, or belong to no pair.
    """

    description: str
    stores: tuple[str, ...]
    files: tuple[list[tuple[str, str, str]], ...]
    shared: bool
    ignored: int


def recognise(name: str, sources: list[Path]) -> Found:
    """Find dataset ``name`` in its download folders (several only for sets of clean images).

    Raises:
        InputError: No layout fits, two places fit, two files would have one key, or a folder cannot be read.
    """
    dataset = DATASETS[name]
    if len(sources) > 1 and len(dataset.published) > 1:
        raise InputError(f'{name} is read from one folder; {len(sources)} were given with --source')
    descriptions: list[str] = []
    sides: tuple[list[tuple[str, str, str]], ...] = tuple([] for _ in dataset.published)
    seen: set[str] = set()
    for source in sources:
        layout, root = _find_layout(name, dataset, source)
        descriptions.append(f'{layout.name} in {root}')
        for store, part in enumerate(part for part in (layout.clean, layout.degraded) if part):
            for folder, path in _images_of(root, part):
                seen.add(path)
                name_there = _name(path, folder, part)
                match = re.fullmatch(part.pattern, name_there)
                if match:
                    clean = _clean_key(dataset, '_'.join(filter(None, match.groups())))
                    own = key_of(name_there) if store and dataset.shared else clean
                    sides[store].append((path, own, clean))
    return _found('; '.join(descriptions), dataset.lmdb, sides, dataset.shared, len(seen))


def recognise_one_of(names: tuple[str, ...], source: Path) -> Found:
    """The first of the datasets ``names`` that ``source`` is; raises as :func:`recognise` does for each of them."""
    refusals = []
    for name in names:
        try:
            return recognise(name, [source])
        except InputError as error:
            refusals.append(str(error))
    raise InputError('\n'.join(refusals))


def own_clean(name: str, sources: list[Path]) -> Found:
    """All images in ``sources`` and their subfolders, as a set called ``name``; raises as :func:`recognise`."""
    files = [(path, key, key) for source in sources for path, key in own_files(source)]
    return _found('own clean images', name, (files,), False, len(files))


def own_pairs(name: str, gt: Path, lq: Path) -> Found:
    """Pairs of one's own: equal names, or RESIDE's, where NAME_anything belongs to the clean image NAME.

    Raises as :func:`recognise`.
    """
    clean = [(path, key, key) for path, key in own_files(gt)]
    keys = {key for _, key, _ in clean}
    found = own_files(lq)
    shared = sum(key in keys for _, key in found) < len(found) / 2

    def clean_of(key: str) -> str:
        # The longest beginning that is a clean image; without one, what the message is to name as missing.
        words = key.split('_')
        beginnings = ('_'.join(words[:count]) for count in range(len(words), 0, -1))
        return next((beginning for beginning in beginnings if beginning in keys), key)

    degraded = [(path, key, clean_of(key) if shared else key) for path, key in found]
    how = 'own pairs, the clean image of A_... being A' if shared else 'own pairs with equal names'
    return _found(how, name, (clean, degraded), shared, len(clean) + len(degraded))


def make_jobs(found: Found, skip: bool, progress: Progress) -> tuple[list[Job], list[Failure]]:
    """Decide what is stored of each file, so that both images of every pair have one size.

    Where sizes differ, both are cut around their centres to the height and width that all images of the scene have.
    Only the headers of the files are read here.

    Args:
        found: What :func:`recognise` and its like give.
        skip: Leave unusable images out rather than raise.
        progress: Shows how far it is.

    Returns:
        The jobs, clean images of shared sets first, and what was left out.

    Raises:
        InputError: An image without partner, an unreadable header, sizes that differ by too much; not with ``skip``.
    """
    failures: list[Failure] = []
    sizes: list[dict[str, tuple[int, int]]] = []
    for files in found.files:
        known: dict[str, tuple[int, int]] = {}
        for path, key, _ in progress(files):
            try:
                known[key] = read_size(path)
            except InputError as error:
                failures.append(Failure(path, f'is not a readable image ({error})'))
        sizes.append(known)
    broken = {failure.path for failure in failures}

    target = dict(sizes[0])
    paired: set[str] = set()
    for path, key, clean in found.files[1] if len(found.files) > 1 else ():
        if path in broken:
            continue
        if clean not in sizes[0]:
            failures.append(Failure(path, f'has no clean image {clean} beside it'))
            broken.add(path)
        elif max(abs(a - b) for a, b in zip(sizes[0][clean], sizes[1][key], strict=True)) > LARGEST_DIFFERENCE:
            (h, w), (h0, w0) = sizes[1][key], sizes[0][clean]
            failures.append(Failure(path, f'is {w}x{h}, its clean image {clean} {w0}x{h0}: not the same picture'))
            broken.add(path)
        else:
            h, w = map(min, target[clean], sizes[1][key])
            target[clean] = h, w
            paired.add(clean)
    if len(found.files) > 1 and not found.shared:
        for path, key, _ in found.files[0]:
            if path not in broken and key not in paired:
                failures.append(Failure(path, 'has no degraded image beside it'))
                broken.add(path)
    if failures and not skip:
        shown = '\n'.join(f'  {failure.path} {failure.reason}' for failure in failures[:5])
        raise InputError(
            f'{len(failures)} of {sum(map(len, found.files))} images cannot be used:\n{shown}\n'
            'Repair them, or leave them out with --on-error skip. Nothing was written.'
        )

    def image(store: int, path: str, key: str, clean: str) -> Image:
        size = target[clean]
        return Image(store, path, key, clean if clean != key else '', size, sizes[store][key] != size)

    usable = [[image(store, *file) for file in files if file[0] not in broken]
              for store, files in enumerate(found.files)]  # fmt: skip
    if len(usable) == 2 and not found.shared:
        return list(zip(*usable, strict=True)), failures
    return [(picture,) for images in usable for picture in images], failures


def own_files(folder: Path) -> list[tuple[str, str]]:
    """(path, key) of all images in ``folder`` and its subfolders, in order of names; raises as :func:`recognise`."""
    files = [(path, key_of(os.path.splitext(os.path.relpath(path, folder))[0])) for path in _walk(folder, True)]
    if not files:
        what = ', which is an LMDB: name the folder that it was made from' if is_lmdb(folder) else ''
        raise InputError(f'there are no images ({", ".join(SUFFIXES)}) in {folder}{what}')
    return files


def _found(description: str, lmdb: str, sides: tuple[list, ...], shared: bool, seen: int) -> Found:
    if shared:
        # RESIDE's folder of clean images holds more than the hazy ones were made from.
        wanted = {clean for _, _, clean in sides[1]}
        sides = ([file for file in sides[0] if file[1] in wanted], sides[1])
    for files in sides:
        files.sort(key=lambda file: file[1])
        for (first, key, _), (second, other, _) in zip(files, files[1:], strict=False):
            if key == other:
                raise InputError(f'{first} and {second} would have the same key {key}; rename or remove one of them')
        for path, key, _ in files:
            if len(key) > 500:
                raise InputError(f'{path}: its path is too long for an LMDB key (500 characters); shorten it')
    stores = (lmdb,) if len(sides) == 1 else (f'{lmdb}_gt', f'{lmdb}_lq')
    return Found(description, stores, sides, shared, seen - sum(map(len, sides)))


def _clean_key(dataset: Dataset, name: str) -> str:
    # Rain100L and H number their images 1 or 001, as the layout goes; the result is the same from each of them.
    return name.zfill(3) if dataset.lmdb.startswith('Rain100') else key_of(name)


def _find_layout(name: str, dataset: Dataset, source: Path) -> tuple[Layout, Path]:
    """The layout and its root: the shallowest that fits."""
    level = [source]
    for _ in range(LAYOUT_DEPTH + 1):
        for layout in dataset.layouts:
            parts = [part for part in (layout.clean, layout.degraded) if part]
            roots = [root for root in level if all(_folder(root, part) is not None for part in parts)]
            roots = list({root.resolve(): root for root in reversed(roots)}.values())[::-1]  # links lead to one twice
            if len(roots) > 1:
                raise InputError(
                    f'{name}: both {roots[0]} and {roots[1]} look like it; give the one that is meant with --source'
                )
            if roots:
                return layout, roots[0]
        level = [below for root in level for below in _subfolders(root)]
    expected = '\n'.join(f'  {layout.name}: {_expectation(layout)}' for layout in dataset.layouts)
    holds = ', '.join(sorted(entry.name for entry in _scan(source))[:8]) or 'nothing'
    raise InputError(f'{name} was not recognised in {source}, which holds {holds}. What would be:\n{expected}')


def _expectation(layout: Layout) -> str:
    def words(part: Part) -> str:
        folders = ' or '.join(folder.replace('+', '/ and ') + '/' if folder else '.' for folder in part.folders)
        names = part.pattern.replace(HAZY, 'IIII_A_B').replace('.+', '*').replace(r'\d+', 'N').strip('()')
        return f'{folders} with {names.replace("(", "").replace(")", "")}.png, .jpg, ...'

    return ', '.join(words(part) for part in (layout.clean, layout.degraded) if part)


def _folder(root: Path, part: Part) -> str | None:
    """The first alternative of the part's folders that exists below ``root`` and holds a fitting image."""

    def fits(folder: Path) -> bool:
        return folder.is_dir() and any(
            re.fullmatch(part.pattern, _name(path, folder, part)) for path in _walk(folder, part.deep)
        )

    return next((names for names in part.folders if all(fits(root / name) for name in names.split('+'))), None)


def _images_of(root: Path, part: Part) -> Iterator[tuple[Path, str]]:
    """The folder, and the image's path."""
    for name in str(_folder(root, part)).split('+'):
        for path in _walk(root / name, part.deep):
            yield root / name, path


def _name(path: str, folder: Path, part: Part) -> str:
    """What the part's pattern is about."""
    name = os.path.relpath(path, folder) if '/' in part.pattern else os.path.basename(path)
    return os.path.splitext(name)[0].replace(os.sep, '/')


def _scan(folder: Path) -> list[os.DirEntry]:
    try:
        with os.scandir(folder) as entries:
            return sorted((entry for entry in entries if entry.name[0] != '.'), key=lambda entry: entry.name)
    except OSError as error:
        raise InputError(f'the folder {folder} cannot be read: {error.strerror}') from error


def _subfolders(folder: Path) -> list[Path]:
    return [folder / entry.name for entry in _scan(folder) if os.path.isdir(entry.path)]


def _walk(folder: Path, recursive: bool) -> Iterator[str]:
    """Paths of the images in ``folder``; hidden files are no images."""

    def unreadable(error: OSError) -> NoReturn:
        raise InputError(f'the folder {error.filename} cannot be read: {error.strerror}') from error

    if recursive:
        names = walk(folder, unreadable)
    else:
        names = (entry.path for entry in _scan(folder) if not os.path.isdir(entry.path))
    yield from (name for name in names if name.lower().endswith(SUFFIXES))
