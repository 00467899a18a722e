"""Every repair of BasicSR, in one place; each names the fault and leaves a toolbox without it alone.

Versions looked at: 1.4.2 as published, and git master of 2024-05 (``basicsr-fixed`` 1.4.2).
"""

import functools
import importlib.util
import os
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

from airnet_basicsr.errors import InputError


def _ours(function: Callable) -> Callable:
    function.repaired_by = __name__
    return function


def _is_ours(function: Callable) -> bool:
    return getattr(function, 'repaired_by', None) == __name__


def before_import() -> None:
    """What must be in place before ``import basicsr``."""
    if importlib.util.find_spec('basicsr') is None:
        raise InputError(
            'BasicSR is not installed. Install PyTorch, then: pip install --no-build-isolation basicsr==1.4.2'
        )
    _torchvision_functional_tensor()


def after_import() -> None:
    """What repairs an imported toolbox; also where its own train.py imported it, and us, first."""
    _share_lmdb_environments()
    _resume_without_cuda()
    _average_buffers()
    _tell_datasets_the_epoch()
    _number_of_the_last_validation()


def _torchvision_functional_tensor() -> None:
    """1.4.2 imports ``torchvision.transforms.functional_tensor``, gone since torchvision 0.17 (mended in master)."""
    name = 'torchvision.transforms.functional_tensor'
    if importlib.util.find_spec('torchvision') is None or importlib.util.find_spec(name) is not None:
        return
    from torchvision.transforms import functional

    module = ModuleType(name)
    module.rgb_to_grayscale = functional.rgb_to_grayscale
    sys.modules[name] = module


def _share_lmdb_environments() -> None:
    """lmdb 3 refuses to open one environment twice in a process; LmdbBackend opens one for each dataset object.

    They share it here, also with worker processes forked later (read-only and unlocked, as the toolbox opens it).
    """
    import lmdb
    from basicsr.utils.file_client import LmdbBackend

    if _is_ours(LmdbBackend.__init__) or int(lmdb.__version__.split('.')[0]) < 3:
        return
    opened: dict[str, Any] = {}
    plain_init = LmdbBackend.__init__

    @_ours
    @functools.wraps(plain_init)
    def init(self: Any, db_paths: Any, client_keys: Any = 'default', *args: Any, **kwargs: Any) -> None:
        paths = db_paths if isinstance(db_paths, list) else [db_paths]
        keys = client_keys if isinstance(client_keys, list) else [client_keys]
        environments = {}
        for path, key in zip(paths, keys, strict=True):
            real_path = os.path.realpath(path)
            if real_path not in opened:
                plain_init(self, str(path), key, *args, **kwargs)
                opened[real_path] = self._client[key]
            environments[key] = opened[real_path]
        self.db_paths, self._client = paths, environments

    LmdbBackend.__init__ = init


def _resume_without_cuda() -> None:
    """load_resume_state asks for the current CUDA device, and looks for states below the working directory.

    ``--auto_resume`` therefore fails on a CPU, and starts anew, without a word, where the program was not started in
    the folder that holds ``experiments``.
    """
    import torch
    from basicsr.utils import check_resume

    def load_resume_state(opt: dict[str, Any]) -> dict[str, Any] | None:
        path = opt['path'].get('resume_state')
        if opt['auto_resume']:
            folder = opt['path']['training_states']
            names = os.listdir(folder) if os.path.isdir(folder) else []
            iterations = [int(name[: -len('.state')]) for name in names if name.endswith('.state')]
            path = os.path.join(folder, f'{max(iterations)}.state') if iterations else None
            opt['path']['resume_state'] = path
        if path is None:
            return None
        try:
            state = torch.load(path, map_location='cpu', weights_only=True)
        except FileNotFoundError as error:
            raise InputError(f'option path:resume_state: {path} does not exist') from error
        check_resume(opt, state['iter'])
        return state

    # In the toolbox's own checkout train.py runs as __main__, and imported us while it read its option file.
    train = sys.modules['__main__']
    if not hasattr(train, 'train_pipeline'):
        import basicsr.train as train
    train.load_resume_state = load_resume_state


def _average_buffers() -> None:
    """model_ema averages parameters only: with BatchNorm, the average would be tested with untrained statistics."""
    import torch
    from basicsr.models.base_model import BaseModel

    if _is_ours(BaseModel.model_ema):
        return
    average_parameters = BaseModel.model_ema

    @_ours
    @functools.wraps(average_parameters)
    @torch.no_grad()
    def model_ema(self: Any, decay: float = 0.999) -> None:
        average_parameters(self, decay)
        for average, current in zip(self.net_g_ema.buffers(), self.get_bare_model(self.net_g).buffers(), strict=True):
            if average.is_floating_point():
                average.mul_(decay).add_(current, alpha=1 - decay)
            else:
                average.copy_(current)

    BaseModel.model_ema = model_ema


class Draw(int):
    """A dataset index that knows the epoch and its place there, so that randomness can depend on those alone.

    Attributes:
        epoch: The sampler's epoch.
        position: Place in the epoch's order over all processes.
        ordinal: Place among the draws of this process.
    """

    epoch: int
    position: int
    ordinal: int


def _tell_datasets_the_epoch() -> None:
    """EnlargedSampler gives plain indices, and workers restart the same random numbers at each epoch.

    So crops and noise repeat, and depend on the number of workers. Its indices become :class:`Draw` here; to datasets
    that do not look they are the same integers as before.
    """
    from basicsr.data.data_sampler import EnlargedSampler

    if _is_ours(EnlargedSampler.__iter__):
        return
    plain_iter = EnlargedSampler.__iter__

    @_ours
    @functools.wraps(plain_iter)
    def draws(self: Any) -> Any:
        for ordinal, index in enumerate(plain_iter(self)):
            draw = Draw(index)
            draw.epoch, draw.position, draw.ordinal = self.epoch, ordinal * self.num_replicas + self.rank, ordinal
            yield draw

    EnlargedSampler.__iter__ = draws


def _number_of_the_last_validation() -> None:
    """The validation after training is logged at an iteration one past the end."""
    from basicsr.models.base_model import BaseModel

    if _is_ours(BaseModel.validation):
        return
    plain_validation = BaseModel.validation

    @_ours
    @functools.wraps(plain_validation)
    def validation(self: Any, dataloader: Any, current_iter: Any, *args: Any, **kwargs: Any) -> None:
        if self.is_train:
            current_iter = min(current_iter, int(self.opt['train']['total_iter']))
        plain_validation(self, dataloader, current_iter, *args, **kwargs)

    BaseModel.validation = validation
