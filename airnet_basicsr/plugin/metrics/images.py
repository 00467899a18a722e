"""What the metrics here are given."""

import numpy as np
import torch
from torch import Tensor


def exact_rgb(rounded: np.ndarray, exact: Tensor | None) -> Tensor:
    """1 x 3 x H x W, float32, RGB, in [0, 1]: ``exact`` (the same, unclipped) where it is known.

    Args:
        rounded: uint8, H x W x 3, BGR.
    """
    if exact is None:
        exact = torch.from_numpy(np.ascontiguousarray(rounded[..., ::-1].transpose(2, 0, 1)))[None] / 255
    return exact.float().clamp(0, 1)
