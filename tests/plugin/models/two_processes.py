"""Run by test_distributed.py, alone or under torchrun: trains on given batches and writes down what came out."""

import sys
from pathlib import Path

import torch

import airnet_basicsr.plugin  # noqa: F401

# ruff: isort: split
from basicsr.models import build_model
from basicsr.utils.dist_util import get_dist_info, init_dist

from airnet_basicsr.plugin.options import load_options

folder, launcher, iterations, warmup = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
torch.set_num_threads(1)
if launcher == 'pytorch':
    init_dist(launcher)
rank, world_size = get_dist_info()
opt = load_options(folder / 'run.yml')
opt.update(dist=world_size > 1, is_train=True, rank=rank, world_size=world_size)
opt['train'].update(encoder_warmup_iter=warmup, ema_decay=0)
torch.manual_seed(rank)
model = build_model(opt)
if warmup == 0:
    model.net_g.eval()  # holds the BatchNorm statistics fixed
    model.contrast.eval()
for iteration in range(1, iterations + 1):
    rng = torch.Generator().manual_seed(iteration)
    batch = {name: torch.rand(2, 2, 3, 24, 24, generator=rng) for name in ('lq', 'key', 'gt')}
    batch['degradation'] = torch.arange(2).repeat(2, 1)
    model.feed_data({name: tensor[rank::world_size] for name, tensor in batch.items()})
    model.optimize_parameters(iteration)
net = model.get_bare_model(model.net_g)
torch.save(
    {
        'gradients': {name: parameter.grad for name, parameter in net.restorer.named_parameters()},
        'queue': model.contrast.queue,
        'parameters': dict(net.named_parameters()),
    },
    folder / f'{launcher}{rank}.pt',
)
