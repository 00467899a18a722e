"""The contrastive loss against its formula (paper Eq. 3), written out in numpy."""

import numpy as np
import torch
from basicsr.losses import build_loss


def test_loss_and_gradient_follow_the_formula():
    rng = np.random.default_rng(0)
    query, key, queue = rng.standard_normal((4, 6)), rng.standard_normal((4, 6)), rng.standard_normal((6, 10))
    queue /= np.linalg.norm(queue, axis=0)

    def formula(query):
        q, k = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (query, key))
        positive, negative = np.exp((q * k).sum(1) / 0.2), np.exp(q @ queue / 0.2)
        return 0.3 * -np.log(positive / (positive + negative.sum(1))).mean()

    criterion = build_loss({'type': 'InfoNCELoss', 'loss_weight': 0.3, 'temperature': 0.2})
    tensor = torch.tensor(query, requires_grad=True)
    loss, logits = criterion(tensor, torch.tensor(key), torch.tensor(queue))
    loss.backward()
    assert logits.shape == (4, 11)
    np.testing.assert_allclose(loss.item(), formula(query), rtol=1e-10)
    step = np.zeros_like(query)
    step[1, 2] = 1e-6
    np.testing.assert_allclose(
        tensor.grad[1, 2].item(), (formula(query + step) - formula(query - step)) / 2e-6, rtol=1e-5
    )
