"""What a training run will cost, measured in a minute: ``python -m airnet_basicsr.train -opt X.yml --dry-run``."""

import datetime
import logging
import math
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import count
from typing import Any

import torch
from basicsr.models import build_model
from basicsr.utils import get_root_logger
from basicsr.utils.options import parse_options

from basicsr.train import create_train_val_dataloader

ITERATIONS = 5  # timed in each stage, after one that is not


def dry_run(root_path: str) -> None:
    """Build all that the command line's option file names, train a few iterations, print the cost of the whole.

    Nothing is left on the disk. Times are those of this machine, as busy as it is now.
    """
    opt, _ = parse_options(root_path, is_train=True)
    opt['root_path'] = root_path
    with tempfile.TemporaryDirectory() as folder:
        for key in ('models', 'training_states', 'experiments_root', 'visualization'):
            opt['path'][key] = folder
        logger = get_root_logger(log_level=logging.WARNING)
        train_loader, _, val_loaders, _, total_iter = create_train_val_dataloader(opt, logger)
        model = build_model(opt)
        for number in (signal.SIGTERM, signal.SIGINT):  # here is nothing to save first
            signal.signal(number, lambda number, _: sys.exit(128 + number))
        stages, validation = _training(model, train_loader), _validation(model, val_loaders)
        report = _report(opt, model, stages, validation, folder, total_iter)
        if opt['rank'] == 0:
            print(report)


def _training(model: Any, loader: Any) -> dict[str, float]:
    """Seconds for an iteration of each stage, its data included."""
    warmup = getattr(model, 'encoder_warmup_iter', 0)
    batches = _batches(loader)
    seconds = {}
    for stage, first in (('encoder warm-up', 1), ('joint training', warmup + 1)):
        if stage == 'encoder warm-up' and not warmup:
            continue
        for number in range(ITERATIONS + 1):
            if number == 1:
                started = time.perf_counter()
            model.feed_data(next(batches))
            model.optimize_parameters(min(first + number, warmup) if stage == 'encoder warm-up' else first + number)
            model.completed = None  # an error from here on leaves nothing worth saving
            if model.device.type == 'cuda':
                torch.cuda.synchronize()
        seconds[stage] = (time.perf_counter() - started) / ITERATIONS
    return seconds


def _batches(loader: Any) -> Iterator[dict[str, Any]]:
    for epoch in count():
        loader.sampler.set_epoch(epoch)
        yield from loader


def _validation(model: Any, loaders: list[Any]) -> float:
    """Seconds for one round over all validation sets, from the first image of each."""
    total = 0.0
    for loader in loaders:
        started = time.perf_counter()
        model.feed_data(next(iter(loader)))
        model.test()
        if model.device.type == 'cuda':
            torch.cuda.synchronize()
        total += (time.perf_counter() - started) * math.ceil(len(loader) / model.opt['world_size'])
    return total


def _report(
    opt: dict[str, Any], model: Any, stages: dict[str, float], validation: float, folder: str, total_iter: int
) -> str:
    model.save(0, 1)
    checkpoint = sum(entry.stat().st_size for entry in os.scandir(folder) if entry.is_file())
    warmup = min(getattr(model, 'encoder_warmup_iter', 0), total_iter)
    iterations = {'encoder warm-up': warmup, 'joint training': total_iter - warmup}
    rounds = total_iter // int(opt['val']['val_freq']) if opt.get('val') else 0
    kept = total_iter // int(opt['logger']['save_checkpoint_freq'])
    kept = min(kept, opt['logger'].get('keep_last') or kept)
    whole = sum(iterations[stage] * seconds for stage, seconds in stages.items()) + rounds * validation
    if model.device.type == 'cuda':
        memory = f'{torch.cuda.max_memory_allocated() / 2**30:.2f} GiB of GPU memory'
    else:
        memory = _peak_memory()
    if opt['world_size'] > 1:
        memory += ' for each process'
    parameters = sum(parameter.numel() for parameter in model.get_bare_model(model.net_g).parameters())
    lines = [f'Dry run of {opt["name"]}', f'  parameters          {parameters:,}', f'  memory, at its most {memory}']
    for stage, seconds in stages.items():
        lines.append(f'  {stage:<20}{1 / seconds:.2f} iterations/s, {iterations[stage]:,} iterations')
    lines.append(f'  validation          {_duration(validation)} a round, {rounds} rounds')
    lines.append(f'  time, all in all    {_duration(whole)}')
    lines.append(
        f'  disk                {kept} checkpoints of {checkpoint / 2**20:.0f} MiB: {kept * checkpoint / 2**30:.2f} GiB'
    )
    return '\n'.join(lines)


def _peak_memory() -> str:
    try:
        import resource
    except ImportError:
        return 'not measured on Windows'
    unit = 1 if sys.platform == 'darwin' else 1024
    return f'{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30:.2f} GiB'


def _duration(seconds: float) -> str:
    return str(datetime.timedelta(seconds=round(seconds)))
