"""Baselines that have no network, tested as networks are."""

from typing import Any

import torch
from basicsr.models.base_model import BaseModel
from basicsr.utils import get_root_logger
from basicsr.utils.registry import MODEL_REGISTRY
from torch import nn

from airnet_basicsr.errors import InputError
from airnet_basicsr.plugin.models.restoration_model import RestorationModel


@MODEL_REGISTRY.register()
class NoRestoration(RestorationModel):
    """The degraded images as they are: what every method starts from.

    ``network_g`` and its checkpoint may stay in the option file (``--force_yml model_type=NoRestoration``); they are
    not used.

    Raises:
        InputError: In training.
    """

    def __init__(self, opt: dict[str, Any]) -> None:
        kind = opt['model_type']
        if opt['is_train']:
            raise InputError(f'option model_type: {kind} has nothing to train; it is for testing')
        if opt.pop('network_g', None):
            get_root_logger().info(f'{kind} has no network: network_g and path:pretrain_network_g are not used.')
        BaseModel.__init__(self, opt)  # SRModel's would build a network
        self.net_g = nn.Identity()
        self._prepare_evaluation()


@MODEL_REGISTRY.register()
class CBM3D(NoRestoration):
    """BM3D for colour images, told the noise level (K. Dabov et al., "Image denoising by sparse 3-D transform-domain
    collaborative filtering", 2007), from the package bm3d with its default profile ``np``.

    It assumes noise that is neither clipped nor rounded (``protocol: float``). The package's licence allows
    non-commercial use only.

    Raises:
        InputError: In training; bm3d is missing; a dataset has no noise of one known sigma.
    """

    def __init__(self, opt: dict[str, Any]) -> None:
        try:
            from bm3d import bm3d_rgb
        except ImportError as error:
            raise InputError(
                f'option model_type: CBM3D needs the package bm3d ({error}): pip install "airnet-basicsr[baselines]"'
            ) from error
        self.denoise = bm3d_rgb
        super().__init__(opt)
        for dataset in opt['datasets'].values():
            _sigma(dataset)  # now, rather than hours later

    def validation(self, dataloader: Any, *args: Any, **kwargs: Any) -> None:
        self.sigma = _sigma(dataloader.dataset.opt)
        super().validation(dataloader, *args, **kwargs)

    def restore(self) -> None:
        if self.sigma == 0:
            self.output = self.lq
            return
        noisy = self.lq[0].permute(1, 2, 0).double().cpu().numpy()
        restored = self.denoise(noisy, self.sigma / 255)
        self.output = torch.from_numpy(restored).float().permute(2, 0, 1)[None]


def _sigma(dataset: dict[str, Any]) -> float:
    degradation = dataset.get('degradation') or {}
    if degradation.get('sigma') is None:
        raise InputError(
            f'dataset {dataset["name"]}: CBM3D needs the noise level, which this dataset does not have '
            f'({degradation.get("type", dataset["type"])}): leave it out of the option file'
        )
    return degradation['sigma']
