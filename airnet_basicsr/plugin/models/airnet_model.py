"""Contrastive all-in-one training of AirNet, as a model of BasicSR."""

from collections import deque
from collections.abc import Iterator
from typing import Any

import torch
from basicsr.losses import build_loss
from basicsr.utils import get_root_logger
from basicsr.utils.registry import MODEL_REGISTRY
from torch import Tensor, nn

from airnet_basicsr.errors import InputError
from airnet_basicsr.network.checkpoints import load_strictly, read_checkpoint
from airnet_basicsr.network.momentum_contrast import MomentumContrast
from airnet_basicsr.plugin.models.embedding_picture import draw_embeddings
from airnet_basicsr.plugin.models.restoration_model import RestorationModel
from airnet_basicsr.plugin.options import require

EMBEDDINGS = 100  # latest training batches whose embeddings are drawn in TensorBoard


@MODEL_REGISTRY.register()
class AirNetModel(RestorationModel):
    """RestorationModel plus momentum contrast: first the encoder alone, then encoder and restorer together.

    Keys of ``train`` beyond RestorationModel's:
        contrast_opt: The contrastive loss, an InfoNCELoss. With its ``positives: kind``, the queue keeps the
            degradation of each key.
        encoder_warmup_iter: Iterations in which only the encoder is trained, on the contrastive loss of weight 1
            (release: 100 epochs of 400 iterations). Default: 0.
        queue_size: Keys in the queue (release: 256 for each degradation). Default: 1280.
        key_momentum: Momentum of the key encoder (release: 0.999). Default: 0.999.
        freeze_encoder: ``true``: leave a trained encoder as it is, BatchNorm statistics included, and train the
            restorer alone, without the contrastive loss (``contrast_opt`` then goes unused). ``z``: leave the restorer
            and what guides it as they are, and train the rest of the encoder on the contrastive loss alone (of weight
            1): what is restored stays the same to the bit. Default: false.

    ``network_g`` may be any network that answers ``encode=True`` and ``restore=False`` as
    :meth:`~airnet_basicsr.network.airnet.AirNet.forward` does and whose encoder is its attribute ``encoder``.
    ``path: pretrain_network_g`` may be a file of BasicSR or of the official release; of the latter, training also
    takes over the key encoder and the queue.

    With ``accumulate``, the key encoder moves once an iteration, each part is told apart from the same queue, and the
    keys of all parts enter it together: the contrast is that of the whole batch, but for BatchNorm's statistics.
    """

    TRAIN_KEYS = RestorationModel.TRAIN_KEYS | {
        'contrast_opt',
        'encoder_warmup_iter',
        'queue_size',
        'key_momentum',
        'freeze_encoder',
    }
    BATCH = (*RestorationModel.BATCH, 'lq_key')

    # ---- Setting up ----------------------------------------------------------------------------------------------

    def check_train_options(self) -> None:
        super().check_train_options()
        train_opt = self.opt['train']
        require(train_opt, 'contrast_opt', 'train')
        if train_opt.get('freeze_encoder'):
            if not self.opt['path'].get('pretrain_network_g'):
                raise InputError('option train:freeze_encoder: path:pretrain_network_g must name a trained network')
            if train_opt.get('encoder_warmup_iter'):
                raise InputError('option train:encoder_warmup_iter: there is no warm-up for an encoder that is frozen')

    def init_training_settings(self) -> None:
        train_opt = self.opt['train']
        self.encoder_warmup_iter = train_opt.get('encoder_warmup_iter', 0)
        self.frozen = train_opt.get('freeze_encoder', False)
        self.contrast = MomentumContrast(
            self.get_bare_model(self.net_g).encoder,
            train_opt.get('queue_size', 1280),
            train_opt.get('key_momentum', 0.999),
            labelled=train_opt['contrast_opt'].get('positives') == 'kind',
        ).to(self.device)
        self.contrast.train()
        pretrained = self.opt['path'].get('pretrain_network_g')
        if pretrained is not None:
            self._import_contrast(pretrained)
        self.contrast.agree()
        self.cri_contrast = build_loss(train_opt['contrast_opt']).to(self.device)
        # The release's warm-up has the contrastive loss alone, unweighted.
        self.cri_warmup = build_loss({**train_opt['contrast_opt'], 'loss_weight': 1.0}).to(self.device)
        self.embeddings_seen: deque[tuple[Tensor, Tensor]] = deque(maxlen=EMBEDDINGS)
        super().init_training_settings()

    def model_to_device(self, net: nn.Module) -> nn.Module:
        frozen = self.is_train and self.opt['train'].get('freeze_encoder')
        if frozen == 'z':
            net.requires_grad_(False)
            net.encoder.requires_grad_(True)
            net.encoder.blocks[0].requires_grad_(False)
        elif frozen:
            net.encoder.requires_grad_(False)
        if self.is_train and self.opt['dist']:
            # The warm-up leaves the restorer out; see _enter_joint_stage.
            self.opt['find_unused_parameters'] = True
        return super().model_to_device(net)

    def _enter_joint_stage(self) -> None:
        """Wrap the network anew: with every parameter in use, DistributedDataParallel need not look for the others."""
        if self.opt['dist'] and self.opt['find_unused_parameters']:
            self.opt['find_unused_parameters'] = False
            self.net_g = super().model_to_device(self.get_bare_model(self.net_g))

    def _import_contrast(self, path: str) -> None:
        state = read_checkpoint(path).contrast
        if state is None:
            return
        ours = self.contrast.state_dict()
        why = None
        if state['queue'].shape != self.contrast.queue.shape:
            why = (
                f'The queue of {path} holds {state["queue"].shape[1]} keys, train:queue_size is '
                f'{self.contrast.queue.shape[1]}'
            )
        elif 'queue_kinds' in ours and 'queue_kinds' not in state:
            why = f'The queue of {path} does not tell the degradations that positives: kind asks for'
        if why:
            get_root_logger().warning(f'{why}: training starts with a fresh queue.')
            state = {**state, **{key: tensor for key, tensor in ours.items() if key.startswith('queue')}}
        load_strictly(self.contrast, state, path)

    # ---- An iteration --------------------------------------------------------------------------------------------

    def feed_data(self, data: dict[str, Any]) -> None:
        super().feed_data(data)
        self.lq_key = self.to_images(data['key']) if 'key' in data else None

    def parts_with_statistics(self) -> Iterator[nn.Module]:
        yield from super().parts_with_statistics()
        yield self.contrast.key_encoder

    def begin_iteration(self, current_iter: int) -> None:
        self.warming_up = current_iter <= self.encoder_warmup_iter or self.frozen == 'z'
        if not self.warming_up:
            self._enter_joint_stage()
        encoder = self.get_bare_model(self.net_g).encoder
        # Training and validation set the whole network to training.
        if self.frozen == 'z':
            encoder.blocks[0].eval()
            self.contrast.key_encoder.blocks[0].eval()
        elif self.frozen:
            encoder.eval()
        if self.frozen is not True:
            self.contrast.follow(encoder)
        self.new_keys: list[tuple[Tensor, Tensor]] = []

    def losses(self, part: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The contrastive part is float32 throughout."""
        if self.frozen is True:
            return super().losses(part)
        if 'lq_key' not in part or 'kinds' not in part:
            raise InputError(
                'option datasets:train: its items have no key, or no number of their degradation, which AirNetModel '
                'learns from: take MultiDegradationDataset without `contrastive: false`'
            )
        losses = {}
        with self.steps.autocast():
            if self.warming_up:
                encoding = self.net_g(part['lq'], encode=True, restore=False)
            else:
                restored, encoding = self.net_g(part['lq'], encode=True)
                losses = self.restoration_losses(restored, part)
        keys = self.contrast.keys(part['lq_key'])
        criterion = self.cri_warmup if self.warming_up else self.cri_contrast
        kinds = part['kinds'].to(self.device)
        queue, queue_kinds = self.contrast.queue, self.contrast.queue_kinds
        labels = () if queue_kinds is None else (kinds, queue_kinds)
        losses['l_contrast'], logits = criterion(encoding.projection, keys, queue, *labels)
        self.new_keys.append((keys, kinds))
        self.embeddings_seen.append((encoding.embedding.detach(), kinds))
        # Share of queries whose own key, or one of their kind, is the most alike among all keys of the queue.
        nearest = logits.detach().argmax(1)
        right = nearest == 0
        if queue_kinds is not None:
            right = right | (queue_kinds[nearest - 1] == kinds)
        return losses, {'contrast_acc': right.float().mean()}

    def step_taken(self) -> None:
        if self.new_keys:
            keys, kinds = (torch.cat(parts) for parts in zip(*self.new_keys, strict=True))
            self.contrast.enqueue(keys, kinds)  # these keys are no negatives of their own batch
        super().step_taken()

    # ---- Saving, resuming, logging -------------------------------------------------------------------------------

    def training_state(self) -> dict[str, Any]:
        return {**super().training_state(), 'contrast': self.contrast.state_dict()}

    def resume_training(self, resume_state: dict[str, Any]) -> None:
        path = self.opt['path']['resume_state']
        if 'contrast' not in resume_state:
            raise InputError(f'training state {path} holds no key encoder: it was not written by AirNetModel')
        saved, ours = (queue.shape[1] for queue in (resume_state['contrast']['queue'], self.contrast.queue))
        if saved != ours:
            raise InputError(
                f'option train:queue_size: {ours}, but the queue in training state {path} holds {saved} keys. Keep '
                f'{saved}, or start a new run with path:pretrain_network_g.'
            )
        super().resume_training(resume_state)
        load_strictly(self.contrast, resume_state['contrast'], path)

    def more_pictures(self) -> Iterator[tuple[str, Tensor]]:
        if self.is_train and self.embeddings_seen:
            embeddings, kinds = (torch.cat(parts).cpu() for parts in zip(*self.embeddings_seen, strict=True))
            names = list(self.opt['datasets']['train']['degradations'])
            yield 'embedding', draw_embeddings(embeddings, kinds, names)
