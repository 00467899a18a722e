"""Files that a training run resumes from: written whole or not at all, checked before they are used."""

import hashlib
import os
import pickle
import random
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from basicsr.utils import get_root_logger

from airnet_basicsr.errors import InputError

_ASIDE = '.writing_'


@contextmanager
def written_aside(folder: str) -> Iterator[str]:
    """A folder to write files into that appear in ``folder`` only once all of them are whole and on the disk.

    Raises:
        OSError: They could not be written, or are not whole PyTorch files. ``folder`` is as it was.
    """
    with tempfile.TemporaryDirectory(dir=folder, prefix=_ASIDE) as aside:
        try:
            yield aside
        except RuntimeError as error:  # how torch.save reports a full disk
            raise OSError(str(error).partition('\n')[0]) from error
        names = os.listdir(aside)
        for name in names:
            if not is_whole(Path(aside, name)):
                raise OSError(f'{name} could not be written whole')
            _to_disk(os.path.join(aside, name))
        for name in names:
            os.replace(os.path.join(aside, name), os.path.join(folder, name))
        _to_disk(folder)


def remove_unfinished(folder: str) -> None:
    """Remove what a killed process had begun to write into ``folder``."""
    for path in Path(folder).glob(f'{_ASIDE}*'):
        shutil.rmtree(path, ignore_errors=True)


def _to_disk(path: str) -> None:
    if os.name == 'nt':  # opens no folder, and writes out no file that is open for reading
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def is_whole(path: Path) -> bool:
    """Whether ``path`` is a PyTorch file (a zip archive) all of whose parts have the checksums stored with them."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (OSError, zipfile.BadZipFile, NotImplementedError, EOFError):
        return False


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    found = hashlib.sha256()
    with open(path, 'rb') as file:
        while block := file.read(2**20):
            found.update(block)
    return found.hexdigest()


def _load(path: Path) -> dict[str, Any] | None:
    if not is_whole(path):
        return None
    try:
        state = torch.load(path, map_location='cpu', weights_only=True)
    except (pickle.UnpicklingError, RuntimeError):
        return None
    return state if isinstance(state, dict) else None


def newest_good_state(states: str, models: str) -> tuple[str, dict[str, Any]] | None:
    """The newest training state whose file is whole and whose network is the one that was saved with it.

    Those that are not are named in a warning and left where they are.

    Args:
        states: The folder of ``N.state`` files.
        models: The folder of ``net_g_N.pth`` files.

    Returns:
        Path and content, or None where there is no state at all.

    Raises:
        InputError: There are states, but none of them can be used.
    """
    found = [path for path in Path(states).glob('*.state') if path.stem.isdigit()]
    for path in sorted(found, key=lambda path: int(path.stem), reverse=True):
        state = _load(path)
        fault = _fault(path, state, models)
        if fault is None:
            assert state is not None
            return str(path), state
        # print, not the log: that exists only once training has been resumed.
        print(f'WARNING: {fault}: the checkpoint of iteration {path.stem} is not used.', flush=True)
    if found:
        raise InputError(
            f'none of the {len(found)} checkpoints in {states} can be used (see the warnings above). Restore one, or '
            'remove the experiment to start anew.'
        )
    return None


def named_state(path: str, models: str) -> dict[str, Any]:
    """The training state that ``path: resume_state`` names, checked as in :func:`newest_good_state`.

    Raises:
        InputError: It is none, or its network is not in the folder ``models``.
    """
    file = Path(path)
    if not file.is_file():
        raise InputError(f'option path:resume_state: there is no file {path}')
    state = _load(file)
    fault = _fault(file, state, models)
    if fault is not None:
        raise InputError(
            f'option path:resume_state: {fault}. Name an experiments/NAME/training_states/N.state of the run that the '
            'option file names, with its networks in place. To start anew from a network, name that in '
            'path:pretrain_network_g.'
        )
    assert state is not None
    return state


def _fault(path: Path, state: dict[str, Any] | None, models: str) -> str | None:
    """Why a run cannot resume from the content ``state`` of ``path``; None where it can."""
    if state is None:
        return f'{path} is damaged or holds more than plain data'
    if not {'iter', 'epoch', 'optimizers', 'schedulers'} <= state.keys():
        return f'{path} is no training state'
    network = Path(models, f'net_g_{state["iter"]}.pth')
    if not network.is_file():
        return f'{network} is missing'
    # States of BasicSR's own models name no digest.
    if not is_whole(network) or state.get('network_digest') not in (None, digest(network)):
        return f'{network} is damaged or not the one saved with {path.name}'
    return None


def random_state() -> dict[str, Any]:
    """The state of every global source of random numbers of this process, as plain tensors, numbers and lists."""
    version, internal, gauss = random.getstate()
    numpy = np.random.get_state(legacy=False)
    return {
        'python': [version, list(internal), gauss],
        'numpy': [
            torch.from_numpy(numpy['state']['key'].astype(np.int64)),
            numpy['state']['pos'],
            numpy['has_gauss'],
            numpy['gauss'],
        ],
        'torch': torch.get_rng_state(),
        'cuda': torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Go back to what :func:`random_state` gave."""
    version, internal, gauss = state['python']
    random.setstate((version, tuple(internal), gauss))
    words, *rest = state['numpy']
    np.random.set_state(('MT19937', words.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state['torch'])
    if torch.cuda.is_available() and len(state['cuda']) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state['cuda'])


def prune(states: str, models: str, keep_last: int) -> None:
    """Remove all numbered checkpoints but the newest ``keep_last``; one that cannot be removed is named in the log."""
    numbers = sorted(int(path.stem) for path in Path(states).glob('*.state') if path.stem.isdigit())
    for number in numbers[:-keep_last]:
        try:
            # The state first: without it, its network is not resumed from.
            Path(states, f'{number}.state').unlink()
            Path(models, f'net_g_{number}.pth').unlink(missing_ok=True)
        except OSError as error:
            get_root_logger().error(f'The checkpoint of iteration {number} cannot be removed: {error}.')
        else:
            get_root_logger().info(f'Removed the checkpoint of iteration {number} (logger:keep_last is {keep_last}).')
