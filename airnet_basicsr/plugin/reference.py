"""Reference embeddings: what ``airnet-restore --explain`` compares pictures with, from the data of a training."""

import torch
from basicsr.data import build_dataset
from torch import Tensor

from airnet_basicsr.errors import InputError
from airnet_basicsr.network import recognise
from airnet_basicsr.network.airnet import AirNet
from airnet_basicsr.network.checkpoints import StateDict, preferred_network, read_checkpoint, write_checkpoint
from airnet_basicsr.plugin.options import load_options
from airnet_basicsr.restore.restorer import embed_patch


def add_reference(source: str, target: str, options: str, count: int) -> None:
    """Write ``source`` with reference embeddings: ``count`` patches of each degradation of a training, and clean ones.

    The degradations are those of ``datasets: train`` in ``options``, a MultiDegradationDataset, whose folders are read.

    Raises:
        InputError: A file or dataset cannot be used.
    """
    checkpoint = read_checkpoint(source)
    described = recognise.load(preferred_network(checkpoint), f'checkpoint {source}')
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
    reference: dict[str, StateDict] = {}
    for i, (name, degradation) in enumerate(dataset.degradations.items()):
        reference[name] = _embed(described.model, [patches['lq'][i] for patches in drawn])
        if isinstance(getattr(degradation, 'sigma', None), int | float):  # and no range
            reference[name]['sigma'] = torch.tensor(float(degradation.sigma))
    # Never shown to the encoder in training, yet apart from the others: a good picture is not called a noisy one.
    reference['clean'] = _embed(described.model, [patches['gt'][i % len(reference)] for i, patches in enumerate(drawn)])
    write_checkpoint(target, checkpoint._replace(reference=reference))


def _embed(model: AirNet, patches: list[Tensor]) -> StateDict:
    embeddings = torch.stack([embed_patch(model, patch, torch.device('cpu')) for patch in patches])
    return {'embeddings': embeddings.half(), 'patch_size': torch.tensor(patches[0].shape[-1])}
