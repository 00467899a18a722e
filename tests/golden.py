"""Golden numbers of the official network: its weights by recipe, as an official checkpoint."""

import json
import zlib
from pathlib import Path

import numpy as np
import torch

FIXTURES = Path(__file__).parent / 'fixtures'


def official_checkpoint() -> dict[str, torch.Tensor]:
    """The 584 tensors of the official all-in-one checkpoint, filled by the recipe that the golden numbers used."""
    described = json.loads((FIXTURES / 'official_state_dict.json').read_text())
    return {name: _fill(name, entry['shape']) for name, entry in described.items()}


def _fill(name: str, shape: list[int]) -> torch.Tensor:
    if name.endswith(('num_batches_tracked', 'queue_ptr')):
        return torch.zeros(shape, dtype=torch.int64)
    normal = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape or (1,))
    if name.endswith('queue'):
        normal /= np.linalg.norm(normal, axis=0, keepdims=True)
    elif name.endswith('running_mean'):
        normal *= 0.1
    elif name.endswith('running_var'):
        normal = 1 + 0.1 * np.abs(normal)
    elif name.endswith('.bias'):
        normal *= 0.05
    elif len(shape) == 1:
        normal = 1 + 0.1 * normal
    else:
        normal *= 0.5 / np.sqrt(np.prod(shape[1:]))
    return torch.from_numpy(normal.astype(np.float32)).reshape(shape)
