"""Muon for the convolutions of a network, Adam for its other parameters."""

from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor, nn

NARROWEST = 16  # channels; a convolution from or to fewer (an image) is left to Adam


class MuonAdam(torch.optim.Adam):
    """Adam, but for convolutions of many channels: those weights are matrices to torch.optim.Muon.

    Muon (Jordan et al. 2024) makes the steps of a matrix orthogonal; its rate is scaled such that steps are as long as
    Adam's (Liu et al. 2025), so one rate serves both.

    Args:
        params: All parameters.
        matrices: Those of them for Muon, out channels x (all else).
        kwargs: Adam's arguments (lr, betas and so on). Of ``weight_decay``, Muon's is decoupled from the gradient.
    """

    def __init__(self, params: Iterable[nn.Parameter], matrices: Iterable[nn.Parameter], **kwargs: Any) -> None:
        super().__init__(params, **kwargs)
        self.matrices = list(matrices)
        # The same memory in two dimensions, which is all that torch's Muon takes.
        self.flat = [nn.Parameter(_rows(matrix.detach(), matrix)) for matrix in self.matrices]
        self.muon = torch.optim.Muon(
            self.flat, weight_decay=self.defaults['weight_decay'], adjust_lr_fn='match_rms_adamw'
        )

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        for matrix, flat in zip(self.matrices, self.flat, strict=True):
            flat.grad = None if matrix.grad is None else _rows(matrix.grad, matrix)
            matrix.grad = None  # Adam leaves out what has no gradient
        self.muon.param_groups[0]['lr'] = self.param_groups[0]['lr']
        self.muon.step()
        return super().step(closure)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), 'muon': self.muon.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.muon.load_state_dict(state_dict['muon'])
        super().load_state_dict({key: value for key, value in state_dict.items() if key != 'muon'})


def _rows(tensor: Tensor, matrix: Tensor) -> Tensor:
    """``tensor`` in two dimensions, its columns in the order in which ``matrix`` has them in memory.

    To Muon the order of columns makes no difference.
    """
    return (tensor if matrix.is_contiguous() else tensor.permute(0, 2, 3, 1)).reshape(len(tensor), -1)


def convolutions(net: nn.Module) -> list[nn.Parameter]:
    """The trained convolution weights of a network that Muon suits.

    Not those that give the offsets of deformable convolutions: there a row is a coordinate, on a scale of its own.
    """
    return [
        parameter
        for name, parameter in net.named_parameters()
        if parameter.requires_grad
        and parameter.dim() == 4
        and min(parameter.shape[:2]) >= NARROWEST
        and 'offset' not in name
    ]
