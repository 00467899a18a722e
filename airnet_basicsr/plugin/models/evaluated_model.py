"""Validating and testing any network with images in and out."""

import os
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import torch
from basicsr.models.sr_model import SRModel
from basicsr.utils import get_root_logger, tensor2img
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from airnet_basicsr.errors import InputError
from airnet_basicsr.network.checkpoints import load_strictly, read_checkpoint
from airnet_basicsr.network.files import write_whole
from airnet_basicsr.network.recognise import EMBEDDING_PARTS
from airnet_basicsr.network.traits import traits_of
from airnet_basicsr.plugin import compute
from airnet_basicsr.plugin.models.embeddings import Embeddings, can_embed
from airnet_basicsr.plugin.models.records import Records, begin_record, name_of, plain
from airnet_basicsr.plugin.models.tiling import Tiles
from airnet_basicsr.plugin.models.validation import (
    Metrics,
    check_dataset_names,
    evaluating,
    means,
    names_several_times,
    share_of,
    share_statistics,
    warn_of_no_number,
)


class EvaluatedModel(SRModel):
    """SRModel that shares a set's images among the processes, in tiles if need be, and records each image of a test."""

    net_g: nn.Module
    lq: Tensor
    output: Tensor
    dataset: Any
    noise_level: Tensor | None = None  # of each image of lq, where the dataset tells it
    inference_only = False

    def load_network(self, net: nn.Module, load_path: str, strict: bool = True, param_key: str = 'params') -> None:
        networks = read_checkpoint(load_path).networks
        if param_key not in networks:
            # As BasicSR does where a file holds no average; a bare state dict counts as `params` too.
            param_key = 'params' if 'params' in networks else next(iter(networks))
        net = self.get_bare_model(net)
        get_root_logger().info(f'Loading {type(net).__name__} from {load_path}, with param key: [{param_key}].')
        state = networks[param_key]
        if strict:
            load_strictly(net, self._whole(net, state, load_path), load_path)
        else:
            self._print_different_keys_loading(net, state, strict)
            net.load_state_dict(state, strict=False)

    def _whole(self, net: nn.Module, state: Mapping[str, Tensor], path: str) -> Mapping[str, Tensor]:
        """``state``; to that of a file for inference only, ``net``'s own tensors for what only the embedding needs."""
        own = {name: tensor for name, tensor in net.state_dict().items() if name.startswith(EMBEDDING_PARTS)}
        if self.is_train or not can_embed(net) or not own or any(name in state for name in own):
            return state
        get_root_logger().warning(f'{path} is for inference only: the test records no embeddings.')
        self.inference_only = True
        return {**state, **own}

    def _prepare_evaluation(self) -> None:
        check_dataset_names(self.opt)
        val = self.opt.get('val') or {}
        self.metrics, self.tiles = Metrics(val.get('metrics')), Tiles(val)
        self.progress_bar = bool(val.get('pbar', not self.is_train)) and self.opt['rank'] == 0 and sys.stderr.isatty()
        self.records: Records | None = None
        self.embeddings: Embeddings | None = None
        net = self.get_bare_model(self.net_g)
        self.memory_format = compute.memory_format(net, self.device, self.opt)
        if self.is_train:
            return
        if not self.opt['path'].get('pretrain_network_g') and any(True for _ in net.parameters()):
            get_root_logger().warning('path:pretrain_network_g names no checkpoint: the network is an untrained one.')
        self.records = Records(self.opt, net, self.device)
        if can_embed(net) and not self.inference_only:
            self.embeddings = Embeddings(self.records.folder)

    def test(self) -> None:
        with evaluating(self.tested_network()), torch.no_grad():
            self.restore()

    def restore(self) -> None:
        """Set ``output``, the restored images, from ``lq`` (both B x C x H x W)."""
        net = self.tested_network()
        self.output = self.tiles.restore(
            net, self.lq, lambda images: restored(self.outputs(net, images, self.noise_level), images)
        )

    def outputs(self, net: nn.Module, images: Tensor, noise_level: Tensor | None) -> Any:
        """What ``net`` gives for B x C x H x W. One that wants the noise levels is told those of the B images."""
        if noise_level is None or not traits_of(self.get_bare_model(net)).wants_sigma:
            return net(images)
        return net(images, sigma=noise_level)

    def tested_network(self) -> nn.Module:
        return self.net_g_ema if hasattr(self, 'net_g_ema') else self.get_bare_model(self.net_g)

    def nondist_validation(self, dataloader: DataLoader, current_iter: Any, tb_logger: Any, save_img: bool) -> None:
        self.dataset = dataloader.dataset
        name = self.dataset.opt['name']
        images = share_of(dataloader, self.opt)
        self.same_names = names_several_times(self.dataset) if save_img else frozenset()
        # The shares may differ in length, and DistributedDataParallel would exchange buffers at each image.
        wrapped, self.net_g = self.net_g, self.get_bare_model(self.net_g)
        measured = []
        for place, data in tqdm(images, total=len(self.dataset), unit='image', disable=not self.progress_bar):
            measured.append((place, self._validate_image(place, data, current_iter, save_img)))
        self.net_g = wrapped
        if self.embeddings:
            self.embeddings.write(name, self.opt['rank'] == 0)
        if self.metrics.described:
            self.metric_results = means(measured)
            self._initialize_best_metric_results(name)
            for metric, value in self.metric_results.items():
                self._update_best_metric_result(name, metric, value, current_iter)
            self._log_validation_metric_values(current_iter, name, tb_logger)

    def dist_validation(self, dataloader: DataLoader, current_iter: Any, tb_logger: Any, save_img: bool) -> None:
        share_statistics(self.get_bare_model(self.net_g), getattr(self, 'net_g_ema', None))
        self.nondist_validation(dataloader, current_iter, tb_logger, save_img)

    def _validate_image(self, place: int, data: dict[str, Any], current_iter: Any, save_img: bool) -> dict[str, float]:
        """Restore the image, save it, write its record; its metrics."""
        name, image = self.dataset.opt['name'], name_of(data['lq_path'])
        self.metrics.check(name, 'gt' in data)
        self.feed_data(data)
        record = begin_record(self.dataset, place, data, self.lq) if self.records else None
        self._synchronize()
        started = time.perf_counter()
        self.test()
        self._synchronize()
        seconds = time.perf_counter() - started
        if self.embeddings and record is not None:
            with evaluating(self.tested_network()):
                self.embeddings.add(self.tested_network(), self.lq, record)
        visuals = self.get_current_visuals()
        del self.lq, self.output
        if 'gt' in data:
            del self.gt
        if not visuals['result'].isfinite().all():
            get_root_logger().warning(
                f'{name}: the network gave values that are no numbers for {image}; in 8 bits they are 0.'
            )
        values = self.metrics.of(visuals['result'], visuals.get('gt'))
        self.show(visuals)
        file = f'{image}_{place}' if image in self.same_names else image
        picture = self._picture_path(name, file, current_iter) if save_img else None
        if self.records and record is not None:
            same_size = visuals['lq'].shape == visuals['result'].shape
            degraded = self.metrics.of(visuals['lq'], visuals.get('gt')) if same_size else {}
            measured = {'metrics': plain(values), 'input': plain(degraded)}
            kept = {'picture': picture and os.path.basename(picture)}
            self.records.add({**record, **measured, 'seconds': seconds, 'tile': self.tiles.used, **kept})
            warn_of_no_number(name, image, values)
        if picture:
            # OpenCV's own imwrite ends the process where a name is no text.
            write_whole(picture, cv2.imencode('.png', tensor2img([visuals['result']]))[1].tobytes())
        return values

    def show(self, visuals: dict[str, Tensor]) -> None:
        """Hook: an image of a validation set, degraded (``lq``), restored (``result``) and clean (``gt``)."""

    def _picture_path(self, dataset: str, image: str, current_iter: Any) -> str:
        folder = self.opt['path']['visualization']
        if self.is_train:
            # With the set's name, unlike BasicSR: two sets may have images of one name.
            return os.path.join(folder, dataset, image, f'{image}_{current_iter}.png')
        return os.path.join(folder, dataset, f'{image}_{self.opt["val"].get("suffix") or self.opt["name"]}.png')

    def _synchronize(self) -> None:
        if self.device.type == 'cuda':
            torch.cuda.synchronize()


def restored(outputs: Tensor | Sequence[Tensor], images: Tensor) -> Tensor:
    """The restored ``images`` among what a network gives: it comes first.

    Raises:
        InputError: It has another shape than ``images``.
    """
    first = outputs if isinstance(outputs, Tensor) else outputs[0]
    if first.shape != images.shape:
        raise InputError(
            f'option network_g: for images of {_size(images)} (channels x height x width) the network first gives '
            f'{_size(first)}. The restored images must come first, in the size of the input: look at its keys for '
            'scale and channels.'
        )
    return first


def _size(images: Tensor) -> str:
    return ' x '.join(map(str, images.shape[1:]))
