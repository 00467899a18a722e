"""What the degradation of a picture resembles, and whether the picture is better left alone."""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from airnet_basicsr.errors import InputError

LDA = '_lda'
"""Where a file keeps the projection that :func:`fit` found, beside the kinds."""
CLEAN = 'clean'
MOST = 5  # patches along each side of a picture
_SHRINKAGE = 0.05  # of the covariance, towards its diagonal
# A new picture is further from the means than patches of the reference's photographs: without it, all probabilities
# would be 0 or 1. Chosen on validation pictures, as SURELY_CLEAN.
_CERTAINTY = 0.2
# A picture is left alone where it is clean with this probability at least, or its features lie this many times as far
# from every kind as all but one in a hundred patches of the reference. Chosen on validation pictures: docs/results.md.
SURELY_CLEAN = 0.65
UNKNOWN = 2.0


class Resemblance(NamedTuple):
    """What the degradation of a picture resembles."""

    kind: str
    """Name of the most likely kind; ``noise`` stands for all the noise levels together."""
    confidence: float
    """Its probability, 0 to 1."""
    sigma: float | None
    """For noise its level, on the scale 0 to 255, between those of the reference."""
    probabilities: dict[str, float]
    """Probability of every kind of the reference, by its name there."""
    strangeness: float
    """Distance from the nearest kind, or from between two levels of noise; at most 1 for 99 of 100 patches of the
    reference."""

    @property
    def reason_to_leave_alone(self) -> str | None:
        """Why restoring could only harm the picture, in words; None where it should be restored."""
        if self.probabilities.get(CLEAN, 0) >= SURELY_CLEAN:
            return f'it looks clean ({self.probabilities[CLEAN]:.0%})'
        if self.strangeness >= UNKNOWN:
            return 'it resembles nothing that the network was trained on'
        return None


def fit(groups: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Linear discriminant analysis: the kinds are taken for Gaussians of one covariance (Fisher 1936).

    Args:
        groups: For each kind, N x D: the encoder's pooled features of N patches.

    Returns:
        For each kind its ``mean``, K-1 numbers, in the space that separates the K kinds best, where the covariance is
        the identity; and under ``_lda`` the ``projection`` to that space (D x K-1) and the ``reach`` (see
        :attr:`Resemblance.strangeness`).
    """
    means = torch.stack([group.double().mean(0) for group in groups.values()])
    within = torch.cat([group.double() - mean for group, mean in zip(groups.values(), means, strict=True)])
    covariance = within.T @ within / (len(within) - len(means))
    covariance = (1 - _SHRINKAGE) * covariance + (_SHRINKAGE * covariance.diagonal() + 1e-8).diag()
    # Whitened, then turned to the directions in which the means differ.
    whitening = torch.linalg.inv(torch.linalg.cholesky(covariance)).T
    _, _, directions = torch.linalg.svd((means - means.mean(0)) @ whitening, full_matrices=False)
    projection = whitening @ directions[: len(means) - 1].T
    distances = torch.cat(
        [((g.double() - m) @ projection).norm(dim=1) for g, m in zip(groups.values(), means, strict=True)]
    )
    reference = {name: {'mean': (mean @ projection).float()} for name, mean in zip(groups, means, strict=True)}
    reach = distances.quantile(0.99).float()
    return {**reference, LDA: {'projection': projection.float(), 'reach': reach}}


class Explainer:
    """Says what pictures resemble, by the reference of a checkpoint (``Checkpoint.reference``).

    Args:
        embed: Gives the encoder's pooled features (D) of a patch (3 x h x w, values in [0, 1]).
        reference: For each kind of degradation what :func:`fit` gave (or, in older files, ``embeddings``, N x D),
            ``patch_size`` and, for noise, ``sigma``.
    """

    def __init__(self, embed: Callable[[Tensor], Tensor], reference: Mapping[str, Mapping[str, Tensor]]) -> None:
        kinds = {name: kind for name, kind in reference.items() if name != LDA}
        self.embed = embed
        self.side = min(int(kind['patch_size']) for kind in kinds.values())
        self.sigmas = {name: float(kind['sigma']) for name, kind in kinds.items() if 'sigma' in kind}
        if LDA not in reference:
            reference = fit({name: kind['embeddings'] for name, kind in kinds.items()})
        self.names = list(kinds)
        self.means = torch.stack([reference[name]['mean'] for name in self.names]).double()
        self.projection = reference[LDA]['projection'].double()
        self.reach = float(reference[LDA]['reach'])

    def __call__(self, image: np.ndarray) -> Resemblance:
        """Look at up to five times five patches of ``image`` (as for
        :class:`~airnet_basicsr.restore.restorer.Restorer`). The kind is told from the mean of their features.

        Raises:
            InputError: The encoder gave no numbers.
        """
        embeddings = torch.stack([self.embed(patch) for patch in _patches(image, self.side)]).double()
        if not embeddings.isfinite().all():
            raise InputError('the encoder gave values that are no numbers: the training that made the model went wrong')
        points = embeddings @ self.projection
        # Of the patches' mean, not the mean of their probabilities: a sky alone tells little of the picture.
        squares = torch.cdist(points.mean(0, keepdim=True), self.means)[0].square()
        shares = (-_CERTAINTY * squares / 2).softmax(0).tolist()
        probabilities = dict(zip(self.names, shares, strict=True))
        noise = sum(probabilities[name] for name in self.sigmas)
        others = {name: share for name, share in probabilities.items() if name not in self.sigmas}
        kind, confidence = max([*others.items(), ('noise', noise)], key=lambda item: item[1])
        to_lines, levels = self._noise(points)
        level = float(levels.gather(1, to_lines.argmin(1, keepdim=True)).mean()) if kind == 'noise' else None
        strangeness = float(torch.cat((torch.cdist(points, self.means), to_lines), 1).amin(1).mean()) / self.reach
        return Resemblance(kind, confidence, level, probabilities, strangeness)

    def _noise(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Of each of N points the distances from between two neighbouring levels of noise, and the level there."""
        # Least noise first; a clean picture has none.
        sigmas = ({CLEAN: 0.0} if CLEAN in self.names else {}) | self.sigmas
        names = sorted(sigmas, key=sigmas.__getitem__)
        names += names if len(names) == 1 else []  # a line all the same
        line = self.means[[self.names.index(name) for name in names]]
        levels = torch.tensor([sigmas[name] for name in names], dtype=torch.double)
        starts, along = line[:-1], line.diff(dim=0)
        share = ((points[:, None] - starts) * along).sum(2) / along.square().sum(1).clamp_min(1e-12)
        share = share.clamp(0, 1)
        between = starts + share[..., None] * along
        return (points[:, None] - between).norm(dim=2), levels[:-1] + share * levels.diff()


def _patches(image: np.ndarray, side: int) -> Iterator[Tensor]:
    """Up to MOST times MOST patches of side x side, spread over the picture: all of it, where it is small.

    Values beyond black and white, which only noise in floating point has, are clipped, as in the reference.
    """
    image = np.asarray(image)
    image = image[..., None] if image.ndim == 2 else image
    white = 1 if image.dtype == np.float32 else np.iinfo(image.dtype).max
    places = []
    for length in image.shape[:2]:
        count = min(MOST, -(-length // side))
        places.append(np.linspace(0, max(0, length - side), count).round().astype(int).tolist())
    for top in places[0]:
        for left in places[1]:
            part = image[top : top + side, left : left + side, : 3 if image.shape[2] > 2 else 1]
            part = np.broadcast_to(np.float32(part) / np.float32(white), (*part.shape[:2], 3))
            yield torch.from_numpy(part.transpose(2, 0, 1).copy()).clamp_(0, 1)
