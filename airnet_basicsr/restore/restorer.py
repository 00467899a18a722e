"""Restoring one picture of any size in bounded memory: overlapping tiles, precision, self-ensemble."""

import math
from collections.abc import Callable
from functools import partial
from os import PathLike, fspath
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from airnet_basicsr.errors import InputError
from airnet_basicsr.network import recognise
from airnet_basicsr.network.checkpoints import preferred_network, read_checkpoint
from airnet_basicsr.network.ops.memory import free_memory
from airnet_basicsr.network.traits import to_channels_last
from airnet_basicsr.restore.explain import Explainer, Resemblance
from airnet_basicsr.restore.tiles import SMALLEST_TILE, Tiler

# The model taken where none is named; its card is the README.md beside it.
DEFAULT_MODEL = Path(__file__).parents[1] / 'weights' / 'airnet_small.safetensors'

DTYPES = {'float32': torch.float32, 'bfloat16': torch.bfloat16, 'float16': torch.float16}
# Working memory of the network on one tile, in bytes: less speed is lost to overlaps, but beyond this hardly more.
CPU_MEMORY = 900 * 2**20
GPU_MEMORY = 8 * 2**30


class Restorer:
    """Restores pictures with AirNet, or a network that it is compared with.

        restored = Restorer()(image)

    Args:
        model: A checkpoint of ours or of the official release, or an ONNX file that
            :mod:`airnet_basicsr.network.onnx_files` wrote. Default: the small network that ships with the package.
        device: ``cpu``, ``cuda``, ``cuda:1``, ...; None takes the GPU where there is one.
        dtype: Precision of the network: ``float32``, ``bfloat16`` or ``float16``.
        tile: Work on at most tile x tile pixels at once; None chooses it from the free memory. A picture that has no
            more is done whole.
        self_ensemble: Average over the eight flips and rotations: eight times the work, slightly better.
        strength: 1 gives the network's output, 0 the picture bit for bit; between them the two are blended.
        leave_alone: Give a picture back as it is where the encoder takes it for clean, or where it resembles nothing
            that the network was trained on. None: where the model holds the reference embeddings that tell.
        sigma: The noise level, on the scale 0 to 255, for a network that is told it (FFDNet), and only for such a one.

    Raises:
        InputError: The model cannot be used, or an argument has no sense.
    """

    def __init__(
        self,
        model: str | PathLike = DEFAULT_MODEL,
        *,
        device: str | torch.device | None = None,
        dtype: str = 'float32',
        tile: int | None = None,
        self_ensemble: bool = False,
        strength: float = 1.0,
        leave_alone: bool | None = None,
        sigma: float | None = None,
    ) -> None:
        self.source = fspath(model)
        if dtype not in DTYPES:
            raise InputError(f'dtype {dtype!r} is unknown: choose one of {", ".join(DTYPES)}')
        if tile is not None and tile < SMALLEST_TILE:
            raise InputError(f'tile {tile} is too small: choose at least {SMALLEST_TILE} pixels')
        try:
            self.device = torch.device(device or ('cuda' if torch.cuda.is_available() else 'cpu'))
            torch.empty(0, device=self.device)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).partition('\n')[0]
            raise InputError(f'device {device!r} cannot be used ({reason}): choose cpu, or cuda with a GPU') from error
        if not 0 <= strength <= 1:
            raise InputError(f'strength {strength} is out of range: choose from 0 (the picture itself) to 1')
        self.dtype, self.tile, self.self_ensemble, self.strength = DTYPES[dtype], tile, self_ensemble, strength
        self.explainer: Explainer | None = None
        self.leave_alone = False
        if self.source.lower().endswith('.onnx'):
            from airnet_basicsr.network.onnx_files import OnnxNetwork

            self._check_sigma(sigma, wanted=False)
            if dtype != 'float32':
                raise InputError(f'an ONNX file is computed in float32: leave {dtype} out, or take the checkpoint')
            self.network: Callable[[Tensor], Tensor] = OnnxNetwork(self.source, self.device)
            self.traits = self.network.traits
            if leave_alone:
                self.check_reference()
            return
        checkpoint = read_checkpoint(self.source)
        described = recognise.load(preferred_network(checkpoint), f'checkpoint {self.source}')
        if described.input_channels != 3:
            raise InputError(f'checkpoint {self.source} is for {described.input_channels} channels, not for RGB')
        self._check_sigma(sigma, described.traits.wants_sigma)
        network = to_channels_last(described.model.to(self.device))
        self.network = network if sigma is None else partial(network, sigma=sigma)
        self.traits = described.traits
        if checkpoint.reference and described.can_embed:
            self.explainer = Explainer(self._embed, checkpoint.reference)
        if leave_alone:
            self.check_reference()
        self.leave_alone = self.explainer is not None if leave_alone is None else leave_alone

    def _check_sigma(self, sigma: float | None, wanted: bool) -> None:
        if wanted and sigma is None:
            raise InputError(f'{self.source} is a network that is told the noise level: give it (--sigma 25)')
        if not wanted and sigma is not None:
            raise InputError(f'{self.source} is a network that is told no noise level: leave sigma (--sigma) out')
        if sigma is not None and not 0 <= sigma <= 255:
            raise InputError(f'sigma (--sigma) {sigma:g}: expected a noise level from 0 to 255')

    def __call__(self, image: np.ndarray, progress: Callable[[int, int], None] | None = None) -> np.ndarray:
        """Restore ``image``, or give it back as it is where :meth:`reason_to_leave_alone` has a reason.

        Arguments, result and errors are those of :meth:`restore`.
        """
        image = _checked(image)
        return image.copy() if self.reason_to_leave_alone(image) else self.restore(image, progress)

    def restore(self, image: np.ndarray, progress: Callable[[int, int], None] | None = None) -> np.ndarray:
        """Restore ``image``, whatever it resembles.

        Args:
            image: H x W (grey) or H x W x C with C = 1 to 4 (grey, grey and alpha, RGB, RGB and alpha), of uint8,
                uint16, or float32 in [0, 1]. Alpha is handed on as it is.
            progress: Called with the tiles done so far and in all, after each tile.

        Returns:
            An array of the same shape and dtype, within its range.

        Raises:
            InputError: The array is no such image, memory does not suffice for the smallest tile, or the network gave
                no numbers.
        """
        image = _checked(image)
        if self.strength == 0:
            return image.copy()
        channels = 1 if image.ndim == 2 else image.shape[2]
        planes = image.reshape(*image.shape[:2], channels)
        colours = planes[..., : 3 if channels > 2 else 1]
        restored = self._restore(colours, progress)
        if colours.shape[2] < channels:
            restored = np.concatenate((restored, planes[..., colours.shape[2] :]), 2)
        return restored.reshape(image.shape)

    def _tile_that_fits(self) -> int:
        per_pixel = self.traits.bytes_per_pixel
        if self.device.type == 'cuda':
            memory = min(GPU_MEMORY, torch.cuda.mem_get_info(self.device)[0] // 2)
            per_pixel *= 2  # its operators hold columns beside the features
        else:
            memory = min(CPU_MEMORY, free_memory() // 2)
        return max(SMALLEST_TILE, math.isqrt(memory // per_pixel))

    def _restore(self, colours: np.ndarray, progress: Callable[[int, int], None] | None) -> np.ndarray:
        """H x W x 1 or 3, restored band by band, so that only bands of tiles are ever held as float."""
        white = np.float32(1 if colours.dtype == np.float32 else np.iinfo(colours.dtype).max)
        out = np.empty_like(colours)

        def part(rows: slice, columns: slice) -> Tensor:
            pixels = colours[rows, columns].astype(np.float32) / white
            pixels = np.broadcast_to(pixels, (*pixels.shape[:2], 3))
            return torch.from_numpy(np.array(pixels, order='C')).permute(2, 0, 1)[None]

        def keep(rows: slice, band: Tensor) -> None:
            pixels = band[0].permute(1, 2, 0).numpy()
            if colours.shape[2] == 1:
                pixels = pixels.mean(2, keepdims=True)
            if self.strength < 1:
                before = colours[rows].astype(np.float32) / white
                pixels = before + np.float32(self.strength) * (pixels - before)
            pixels = pixels.clip(0, 1)
            out[rows] = pixels if out.dtype == np.float32 else np.rint(pixels * white)

        side = self.tile or self._tile_that_fits()
        Tiler(self._run, self.traits.overlap, side)(colours.shape[:2], part, keep, progress)
        return out

    def _run(self, x: Tensor) -> Tensor:
        """The network on 1 x 3 x h x w of the host's memory, averaged over the flips and rotations where asked."""
        x = x.to(self.device)
        if not self.self_ensemble:
            out = self._forward(x)
        else:
            out = torch.zeros_like(x)
            for turns in range(4):
                for flip in (False, True):
                    turned = torch.rot90(x.flip(3) if flip else x, turns, (2, 3))
                    back = torch.rot90(self._forward(turned), -turns, (2, 3))
                    out += (back.flip(3) if flip else back) / 8
        if not out.isfinite().all():
            raise InputError(
                f'{self.source} gave values that are no numbers'
                + (': float16 may be too narrow for it, take bfloat16' if self.dtype == torch.float16 else '')
            )
        return out.cpu()

    def _forward(self, x: Tensor) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        lower = self.dtype != torch.float32
        with torch.inference_mode(), torch.autocast(self.device.type, self.dtype if lower else None, enabled=lower):
            return self.network(x).float()

    def check_reference(self) -> Explainer:
        """What explains pictures; raises InputError unless the model holds what that needs."""
        if self.explainer is None:
            raise InputError(
                f'{self.source} holds no reference embeddings to explain pictures by: add them with '
                '`airnet model reference`'
            )
        return self.explainer

    def explain(self, image: np.ndarray) -> Resemblance:
        """Say what the degradation of ``image`` (as for calling) resembles.

        Linear discriminant analysis of the encoder's pooled features, learnt from the reference. Its probabilities are
        over up to 25 patches.

        Raises:
            InputError: The checkpoint holds no reference embeddings.
        """
        return self.check_reference()(image)

    def reason_to_leave_alone(self, image: np.ndarray) -> str | None:
        """Why calling gives ``image`` back as it is, in words; None where it is restored."""
        return self.check_reference()(image).reason_to_leave_alone if self.leave_alone else None

    def _embed(self, patch: Tensor) -> Tensor:
        return embed_patch(self.network, patch, self.device)


def embed_patch(network: torch.nn.Module, patch: Tensor, device: torch.device) -> Tensor:
    """The encoder's pooled features (4C) of one patch (3 x h x w, values in [0, 1])."""
    with torch.inference_mode():
        return network(patch[None].to(device), encode=True, restore=False).embedding[0].cpu()


def _checked(image: np.ndarray) -> np.ndarray:
    image = np.asarray(image)
    shape_fits = image.ndim == 2 or (image.ndim == 3 and 1 <= image.shape[2] <= 4)
    if not shape_fits or 0 in image.shape or image.dtype not in (np.uint8, np.uint16, np.float32):
        raise InputError(
            f'an image of shape {image.shape} and dtype {image.dtype} cannot be restored: expected H x W or '
            'H x W x C with C from 1 to 4, of uint8, uint16 or float32'
        )
    return image
