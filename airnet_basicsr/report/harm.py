"""Harm: how many pictures a restoration makes worse than they came, and by how much."""

import math
from dataclasses import dataclass
from typing import Any

MARGIN = 0.05
"""In dB: a loss below it is not counted."""
CAP = 60.0
"""In dB: from here on a picture counts as equal to the clean one."""


@dataclass(frozen=True)
class Harm:
    """What restoring did to the pictures of a set.

    Attributes:
        count: How many pictures were compared.
        share: Of these the part that lost more than :data:`MARGIN` dB of PSNR.
        worst: The largest loss in dB; negative if every picture gained.
        worst_image: The picture that lost it.
        given_back: If all inputs were clean already, the mean PSNR of what came back, each capped at :data:`CAP` dB;
            else None.
        least: The lowest of these.
    """

    count: int
    share: float
    worst: float
    worst_image: str
    given_back: float | None = None
    least: float | None = None

    @classmethod
    def of(cls, restored: dict[str, float], degraded: dict[str, float]) -> 'Harm | None':
        """Of PSNRs by picture; None where no picture has both. PSNRs count up to :data:`CAP`."""
        both = {
            name: (min(value, CAP), min(degraded[name], CAP))
            for name, value in restored.items()
            if name in degraded and not math.isnan(value) and not math.isnan(degraded[name])
        }
        if not both:
            return None
        losses = {name: before - after for name, (after, before) in both.items()}
        worst_image = max(losses, key=losses.__getitem__)
        share = sum(loss > MARGIN for loss in losses.values()) / len(losses)
        back = [after for after, before in both.values() if before == CAP]
        clean = len(back) == len(both)
        return cls(
            len(both),
            share,
            losses[worst_image],
            worst_image,
            sum(back) / len(back) if clean else None,
            min(back) if clean else None,
        )

    def __str__(self) -> str:
        if self.given_back is not None:
            return (
                f'{self.count} clean pictures come back at {self.given_back:.2f} dB on average (capped at {CAP:g}), '
                f'the worst at {self.least:.2f} dB ({self.worst_image})'
            )
        told = f'{self.share:.1%} of {self.count} pictures made worse by more than {MARGIN} dB'
        if self.worst > 0:
            return f'{told}; the worst loss is {self.worst:.2f} dB ({self.worst_image})'
        return f'{told}; the smallest gain is {-self.worst:.2f} dB ({self.worst_image})'

    def plain(self) -> dict[str, Any]:
        """As JSON knows it."""
        return {
            'images': self.count,
            'share_made_worse': self.share,
            'worst_loss': self.worst,
            'worst_image': self.worst_image,
            'clean_given_back': self.given_back,
            'clean_least': self.least,
        }
