"""The contrastive loss against its formula (paper Eq. 3), written out in numpy."""

import numpy as np
import pytest
import torch
from basicsr.losses import build_loss

from airnet_basicsr.errors import InputError


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


def test_keys_of_the_same_kind_count_as_positives_where_asked():
    rng = np.random.default_rng(0)
    query, key, queue = rng.standard_normal((3, 6)), rng.standard_normal((3, 6)), rng.standard_normal((6, 8))
    queue /= np.linalg.norm(queue, axis=0)
    kinds, queue_kinds = np.array([0, 2, 1]), np.array([0, 1, 0, -1, 0, 1, -1, 0])
    expected = 0
    for q, k, kind in zip(query, key, kinds, strict=True):
        q, k = q / np.linalg.norm(q), k / np.linalg.norm(k)
        likely = np.exp(np.concatenate(([q @ k], q @ queue)) / 0.2)
        positive = np.concatenate(([True], queue_kinds == kind))
        expected += -np.log(likely[positive] / likely.sum()).mean() / 3
    criterion = build_loss({'type': 'InfoNCELoss', 'temperature': 0.2, 'positives': 'kind'})
    loss, logits = criterion(*(torch.tensor(array) for array in (query, key, queue, kinds, queue_kinds)))
    assert logits.shape == (3, 9)
    np.testing.assert_allclose(loss.item(), expected, rtol=1e-10)


def test_unknown_positives_are_refused_by_name():
    with pytest.raises(InputError, match='train:contrast_opt:positives'):
        build_loss({'type': 'InfoNCELoss', 'positives': 'kinds'})
