"""The contrastive loss of the degradation encoder."""

from typing import Literal

import torch
from basicsr.utils.registry import LOSS_REGISTRY
from torch import Tensor, nn
from torch.nn import functional as F

from airnet_basicsr.errors import InputError


@LOSS_REGISTRY.register()
class InfoNCELoss(nn.Module):
    """Cross-entropy of telling a query's own key among the keys of a queue (paper Eq. 3; MoCo).

    Args:
        loss_weight: Factor of the loss: 0.1 in the official release, 1 in the paper (Eq. 1).
        temperature: Divisor of the cosine similarities.
        positives: ``image``: the query's own key, as in the paper. ``kind``: also every key in the queue that is of the
            same degradation, each counting the same (Khosla et al. 2020, supervised contrastive learning, Eq. 2).
    """

    def __init__(
        self, loss_weight: float = 1.0, temperature: float = 0.07, positives: Literal['image', 'kind'] = 'image'
    ) -> None:
        super().__init__()
        if positives not in ('image', 'kind'):
            raise InputError(f'option train:contrast_opt:positives: {positives}, which must be image or kind')
        self.loss_weight = loss_weight
        self.temperature = temperature
        self.positives = positives

    def forward(
        self, query: Tensor, key: Tensor, queue: Tensor, kinds: Tensor | None = None, queue_kinds: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Loss and logits.

        Args:
            query: B x C projections of the query crops; scaled to unit length here.
            key: B x C, row by row the key of the same image's other crop; scaled to unit length here.
            queue: C x K earlier keys of unit length, the negatives.
            kinds: For ``positives: kind``, B numbers: the degradation of each query.
            queue_kinds: For ``positives: kind``, K numbers: the degradation of each key in the queue.

        Returns:
            The weighted loss (a scalar) and the logits, B x (1 + K); class 0 is the query's own key.
        """
        query, key = F.normalize(query), F.normalize(key)
        logits = torch.cat(((query * key).sum(1, keepdim=True), query @ queue), 1) / self.temperature
        target = torch.zeros_like(logits)
        target[:, 0] = 1
        if self.positives == 'kind':
            assert kinds is not None, 'kinds and queue_kinds go with positives: kind'
            target[:, 1:] = kinds[:, None] == queue_kinds
            target = target / target.sum(1, keepdim=True)
        return self.loss_weight * F.cross_entropy(logits, target), logits
