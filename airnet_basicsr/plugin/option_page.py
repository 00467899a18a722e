"""``python -m airnet_basicsr.plugin.option_page``: every key of option files, as Markdown.

With ``--json``, the JSON schema that editors check option files with.
"""

import sys
from collections.abc import Iterator
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import msgspec
from msgspec import UNSET, Struct

from airnet_basicsr.plugin.option_schema import OptionFile, kinds_of, words


def _described(wanted: Any) -> str:
    metas = get_args(wanted)[1:] if get_origin(wanted) is Annotated else ()
    return next((meta.description for meta in metas if meta.description), '')


def page() -> str:
    """Every key, what it may be and its default, as Markdown."""
    lines = ['# Keys of option files', '']
    lines += [
        'Made by `python -m airnet_basicsr.plugin.option_page`. Other keys are left to the classes that read them.'
    ]
    for where, described in _sections(OptionFile, ''):
        lines += ['', f'## {f"`{where}`" if where else "The file"}', '', str(described.__doc__).replace('``', '`'), '']
        lines += ['| key | value | default | |', '| --- | --- | --- | --- |']
        hints = get_type_hints(described, include_extras=True)
        for field in msgspec.structs.fields(described):
            wanted = hints[field.name]
            lines.append(f'| `{field.name}` | {words(wanted)} | {_default(field)} | {_described(wanted)} |')
    return '\n'.join([*lines, ''])


def _default(field: msgspec.structs.FieldInfo) -> str:
    if field.required:
        return 'needed'
    value = field.default_factory() if field.default is msgspec.NODEFAULT else field.default
    return (
        '' if value in (UNSET, None, '', [], {}) and value is not False else f'`{msgspec.json.encode(value).decode()}`'
    )


def _sections(described: type[Struct], where: str) -> Iterator[tuple[str, type[Struct]]]:
    yield where, described
    for key, wanted in get_type_hints(described, include_extras=True).items():
        for kind in kinds_of(wanted):
            named = f'{where}:{key}' if where else key
            if get_origin(kind) is dict:
                kind, named = get_args(kind)[1], f'{named}:NAME'
            if isinstance(kind, type) and issubclass(kind, Struct) and kind is not described:
                yield from _sections(kind, named)


def json_schema() -> dict[str, Any]:
    """JSON schema of option files (draft 2020-12)."""
    return {'$schema': 'https://json-schema.org/draft/2020-12/schema', **msgspec.json.schema(OptionFile)}


if __name__ == '__main__':
    print(msgspec.json.format(msgspec.json.encode(json_schema())).decode() if '--json' in sys.argv[1:] else page())
