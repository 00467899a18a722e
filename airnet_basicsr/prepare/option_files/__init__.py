"""``airnet options``: the option files that come with the package, listed and copied."""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from airnet_basicsr.errors import InputError
from airnet_basicsr.network.files import write_whole

HERE = Path(__file__).resolve().parent
# A wheel brings them beside this file (see setup.py); in a checkout they are where people edit them.
FOLDER = HERE if (HERE / 'train_airnet_aio.yml').is_file() else HERE.parents[2] / 'options'


def available() -> dict[str, str]:
    """What each option file is for, by its path below the folder `options`."""
    paths = sorted(FOLDER.rglob('*.yml'), key=lambda path: (len(path.relative_to(FOLDER).parts), path))
    return {path.relative_to(FOLDER).as_posix(): _purpose(path) for path in paths}


def _purpose(path: Path) -> str:
    comment = re.match(r'(?:# .*\n)+', path.read_text(encoding='utf-8'))
    text = comment[0].replace('\n', ' ').replace('# ', '') if comment else ''
    return re.split(r'(?<=\.) ', text.strip())[0]


def copy(names: Sequence[str], target: Path) -> list[Path]:
    """Copy option files, and the files that they derive from, into the folder ``target``.

    Args:
        names: As in :func:`available`; the ending `.yml` may be left out.
        target: Made where it is missing. A file there with other content is never written over.

    Returns:
        The files that were written; one that is there already is not.

    Raises:
        InputError: There is no such option file, or another file is in the way.
    """
    wanted = [path for name in names for path in _with_bases(_find(name))]
    places = {path: target / path.relative_to(FOLDER) for path in wanted}
    for path, place in places.items():
        if place.exists() and not (place.is_file() and place.read_bytes() == path.read_bytes()):
            raise InputError(f'{place} is there already, with other content: nothing was copied. Choose another -o.')
    written = []
    for path, place in places.items():
        if not place.exists():
            write_whole(place, path.read_bytes())
            written.append(place)
    return written


def _find(name: str) -> Path:
    given = name.removeprefix('options/').removesuffix('.yml') + '.yml'
    if given not in available():
        raise InputError(f'there is no option file {name}: `airnet options` lists them')
    return FOLDER / given


def _with_bases(path: Path) -> list[Path]:
    base = re.search(r'^base: !base (\S+)$', path.read_text(encoding='utf-8'), re.MULTILINE)
    return [path, *(_with_bases((path.parent / base[1]).resolve()) if base else ())]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; gives the exit status."""
    parser = argparse.ArgumentParser(
        prog='airnet options',
        description='List the option files that ship with the package. With names: copy them, and the files that they '
        'derive from, into a folder.',
    )
    parser.add_argument('names', nargs='*', metavar='NAME', help='option file to copy, such as train_airnet_aio')
    parser.add_argument('-o', '--output', type=Path, metavar='FOLDER', default=Path('options'), help='default: options')
    arguments = parser.parse_args(argv)
    if not arguments.names:
        width = max(map(len, available()))
        print('\n'.join(f'{name:<{width}}  {purpose}' for name, purpose in available().items()))
        return 0
    written = copy(arguments.names, arguments.output)
    print('\n'.join(f'Written: {path}' for path in written) or 'Already there, unchanged')
    return 0
