"""What a resumed run takes from its training state, and what from an option file that has changed since.

The state decides the optimizer's and the scheduler's settings, the seed, and all that training has learnt; everything
else is the option file's.
"""

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from basicsr.utils import get_root_logger

from airnet_basicsr.errors import InputError

# They change how fast data comes, not which.
_READING = ('num_worker_per_gpu', 'pin_memory', 'prefetch_mode', 'num_prefetch_queue', 'persistent_workers')
_OWN_WAY = "To use the option file's, start a new run (another `name`) with path:pretrain_network_g."


def options_of(opt: Mapping[str, Any]) -> dict[str, Any]:
    """The options that a training run depends on, as plain data."""
    data = {key: value for key, value in (opt.get('datasets') or {}).get('train', {}).items() if key not in _READING}
    options = {'datasets': {'train': data}, 'network_g': opt.get('network_g'), 'train': opt.get('train')}
    return _plain({**options, 'world_size': opt['world_size']})


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def load_optimizers(model: Any, state: Mapping[str, Any], path: str) -> None:
    """Load the optimizers and schedulers of a training state into ``model``; warn where the option file differs.

    Raises:
        InputError: They are of other types, or for other parameters.
    """
    changed = []
    fitting = len(state['optimizers']) == len(model.optimizers) and len(state['schedulers']) == len(model.schedulers)
    for optimizer, saved in zip(model.optimizers, state['optimizers'], strict=False):
        ours = optimizer.state_dict()
        same = ours.keys() == saved.keys() and len(ours['param_groups']) == len(saved['param_groups'])
        fitting = fitting and same
        for group, saved_group in zip(ours['param_groups'], saved['param_groups'], strict=False):
            # The schedule's own `lr` and `initial_lr`: what a scheduler adds to a group.
            known = group.keys() & optimizer.defaults.keys()
            fitting = fitting and known <= saved_group.keys() and len(group['params']) == len(saved_group['params'])
            pairs = {key: (saved_group.get(key), group[key]) for key in sorted(known - {'lr'})}
            pairs['lr'] = saved_group.get('initial_lr'), group.get('initial_lr')
            changed += [(f'train:optim_g:{key}', *pair) for key, pair in pairs.items() if not _same(*pair)]
    if not fitting:
        raise InputError(
            f'training state {path} was written with another optimizer, or for other parameters, than train:optim_g '
            f'(and train:freeze_encoder) of the option file: they cannot go together. {_OWN_WAY}'
        )
    for scheduler, saved in zip(model.schedulers, state['schedulers'], strict=True):
        settings = [name for name in inspect.signature(type(scheduler)).parameters if name in vars(scheduler)]
        settings = [name for name in settings if name not in ('optimizer', 'last_epoch')]
        if not set(settings) <= saved.keys():
            raise InputError(
                f'training state {path} was written with another scheduler than {type(scheduler).__name__}: '
                f'train:scheduler:type must stay. {_OWN_WAY}'
            )
        for name in settings:
            if not _same(saved[name], getattr(scheduler, name)):
                changed.append((f'train:scheduler:{name}', saved[name], getattr(scheduler, name)))
        total = int(model.opt['train']['total_iter'])
        if 'periods' in saved and sum(saved['periods']) < total:
            raise InputError(
                f'option train:total_iter: {total} iterations, but the periods of the scheduler in {path} end at '
                f'{sum(saved["periods"])}. {_OWN_WAY}'
            )
    for optimizer, saved in zip(model.optimizers, state['optimizers'], strict=True):
        optimizer.load_state_dict(saved)
    for scheduler, saved in zip(model.schedulers, state['schedulers'], strict=True):
        scheduler.load_state_dict(saved)
    if changed:
        get_root_logger().warning(
            f'Optimizer and scheduler are resumed as they are in {path}; the option file says otherwise and is not '
            f'followed there: {_listed((key, state, file) for key, state, file in changed)}. {_OWN_WAY}'
        )


def warn_of_changes(options: Mapping[str, Any], state: Mapping[str, Any], path: str) -> None:
    """Say what else in the option file has changed since the state was written, and is followed from here on."""
    if 'options' not in state:  # before version 2
        return
    kept = ('train:optim_g', 'train:scheduler')
    changed = [change for change in _differences(state['options'], options, '') if not change[0].startswith(kept)]
    if changed:
        get_root_logger().warning(
            f'The option file has changed since {path} was written, and is followed from here on: {_listed(changed)}. '
            'The run then differs from one that was never interrupted.'
        )


def _differences(state: Any, file: Any, where: str) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(state, Mapping) and isinstance(file, Mapping):
        for key in [*state, *(key for key in file if key not in state)]:
            yield from _differences(state.get(key), file.get(key), f'{where}:{key}' if where else key)
    elif not _same(state, file):
        yield where, state, file


def _same(state: Any, file: Any) -> bool:
    if isinstance(state, list | tuple) and isinstance(file, list | tuple):
        return list(state) == list(file)
    return state == file


def _listed(changes: Any) -> str:
    return '; '.join(f'{key}: {_short(file)} (state: {_short(state)})' for key, state, file in changes)


def _short(value: Any) -> str:
    if isinstance(value, Mapping):  # the milestones, which BasicSR counts
        value = list(value)
    return 'nothing' if value is None else str(value)
