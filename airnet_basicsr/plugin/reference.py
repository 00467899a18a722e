"""``airnet model reference``: what ``airnet restore --explain`` compares pictures with, from training data."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from basicsr.data import build_dataset
from torch import Tensor

from airnet_basicsr.errors import InputError
from airnet_basicsr.network import recognise
from airnet_basicsr.network.airnet import AirNet
from airnet_basicsr.network.checkpoints import preferred_network, read_checkpoint, write_checkpoint
from airnet_basicsr.plugin.options import load_options
from airnet_basicsr.restore.explain import CLEAN, fit
from airnet_basicsr.restore.restorer import embed_patch


def add_reference(source: str, target: str, options: str, count: int) -> None:
    """Write ``source`` with reference embeddings of ``count`` patches of each degradation in training, and clean ones.

    The degradations are those of ``datasets: train`` in ``options``, a MultiDegradationDataset, whose folders are read.

    Raises:
        InputError: A file or dataset cannot be used.
    """
    if count < 2:
        raise InputError(f'--count {count}: how patches of one kind differ takes at least 2 of them')
    checkpoint = read_checkpoint(source)
    described, network = recognise.load_airnet(preferred_network(checkpoint), f'checkpoint {source}')
    if not described.can_embed:
        raise InputError(f'checkpoint {source} is for inference only, without the encoder that embeds')
    try:
        opt = load_options(options)['datasets']['train']
    except (OSError, KeyError, TypeError) as error:
        raise InputError(f'option file {options} cannot be read or has no datasets:train') from error
    if opt.get('type') != 'MultiDegradationDataset':
        raise InputError(f'option file {options}: datasets:train must be a MultiDegradationDataset')
    torch.manual_seed(0)
    dataset = build_dataset({**opt, 'phase': 'train', 'scale': 1, 'contrastive': True})
    drawn = [dataset[i % len(dataset)] for i in range(count)]
    groups = {
        name: _embed(network, [patches['lq'][dataset.slots.index(i)] for patches in drawn])
        for i, name in enumerate(dataset.degradations)
    }
    if CLEAN not in groups:
        # Never shown to the encoder in training, yet apart from the others: a good picture is not called a noisy one.
        pictures = [patches['gt'][i % len(groups)] for i, patches in enumerate(drawn)]
        groups[CLEAN] = _embed(network, pictures)
    reference = fit(groups)
    for name in groups:
        reference[name]['patch_size'] = torch.tensor(dataset.patch_size)
        sigma = getattr(dataset.degradations.get(name), 'sigma', None)
        if isinstance(sigma, int | float):  # and no range
            reference[name]['sigma'] = torch.tensor(float(sigma))
    write_checkpoint(target, checkpoint._replace(reference=reference), described.metadata)


def _embed(model: AirNet, patches: list[Tensor]) -> Tensor:
    return torch.stack([embed_patch(model, patch, torch.device('cpu')) for patch in patches])


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog='airnet model reference',
        description='Add to a model the reference embeddings that airnet restore --explain needs.',
    )
    parser.add_argument('model', metavar='MODEL')
    parser.add_argument('-o', '--output', required=True, metavar='FILE')
    parser.add_argument('-opt', required=True, metavar='TRAINING.yml', help='option file of its training run')
    parser.add_argument('--count', type=int, default=64, metavar='N', help='patches of each degradation; default: 64')
    args = parser.parse_args(argv)
    add_reference(args.model, args.output, args.opt, args.count)
    print(f'{args.output}: {Path(args.output).stat().st_size:,} bytes')
