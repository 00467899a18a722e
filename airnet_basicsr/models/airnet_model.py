"""Contrastive all-in-one training of AirNet, as a model of the toolbox."""

import inspect
import os
from collections import OrderedDict
from typing import Any

import torch
from basicsr.archs import ARCH_REGISTRY
from basicsr.losses import build_loss
from basicsr.models.sr_model import SRModel
from basicsr.utils import get_root_logger
from basicsr.utils.dist_util import master_only
from basicsr.utils.registry import MODEL_REGISTRY
from torch import nn

from airnet_basicsr.checkpoints import load_strictly, read_checkpoint
from airnet_basicsr.errors import InputError
from airnet_basicsr.models.momentum_contrast import MomentumContrast
from airnet_basicsr.options import TRAIN_KEYS, check_keys, require


@MODEL_REGISTRY.register()
class AirNetModel(SRModel):
    """SRModel plus momentum contrast: first the encoder alone, then encoder and restorer together.

    Keys of ``train`` beyond SRModel's:
        contrast_opt: The contrastive loss, an InfoNCELoss.
        encoder_warmup_iter: Iterations in which only the encoder is trained, on the contrastive loss of weight 1
            (release: 100 epochs of 400 iterations). Default: 0.
        queue_size: Keys in the queue (release: 256 for each degradation). Default: 1280.
        key_momentum: Momentum of the key encoder (release: 0.999). Default: 0.999.

    ``network_g`` may be any network that answers ``encode=True`` and ``restore=False`` as
    :meth:`~airnet_basicsr.archs.airnet_arch.AirNet.forward` does and whose encoder is its attribute ``encoder``.
    ``path: pretrain_network_g`` may be a file of the toolbox or of the official release; of the latter, training also
    takes over the key encoder and the queue.
    """

    def __init__(self, opt: dict[str, Any]) -> None:
        network = dict(require(opt, 'network_g', 'of the file'))
        build = ARCH_REGISTRY.get(network.pop('type'))
        check_keys(network, inspect.signature(build).parameters, 'network_g')
        if opt['is_train']:
            ours = ('contrast_opt', 'encoder_warmup_iter', 'queue_size', 'key_momentum')
            check_keys(opt['train'], TRAIN_KEYS.union(ours), 'train')
            require(opt['train'], 'contrast_opt', 'train')
        super().__init__(opt)

    def init_training_settings(self) -> None:
        train_opt = self.opt['train']
        self.encoder_warmup_iter = train_opt.get('encoder_warmup_iter', 0)
        self.contrast = MomentumContrast(
            self.get_bare_model(self.net_g).encoder,
            train_opt.get('queue_size', 1280),
            train_opt.get('key_momentum', 0.999),
        ).to(self.device)
        self.contrast.train()
        pretrained = self.opt['path'].get('pretrain_network_g')
        if pretrained is not None:
            self._import_contrast(pretrained)
        self.cri_contrast = build_loss(train_opt['contrast_opt']).to(self.device)
        # The release's warm-up has the contrastive loss alone, unweighted.
        self.cri_warmup = build_loss({**train_opt['contrast_opt'], 'loss_weight': 1.0}).to(self.device)
        super().init_training_settings()

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

    def load_network(
        self, net: nn.Module, load_path: str, strict: bool = True, param_key: str = 'params'
    ) -> None:
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

    def feed_data(self, data: dict[str, Any]) -> None:
        """Take an item of a validation set, or a batch of the training set.

        The latter's ``lq``, ``key`` and ``gt`` (B x D x 3 x H x W, D degradations) become BD x 3 x H x W here.
        """
        super().feed_data(data)
        if 'key' in data:
            self.lq, self.gt = self.lq.flatten(0, 1), self.gt.flatten(0, 1)
            self.lq_key = data['key'].to(self.device).flatten(0, 1)

    def optimize_parameters(self, current_iter: int) -> None:
        self.optimizer_g.zero_grad()
        losses = OrderedDict()
        warming_up = current_iter <= self.encoder_warmup_iter
        if warming_up:
            encoding = self.net_g(self.lq, encode=True, restore=False)
        else:
            self.output, encoding = self.net_g(self.lq, encode=True)
            losses['l_pix'] = self.cri_pix(self.output, self.gt)

        keys = self.contrast.keys(self.lq_key, self.get_bare_model(self.net_g).encoder)
        criterion = self.cri_warmup if warming_up else self.cri_contrast
        losses['l_contrast'], logits = criterion(encoding.projection, keys, self.contrast.queue)

        sum(losses.values()).backward()
        self.optimizer_g.step()
        self.contrast.enqueue(keys)  # these keys are no negatives of their own batch

        # Share of queries whose own key is the most alike, among all keys of the queue.
        accuracy = (logits.detach().argmax(1) == 0).float().mean()
        self.log_dict = self.reduce_loss_dict(OrderedDict(losses, contrast_acc=accuracy))
        if self.ema_decay > 0:
            self.model_ema(decay=self.ema_decay)

    @master_only
    def save_training_state(self, epoch: int, current_iter: int) -> None:
        """The toolbox's training state plus ``contrast``, written aside and renamed so that no half file is left."""
        if current_iter == -1:
            return
        state = {
            'epoch': epoch,
            'iter': current_iter,
            'optimizers': [optimizer.state_dict() for optimizer in self.optimizers],
            'schedulers': [scheduler.state_dict() for scheduler in self.schedulers],
            'contrast': self.contrast.state_dict(),
        }
        path = os.path.join(self.opt['path']['training_states'], f'{current_iter}.state')
        torch.save(state, f'{path}.tmp')
        os.replace(f'{path}.tmp', path)

    def resume_training(self, resume_state: dict[str, Any]) -> None:
        if 'contrast' not in resume_state:
            raise InputError(
                f'training state {self.opt["path"]["resume_state"]} holds no key encoder: it was not written by '
                'AirNetModel'
            )
        super().resume_training(resume_state)
        load_strictly(self.contrast, resume_state['contrast'], self.opt['path']['resume_state'])
