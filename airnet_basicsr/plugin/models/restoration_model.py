"""Evaluation of any of the toolbox's networks: a record of every image, exact metrics, bounded memory, embeddings."""

import argparse
import hashlib
import inspect
import io
import json
import math
import os
import platform
import sys
import time
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from basicsr.archs import ARCH_REGISTRY
from basicsr.models import sr_model
from basicsr.models.sr_model import SRModel
from basicsr.utils import get_root_logger, tensor2img
from basicsr.utils.registry import METRIC_REGISTRY, MODEL_REGISTRY
from torch import Tensor, distributed, nn
from torch.utils.data import DataLoader, Subset

import airnet_basicsr
import basicsr
from airnet_basicsr.errors import InputError
from airnet_basicsr.network.airnet import AirNet, overlap_of
from airnet_basicsr.network.checkpoints import load_strictly, read_checkpoint
from airnet_basicsr.network.files import write_whole
from airnet_basicsr.plugin import compute
from airnet_basicsr.plugin.options import TRAIN_KEYS, check_keys, require
from airnet_basicsr.restore.restorer import SMALLEST_TILE, Restorer

LARGEST_EMBEDDED_SIDE = 512


@MODEL_REGISTRY.register()
class RestorationModel(SRModel):
    """SRModel whose test keeps what it finds out about each image, for any network with images in and out.

    Training is SRModel's, also on MultiDegradationDataset as AirNetModel takes it. Beyond SRModel's, a test writes into
    ``results/NAME``:

    - ``run.json``: options, checkpoint and its hash, versions;
    - ``per_image.jsonl``: a line for each image, written when it is done: its degradation, the metrics of the restored
      and of the degraded image, the seconds that restoring took (infinite and undefined values as ``"inf"``,
      ``"nan"``);
    - ``embeddings.npz``: the encoder's pooled features, for networks that answer ``encode=True, restore=False`` as
      :meth:`~airnet_basicsr.network.airnet.AirNet.forward` does; of the image's middle, at most 512 x 512 pixels.

    The means in the log are the toolbox's own. Metrics with the parameters ``float_img`` and ``float_img2`` get the
    images before rounding too (1 x 3 x H x W, RGB). Several processes share the images of a validation set.

    Keys of ``val`` beyond SRModel's: tile (AirNet only: images of more than tile x tile pixels are restored in
    overlapping tiles; default: chosen from the free memory). ``pbar`` defaults to true in testing; the bar appears in a
    terminal only.

    Raises:
        InputError: For options, checkpoints and datasets that cannot be used.
    """

    def __init__(self, opt: dict[str, Any]) -> None:
        network = dict(require(opt, 'network_g', 'of the file'))
        parameters = inspect.signature(ARCH_REGISTRY.get(network.pop('type'))).parameters
        if all(parameter.kind is not parameter.VAR_KEYWORD for parameter in parameters.values()):
            check_keys(network, parameters, 'network_g')
        if opt['is_train'] and type(self) is RestorationModel:
            check_keys(opt['train'], TRAIN_KEYS | {'perceptual_opt'}, 'train')
        compute.apply(opt)
        super().__init__(opt)
        self._prepare_evaluation()

    def model_to_device(self, net: nn.Module) -> nn.Module:
        compute.compile_if_asked(net, self.opt)
        return super().model_to_device(net)

    def _prepare_evaluation(self) -> None:
        self.share = None  # of a validation set, where processes share it
        self.places: Iterator[int] = iter(())  # in the dataset, of the images to come
        self.record = self.tiles = None
        self.metrics = {}
        net = self.get_bare_model(self.net_g)
        self.dcn_backend = compute.backend_of(net, self.device)
        val = self.opt.get('val')
        if val is not None:
            in_terminal = self.opt['rank'] == 0 and sys.stderr.isatty()
            val['pbar'] = bool(val.get('pbar', not self.is_train)) and in_terminal
            val.setdefault('suffix', None)
            self.metrics = val.get('metrics') or {}
            if isinstance(net, AirNet):
                self.tiles = _Tiles(net, val.get('tile'))
            elif val.get('tile') is not None:
                raise InputError(f'option val:tile: only AirNet can be tiled, not {type(net).__name__}; leave it out')
        for name, metric in self.metrics.items():
            if require(metric, 'type', f'val:metrics:{name}') not in METRIC_REGISTRY:
                raise InputError(
                    f'option val:metrics:{name}:type: there is no metric {metric["type"]!r}. '
                    f'Known: {", ".join(METRIC_REGISTRY.keys())}.'
                )
        if not self.is_train:
            forward = inspect.signature(net.forward).parameters
            self.can_embed = 'encode' in forward and 'restore' in forward
            self.encoded: list[tuple[int, str, str, np.ndarray]] = []
            self.embeddings: dict[str, list[tuple[int, str, str, np.ndarray]]] = {}
            self._begin_results(net)

    def _begin_results(self, net: nn.Module) -> None:
        self.results = Path(self.opt['path']['results_root'])
        checkpoint = self.opt['path'].get('pretrain_network_g') if self.opt.get('network_g') else None
        if checkpoint is None and any(True for _ in net.parameters()):
            get_root_logger().warning('path:pretrain_network_g names no checkpoint: the network is an untrained one.')
        if self.opt['rank'] == 0:
            (self.results / 'per_image.jsonl').unlink(missing_ok=True)
            run = {
                'name': self.opt['name'],
                'date': datetime.now().astimezone().isoformat(timespec='seconds'),
                'model_type': self.opt['model_type'],
                'network': self.opt.get('network_g'),
                'parameters': sum(parameter.numel() for parameter in net.parameters()),
                'checkpoint': checkpoint and {'path': checkpoint, 'sha256': _sha256(checkpoint)},
                'option_file': _option_file(),
                'options': self.opt,
                'paper': self.opt.get('paper'),
                'versions': {
                    'airnet_basicsr': airnet_basicsr.__version__,
                    'basicsr': basicsr.__version__,
                    'torch': torch.__version__,
                    'numpy': np.__version__,
                    'python': platform.python_version(),
                },
                'device': torch.cuda.get_device_name() if self.device.type == 'cuda' else 'CPU',
                'dcn_backend': self.dcn_backend,
                'metrics': self.metrics,
            }
            write_whole(self.results / 'run.json', (json.dumps(run, indent=2, default=str) + '\n').encode())
        if self.opt['dist']:
            distributed.barrier()  # before the first process has removed what was there, none may write

    def load_network(self, net: nn.Module, load_path: str, strict: bool = True, param_key: str = 'params') -> None:
        networks = read_checkpoint(load_path).networks
        if param_key not in networks:
            # As the toolbox does where a file holds no average; a bare state dict counts as `params` too.
            param_key = 'params' if 'params' in networks else next(iter(networks))
        net = self.get_bare_model(net)
        get_root_logger().info(f'Loading {type(net).__name__} from {load_path}, with param key: [{param_key}].')
        state = networks[param_key]
        if strict:
            load_strictly(net, state, load_path)
        else:
            self._print_different_keys_loading(net, state, strict)
            net.load_state_dict(state, strict=False)

    # ---- One image -------------------------------------------------------------------------------------------------

    def feed_data(self, data: dict[str, Any]) -> None:
        """Take an item of a validation set, or a batch of the training set.

        The ``lq`` and ``gt`` of MultiDegradationDataset (B x D x 3 x H x W, D degradations) become BD x 3 x H x W here.
        """
        super().feed_data(data)
        if self.lq.dim() == 5:
            self.lq, self.gt = self.lq.flatten(0, 1), self.gt.flatten(0, 1)
        if not self.is_train:
            place = next(self.places, None)
            self.record = None
            if place is not None:
                path = data['lq_path'][0]
                self.record = self._begin_record(place, path, data['gt_path'][0] if 'gt_path' in data else path)

    def _begin_record(self, place: int, path: str, clean: str) -> dict[str, Any]:
        opt = self.dataset.opt
        of_others = {'degradation': {'type': opt['type']}, 'protocol': None, 'seed': None, 'crop_multiple': 1}
        return {
            'dataset': opt['name'],
            'image': os.path.splitext(os.path.basename(path))[0],
            'scene': os.path.splitext(os.path.basename(clean))[0],
            'index': place,
            **getattr(self.dataset, 'record', of_others),
            'size': list(self.lq.shape[-2:]),
            'lq_crc32': zlib.crc32(np.ascontiguousarray(self.lq.float().cpu().numpy())),
            'metrics': {},
            'input': {},
        }

    def test(self) -> None:
        self._synchronize()
        started = time.perf_counter()
        self.restore()
        self._synchronize()
        if self.record is not None:
            self.record['seconds'] = time.perf_counter() - started
            if self.can_embed:
                net = self._tested_network()
                with _evaluating(net), torch.no_grad():
                    embedding = net(_middle(self.lq), encode=True, restore=False).embedding[0]
                names = self.record['image'], self.record['scene']
                self.encoded.append((self.record['index'], *names, embedding.float().cpu().numpy()))

    def restore(self) -> None:
        """Set ``output``, the restored images, from ``lq`` (both B x C x H x W)."""
        if self.tiles is not None and not self.tiles.has_room_for(self.lq):
            net = self._tested_network()
            with _evaluating(net):
                self.output = self.tiles.restore(net, self.lq)
        else:
            super().test()

    def _tested_network(self) -> nn.Module:
        return self.net_g_ema if hasattr(self, 'net_g_ema') else self.get_bare_model(self.net_g)

    def _synchronize(self) -> None:
        if self.device.type == 'cuda':
            torch.cuda.synchronize()

    def get_current_visuals(self) -> OrderedDict:
        self.visuals = super().get_current_visuals()
        if not self.visuals['result'].isfinite().all():
            get_root_logger().warning(
                f'{self.dataset.opt["name"]}: the network gave values that are no numbers for '
                f'{self.record["image"] if self.record else "an image"}; in 8 bits they are 0.'
            )
        self._write_if_complete()
        return self.visuals

    def _measure(self, calculate: Callable[..., float], data: dict[str, Any], metric: dict[str, Any]) -> float:
        """A metric of the restored image, with ``calculate`` of the toolbox; with the record, also of the degraded."""
        parameters = inspect.signature(METRIC_REGISTRY.get(metric['type'])).parameters
        (name,) = [name for name, described in self.metrics.items() if described is metric]
        reference = parameters.get('img2')
        if reference is not None and reference.default is reference.empty and 'img2' not in data:
            raise InputError(
                f'dataset {self.dataset.opt["name"]} has no clean images, which the metric {name} '
                f'({metric["type"]}) compares with: leave it out, or test this dataset by itself'
            )

        def value(of: dict[str, Any], exact: Tensor) -> float:
            if 'float_img' in parameters:
                of = {**of, 'float_img': exact, 'float_img2': self.visuals.get('gt')}
            return calculate(of, metric)

        restored = value(data, self.visuals['result'])
        if self.record is not None:
            self.record['metrics'][name] = _plain(restored)
            degraded = self.visuals['lq']
            if degraded.shape == self.visuals['result'].shape:
                self.record['input'][name] = _plain(value({**data, 'img': tensor2img([degraded])}, degraded))
            if not math.isfinite(restored):
                get_root_logger().warning(
                    f'{self.record["dataset"]}: {name} of {self.record["image"]} is {restored}, and so is the mean.'
                )
            self._write_if_complete()
        return restored

    def _write_if_complete(self) -> None:
        if self.record is not None and len(self.record['metrics']) == len(self.metrics):
            # In one piece, at whatever is the file's end: other processes write to it too.
            with open(self.results / 'per_image.jsonl', 'ab', buffering=0) as file:
                file.write((json.dumps(self.record) + '\n').encode())
            self.record = None

    # ---- A validation set ------------------------------------------------------------------------------------------

    def validation(self, dataloader: DataLoader, current_iter: Any, tb_logger: Any, save_img: bool = False) -> None:
        self.dataset = dataloader.dataset
        name = self.dataset.opt['name']
        if len(self.dataset) == 0:
            raise InputError(f'dataset {name} has no images: look at its folders or LMDB, or leave it out')
        self.places = iter(range(len(self.dataset)))
        # The toolbox's loop looks this function up for each image and metric: here alone their values pass by.
        calculate = sr_model.calculate_metric
        sr_model.calculate_metric = partial(self._measure, calculate)
        try:
            super().validation(dataloader, current_iter, tb_logger, save_img)
        finally:
            sr_model.calculate_metric = calculate
            self.visuals = None
        if not self.is_train and self.can_embed:
            self._write_embeddings(name)

    def _write_embeddings(self, name: str) -> None:
        self.embeddings[name] = sorted(found for part in gather(self.encoded) for found in part)
        self.encoded = []
        if self.opt['rank'] == 0:
            found = [(dataset, *image) for dataset, images in self.embeddings.items() for image in images]
            datasets, _, images, scenes, embeddings = zip(*found, strict=True)
            file = io.BytesIO()
            np.savez_compressed(file, embedding=np.stack(embeddings), dataset=datasets, image=images, scene=scenes)
            write_whole(self.results / 'embeddings.npz', file.getvalue())

    def dist_validation(self, dataloader: DataLoader, current_iter: Any, tb_logger: Any, save_img: bool) -> None:
        """Each process validates every Nth image; means are over all images, as in one process."""
        dataset, rank = dataloader.dataset, self.opt['rank']
        share = range(rank, len(dataset), self.opt['world_size'])
        part = Subset(dataset, share or [0])  # the toolbox's loop needs an image; without a share it counts nothing
        part.opt = dataset.opt
        self.share, self.places = len(share), iter(share)
        # Each process has gathered BatchNorm statistics of its own; those of the first are the ones that get saved.
        # And without DistributedDataParallel, which would exchange them at each image: the shares may differ in length.
        wrapped, self.net_g = self.net_g, self.get_bare_model(self.net_g)
        for net in (self.net_g, getattr(self, 'net_g_ema', None)):
            for buffer in net.buffers() if net is not None else ():
                distributed.broadcast(buffer, src=0)
        self.nondist_validation(DataLoader(part), current_iter, tb_logger, save_img)
        self.share, self.net_g = None, wrapped

    def _update_best_metric_result(self, dataset_name: str, metric: str, val: float, current_iter: Any) -> None:
        if self.share is None:
            # A plain number: numpy's would not be loaded again from a checkpoint.
            super()._update_best_metric_result(dataset_name, metric, float(val), current_iter)

    def _log_validation_metric_values(self, current_iter: Any, dataset_name: str, tb_logger: Any) -> None:
        if self.share is not None:
            sums = [value * self.share for value in self.metric_results.values()]
            sums = torch.tensor([*sums, self.share], dtype=torch.float64, device=self.device)
            distributed.all_reduce(sums)
            self.metric_results = dict(zip(self.metric_results, (sums[:-1] / sums[-1]).tolist(), strict=True))
            for metric, value in self.metric_results.items():
                super()._update_best_metric_result(dataset_name, metric, value, current_iter)
        super()._log_validation_metric_values(current_iter, dataset_name, tb_logger)


class _Tiles(Restorer):
    """The tiles of :class:`~airnet_basicsr.restore.restorer.Restorer` for a network that is being tested."""

    def __init__(self, net: AirNet, tile: int | None) -> None:
        if tile is not None and tile < SMALLEST_TILE:
            raise InputError(f'option val:tile: {tile} is too small: choose at least {SMALLEST_TILE} pixels')
        self.tile, self.num_feat = tile, net.restorer.head.out_channels
        self.dtype, self.self_ensemble, self.strength, self.unshuffle = torch.float32, False, 1.0, net.unshuffle

    def has_room_for(self, image: Tensor) -> bool:
        """Whether B x C x H x W needs no tiles."""
        self.device = image.device
        return image[:, 0].numel() <= (self.tile or self._tile_that_fits()) ** 2

    def restore(self, net: AirNet, image: Tensor) -> Tensor:
        """1 x 3 x H x W, float32, in [0, 1], of an image of that shape."""
        self.network, self.overlap = net, overlap_of(net)
        restored = super().restore(image[0].permute(1, 2, 0).cpu().numpy())
        return torch.from_numpy(restored).permute(2, 0, 1)[None].to(image.device)

    def _run(self, part: np.ndarray) -> np.ndarray:
        # Without Restorer's stop where values are no numbers: a test goes on, and says so.
        x = torch.from_numpy(np.array(part, order='C')).permute(2, 0, 1)[None].to(self.device)
        return self._forward(x)[0].permute(1, 2, 0).cpu().numpy()


@contextmanager
def _evaluating(net: nn.Module) -> Iterator[None]:
    training = net.training
    net.eval()
    try:
        yield
    finally:
        net.train(training)


def _middle(images: Tensor) -> Tensor:
    """B x C x H x W, cut around the centre to sides of at most LARGEST_EMBEDDED_SIDE."""
    for dim in (2, 3):
        kept = min(images.shape[dim], LARGEST_EMBEDDED_SIDE)
        images = images.narrow(dim, (images.shape[dim] - kept) // 2, kept)
    return images


def _plain(value: float) -> float | str:
    """As JSON knows it; infinite and undefined values in words."""
    value = float(value)
    return value if math.isfinite(value) else str(value)


def _sha256(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def _option_file() -> str | None:
    """The option file of the command line; the toolbox does not hand it on."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument('-opt')
    return parser.parse_known_args()[0].opt


def gather(value: Any) -> Iterable[Any]:
    """``value`` of every process."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return [value]
    values = [None] * distributed.get_world_size()
    distributed.all_gather_object(values, value)
    return values
