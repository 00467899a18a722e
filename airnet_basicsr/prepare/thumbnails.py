"""Whether two files show one photograph, by their thumbnails: also if one was compressed, resized or is rainy."""

import cv2
import numpy as np

SAME = 0.97
"""Correlation of thumbnails from which on two pictures count as one photograph."""

_SIDE = 16


def thumbnail(image: np.ndarray) -> np.ndarray:
    """A picture (uint8, H x W x 3, BGR) as 256 numbers, float32, of mean 0 and deviation 1."""
    small = cv2.resize(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    small = small.astype(np.float32).ravel()
    return (small - small.mean()) / (small.std() + 1e-3)


def likeness(thumbnails: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Correlations, N x M, of thumbnails (N x 256) with others (M x 256)."""
    return thumbnails @ others.T / thumbnails.shape[1]
