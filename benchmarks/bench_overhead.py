"""What AirNetModel's care costs: its training step against the same step without checks, norms, snapshots and logs.

    python benchmarks/bench_overhead.py [--patch 32] [--rounds 15]

Both take turns in one process; the medians' ratio is printed. Full-size AirNet, batch of 5, float32, on the CPU.
"""

import argparse
import json
import logging
import statistics
import tempfile
import time
from pathlib import Path

import torch

import airnet_basicsr.plugin

# ruff: isort: split
from basicsr.models import build_model
from torch.nn import functional as F

from airnet_basicsr.plugin.models import AirNetModel
from airnet_basicsr.plugin.options import load_options

OPTIONS = Path(airnet_basicsr.__file__).parents[1] / 'options/train_airnet_aio.yml'


def build(folder: str) -> AirNetModel:
    """The model of the shipped all-in-one option file, past its warm-up."""
    opt = load_options(OPTIONS)
    opt.update(num_gpu=0, dist=False, is_train=True, rank=0, world_size=1)
    opt['path'].update(models=folder, training_states=folder, experiments_root=folder)
    opt['train']['encoder_warmup_iter'] = 0
    return build_model(opt)


def plain_step(model: AirNetModel) -> None:
    """The same arithmetic, as one would write it first."""
    model.optimizer_g.zero_grad()
    restored, encoding = model.net_g(model.lq, encode=True)
    model.contrast.follow(model.net_g.encoder)
    keys = model.contrast.keys(model.lq_key)
    contrast, _ = model.cri_contrast(encoding.projection, keys, model.contrast.queue)
    (F.l1_loss(restored, model.gt) + contrast).backward()
    model.optimizer_g.step()
    model.contrast.enqueue(keys)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--patch', type=int, default=32)
    parser.add_argument('--rounds', type=int, default=15)
    arguments = parser.parse_args()
    logging.disable(logging.INFO)
    with tempfile.TemporaryDirectory() as folder:
        model = build(folder)
        batch = {name: torch.rand(1, 5, 3, arguments.patch, arguments.patch) for name in ('lq', 'key', 'gt')}
        model.feed_data({**batch, 'degradation': torch.arange(5)[None]})
        steps = {
            'plain': lambda: plain_step(model),
            'AirNetModel': lambda: (model.update_learning_rate(2), model.optimize_parameters(2)),
        }
        times = {name: [] for name in steps}
        for number in range(arguments.rounds + 2):
            for name, step in steps.items():
                started = time.perf_counter()
                step()
                if number >= 2:
                    times[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(values) for name, values in times.items()}
    ratio = medians['AirNetModel'] / medians['plain']
    print(json.dumps({**{f'{name}, s': round(value, 4) for name, value in medians.items()}, 'ratio': round(ratio, 4)}))


if __name__ == '__main__':
    main()
