"""Option files: reading them, deriving one from another, and checks that make a misspelt key an error, not a default.

A derived file names its base, relative to itself, and says what differs (options/train_airnet_derain.yml is one)::

    plugin: !!python/name:airnet_basicsr.plugin.__name__ ''   # first: BasicSR learns of the tags here
    base: !base train_airnet_aio.yml
    train:
      queue_size: 256           # mappings are merged, key by key; anything else, lists too, replaces the base's value
      contrast_opt: !remove     # leaves the base's key out (within braces, put a space behind it: {val: !remove })
    network_g: !replace {type: EDSR, num_in_ch: 3}      # in place of the base's mapping, not merged with it
"""

import difflib
from collections.abc import Iterable, Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import yaml
from basicsr.utils import options as basicsr_options
from yaml import MappingNode, Node, ScalarNode, SequenceNode

from airnet_basicsr.errors import InputError
from airnet_basicsr.plugin.option_schema import number_of, read_numbers

PYTHON = 'tag:yaml.org,2002:python/'
PYTHON_NAME = f'{PYTHON}name:'

# What BasicSR itself reads from a dataset's options, or adds to them.
DATASET_KEYS = frozenset(
    ('name', 'type', 'phase', 'scale', 'num_worker_per_gpu', 'batch_size_per_gpu', 'use_shuffle')
    + ('dataset_enlarge_ratio', 'prefetch_mode', 'num_prefetch_queue', 'pin_memory', 'persistent_workers')
)
# What BasicSR's train loop and SRModel read from `train`.
TRAIN_KEYS = frozenset(('ema_decay', 'optim_g', 'scheduler', 'total_iter', 'warmup_iter', 'pixel_opt'))


def check_keys(section: Any, known: Iterable[str], where: str) -> None:
    """Raise :class:`InputError` unless ``section`` is a mapping with keys from ``known`` only.

    ``where`` names the section in the message, as its path in the option file (``datasets:train``).
    """
    if not isinstance(section, Mapping):
        raise InputError(f'option {where}: expected a mapping of keys to values, found {section!r}')
    known = sorted(known)
    for key in section:
        if key not in known:
            close = difflib.get_close_matches(str(key), known, n=1)
            hint = f'Did you mean `{close[0]}`?' if close else f'Known keys: {", ".join(known)}.'
            raise InputError(f'option {where}: unknown key `{key}`. {hint}')


def require(section: Mapping[str, Any], key: str, where: str) -> Any:
    """``section[key]``, or an :class:`InputError` that names the missing key, or a section that is none."""
    if not isinstance(section, Mapping):
        raise InputError(f'option {where}: expected a section with the key `{key}`, found {section!r}')
    if section.get(key) is None:
        raise InputError(f'option {where}: the key `{key}` is missing')
    return section[key]


def check_number(
    section: Mapping[str, Any], key: str, default: float, limits: tuple[float, float], where: str
) -> float:
    """``section[key]``, or ``default``; an :class:`InputError` unless it is a number within ``limits``."""
    value = number_of(section.get(key, default))
    if not _is_number(value, limits):
        raise InputError(f'option {where}:{key}: expected a number from {limits[0]} to {limits[1]}, found {value!r}')
    return value


def check_range(
    section: Mapping[str, Any], key: str, default: list[float], limits: tuple[float, float], where: str
) -> list[float]:
    """``section[key]``, or ``default``; an :class:`InputError` unless it is ``[from, to]`` within ``limits``."""
    value = section.get(key, default)
    if isinstance(value, list):
        value = [number_of(end) for end in value]
    if not isinstance(value, list) or len(value) != 2 or not all(_is_number(end, limits) for end in value):
        raise InputError(f'option {where}:{key}: expected [from, to], both {limits[0]} to {limits[1]}, found {value!r}')
    if value[0] > value[1]:
        raise InputError(f'option {where}:{key}: expected [from, to], found {value!r}, which ends before it begins')
    return value


def _is_number(value: Any, limits: tuple[float, float]) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and limits[0] <= value <= limits[1]


def load_options(path: str | PathLike) -> dict[str, Any]:
    """The option file as BasicSR reads it, before its command line changes anything.

    As in training and testing, the modules that it names (``!!python/name``) are imported.

    Raises:
        InputError: The file, or one that it derives from, is missing or cannot be understood.
    """
    return _construct(_compose(Path(path)), basicsr_options.ordered_yaml()[0])


def read_options(path: str | PathLike) -> dict[str, Any]:
    """As :func:`load_options`, but nothing is imported: what ``!!python/name`` names stays a name.

    For programs that only look into an option file, which may be a stranger's.
    """
    reader: Any = type('Reader', (basicsr_options.ordered_yaml()[0],), {})
    reader.add_multi_constructor(PYTHON_NAME, lambda loader, name, node: name)
    return _construct(_compose(Path(path)), reader)


def _construct(root: MappingNode, kind: Any) -> dict[str, Any]:
    loader = kind('')
    try:
        options = loader.construct_document(root)
    except yaml.YAMLError as error:
        raise no_yaml(error) from error
    finally:
        loader.dispose()
    read_numbers(options)
    return options


def no_yaml(error: yaml.YAMLError) -> InputError:
    """What PyYAML said of an option file, in one line."""
    mark = error.problem_mark if isinstance(error, yaml.MarkedYAMLError) else None
    if mark is None or not isinstance(error, yaml.MarkedYAMLError):
        return InputError(f'option file: {error}')
    context = f' ({error.context})' if error.context else ''
    return InputError(f'option file {mark.name}, line {mark.line + 1}: {error.problem}{context}')


def standalone_text(path: str | PathLike) -> str:
    """The option file's text; of a derived one, what it comes to when merged into its base.

    Raises:
        InputError: As :func:`load_options`.
    """
    text = Path(path).read_text(encoding='utf-8')
    if '!base' not in text:
        return text
    return yaml.serialize(_compose(Path(path)), Dumper=basicsr_options.ordered_yaml()[1], width=120)


def _compose(path: Path, derived: tuple[Path, ...] = ()) -> MappingNode:
    """The file's options merged into its base's; ``derived`` are the files, resolved, whose bases led here."""
    try:
        with open(path, encoding='utf-8') as file:
            root = yaml.compose(file, basicsr_options.ordered_yaml()[0])
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f'option file {path} cannot be read: {getattr(error, "strerror", error)}') from error
    except yaml.YAMLError as error:
        raise no_yaml(error) from error
    if not isinstance(root, MappingNode):
        raise InputError(f'option file {path}: expected a mapping of keys to values')
    named = base_of(root)
    if named is None:
        return root
    base = path.parent / named.value
    derived = (*derived, path.resolve())
    if base.resolve() in derived:
        chain = ' -> '.join(file.name for file in (*derived, base))
        raise InputError(f'option file {_place(named)}: the base leads back to a file that derives from it: {chain}')
    if not base.is_file():
        raise InputError(f'option file {_place(named)}: the base {base} does not exist (looked for beside this file)')
    root.value = [(key, value) for key, value in root.value if value is not named]
    return _merge(_compose(base, derived), root)


def check_file(root: Node | None) -> None:
    """Raise :class:`InputError` for what an option file must not have: code, keys twice, a base without its tag."""
    if root is not None:
        _check_node(root, set())
        base_of(root)


def _check_node(node: Node, seen: set[int]) -> None:
    if id(node) in seen:
        return
    seen.add(id(node))
    if node.tag.startswith(PYTHON) and not node.tag.startswith(PYTHON_NAME):
        raise InputError(
            f'option file {_place(node)}: !!python/{node.tag.removeprefix(PYTHON)} is refused: option files run no '
            'code. Only !!python/name:MODULE.NAME is taken, which imports a plug-in.'
        )
    if isinstance(node, MappingNode):
        found = set()
        for key, value in node.value:
            if key.value == '<<':
                raise InputError(f"option file {_place(key)}: BasicSR does not merge `<<`; write the keys' values out")
            if isinstance(key.value, str) and key.value in found:
                raise InputError(f'option file {_place(key)}: the key `{key.value}` is there twice; remove one')
            if isinstance(key.value, str):
                found.add(key.value)
            _check_node(key, seen)
            _check_node(value, seen)
    elif isinstance(node, SequenceNode):
        for each in node.value:
            _check_node(each, seen)


def base_of(root: Node) -> Node | None:
    """The value of the key `base`.

    Raises:
        InputError: It has not the tag.
    """
    named = _values(root).get('base') if isinstance(root, MappingNode) else None
    if named is not None and named.tag != '!base':
        raise InputError(f'option file {_place(named)}: write `base: !base FILE`, with the tag')
    return named


def _values(mapping: MappingNode) -> dict[str, Node]:
    return {key.value: value for key, value in mapping.value}


def _place(node: Node) -> str:
    return f'{node.start_mark.name}, line {node.start_mark.line + 1}'


def _merge(base: MappingNode | None, changes: MappingNode) -> MappingNode:
    merged = {key.value: (key, value) for key, value in base.value} if base else {}
    for key, value in changes.value:
        inherited = merged[key.value][1] if key.value in merged else None
        if value.tag == '!replace' and not isinstance(value, MappingNode):
            raise InputError(f'option file {_place(value)}: !replace is for mappings; other values need no tag')
        if value.tag == '!remove':
            if not isinstance(value, ScalarNode) or value.value != '':
                raise InputError(f'option file {_place(value)}: write !remove alone, without a value')
            if inherited is None:
                known = list(merged)
                close = difflib.get_close_matches(key.value, known, n=1)
                hint = f'Did you mean `{close[0]}`?' if close else f'It has: {", ".join(known) or "nothing here"}.'
                raise InputError(f'option file {_place(key)}: the base has no key `{key.value}` to remove. {hint}')
            del merged[key.value]
        elif isinstance(value, MappingNode):
            with_base = isinstance(inherited, MappingNode) and value.tag != '!replace'
            merged[key.value] = key, _merge(inherited if with_base else None, value)
        elif isinstance(inherited, MappingNode):
            raise InputError(
                f'option file {_place(key)}: `{key.value}` is a mapping of keys in the base, and a single value or a '
                'list here. Are the lines below it indented? To leave the key out, write !remove.'
            )
        else:
            merged[key.value] = key, value
    tag = yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG if changes.tag == '!replace' else changes.tag
    return MappingNode(tag, list(merged.values()), changes.start_mark, changes.end_mark)


def _construct_base(loader: Any, node: Node) -> Iterator[str]:
    root = next(iter(loader.recursive_objects))  # the node whose construction began first
    if _values(root).get('base') is not node:
        raise InputError(f'option file {_place(node)}: !base belongs to the key `base` at the top level')
    yield node.value
    # PyYAML comes back here when the file's own options are complete.
    options = loader.constructed_objects[root]
    options.clear()
    options.update(load_options(node.start_mark.name))


def _construct_change(loader: Any, node: Node) -> None:
    # Of a derived file nothing that is constructed here remains: see _construct_base.
    if base_of(next(iter(loader.recursive_objects))) is None:
        raise InputError(f'option file {_place(node)}: {node.tag} changes a key of a base, and there is none')


TAGS = {'!base': _construct_base, '!remove': _construct_change, '!replace': _construct_change}
"""PyYAML's constructors of the tags that derived files have."""
