"""The degradation embeddings of tested images, ``embeddings.npz`` in ``results/NAME``."""

import inspect
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from airnet_basicsr.network.files import write_whole
from airnet_basicsr.plugin.models.processes import gather

LARGEST_SIDE = 512


def can_embed(net: nn.Module) -> bool:
    """Whether ``net`` answers ``encode=True, restore=False`` as :class:`~airnet_basicsr.network.airnet.AirNet` does."""
    return {'encode', 'restore'} <= inspect.signature(net.forward).parameters.keys()


class Embeddings:
    """The encoder's pooled features of every image, of its middle of at most 512 x 512 pixels."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / 'embeddings.npz'
        self.of_this_set: list[tuple[int, str, str, np.ndarray]] = []
        self.done: list[tuple[Any, ...]] = []

    @torch.no_grad()
    def add(self, net: nn.Module, lq: Tensor, record: Mapping[str, Any]) -> None:
        """Of an image, 1 x C x H x W, and its record."""
        embedding = net(_middle(lq), encode=True, restore=False).embedding[0]
        place, image, scene = (record[key] for key in ('index', 'image', 'scene'))
        self.of_this_set.append((place, image, scene, embedding.float().cpu().numpy()))

    def write(self, dataset: str, first_process: bool) -> None:
        """Write those of the sets so far, with what the other processes have of ``dataset``, the latest of them."""
        found = sorted(sum(gather(self.of_this_set), []), key=lambda image: image[0])
        self.done += [(dataset, image, scene, embedding) for _, image, scene, embedding in found]
        self.of_this_set = []
        if first_process:
            datasets, images, scenes, embeddings = zip(*self.done, strict=True)
            file = io.BytesIO()
            np.savez_compressed(file, embedding=np.stack(embeddings), dataset=datasets, image=images, scene=scenes)
            write_whole(self.path, file.getvalue())


def _middle(images: Tensor) -> Tensor:
    for dim in (2, 3):
        kept = min(images.shape[dim], LARGEST_SIDE)
        images = images.narrow(dim, (images.shape[dim] - kept) // 2, kept)
    return images
