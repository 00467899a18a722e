"""A picture of embeddings for the training log."""

import cv2
import numpy as np
import torch
from torch import Tensor

SIDE = 480
COLOURS = (
    (31, 119, 180),
    (255, 127, 14),
    (44, 160, 44),
    (214, 39, 40),
    (148, 103, 189),
    (140, 86, 75),
    (127, 127, 127),
)


def draw_embeddings(embeddings: Tensor, kinds: Tensor, names: list[str]) -> Tensor:
    """The two first principal components of embeddings, coloured by degradation.

    Args:
        embeddings: N x C, N at least 2.
        kinds: N numbers of degradations.
        names: What the degradations are called.

    Returns:
        uint8, 3 x 480 x 480, RGB.
    """
    centred = embeddings.float() - embeddings.float().mean(0)
    directions = torch.linalg.svd(centred, full_matrices=False).Vh[:2]
    points = (centred @ directions.T).numpy()
    low, high = points.min(0), points.max(0)
    places = 20 + (SIDE - 40) * (points - low) / np.maximum(high - low, 1e-12)
    picture = np.full((SIDE, SIDE, 3), 255, np.uint8)
    for (x, y), kind in zip(places.astype(int).tolist(), kinds.tolist(), strict=True):
        cv2.circle(picture, (x, y), 3, COLOURS[kind % len(COLOURS)], -1, cv2.LINE_AA)
    for kind, name in enumerate(names):
        place = (8, 18 + 18 * kind)
        cv2.putText(picture, name, place, cv2.FONT_HERSHEY_SIMPLEX, 0.5, COLOURS[kind % len(COLOURS)], 1, cv2.LINE_AA)
    return torch.from_numpy(picture).permute(2, 0, 1)
