"""Everything in an option file that can be known to be wrong before training or testing begins, at once."""

import argparse
import ast
import difflib
import inspect
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

import torch
from basicsr.models import lr_scheduler
from basicsr.models.base_model import BaseModel
from basicsr.models.sr_model import SRModel
from basicsr.utils.registry import (
    ARCH_REGISTRY,
    DATASET_REGISTRY,
    LOSS_REGISTRY,
    METRIC_REGISTRY,
    MODEL_REGISTRY,
    Registry,
)
from torch import nn

from airnet_basicsr.errors import InputError
from airnet_basicsr.plugin.models import NoRestoration, RestorationModel
from airnet_basicsr.plugin.models.schedules import WarmupCosineLR
from airnet_basicsr.plugin.option_schema import Fault, OptionFile, Path, Val, faults_of, number_of
from airnet_basicsr.plugin.options import DATASET_KEYS, load_options

_SCHEDULERS: dict[str, Any] = {
    'MultiStepLR': lr_scheduler.MultiStepRestartLR,
    'MultiStepRestartLR': lr_scheduler.MultiStepRestartLR,
    'CosineAnnealingRestartLR': lr_scheduler.CosineAnnealingRestartLR,
}
_GIVEN = ('img', 'img2', 'float_img', 'float_img2')  # to a metric, by whoever calls it


def check_options(opt: dict[str, Any], is_train: bool) -> None:
    """Check options as BasicSR's parse_options gives them, and turn text into numbers where numbers are wanted.

    Raises:
        InputError: For all that is wrong, each in a line.
    """
    faults = list(_faults(opt, is_train))
    if faults:
        raise InputError('\n'.join(dict.fromkeys(map(str, faults))))


def check_command_line(is_train: bool) -> None:
    """Check what parse_options is about to read: the option file, changed as ``--force_yml`` says.

    Raises:
        InputError: As :func:`check_options`; a change that names no option or no value.
    """
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument('-opt')
    parser.add_argument('--force_yml', nargs='+', default=())
    known, _ = parser.parse_known_args()
    if known.opt is None:
        return  # parse_options says how it is called
    opt = load_options(known.opt)
    for entry in known.force_yml:
        _change(opt, entry)
    check_options(opt, is_train)


def _change(opt: dict[str, Any], entry: str) -> None:
    keys, _, text = entry.partition('=')
    if '=' in text or not re.fullmatch(r'\s*[^\s"\'\\:]+(:[^\s"\'\\:]+)*\s*', keys) or '=' not in entry:
        raise InputError(f'--force_yml {entry}: write SECTION:KEY=VALUE, without spaces')
    *sections, key = keys.strip().split(':')
    within: Any = opt
    for number, name in enumerate(sections):
        if not isinstance(within, dict) or name not in within:
            raise InputError(
                f'--force_yml {entry}: there is no section `{":".join(sections[: number + 1])}` in the option file.'
                f'{_hint(name, within if isinstance(within, dict) else ())}'
            )
        within = within[name]
    if not isinstance(within, dict):
        raise InputError(f'--force_yml {entry}: `{":".join(sections)}` is no section of the option file')
    within[key] = _value(text.strip(), entry)


def _value(text: str, entry: str) -> Any:
    """As BasicSR reads it, but for a list that is code."""
    if text == '~' or text.lower() == 'none':
        return None
    if text.lower() in ('true', 'false'):
        return text.lower() == 'true'
    if text.startswith('['):
        try:
            return ast.literal_eval(text)
        except (ValueError, SyntaxError) as error:
            raise InputError(f'--force_yml {entry}: {text} is no list such as [1, 2]') from error
    return number_of(text.removeprefix('!!float').strip())


def _faults(opt: dict[str, Any], is_train: bool) -> Iterator[Fault]:
    found = faults_of(opt)
    sections = ('datasets', 'path', *(('train', 'logger') if is_train else ('val',)))
    for key in sections:
        if not isinstance(opt.get(key), Mapping):
            what = 'is missing' if opt.get(key) is None else f'holds {opt[key]!r}, not keys'
            yield Fault('file', f'the section `{key}` {what}')
    if any(key in opt and opt[key] is not None and not isinstance(opt[key], Mapping) for key in ('val', 'train')):
        return
    if not all(isinstance(opt.get(key), Mapping) for key in sections):
        return
    model = _registered(MODEL_REGISTRY, opt.get('model_type'))
    found = [fault for fault in found if _is_ours(fault, opt, model)]
    yield from found
    if any('a mapping' in fault.what for fault in found):
        return
    yield from _of_the_run(opt, is_train, model)
    yield from _of_datasets(opt, is_train)
    yield from _of_networks(opt, model)
    for name, metric in ((opt.get('val') or {}).get('metrics') or {}).items():
        yield from _of_a_part(metric, METRIC_REGISTRY, f'val:metrics:{name}', (*_GIVEN, 'better'))
    if is_train:
        yield from _of_training(opt, model, {fault.place for fault in found})


def _is_ours(fault: Fault, opt: Mapping[str, Any], model: Any) -> bool:
    """Whether what reads an option is known: classes of the user's may have another use for its key."""
    section, _, rest = fault.place.partition(':')
    if section == 'datasets' and rest.count(':'):
        phase, key, *deeper = rest.split(':')
        kind = _registered(DATASET_REGISTRY, opt['datasets'][phase].get('type'))
        # The degradations are built at the start, and check their own.
        return not deeper and (key in DATASET_KEYS or kind is None or _comes_with_us(kind))
    if fault.place.startswith('train:optim_g:'):
        return _optimizers(model) is not None
    if fault.place.startswith('train:scheduler:'):
        return _schedulers(model) is not None
    return True


def _comes_with_us(kind: Any) -> bool:
    return kind.__module__.partition('.')[0] in ('basicsr', 'airnet_basicsr')


def _of_the_run(opt: Mapping[str, Any], is_train: bool, model: Any) -> Iterator[Fault]:
    name, gpus = opt.get('name'), opt.get('num_gpu')
    if isinstance(name, str) and re.match(r'[/\\~]|.*(^|[/\\])\.\.?([/\\]|$)', name):
        yield Fault('name', f'results go into a folder of this name: {name!r} leads elsewhere')
    if isinstance(gpus, int) and not isinstance(gpus, bool):
        seen = torch.cuda.device_count()
        # Launchers may show each process one GPU only.
        if gpus > (gpus if opt.get('dist') and seen else seen):
            yield Fault(
                'num_gpu',
                f'{gpus}, but PyTorch sees {seen} GPU{"" if seen == 1 else "s"}. Write auto, or 0 for the CPU',
            )
    if model is None and opt.get('model_type') is not None:
        yield _unknown('model_type', opt['model_type'], MODEL_REGISTRY)
    if is_train and 'train' not in opt['datasets']:
        yield Fault('datasets', 'there is no `train`, the set to train on')
    if not is_train and not opt['datasets']:
        yield Fault('datasets', 'there is no dataset to test')
    for section, struct in (('', OptionFile), ('path', Path), ('val', Val)):
        yield from _slips((opt.get(section) if section else opt) or {}, struct.__struct_fields__, section)
    logger = opt.get('logger') or {}
    if is_train and (logger.get('wandb') or {}).get('project') is not None and logger.get('use_tb_logger') is not True:
        yield Fault('logger:wandb:project', 'Weights & Biases gets what TensorBoard gets: set `use_tb_logger: true`')
    if is_train and opt.get('val') and opt['val'].get('val_freq') is None:
        yield Fault('val', 'the key `val_freq` is missing')


def _slips(section: Mapping[str, Any], known: Collection[str], where: str) -> Iterator[Fault]:
    """Keys that are like a known one. Others may be the user's own."""
    for key in section:
        if key in known or re.match(r'(network|pretrain_network|strict_load|param_key)_.', str(key)):
            continue
        if difflib.get_close_matches(str(key), known, n=1, cutoff=0.8):
            yield _unknown_key(key, known, where or 'file')


def _of_datasets(opt: Mapping[str, Any], is_train: bool) -> Iterator[Fault]:
    for phase, dataset in opt['datasets'].items():
        where, kind = f'datasets:{phase}', str(phase).split('_')[0]
        if kind not in (('train', 'val') if is_train else ('val', 'test')):
            known = '`train`, `val`, `val_2` and so on' if is_train else '`test_1`, `test_2` and so on'
            yield Fault(where, f'unknown dataset of a {"training run" if is_train else "test"}; write {known}')
        if not isinstance(dataset, Mapping):
            yield Fault(where, f'expected a mapping of keys to values, found {dataset!r}')
            continue
        if dataset.get('type') is not None and _registered(DATASET_REGISTRY, dataset['type']) is None:
            yield _unknown(f'{where}:type', dataset['type'], DATASET_REGISTRY)
        if kind == 'train':
            for key in ('num_worker_per_gpu', 'batch_size_per_gpu'):
                if dataset.get(key) is None:
                    yield Fault(where, f'the key `{key}` is missing')
            if dataset.get('prefetch_mode') == 'cuda' and dataset.get('pin_memory') is not True:
                yield Fault(f'{where}:prefetch_mode', '`cuda` needs `pin_memory: true`')
        if dataset.get('persistent_workers') and (kind != 'train' or not dataset.get('num_worker_per_gpu')):
            yield Fault(
                f'{where}:persistent_workers', 'there are none: it needs num_worker_per_gpu above 0, in training'
            )
        yield from _of_templates(dataset, where)


def _of_templates(section: Any, where: str) -> Iterator[Fault]:
    if isinstance(section, list):
        for each in section:
            yield from _of_templates(each, where)
    for key, value in section.items() if isinstance(section, Mapping) else ():
        if key != 'filename_tmpl':
            yield from _of_templates(value, f'{where}:{key}')
            continue
        try:
            fits = value.format('a') != value.format('b')
        except (AttributeError, IndexError, KeyError, TypeError, ValueError):
            fits = False
        if not fits:
            yield Fault(
                f'{where}:{key}', f"expected text with `{{}}`, which stands for the clean image's name, found {value!r}"
            )


def _of_networks(opt: Mapping[str, Any], model: Any) -> Iterator[Fault]:
    if 'network_g' not in opt and _inherits(model, SRModel) and not _inherits(model, NoRestoration):
        yield Fault('file', 'the key `network_g` is missing')
    for key, network in opt.items():
        if str(key).startswith('network_') and not _inherits(model, NoRestoration):
            yield from _of_a_part(network, ARCH_REGISTRY, key)


def _of_training(opt: Mapping[str, Any], model: Any, wrong: Collection[str]) -> Iterator[Fault]:
    train = opt['train']
    for section, known in (
        ('train', getattr(model, 'TRAIN_KEYS', None)),
        ('logger', getattr(model, 'LOGGER_KEYS', None)),
    ):
        if known is not None:
            yield from (_unknown_key(key, known, section) for key in opt[section] if key not in known)
    for key, loss in train.items():
        kind = _registered(LOSS_REGISTRY, loss.get('type')) if isinstance(loss, dict) else None
        # Other sections of a model of the user's may be no losses.
        if isinstance(loss, dict) and (kind is not None or key in ('pixel_opt', 'perceptual_opt', 'contrast_opt')):
            yield from _of_a_part(loss, LOSS_REGISTRY, f'train:{key}')
            if kind is not None and _comes_with_us(kind) and loss.get('reduction', 'mean') not in ('mean', 'sum'):
                yield Fault(f'train:{key}:reduction', f'expected `mean` or `sum`, found {loss["reduction"]!r}')
    if not _inherits(model, SRModel):
        return
    for key in ('optim_g', 'scheduler'):
        if not isinstance(train.get(key), Mapping):
            yield Fault('train', f'the key `{key}` is missing')
            return
    if any(place.startswith(('train:optim_g', 'train:scheduler', 'train:total_iter')) for place in wrong):
        return
    optimizer, faults = _tried_optimizer(train['optim_g'], model)
    yield from faults
    schedulers, described = _schedulers(model), train['scheduler']
    if schedulers is None or described.get('type') is None:
        return
    kind = schedulers.get(described['type'])
    if kind is None:
        yield _unknown('train:scheduler:type', described['type'], schedulers)
        return
    options = {key: value for key, value in described.items() if key != 'type'}
    if kind is WarmupCosineLR:
        options['total_iter'] = train.get('total_iter')
    faults = list(_of_a_call(kind, options, 'train:scheduler', ('optimizer',), ('last_epoch',)))
    yield from faults
    total = train.get('total_iter')
    if faults or not isinstance(total, int):
        return
    try:
        kind(optimizer or torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0), **options)
    except InputError as error:
        place, _, what = str(error).removeprefix('option ').partition(': ')
        yield Fault(place, what)
    except (AssertionError, TypeError, ValueError, IndexError) as error:
        yield Fault('train:scheduler', str(error))
    periods = described.get('periods')
    if (
        kind is lr_scheduler.CosineAnnealingRestartLR
        and isinstance(periods, list)
        and all(isinstance(each, int) for each in periods)
        and sum(periods) < total
    ):
        yield Fault('train:scheduler:periods', f'they end after {sum(periods)} iterations, and total_iter is {total}')


def _tried_optimizer(described: Mapping[str, Any], model: Any) -> tuple[torch.optim.Optimizer | None, list[Fault]]:
    """An optimizer as described, for a parameter of no network."""
    known, kind = _optimizers(model), described.get('type')
    if known is None or kind is None:
        return None, []
    if kind not in known:
        return None, [_unknown('train:optim_g:type', kind, known)]
    # Muon: get_optimizer gives it Adam's keys.
    made = torch.optim.Adam if kind == 'Muon' else getattr(torch.optim, kind)
    options = {key: value for key, value in described.items() if key != 'type'}
    faults = list(_of_a_call(made, options, 'train:optim_g', ('params',)))
    if faults:
        return None, faults
    # What depends on the device is the device's to say.
    options = {key: value for key, value in options.items() if key not in ('fused', 'foreach', 'capturable')}
    try:
        return made([nn.Parameter(torch.zeros(2, 2))], **options), []
    except (IndexError, TypeError, ValueError, RuntimeError) as error:
        return None, [Fault('train:optim_g', str(error))]


def _optimizers(model: Any) -> Collection[str] | None:
    """Types that the model knows; None where it has ways of its own."""
    if getattr(model, 'get_optimizer', None) is RestorationModel.get_optimizer:
        base = torch.optim.Optimizer
        kinds = ((name, kind) for name, kind in vars(torch.optim).items() if inspect.isclass(kind) and kind is not base)
        return [name for name, kind in kinds if issubclass(kind, base)]
    return None


def _schedulers(model: Any) -> Mapping[str, Any] | None:
    if getattr(model, 'setup_schedulers', None) is RestorationModel.setup_schedulers:
        return {**_SCHEDULERS, 'WarmupCosineLR': WarmupCosineLR}
    return _SCHEDULERS if getattr(model, 'setup_schedulers', None) is BaseModel.setup_schedulers else None


def _of_a_part(section: Any, registry: Registry, where: str, extra: Collection[str] = ()) -> Iterator[Fault]:
    """Of a section whose ``type`` is in a registry, and whose other keys are that one's parameters."""
    if not isinstance(section, dict):
        yield Fault(where, f'expected a mapping with `type`, found {section!r}')
    elif section.get('type') is None:
        yield Fault(where, 'the key `type` is missing')
    elif (part := _registered(registry, section['type'])) is None:
        yield _unknown(f'{where}:type', section['type'], registry)
    else:
        options = {key: value for key, value in section.items() if key not in ('type', *extra)}
        yield from _of_a_call(part, options, where, _GIVEN if extra else ())
        section.update(options)


def _of_a_call(
    called: Callable, options: dict[str, Any], where: str, given: Collection[str] = (), also: Collection[str] = ()
) -> Iterator[Fault]:
    """Of the keyword arguments of a call; text becomes a number, in place, where the parameter is one."""
    parameters = inspect.signature(called).parameters
    named = [
        name
        for name, parameter in parameters.items()
        if parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
    ]
    known = [name for name in named if name not in (*given, *also)]
    takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    for key in options:
        close = difflib.get_close_matches(str(key), [name for name in known if name not in options], n=1, cutoff=0.8)
        if key not in known and (close or not takes_all):
            yield _unknown_key(key, known, where)
    for name in known:
        parameter = parameters[name]
        if name not in options:
            if parameter.default is parameter.empty:
                yield Fault(where, f'the key `{name}` is missing')
            continue
        kinds = {parameter.annotation, type(parameter.default)} & {int, float, 'int', 'float'}
        if not kinds or options[name] is None:
            continue
        value = number_of(options[name])
        if isinstance(value, str):
            yield Fault(f'{where}:{name}', f'expected a number, found {value!r}')
        whole = isinstance(value, float) and value.is_integer() and kinds <= {int, 'int'}
        options[name] = int(value) if whole else value


def _registered(registry: Registry, name: Any) -> Any:
    objects = dict(iter(registry))
    return objects.get(name, objects.get(f'{name}_basicsr')) if isinstance(name, str) else None


def _unknown(where: str, name: Any, known: Iterable[Any]) -> Fault:
    names = [each if isinstance(each, str) else each[0] for each in known]
    return Fault(where, f'there is no {name!r}.{_hint(str(name), names)}')


def _unknown_key(key: Any, known: Iterable[str], where: str) -> Fault:
    return Fault(where, f'unknown key `{key}`.{_hint(str(key), known)}')


def _hint(name: str, known: Iterable[str]) -> str:
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1)
    return f' Did you mean `{close[0]}`?' if close else f' Known: {", ".join(known)}.'


def _inherits(model: Any, base: type) -> bool:
    return inspect.isclass(model) and issubclass(model, base)
