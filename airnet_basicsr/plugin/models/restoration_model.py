"""Training and testing of any network with images in and out."""

import copy
import inspect
import os
import sys
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from basicsr.archs import ARCH_REGISTRY
from basicsr.models.sr_model import SRModel
from basicsr.utils import get_root_logger, imwrite, tensor2img
from basicsr.utils.dist_util import master_only
from basicsr.utils.registry import MODEL_REGISTRY
from torch import Tensor, distributed, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.utils.data import DataLoader
from tqdm import tqdm

from airnet_basicsr.errors import InputError
from airnet_basicsr.network.checkpoints import load_strictly, read_checkpoint
from airnet_basicsr.plugin import compute
from airnet_basicsr.plugin.data_order import data_order
from airnet_basicsr.plugin.models import resuming, training_state
from airnet_basicsr.plugin.models.best_network import BestNetwork
from airnet_basicsr.plugin.models.embeddings import Embeddings, can_embed
from airnet_basicsr.plugin.models.interruption import EXIT_STATUS, interruption
from airnet_basicsr.plugin.models.muon import MuonAdam, convolutions
from airnet_basicsr.plugin.models.processes import gather
from airnet_basicsr.plugin.models.records import Records, begin_record, name_of, plain
from airnet_basicsr.plugin.models.schedules import WarmupCosineLR
from airnet_basicsr.plugin.models.steps import Steps
from airnet_basicsr.plugin.models.tiling import Tiles
from airnet_basicsr.plugin.models.training_log import TrainingLog
from airnet_basicsr.plugin.models.validation import (
    Metrics,
    evaluating,
    means,
    share_of,
    share_statistics,
    warn_of_no_number,
)
from airnet_basicsr.plugin.options import TRAIN_KEYS, check_keys, require
from airnet_basicsr.plugin.programs import at_failure


@MODEL_REGISTRY.register()
class RestorationModel(SRModel):
    """SRModel that resumes to the bit, survives interruptions, and keeps what a test finds out about each image.

    It takes batches of MultiDegradationDataset and of BasicSR's paired datasets. A network that gives several images in
    training (a list or tuple: stages, or a pyramid) gives the restored one first. Each has a pixel loss of its own,
    ``l_pix``, ``l_pix_2`` and so on, with the clean image reduced to its size; they add up, weighted by
    ``train: output_weights`` (default: 1 each). Other losses are the first one's alone.

    Keys of ``train`` beyond SRModel's: those of :class:`~airnet_basicsr.plugin.models.steps.Steps`; ``output_weights``;
    ``sync_bn`` (BatchNorm statistics over all GPUs; default: false); of ``optim_g``, any ``type`` of torch.optim and
    ``Muon`` (:class:`~airnet_basicsr.plugin.models.muon.MuonAdam`); of ``scheduler``, the ``type``
    :class:`~airnet_basicsr.plugin.models.schedules.WarmupCosineLR`. Keys of ``logger``: ``keep_last`` (numbered
    checkpoints to keep; default: all), ``keep_best`` (a metric's name: the network with the best mean of it over the
    validation sets is kept as ``net_g_best_METRIC.pth``). Keys of ``val``:
    those of :class:`~airnet_basicsr.plugin.models.tiling.Tiles`; ``pbar`` defaults to true in testing, and the bar
    appears in a terminal only.

    A test writes :class:`~airnet_basicsr.plugin.models.records.Records` and, for networks that have them,
    :class:`~airnet_basicsr.plugin.models.embeddings.Embeddings` into ``results/NAME``. Several processes share the
    images of a set; their means are those of one process.

    A subclass adds keys to ``TRAIN_KEYS`` and ``LOGGER_KEYS``, gives ``losses`` of its own, and overrides the hooks
    below as :class:`~airnet_basicsr.plugin.models.airnet_model.AirNetModel` does.

    Raises:
        InputError: For options, checkpoints and datasets that cannot be used.
    """

    TRAIN_KEYS = TRAIN_KEYS | {
        'perceptual_opt',
        'amp',
        'accumulate',
        'grad_clip',
        'nonfinite_limit',
        'output_weights',
        'sync_bn',
    }
    LOGGER_KEYS = frozenset(('print_freq', 'save_checkpoint_freq', 'use_tb_logger', 'wandb', 'keep_last', 'keep_best'))
    BATCH = ('lq', 'gt', 'kinds')  # attributes that hold a training batch, image by image

    def __init__(self, opt: dict[str, Any]) -> None:
        self.opt = opt
        network = dict(require(opt, 'network_g', 'of the file'))
        parameters = inspect.signature(ARCH_REGISTRY.get(network.pop('type'))).parameters
        if all(parameter.kind is not parameter.VAR_KEYWORD for parameter in parameters.values()):
            check_keys(network, parameters, 'network_g')
        if opt['is_train']:
            self.check_train_options()
            self.options = resuming.options_of(copy.deepcopy(opt))  # BasicSR takes some of them out
        compute.apply(opt)
        super().__init__(opt)
        self._prepare_evaluation()

    # ---- Setting up ------------------------------------------------------------------------------------------------

    def check_train_options(self) -> None:
        """Raise InputError for options that training cannot use."""
        check_keys(self.opt['train'], self.TRAIN_KEYS, 'train')
        check_keys(self.opt['logger'], self.LOGGER_KEYS, 'logger')
        if not (self.opt['train'].get('pixel_opt') or self.opt['train'].get('perceptual_opt')):
            raise InputError('option train: name a loss, `pixel_opt` or `perceptual_opt`')

    def init_training_settings(self) -> None:
        self.steps = Steps(self.opt['train'], self.device)
        self.log = TrainingLog(self.opt, self.device)
        self.best = BestNetwork(self.opt)
        self.completed: int | None = None  # the last iteration, between it and the next
        interruption.can_save = True
        at_failure(self._save_what_is_done)
        super().init_training_settings()

    def model_to_device(self, net: nn.Module) -> nn.Module:
        if self.is_train and self.opt['dist'] and self.opt['train'].get('sync_bn'):
            if self.device.type != 'cuda':
                raise InputError('option train:sync_bn needs GPUs: PyTorch has no SyncBatchNorm for the CPU')
            net = nn.SyncBatchNorm.convert_sync_batchnorm(net)
        compute.compile_if_asked(net, self.opt)
        return super().model_to_device(net)

    def get_optimizer(self, optim_type: str, params: list[nn.Parameter], lr: float, **kwargs: Any) -> Optimizer:
        if optim_type == 'Muon':
            if not hasattr(torch.optim, 'Muon'):
                raise InputError(
                    f'option train:optim_g:type: Muon comes with PyTorch 2.9, and this is {torch.__version__}'
                )
            return MuonAdam(params, convolutions(self.get_bare_model(self.net_g)), lr=lr, **kwargs)
        kind = getattr(torch.optim, str(optim_type), None)
        if not (inspect.isclass(kind) and issubclass(kind, Optimizer)):
            raise InputError(f'option train:optim_g:type: torch.optim has no {optim_type!r} (Adam, AdamW, SGD, ...)')
        return kind(params, lr=lr, **kwargs)

    def setup_schedulers(self) -> None:
        train_opt = self.opt['train']
        if train_opt['scheduler'].get('type') != 'WarmupCosineLR':
            super().setup_schedulers()
            return
        options = {key: value for key, value in train_opt['scheduler'].items() if key != 'type'}
        check_keys(options, ('warmup', 'eta_min'), 'train:scheduler')
        total_iter = int(train_opt['total_iter'])
        self.schedulers += [WarmupCosineLR(optimizer, total_iter, **options) for optimizer in self.optimizers]

    def load_network(self, net: nn.Module, load_path: str, strict: bool = True, param_key: str = 'params') -> None:
        networks = read_checkpoint(load_path).networks
        if param_key not in networks:
            # As BasicSR does where a file holds no average; a bare state dict counts as `params` too.
            param_key = 'params' if 'params' in networks else next(iter(networks))
        net = self.get_bare_model(net)
        get_root_logger().info(f'Loading {type(net).__name__} from {load_path}, with param key: [{param_key}].')
        state = networks[param_key]
        if strict:
            load_strictly(net, state, load_path)
        else:
            self._print_different_keys_loading(net, state, strict)
            net.load_state_dict(state, strict=False)

    # ---- An iteration ----------------------------------------------------------------------------------------------

    def feed_data(self, data: dict[str, Any]) -> None:
        """Take an item of a validation set, or a batch of the training set.

        The images of MultiDegradationDataset (B x D x 3 x H x W, D degradations) become BD x 3 x H x W here.
        """
        super().feed_data(data)
        self.items = len(self.lq)
        self.lq = self.to_images(data['lq'])
        if 'gt' in data:
            self.gt = self.to_images(data['gt'], torch.contiguous_format)
        self.kinds = data['degradation'].flatten() if 'degradation' in data else torch.zeros(0, dtype=torch.long)

    def to_images(self, images: Tensor, memory_format: torch.memory_format | None = None) -> Tensor:
        """B x C x H x W or B x D x C x H x W on the device, as B x C x H x W or BD x C x H x W."""
        images = images.to(self.device)
        images = images.flatten(0, 1) if images.dim() == 5 else images
        # All feature maps take the input's memory format over.
        return images.contiguous(memory_format=memory_format or self.memory_format)

    def update_learning_rate(self, current_iter: int, warmup_iter: int = -1) -> None:
        """As BasicSR does; before that, the place between two iterations where an interrupted run leaves."""
        if current_iter > 1 and interruption.agreed(self.device):
            self.save(data_order.epoch, current_iter - 1)
            get_root_logger().warning(
                f'Interrupted by {interruption.name or "another process"} after iteration {current_iter - 1}: '
                f'saved. --auto_resume resumes from here. Exit status {EXIT_STATUS}.'
            )
            if self.opt['dist']:
                distributed.barrier()  # launchers end the others once one has left, even the one that saves
            sys.exit(EXIT_STATUS)
        super().update_learning_rate(current_iter, warmup_iter)

    def optimize_parameters(self, current_iter: int) -> None:
        data_order.use(self.items)
        self.completed = None
        self.optimizer_g.zero_grad()
        self.log.begin(current_iter)
        self.begin_iteration(current_iter)
        # A step that is skipped must not leave its batch in the statistics either.
        statistics = [(buffer, buffer.clone()) for part in self.parts_with_statistics() for buffer in part.buffers()]
        sums: dict[str, Tensor] = OrderedDict()
        batch = {name: getattr(self, name) for name in self.BATCH if len(getattr(self, name))}
        parts = list(self.steps.split(batch))
        for number, (part, share) in enumerate(parts, 1):
            with self.net_g.no_sync() if self.opt['dist'] and number < len(parts) else nullcontext():
                losses, figures = self.losses(part)
                self.steps.backward(sum(losses.values()) * share)
            for name, value in (losses | figures).items():
                sums[name] = sums.get(name, 0) + value.detach() * share
        norm = self.steps.take(self.optimizer_g, self.get_bare_model(self.net_g).parameters())
        if norm.isfinite():
            self.step_taken()
        else:
            for buffer, before in statistics:
                buffer.copy_(before)
            self.steps.complain(current_iter, norm)
        self.log_dict = self.reduce_loss_dict(sums) | {'grad_norm': norm.item()} | self.log.end(len(self.lq))
        if self.steps.skipped:
            self.log_dict['skipped'] = self.steps.skipped
        self.completed = current_iter

    def begin_iteration(self, current_iter: int) -> None:
        """Hook: before the losses."""

    def parts_with_statistics(self) -> Iterator[nn.Module]:
        """Hook: modules whose buffers a skipped step must leave as they were."""
        yield self.get_bare_model(self.net_g)

    def losses(self, part: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Hook: the losses of a part of the batch, which add up, and other figures for the log; both by name.

        ``part`` has the names of BATCH: ``lq``, ``gt`` (B x C x H x W), ``kinds`` (B; where the dataset tells them).
        """
        with self.steps.autocast():
            outputs = self.net_g(part['lq'])
        return self.restoration_losses(outputs, part), {}

    def restoration_losses(self, outputs: Tensor | Sequence[Tensor], part: dict[str, Tensor]) -> dict[str, Tensor]:
        """The losses of restored images, of which a network may give several."""
        outputs = [outputs] if isinstance(outputs, Tensor) else list(outputs)
        weights = self.opt['train'].get('output_weights') or [1] * len(outputs)
        if len(weights) != len(outputs):
            raise InputError(f'option train:output_weights: {len(weights)} of them, the network gives {len(outputs)}')
        self.output, clean = outputs[0].float(), part['gt']
        losses = OrderedDict()
        if self.cri_pix:
            for number, (output, weight) in enumerate(zip(outputs, weights, strict=True), 1):
                size = output.shape[-2:]
                target = clean if size == clean.shape[-2:] else F.interpolate(clean, size, mode='area')
                loss = self.cri_pix(output.float(), target)
                losses['l_pix' if number == 1 else f'l_pix_{number}'] = loss if weight == 1 else loss * weight
            if 'kinds' in part:
                self.log.add(self.cri_pix, self.output.detach(), clean, part['kinds'])
        if self.cri_perceptual:
            perceptual = zip(('l_percep', 'l_style'), self.cri_perceptual(self.output, clean), strict=True)
            losses.update({name: loss for name, loss in perceptual if loss is not None})
        return losses

    def step_taken(self) -> None:
        """Hook: after a step that was not skipped."""
        if self.ema_decay > 0:
            self.model_ema(decay=self.ema_decay)

    # ---- Saving and resuming ---------------------------------------------------------------------------------------

    def save(self, epoch: int, current_iter: int) -> None:
        """Network and training state of one iteration, or neither: where the disk is full, training continues.

        Raises:
            InputError: It was the end of training (``current_iter`` -1) and the network could not be written.
        """
        self.random_state_of_ranks = gather(training_state.random_state())
        try:
            super().save(epoch, current_iter)
        except OSError as error:
            message = f'the checkpoint could not be written to {self.opt["path"]["experiments_root"]}: {error}.'
            if current_iter == -1:
                raise InputError(f'{message} Make room and run again with --auto_resume.') from error
            get_root_logger().error(f'{message} Training goes on; the last good checkpoint is kept.')
            return
        keep_last = self.opt['logger'].get('keep_last')
        if keep_last and self.opt['rank'] == 0:
            training_state.prune(self.opt['path']['training_states'], self.opt['path']['models'], keep_last)

    def _save_what_is_done(self) -> None:
        """After an error between two iterations (a broken image, say), nothing that was computed is lost."""
        # Alone: the other processes of a distributed run cannot be asked any more.
        if self.completed is not None and not self.opt['dist']:
            self.save(data_order.epoch, self.completed)
            if os.path.isfile(os.path.join(self.opt['path']['training_states'], f'{self.completed}.state')):
                print(f'Saved after iteration {self.completed}; --auto_resume resumes from here.', file=sys.stderr)

    @master_only
    def save_network(
        self, net: Any, net_label: str, current_iter: int | str, param_key: str | list[str] = 'params'
    ) -> None:
        folder = self.opt['path']['models']
        with training_state.written_aside(folder) as aside:
            self.opt['path']['models'] = aside
            try:
                super().save_network(net, net_label, current_iter, param_key)
            finally:
                self.opt['path']['models'] = folder
            if not os.listdir(aside):
                raise OSError('nothing was written')

    @master_only
    def save_training_state(self, epoch: int, current_iter: int) -> None:
        """BasicSR's training state and all else that the next iteration depends on (its own leaves that out)."""
        if current_iter == -1:
            return
        network = os.path.join(self.opt['path']['models'], f'net_g_{current_iter}.pth')
        state = {'epoch': epoch, 'iter': current_iter, **self.training_state()}
        state['network_digest'] = training_state.digest(network)
        with training_state.written_aside(self.opt['path']['training_states']) as aside:
            torch.save(state, os.path.join(aside, f'{current_iter}.state'))

    def training_state(self) -> dict[str, Any]:
        """Hook: what the next iteration depends on beside the network, as plain data and tensors."""
        return {
            'optimizers': [optimizer.state_dict() for optimizer in self.optimizers],
            'schedulers': [scheduler.state_dict() for scheduler in self.schedulers],
            **self.steps.state_dict(),
            'random': self.random_state_of_ranks,
            'manual_seed': self.opt['manual_seed'],
            'drawn': data_order.drawn * self.opt['world_size'],
            'best': {'by_dataset': getattr(self, 'best_metric_results', {}), 'mean': self.best.mean},
            'options': self.options,
        }

    def resume_training(self, resume_state: dict[str, Any]) -> None:
        path = self.opt['path']['resume_state']
        resuming.load_optimizers(self, resume_state, path)
        resuming.warn_of_changes(self.options, resume_state, path)
        if 'random' not in resume_state:  # BasicSR's own models save no more
            return
        self.steps.load_state_dict(resume_state)
        self.best_metric_results = resume_state['best']['by_dataset']
        self.best.mean = resume_state['best']['mean']
        ranks = resume_state['random']
        if self.opt['rank'] < len(ranks):  # more processes than before: the new ones have their own seeds
            state = ranks[self.opt['rank']]
            data_order.restore_random_state(lambda: training_state.set_random_state(state))

    # ---- Validating and testing ------------------------------------------------------------------------------------

    def _prepare_evaluation(self) -> None:
        val = self.opt.get('val') or {}
        self.metrics, self.tiles = Metrics(val.get('metrics')), Tiles(val)
        self.progress_bar = bool(val.get('pbar', not self.is_train)) and self.opt['rank'] == 0 and sys.stderr.isatty()
        self.records = self.embeddings = None
        net = self.get_bare_model(self.net_g)
        self.memory_format = compute.memory_format(net, self.device, self.opt)
        if self.is_train:
            return
        if not self.opt['path'].get('pretrain_network_g') and any(True for _ in net.parameters()):
            get_root_logger().warning('path:pretrain_network_g names no checkpoint: the network is an untrained one.')
        self.records = Records(self.opt, net, self.device)
        if can_embed(net):
            self.embeddings = Embeddings(self.records.folder)

    def test(self) -> None:
        with evaluating(self.tested_network()), torch.no_grad():
            self.restore()

    def restore(self) -> None:
        """Set ``output``, the restored images, from ``lq`` (both B x C x H x W)."""
        net = self.tested_network()
        self.output = self.tiles.restore(net, self.lq, lambda images: _first(net(images)))

    def tested_network(self) -> nn.Module:
        return self.net_g_ema if hasattr(self, 'net_g_ema') else self.get_bare_model(self.net_g)

    def nondist_validation(self, dataloader: DataLoader, current_iter: Any, tb_logger: Any, save_img: bool) -> None:
        self.dataset = dataloader.dataset
        name = self.dataset.opt['name']
        images = share_of(dataloader, self.opt)
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
        if self.embeddings:
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
        if self.is_train:
            self.log.show(visuals)
        if self.records:
            same_size = visuals['lq'].shape == visuals['result'].shape
            degraded = self.metrics.of(visuals['lq'], visuals.get('gt')) if same_size else {}
            measured = {'metrics': plain(values), 'input': plain(degraded)}
            self.records.add({**record, **measured, 'seconds': seconds, 'tile': self.tiles.used})
            warn_of_no_number(name, image, values)
        if save_img:
            imwrite(tensor2img([visuals['result']]), self._picture_path(name, image, current_iter))
        return values

    def _picture_path(self, dataset: str, image: str, current_iter: Any) -> str:
        folder = self.opt['path']['visualization']
        if self.is_train:
            return os.path.join(folder, image, f'{image}_{current_iter}.png')
        return os.path.join(folder, dataset, f'{image}_{self.opt["val"].get("suffix") or self.opt["name"]}.png')

    def _synchronize(self) -> None:
        if self.device.type == 'cuda':
            torch.cuda.synchronize()

    def _log_validation_metric_values(self, current_iter: int, dataset_name: str, tb_logger: Any) -> None:
        super()._log_validation_metric_values(current_iter, dataset_name, tb_logger)
        if not self.is_train:
            return
        self.log.write(tb_logger, dataset_name, current_iter, self.more_pictures())
        if self.best.improved(dataset_name, self.metric_results):
            get_root_logger().info(
                f'The best mean {self.best.metric} so far, {self.best.mean:.4f}, at iteration {current_iter}.'
            )
            networks = {'params': self.net_g, **({'params_ema': self.net_g_ema} if self.ema_decay > 0 else {})}
            try:
                self.save_network(list(networks.values()), 'net_g', f'best_{self.best.metric}', list(networks))
            except OSError as error:
                get_root_logger().error(f'The best network could not be written: {error}. Training goes on.')

    def more_pictures(self) -> Iterator[tuple[str, Tensor]]:
        """Hook: pictures for TensorBoard by name (C x H x W), beside those of each validation set."""
        yield from ()


def _first(outputs: Tensor | Sequence[Tensor]) -> Tensor:
    return outputs if isinstance(outputs, Tensor) else outputs[0]
