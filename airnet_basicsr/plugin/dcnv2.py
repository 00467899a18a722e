"""The toolbox's compiled DCNv2, for CUDA tensors.

An ordinary installation of the toolbox comes without it. It is then built from the sources that lie in the
installation, once for each version of torch: torch keeps the result in its extension cache (TORCH_EXTENSIONS_DIR).
"""

import contextlib
import importlib
import importlib.util
import shutil
from functools import cache
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from airnet_basicsr.errors import InputError
from airnet_basicsr.network.ops import register_backend

_SOURCES = ('deform_conv_ext.cpp', 'deform_conv_cuda.cpp', 'deform_conv_cuda_kernel.cu')


def _folder() -> Path | None:
    # Not through the package, whose import needs half of the toolbox.
    spec = importlib.util.find_spec('basicsr')
    return Path(spec.submodule_search_locations[0], 'ops', 'dcn') if spec and spec.submodule_search_locations else None


def _installed() -> bool:
    folder = _folder()
    return folder is not None and any(folder.glob('deform_conv_ext*.so'))


def can_run() -> bool:
    """Whether the extension is there, or everything to build it is."""
    from torch.utils.cpp_extension import CUDA_HOME

    folder = _folder()
    buildable = CUDA_HOME is not None and shutil.which('ninja') is not None
    return _installed() or (buildable and folder is not None and all((folder / 'src' / s).is_file() for s in _SOURCES))


def build(name: str = 'airnet_basicsr_dcn') -> ModuleType:
    """Compile the toolbox's sources for this torch and the GPUs present (or TORCH_CUDA_ARCH_LIST), or load what an
    earlier call compiled.

    Raises:
        InputError: if there are no sources or the compiler fails.
    """
    from torch.utils.cpp_extension import get_default_build_root, load

    folder = _folder()
    if folder is None:
        raise InputError('The toolbox (basicsr) is not installed, so its DCNv2 cannot be built. Install basicsr.')
    # A toolkit on the machine may be little more than the compiler: headers and runtime come from the wheels beside
    # torch, which are what torch itself runs on. The linker wants the runtime under its plain name.
    wheels = Path(torch.__file__).parents[1] / 'nvidia'
    headers = [str(path) for path in wheels.glob('*/include')]
    links = Path(get_default_build_root(), 'airnet_basicsr_links')
    links.mkdir(parents=True, exist_ok=True)
    for runtime in wheels.glob('*/lib/libcudart.so.*'):
        with contextlib.suppress(FileExistsError):
            (links / 'libcudart.so').symlink_to(runtime)
    try:
        return load(
            name,
            [str(folder / 'src' / source) for source in _SOURCES],
            extra_cflags=['-DWITH_CUDA'],
            extra_cuda_cflags=['-DWITH_CUDA'],
            extra_include_paths=headers,
            extra_ldflags=[f'-L{links}'],
            with_cuda=True,
        )
    except (ImportError, OSError, RuntimeError) as error:
        raise InputError(
            "The toolbox's DCNv2 could not be compiled. It takes nvcc of the CUDA version that torch was built with "
            f'({torch.version.cuda}), a C++ compiler and ninja; or choose another backend. The compiler said: {error}'
        ) from error


@cache
def extension() -> ModuleType:
    """The compiled extension, built now if need be. Raises InputError as :func:`build` does."""
    if _installed():
        try:
            return importlib.import_module('basicsr.ops.dcn.deform_conv_ext')
        except ImportError:
            pass  # compiled for another torch
    return build()


class _DeformConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, offset, mask, weight, stride, padding, dilation):  # noqa: ANN001, ANN205
        groups = mask.shape[1] // (weight.shape[2] * weight.shape[3])
        ctx.settings = (*weight.shape[2:], *stride, *padding, *dilation, 1, groups, False)
        ctx.save_for_backward(x, offset, mask, weight)
        out = x.new_empty(x.shape[0], weight.shape[0], *offset.shape[2:])
        bias, ones, columns = (x.new_empty(0) for _ in range(3))
        extension().modulated_deform_conv_forward(x, weight, bias, ones, offset, mask, out, columns, *ctx.settings)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_out):  # noqa: ANN001, ANN205
        x, offset, mask, weight = ctx.saved_tensors
        grads = [torch.zeros_like(t) for t in (x, weight, offset, mask)]
        bias, grad_bias, ones, columns = (x.new_empty(0) for _ in range(4))
        extension().modulated_deform_conv_backward(
            x, weight, bias, ones, offset, mask, columns, grads[0], grads[1], grad_bias, *grads[2:],
            grad_out.contiguous(), *ctx.settings,
        )  # fmt: skip
        return grads[0], *grads[2:], grads[1], None, None, None


def forward(x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, *window: tuple[int, int]) -> Tensor:
    """See :func:`airnet_basicsr.network.ops.modulated_deform_conv2d`, whose checked arguments these are. The kernel
    has no bfloat16, and in float16 its coordinates would be too coarse: both are computed in float32."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    tensors = (t.to(dtype).contiguous() for t in (x, offset, mask, weight))
    with torch.cuda.device(x.device):
        return _DeformConv.apply(*tensors, *window).to(x.dtype)


def register() -> None:
    """Make this the backend ``basicsr`` of :mod:`airnet_basicsr.network.ops`."""
    register_backend('basicsr', forward, can_run, float64=True)
