"""Option files: reading them, and checks that make a misspelt key an error, not a default."""

import difflib
from collections.abc import Iterable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import yaml
from basicsr.utils.options import ordered_yaml

from airnet_basicsr.errors import InputError

# What the toolbox itself reads from a dataset's options, or adds to them.
DATASET_KEYS = frozenset(
    ('name', 'type', 'phase', 'scale', 'num_worker_per_gpu', 'batch_size_per_gpu', 'use_shuffle')
    + ('dataset_enlarge_ratio', 'prefetch_mode', 'num_prefetch_queue', 'pin_memory', 'persistent_workers')
)
# What the toolbox's train loop and SRModel read from `train`.
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
    """``section[key]``, or an :class:`InputError` that names the missing key."""
    if section.get(key) is None:
        raise InputError(f'option {where}: the key `{key}` is missing')
    return section[key]


def load_options(path: str | PathLike) -> dict[str, Any]:
    """The option file as the toolbox reads it, before its command line changes anything."""
    return yaml.load(Path(path).read_text(encoding='utf-8'), ordered_yaml()[0])
