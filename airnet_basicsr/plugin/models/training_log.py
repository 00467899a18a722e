"""What the log of a training run shows beside the losses."""

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, distributed

PICTURES = 4  # of each validation set, shown in TensorBoard


class TrainingLog:
    """Images per second, the loss of each degradation, and pictures of the validation sets."""

    def __init__(self, opt: Mapping[str, Any], device: torch.device) -> None:
        self.world_size, self.every, self.device = opt['world_size'], opt['logger']['print_freq'], device
        self.degradations = list((opt['datasets'].get('train') or {}).get('degradations') or {})
        self.pictures: list[Tensor] = []
        self._ended: float | None = None

    def begin(self, current_iter: int) -> None:
        """A new iteration, of whose losses those of each degradation are asked for where its line gets printed."""
        self._sums = torch.zeros(2, len(self.degradations), device=self.device)
        self._wanted = bool(self.degradations) and current_iter % self.every == 0

    @torch.no_grad()
    def add(self, loss: Callable[[Tensor, Tensor], Tensor], restored: Tensor, clean: Tensor, kinds: Tensor) -> None:
        """Part of a batch; ``kinds`` are its images' degradations, by their places in the option file."""
        if not self._wanted:
            return
        of_each = torch.stack([loss(*pair) for pair in zip(restored.split(1), clean.split(1), strict=True)])
        self._sums.index_add_(1, kinds.to(self.device), torch.stack((of_each, torch.ones_like(of_each))))

    def end(self, images: int) -> dict[str, float]:
        """The iteration's figures by name."""
        figures = {}
        if self._wanted:
            if distributed.is_available() and distributed.is_initialized():
                distributed.all_reduce(self._sums)
            for name, total, count in zip(self.degradations, *self._sums.tolist(), strict=True):
                if count:
                    figures[f'l_pix_{name}'] = total / count
        now = time.monotonic()
        if self._ended is not None:
            figures['images_per_s'] = images * self.world_size / (now - self._ended)
        self._ended = now
        return figures

    def show(self, visuals: Mapping[str, Tensor]) -> None:
        """Keep an image of a validation set, degraded, restored and clean (1 x 3 x H x W), if it is among the first."""
        if len(self.pictures) < PICTURES:
            shown = [visuals[name][0] for name in ('lq', 'result', 'gt') if name in visuals]
            if len({picture.shape for picture in shown}) == 1:
                self.pictures.append(torch.cat([picture.clamp(0, 1) for picture in shown], dim=2))

    def write(self, tb_logger: Any, dataset: str, current_iter: int, more: Iterable[tuple[str, Tensor]] = ()) -> None:
        """Write the pictures of ``dataset`` to TensorBoard, if there is one, and ``more`` by name; then forget them."""
        if tb_logger:
            for index, picture in enumerate(self.pictures):
                tb_logger.add_image(f'{dataset}/{index} (degraded, restored, clean)', picture, current_iter)
            for name, picture in more:
                tb_logger.add_image(name, picture, current_iter)
        self.pictures = []
