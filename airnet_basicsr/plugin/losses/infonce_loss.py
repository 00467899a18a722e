"""The contrastive loss of the degradation encoder."""

import torch
from basicsr.utils.registry import LOSS_REGISTRY
from torch import Tensor, nn
from torch.nn import functional as F


@LOSS_REGISTRY.register()
class InfoNCELoss(nn.Module):
    """Cross-entropy of telling a query's own key among the keys of a queue (paper Eq. 3; MoCo).

    Args:
        loss_weight: Factor of the loss: 0.1 in the official release, 1 in the paper (Eq. 1).
        temperature: Divisor of the cosine similarities.
    """

    def __init__(self, loss_weight: float = 1.0, temperature: float = 0.07) -> None:
        super().__init__()
        self.loss_weight = loss_weight
        self.temperature = temperature

    def forward(self, query: Tensor, key: Tensor, queue: Tensor) -> tuple[Tensor, Tensor]:
        """Loss and logits.

        Args:
            query: B x C projections of the query crops; scaled to unit length here.
            key: B x C, row by row the key of the same image's other crop; scaled to unit length here.
            queue: C x K earlier keys of unit length, the negatives.

        Returns:
            The weighted loss (a scalar) and the logits, B x (1 + K); the right class is 0 in every row.
        """
        query, key = F.normalize(query), F.normalize(key)
        logits = torch.cat(((query * key).sum(1, keepdim=True), query @ queue), 1) / self.temperature
        target = torch.zeros(len(logits), dtype=torch.long, device=logits.device)
        return self.loss_weight * F.cross_entropy(logits, target), logits
