"""Contrastive all-in-one training of AirNet, as a model of the toolbox."""

import os
import sys
import time
from collections import OrderedDict, deque
from typing import Any

import torch
from basicsr.losses import build_loss
from basicsr.utils import get_root_logger
from basicsr.utils.dist_util import master_only
from basicsr.utils.registry import MODEL_REGISTRY
from torch import Tensor, distributed, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from airnet_basicsr.errors import InputError
from airnet_basicsr.network.checkpoints import load_strictly, read_checkpoint
from airnet_basicsr.network.momentum_contrast import MomentumContrast
from airnet_basicsr.plugin import compute
from airnet_basicsr.plugin.data_order import data_order
from airnet_basicsr.plugin.models import training_state
from airnet_basicsr.plugin.models.embedding_picture import draw_embeddings
from airnet_basicsr.plugin.models.interruption import EXIT_STATUS, interruption
from airnet_basicsr.plugin.models.muon import MuonAdam, convolutions
from airnet_basicsr.plugin.models.restoration_model import RestorationModel, gather
from airnet_basicsr.plugin.options import TRAIN_KEYS, check_keys, require
from airnet_basicsr.plugin.programs import at_failure

AMP_DTYPES = {'bf16': torch.bfloat16, 'fp16': torch.float16}
PICTURES = 4  # of each validation set, shown in TensorBoard
EMBEDDINGS = 100  # latest training batches whose embeddings are drawn there


@MODEL_REGISTRY.register()
class AirNetModel(RestorationModel):
    """RestorationModel plus momentum contrast: first the encoder alone, then encoder and restorer together.

    Keys of ``train`` beyond RestorationModel's:
        contrast_opt: The contrastive loss, an InfoNCELoss.
        encoder_warmup_iter: Iterations in which only the encoder is trained, on the contrastive loss of weight 1
            (release: 100 epochs of 400 iterations). Default: 0.
        queue_size: Keys in the queue (release: 256 for each degradation). Default: 1280.
        key_momentum: Momentum of the key encoder (release: 0.999). Default: 0.999.
        amp: ``bf16`` or ``fp16``: the restorer works in this precision. Default: none.
        grad_clip: Largest norm of the gradient. Default: none.
        nonfinite_limit: Steps in a row whose gradients may be infinite or not a number; each is skipped. Default: 20.
        sync_bn: BatchNorm statistics over all GPUs. Default: false.
        optim_g: Its ``type`` may also be ``Muon``: :class:`~airnet_basicsr.plugin.models.muon.MuonAdam`.
        freeze_encoder: Leave a trained encoder as it is, BatchNorm statistics included, and train the restorer alone,
            without the contrastive loss (``contrast_opt`` then goes unused). Default: false.
    Keys of ``logger``: keep_last (numbered checkpoints to keep; default: all), keep_best (a metric's name: the network
    with the best mean of it over the validation sets is kept as ``net_g_best_METRIC.pth``).

    ``network_g`` may be any network that answers ``encode=True`` and ``restore=False`` as
    :meth:`~airnet_basicsr.network.airnet.AirNet.forward` does and whose encoder is its attribute ``encoder``.
    ``path: pretrain_network_g`` may be a file of the toolbox or of the official release; of the latter, training also
    takes over the key encoder and the queue.
    """

    def __init__(self, opt: dict[str, Any]) -> None:
        if opt['is_train']:
            _check_train_options(opt)
        super().__init__(opt)
        self.memory_format = compute.memory_format(self.net_g, self.device, opt)

    # ---- Setting up ----------------------------------------------------------------------------------------------

    def init_training_settings(self) -> None:
        train_opt = self.opt['train']
        self.encoder_warmup_iter = train_opt.get('encoder_warmup_iter', 0)
        self.encoder_frozen = train_opt.get('freeze_encoder', False)
        self.contrast = MomentumContrast(
            self.get_bare_model(self.net_g).encoder,
            train_opt.get('queue_size', 1280),
            train_opt.get('key_momentum', 0.999),
        ).to(self.device)
        self.contrast.train()
        pretrained = self.opt['path'].get('pretrain_network_g')
        if pretrained is not None:
            self._import_contrast(pretrained)
        self.contrast.agree()
        self.cri_contrast = build_loss(train_opt['contrast_opt']).to(self.device)
        # The release's warm-up has the contrastive loss alone, unweighted.
        self.cri_warmup = build_loss({**train_opt['contrast_opt'], 'loss_weight': 1.0}).to(self.device)
        self.amp_dtype = AMP_DTYPES.get(train_opt.get('amp'))
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.amp_dtype is torch.float16)
        self.skipped_in_a_row = self.skipped = 0
        self.best_mean = None
        self.random_states = None
        self.iteration_ended = None
        self.validated = {}
        self.embeddings = deque(maxlen=EMBEDDINGS)
        self.completed = None
        interruption.can_save = True
        at_failure(self._save_what_is_done)
        super().init_training_settings()

    def model_to_device(self, net: nn.Module) -> nn.Module:
        if self.is_train and self.opt['train'].get('freeze_encoder'):
            net.encoder.requires_grad_(False)
        if self.is_train and self.opt['dist']:
            if self.opt['train'].get('sync_bn'):
                if self.device.type != 'cuda':
                    raise InputError('option train:sync_bn needs GPUs: PyTorch has no SyncBatchNorm for the CPU')
                net = nn.SyncBatchNorm.convert_sync_batchnorm(net)
            # The warm-up leaves the restorer out; see _enter_joint_stage.
            self.opt['find_unused_parameters'] = True
        return super().model_to_device(net)

    def get_optimizer(self, optim_type: str, params: list[nn.Parameter], lr: float, **kwargs: Any) -> Optimizer:
        if optim_type == 'Muon':
            if not hasattr(torch.optim, 'Muon'):
                raise InputError(
                    f'option train:optim_g:type: Muon comes with PyTorch 2.9, and this is {torch.__version__}'
                )
            return MuonAdam(params, convolutions(self.get_bare_model(self.net_g)), lr=lr, **kwargs)
        return super().get_optimizer(optim_type, params, lr, **kwargs)

    def _enter_joint_stage(self) -> None:
        """Wrap the network anew: with every parameter in use, DistributedDataParallel need not look for the others."""
        if self.opt['dist'] and self.opt['find_unused_parameters']:
            self.opt['find_unused_parameters'] = False
            self.net_g = super().model_to_device(self.get_bare_model(self.net_g))

    def _import_contrast(self, path: str) -> None:
        state = read_checkpoint(path).contrast
        if state is None:
            return
        state = dict(state)
        if state['queue'].shape != self.contrast.queue.shape:
            get_root_logger().warning(
                f'The queue of {path} holds {state["queue"].shape[1]} keys, train:queue_size is '
                f'{self.contrast.queue.shape[1]}: training starts with a fresh queue.'
            )
            state['queue'], state['queue_ptr'] = self.contrast.queue, self.contrast.queue_ptr
        load_strictly(self.contrast, state, path)

    # ---- Training ------------------------------------------------------------------------------------------------

    def feed_data(self, data: dict[str, Any]) -> None:
        """Take an item of a validation set, or a batch of the training set.

        The latter's ``lq``, ``key`` and ``gt`` (B x D x 3 x H x W, D degradations) become BD x 3 x H x W here.
        """
        super().feed_data(data)
        # All feature maps take the input's memory format over.
        self.lq = self.lq.contiguous(memory_format=self.memory_format)
        if 'key' in data:
            data_order.drawn += len(data['key'])
            key = data['key'].to(self.device).flatten(0, 1)
            self.lq_key = key.contiguous(memory_format=self.memory_format)
            self.kinds = data['degradation'].flatten()
            if self.random_states is not None:
                # Only now: starting the data loader drew from them.
                training_state.set_random_state(self.random_states)
                self.random_states = None

    def update_learning_rate(self, current_iter: int, warmup_iter: int = -1) -> None:
        """As the toolbox does; before that, the place between two iterations where an interrupted run leaves."""
        if current_iter > 1 and interruption.agreed(self.device):
            self.save(data_order.epoch, current_iter - 1)
            get_root_logger().warning(
                f'Interrupted by {interruption.name or "another process"} after iteration {current_iter - 1}: '
                f'saved. --auto_resume goes on from here. Exit status {EXIT_STATUS}.'
            )
            if self.opt['dist']:
                distributed.barrier()  # launchers end the others once one has left, even the one that saves
            sys.exit(EXIT_STATUS)
        super().update_learning_rate(current_iter, warmup_iter)

    def optimize_parameters(self, current_iter: int) -> None:
        if current_iter > self.encoder_warmup_iter:
            self._enter_joint_stage()
        self.completed = None
        self.optimizer_g.zero_grad()
        net = self.get_bare_model(self.net_g)
        if self.encoder_frozen:
            net.encoder.eval()  # training and validation set the whole network to training
        # A step that is skipped must not leave its batch in the statistics either.
        statistics = [
            (buffer, buffer.clone()) for part in (net, self.contrast.key_encoder) for buffer in part.buffers()
        ]
        losses, logits, keys = self._losses(net, warming_up=current_iter <= self.encoder_warmup_iter)
        self.scaler.scale(sum(losses.values())).backward()
        self.scaler.unscale_(self.optimizer_g)
        gradients = [parameter.grad for parameter in net.parameters() if parameter.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        finite = bool(norm.isfinite())
        if finite:
            if self.opt['train'].get('grad_clip'):
                nn.utils.clip_grads_with_norm_(net.parameters(), self.opt['train']['grad_clip'], norm)
            self.scaler.step(self.optimizer_g)
            if keys is not None:
                self.contrast.enqueue(keys)  # these keys are no negatives of their own batch
            self.skipped_in_a_row = 0
            if self.ema_decay > 0:
                self.model_ema(decay=self.ema_decay)
        else:
            for buffer, before in statistics:
                buffer.copy_(before)
            self._count_skipped(current_iter, norm)
        self.scaler.update()

        if logits is not None:
            # Share of queries whose own key is the most alike, among all keys of the queue.
            losses['contrast_acc'] = (logits.detach().argmax(1) == 0).float().mean()
        self.log_dict = self.reduce_loss_dict(losses)
        self.log_dict['grad_norm'] = norm.item()
        if self.skipped:
            self.log_dict['skipped'] = self.skipped
        now = time.monotonic()
        if self.iteration_ended is not None:
            self.log_dict['images_per_s'] = len(self.lq) * self.opt['world_size'] / (now - self.iteration_ended)
        self.iteration_ended = now
        self.completed = current_iter

    def _losses(self, net: nn.Module, warming_up: bool) -> tuple[dict[str, Tensor], Tensor | None, Tensor | None]:
        """The losses by name, and unless the encoder is frozen the logits and the keys of the batch.

        The contrastive part is float32 throughout.
        """
        losses, frozen = OrderedDict(), self.encoder_frozen
        with torch.autocast(self.device.type, self.amp_dtype, enabled=self.amp_dtype is not None):
            if warming_up:
                encoding = self.net_g(self.lq, encode=True, restore=False)
            else:
                restored, encoding = (self.net_g(self.lq), None) if frozen else self.net_g(self.lq, encode=True)
                self.output = restored.float()
                losses['l_pix'] = self.cri_pix(self.output, self.gt)
        if frozen:
            return losses, None, None
        keys = self.contrast.keys(self.lq_key, net.encoder)
        criterion = self.cri_warmup if warming_up else self.cri_contrast
        self.embeddings.append((encoding.embedding.detach(), self.kinds))
        losses['l_contrast'], logits = criterion(encoding.projection, keys, self.contrast.queue)
        return losses, logits, keys

    def _count_skipped(self, current_iter: int, norm: Tensor) -> None:
        self.skipped += 1
        self.skipped_in_a_row += 1
        limit = self.opt['train'].get('nonfinite_limit', 20)
        get_root_logger().warning(
            f'Iteration {current_iter}: the gradient is not finite (norm {norm.item()}); the step is skipped '
            f'({self.skipped_in_a_row} in a row, {self.skipped} in all).'
        )
        if self.skipped_in_a_row >= limit:
            raise InputError(
                f'training stopped at iteration {current_iter}: {limit} steps in a row had gradients that are not '
                'finite (train:nonfinite_limit). Look for broken images in the training set; lower train:optim_g:lr, '
                'set train:grad_clip, or leave train:amp out. The last checkpoint is from before and holds no NaN.'
            )

    # ---- Saving and going on ---------------------------------------------------------------------------------------

    def save(self, epoch: int, current_iter: int) -> None:
        """Network and training state of one iteration, or neither: where the disk is full, training goes on.

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
                print(f'Saved after iteration {self.completed}; --auto_resume goes on from here.', file=sys.stderr)

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
        """The toolbox's training state and all else that the next iteration depends on (its own leaves that out)."""
        if current_iter == -1:
            return
        state = {
            'epoch': epoch,
            'iter': current_iter,
            'optimizers': [optimizer.state_dict() for optimizer in self.optimizers],
            'schedulers': [scheduler.state_dict() for scheduler in self.schedulers],
            'contrast': self.contrast.state_dict(),
            'scaler': self.scaler.state_dict(),
            'random': self.random_state_of_ranks,
            'manual_seed': self.opt['manual_seed'],
            'drawn': data_order.drawn * self.opt['world_size'],
            'skipped': self.skipped,
            'best': {'by_dataset': getattr(self, 'best_metric_results', {}), 'mean': self.best_mean},
            'network_digest': training_state.digest(
                os.path.join(self.opt['path']['models'], f'net_g_{current_iter}.pth')
            ),
        }
        with training_state.written_aside(self.opt['path']['training_states']) as aside:
            torch.save(state, os.path.join(aside, f'{current_iter}.state'))

    def resume_training(self, resume_state: dict[str, Any]) -> None:
        if 'contrast' not in resume_state:
            raise InputError(
                f'training state {self.opt["path"]["resume_state"]} holds no key encoder: it was not written by '
                'AirNetModel'
            )
        super().resume_training(resume_state)
        load_strictly(self.contrast, resume_state['contrast'], self.opt['path']['resume_state'])
        self.scaler.load_state_dict(resume_state['scaler'])
        self.skipped = resume_state['skipped']
        self.best_metric_results = resume_state['best']['by_dataset']
        self.best_mean = resume_state['best']['mean']
        ranks = resume_state['random']
        # More processes than before: the new ones go on from their own seeds.
        self.random_states = ranks[self.opt['rank']] if self.opt['rank'] < len(ranks) else None

    # ---- Validation ------------------------------------------------------------------------------------------------

    def nondist_validation(self, dataloader: DataLoader, current_iter: int, tb_logger: Any, save_img: bool) -> None:
        self.pictures = []
        super().nondist_validation(dataloader, current_iter, tb_logger, save_img)

    def get_current_visuals(self) -> OrderedDict:
        visuals = super().get_current_visuals()
        if self.is_train and len(self.pictures) < PICTURES:
            shown = [visuals[name][0].clamp(0, 1) for name in ('lq', 'result', 'gt') if name in visuals]
            self.pictures.append(torch.cat(shown, dim=2))
        return visuals

    def _log_validation_metric_values(self, current_iter: int, dataset_name: str, tb_logger: Any) -> None:
        super()._log_validation_metric_values(current_iter, dataset_name, tb_logger)
        if tb_logger:
            for index, picture in enumerate(self.pictures):
                tb_logger.add_image(f'{dataset_name}/{index} (degraded, restored, clean)', picture, current_iter)
            if self.embeddings:
                embeddings, kinds = (torch.cat(parts).cpu() for parts in zip(*self.embeddings, strict=True))
                names = list(self.opt['datasets']['train']['degradations'])
                tb_logger.add_image('embedding', draw_embeddings(embeddings, kinds, names), current_iter)
        if self.is_train and self.opt['logger'].get('keep_best'):
            self._keep_best(dataset_name, current_iter)

    def _keep_best(self, dataset_name: str, current_iter: int) -> None:
        metric = self.opt['logger']['keep_best']
        self.validated[dataset_name] = self.metric_results[metric]
        if len(self.validated) < sum(phase.split('_')[0] == 'val' for phase in self.opt['datasets']):
            return
        mean = sum(self.validated.values()) / len(self.validated)
        self.validated = {}
        sign = 1 if self.opt['val']['metrics'][metric].get('better', 'higher') == 'higher' else -1
        if self.best_mean is None or sign * mean > sign * self.best_mean:
            self.best_mean = mean
            get_root_logger().info(f'The best mean {metric} so far, {mean:.4f}, at iteration {current_iter}.')
            networks = {'params': self.net_g, **({'params_ema': self.net_g_ema} if self.ema_decay > 0 else {})}
            self.save_network(list(networks.values()), 'net_g', f'best_{metric}', list(networks))


def _check_train_options(opt: dict[str, Any]) -> None:
    train = opt['train']
    ours = ('contrast_opt', 'encoder_warmup_iter', 'queue_size', 'key_momentum', 'amp', 'grad_clip', 'nonfinite_limit')
    check_keys(train, TRAIN_KEYS.union(ours, ('sync_bn', 'freeze_encoder')), 'train')
    require(train, 'contrast_opt', 'train')
    if train.get('freeze_encoder'):
        if not opt['path'].get('pretrain_network_g'):
            raise InputError('option train:freeze_encoder: path:pretrain_network_g must name a trained network')
        if train.get('encoder_warmup_iter'):
            raise InputError('option train:encoder_warmup_iter: there is no warm-up for an encoder that is frozen')
    if train.get('amp') not in (None, *AMP_DTYPES):
        raise InputError(f'option train:amp: expected `bf16`, `fp16` or nothing, found {train["amp"]!r}')
    best = opt['logger'].get('keep_best')
    if best is not None and best not in ((opt.get('val') or {}).get('metrics') or {}):
        raise InputError(f'option logger:keep_best: there is no metric {best!r} under val:metrics')
