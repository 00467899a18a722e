"""Training and testing of any network with images in and out."""

import copy
import inspect
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from basicsr.archs import ARCH_REGISTRY
from basicsr.utils import get_root_logger
from basicsr.utils.registry import MODEL_REGISTRY
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from airnet_basicsr.errors import InputError
from airnet_basicsr.plugin import compute
from airnet_basicsr.plugin.data_order import data_order
from airnet_basicsr.plugin.models import resuming
from airnet_basicsr.plugin.models.evaluated_model import restored
from airnet_basicsr.plugin.models.muon import NARROWEST, MuonAdam, convolutions
from airnet_basicsr.plugin.models.processes import hardware
from airnet_basicsr.plugin.models.resumable_model import ResumableModel
from airnet_basicsr.plugin.models.schedules import WarmupCosineLR
from airnet_basicsr.plugin.models.training_log import TrainingLog
from airnet_basicsr.plugin.options import TRAIN_KEYS, check_keys, require


@MODEL_REGISTRY.register()
class RestorationModel(ResumableModel):
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
    BATCH: tuple[str, ...] = ('lq', 'gt', 'kinds', 'noise_level')  # attributes with a training batch, image by image

    def __init__(self, opt: dict[str, Any]) -> None:
        self.opt = opt
        network = dict(require(opt, 'network_g', 'file'))
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
        self.log = TrainingLog(self.opt, self.device)
        get_root_logger().info(f'Hardware: {hardware(self.device, self.opt["world_size"])}')
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
            matrices = convolutions(self.get_bare_model(self.net_g))
            if not matrices:
                raise InputError(
                    f'option train:optim_g:type: Muon is for convolutions of at least {NARROWEST} channels, and this '
                    'network has none that is trained: take Adam'
                )
            return MuonAdam(params, matrices, lr=lr, **kwargs)
        kind: Any = getattr(torch.optim, str(optim_type), None)
        if not (inspect.isclass(kind) and issubclass(kind, Optimizer)):
            raise InputError(f'option train:optim_g:type: torch.optim has no {optim_type!r} (Adam, AdamW, SGD, ...)')
        return kind(params, **{'lr': lr, **kwargs})

    def setup_schedulers(self) -> None:
        train_opt = self.opt['train']
        if train_opt['scheduler'].get('type') != 'WarmupCosineLR':
            super().setup_schedulers()
            return
        options = {key: value for key, value in train_opt['scheduler'].items() if key != 'type'}
        check_keys(options, ('warmup', 'eta_min'), 'train:scheduler')
        total_iter = int(train_opt['total_iter'])
        self.schedulers += [WarmupCosineLR(optimizer, total_iter, **options) for optimizer in self.optimizers]

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
        self.kinds = data['degradation'].flatten() if 'degradation' in data else None
        self.noise_level = data['noise_level'].flatten() if 'noise_level' in data else None

    def to_images(self, images: Tensor, memory_format: torch.memory_format | None = None) -> Tensor:
        """B x C x H x W or B x D x C x H x W on the device, as B x C x H x W or BD x C x H x W."""
        images = images.to(self.device)
        images = images.flatten(0, 1) if images.dim() == 5 else images
        # All feature maps take the input's memory format over.
        return images.contiguous(memory_format=memory_format or self.memory_format)

    def optimize_parameters(self, current_iter: int) -> None:
        data_order.use(self.items)
        self.completed = None
        self.optimizer_g.zero_grad()
        self.log.begin(current_iter)
        self.begin_iteration(current_iter)
        # A step that is skipped must not leave its batch in the statistics either.
        statistics = [(buffer, buffer.clone()) for part in self.parts_with_statistics() for buffer in part.buffers()]
        sums: dict[str, Tensor] = OrderedDict()
        batch = {name: values for name in self.BATCH if (values := getattr(self, name)) is not None}
        parts = list(self.steps.split(batch))
        for number, (part, share) in enumerate(parts, 1):
            with self.net_g.no_sync() if self.opt['dist'] and number < len(parts) else nullcontext():
                losses, figures = self.losses(part)
                loss: Any = sum(losses.values())
                self.steps.backward(loss * share)
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

        ``part`` has the names of BATCH: ``lq``, ``gt`` (B x C x H x W), ``kinds`` and ``noise_level`` (B; where the
        dataset tells them).
        """
        with self.steps.autocast():
            outputs = self.outputs(self.net_g, part['lq'], part.get('noise_level'))
        return self.restoration_losses(outputs, part), {}

    def restoration_losses(self, outputs: Tensor | Sequence[Tensor], part: dict[str, Tensor]) -> dict[str, Tensor]:
        """The losses of restored images, of which a network may give several."""
        outputs = [outputs] if isinstance(outputs, Tensor) else list(outputs)
        weights = self.opt['train'].get('output_weights') or [1] * len(outputs)
        if len(weights) != len(outputs):
            raise InputError(f'option train:output_weights: {len(weights)} of them, the network gives {len(outputs)}')
        clean = part['gt']
        self.output = restored(outputs, clean).float()
        losses = OrderedDict()
        if self.cri_pix:
            for number, (output, weight) in enumerate(zip(outputs, weights, strict=True), 1):
                size = output.shape[-2:]
                if output.shape[1] != clean.shape[1]:  # a loss would repeat a single channel
                    raise InputError(
                        f'option network_g: output {number} has {output.shape[1]} channels, the images {clean.shape[1]}'
                    )
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

    # ---- The log ----

    def show(self, visuals: dict[str, Tensor]) -> None:
        if self.is_train:
            self.log.show(visuals)

    def _log_validation_metric_values(self, current_iter: int, dataset_name: str, tb_logger: Any) -> None:
        super()._log_validation_metric_values(current_iter, dataset_name, tb_logger)
        if self.is_train:
            self.log.write(tb_logger, dataset_name, current_iter, self.more_pictures())
            self.keep_if_best(dataset_name, current_iter)

    def more_pictures(self) -> Iterator[tuple[str, Tensor]]:
        """Hook: pictures for TensorBoard by name (C x H x W), beside those of each validation set."""
        yield from ()
