"""BasicSR's compiled DCNv2, for CUDA tensors: the backend ``basicsr``, which 'auto' takes on a GPU.

BasicSR is usually installed without the extension. It is then built from the sources that lie in the installation, at
the first use for a version of torch and a kind of GPU, and kept in torch's extension cache (``TORCH_EXTENSIONS_DIR``).
"""

import contextlib
import importlib
import importlib.util
import logging
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from airnet_basicsr.errors import InputError
from airnet_basicsr.network.ops import register_backend

_SOURCES = ('deform_conv_ext.cpp', 'deform_conv_cuda.cpp', 'deform_conv_cuda_kernel.cu')
_LARGEST = 2**31 - 1  # its kernels count in 32 bits
# pip's ninja is not on PATH where the environment was not activated.
_SCRIPTS = str(Path(sys.executable).parent)


def _folder() -> Path | None:
    # Not through the package, whose import needs half of BasicSR.
    spec = importlib.util.find_spec('basicsr')
    return Path(spec.submodule_search_locations[0], 'ops', 'dcn') if spec and spec.submodule_search_locations else None


def _installed() -> bool:
    folder = _folder()
    return folder is not None and any(folder.glob('deform_conv_ext*.so'))


def _cached(name: str | None = None) -> Path:
    """Where the build for this torch and the GPUs present (or TORCH_CUDA_ARCH_LIST) is kept."""
    from torch.utils.cpp_extension import get_default_build_root

    if name is None:
        present = {torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())}
        kinds = os.environ.get('TORCH_CUDA_ARCH_LIST') or '_'.join(f'{a}{b}' for a, b in sorted(present))
        python = f'py{sys.version_info.major}{sys.version_info.minor}'
        name = re.sub(r'\W+', '_', f'airnet_basicsr_dcnv2_{python}_torch{torch.__version__}_sm{kinds}')
    return Path(os.environ.get('TORCH_EXTENSIONS_DIR') or get_default_build_root(), name)


def _obstacle() -> str | None:
    """What keeps the extension from being built here; None: nothing that shows before the compiler runs."""
    from torch.utils.cpp_extension import CUDA_HOME

    folder = _folder()
    if folder is None or not all((folder / 'src' / source).is_file() for source in _SOURCES):
        return 'BasicSR lies here without the sources of its DCNv2'
    if CUDA_HOME is None:
        return f"there is no nvcc, CUDA's compiler: install the CUDA toolkit {torch.version.cuda} or set CUDA_HOME"
    if shutil.which('ninja') is None and shutil.which('ninja', path=_SCRIPTS) is None:
        return 'ninja is missing: pip install ninja'
    if not any(shutil.which(compiler) for compiler in (os.environ.get('CXX', 'c++'), 'cl')):
        return 'there is no C++ compiler'
    return None


@cache
def can_run() -> bool:
    """Whether the extension is there, or everything to build it is."""
    return _installed() or (_cached() / 'complete').is_file() or _obstacle() is None


def build(name: str | None = None) -> ModuleType:
    """Compile BasicSR's sources for this torch and the GPUs present (or TORCH_CUDA_ARCH_LIST), or load what was
    compiled before. One process compiles, others that want the same wait for it. The log says when it begins and ends.

    Raises:
        InputError: It cannot be compiled here.
    """
    logger = logging.getLogger('basicsr')
    folder = _cached(name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock, waited = FileLock(folder / 'building'), False
        try:
            lock.acquire(timeout=0)
        except Timeout:
            logger.info(f"Waiting for another process that builds BasicSR's DCNv2 in {folder}.")
            waited = True
            lock.acquire()
    except (OSError, NotImplementedError) as error:
        raise InputError(
            f"BasicSR's DCNv2 cannot be built in {folder} ({error}): set TORCH_EXTENSIONS_DIR to a folder to keep it in"
        ) from error
    failure = folder / 'failed.txt'
    try:
        if (folder / 'complete').is_file():
            return _load(folder)
        if waited and failure.is_file():
            raise InputError(failure.read_text())  # the other process has tried the same
        module = _compile(folder)
        failure.unlink(missing_ok=True)
        (folder / 'complete').touch()
        return module
    except InputError as error:
        failure.write_text(str(error))
        raise
    finally:
        lock.release()


def _compile(folder: Path) -> ModuleType:
    from torch.utils.cpp_extension import load

    obstacle, installed = _obstacle(), _folder()
    if obstacle is not None or installed is None:
        raise InputError(f"BasicSR's DCNv2 cannot be built: {obstacle}.")
    logger = logging.getLogger('basicsr')
    logger.info("Building BasicSR's DCNv2 for this GPU with nvcc: once, about a minute.")
    sources = installed / 'src'
    # A process that was killed here left torch's own lock, for which torch would wait without end. Ours is held now.
    (folder / 'lock').unlink(missing_ok=True)
    # A toolkit on the machine may be little more than the compiler: headers and runtime come from the wheels beside
    # torch, which are what torch itself runs on. The linker wants the runtime under its plain name.
    wheels = Path(torch.__file__).parents[1] / 'nvidia'
    for runtime in wheels.glob('*/lib/libcudart.so.*'):
        with contextlib.suppress(FileExistsError):
            (folder / 'libcudart.so').symlink_to(runtime)
    started = time.monotonic()
    try:
        with _scripts_on_path():
            module = load(
                folder.name,
                [str(sources / source) for source in _SOURCES],
                extra_cflags=['-DWITH_CUDA'],
                extra_cuda_cflags=['-DWITH_CUDA'],
                extra_include_paths=[str(path) for path in wheels.glob('*/include')],
                extra_ldflags=[f'-L{folder}'],
                build_directory=str(folder),
                with_cuda=True,
            )
    except (ImportError, OSError, RuntimeError) as error:
        log = folder / 'compiler.log'
        log.write_text(str(error))
        said = next((line.strip() for line in str(error).splitlines() if 'error:' in line), str(error).splitlines()[0])
        raise InputError(
            f"BasicSR's DCNv2 could not be compiled. It takes nvcc of the CUDA version that torch was built with "
            f'({torch.version.cuda}), a C++ compiler and ninja. The compiler said: {said} (all of it: {log})'
        ) from error
    logger.info(f"Built BasicSR's DCNv2 in {time.monotonic() - started:.0f} s; kept in {folder}.")
    return module


@contextlib.contextmanager
def _scripts_on_path() -> Iterator[None]:
    before = os.environ.get('PATH', '')
    os.environ['PATH'] = os.pathsep.join((before, _SCRIPTS))
    try:
        yield
    finally:
        os.environ['PATH'] = before


def _load(folder: Path) -> ModuleType:
    library = next(path for path in folder.glob(f'{folder.name}.*') if path.suffix in ('.so', '.pyd'))
    spec = importlib.util.spec_from_file_location(folder.name, library)
    assert spec is not None and spec.loader is not None, 'as its suffix says'
    try:
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    except ImportError as error:
        raise InputError(f"BasicSR's DCNv2 in {folder} cannot be loaded ({error}): remove the folder") from error
    return module


def _computes(module: ModuleType, device: str = 'cuda') -> bool:
    """Whether its kernels run on this GPU. Those compiled for another kind only print so and leave zeros."""
    x, weight, mask = (torch.full((1, 1, 1, 1), value, device=device) for value in (3.0, 2.0, 0.5))
    out, none, offset = torch.zeros_like(x), x.new_empty(0), x.new_zeros(1, 2, 1, 1)
    window = (1, 1, 1, 1, 0, 0, 1, 1)
    module.modulated_deform_conv_forward(x, weight, none, none, offset, mask, out, none, *window, 1, 1, False)
    return out.item() == 3


@cache
def extension() -> ModuleType:
    """The compiled extension: the installed one, else the one built before, else built now.

    Raises:
        InputError: There is none, and it cannot be built; the message says why and what to do.
    """
    if _installed():
        with contextlib.suppress(ImportError):  # compiled for another torch
            module = importlib.import_module('basicsr.ops.dcn.deform_conv_ext')
            if _computes(module):
                return module
        logging.getLogger('basicsr').warning(
            'The DCNv2 that BasicSR was installed with does not run here: it was compiled for another PyTorch or GPU.'
        )
    module = build()
    if not _computes(module):
        raise InputError(
            "BasicSR's DCNv2 was built, but does not run on this GPU: is TORCH_CUDA_ARCH_LIST for another one?"
        )
    return module


# Custom operators, so that torch.compile leaves them whole. ``window`` is kernel, stride, padding and dilation, two
# numbers each. The extension's own arguments after the tensors: those, the groups of the convolution, the groups of
# offsets, and whether there is a bias (it is added by the caller, for all backends).


@torch.library.custom_op('airnet_basicsr::basicsr_deform_conv', mutates_args=())
def _forward(x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, window: list[int]) -> Tensor:
    out = x.new_empty(x.shape[0], weight.shape[0], *offset.shape[2:])
    none = x.new_empty(0)  # the bias, and two buffers that the extension makes itself
    groups = mask.shape[1] // (window[0] * window[1])
    extension().modulated_deform_conv_forward(x, weight, none, none, offset, mask, out, none, *window, 1, groups, False)
    return out


@_forward.register_fake
def _(x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, window: list[int]) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[0], *offset.shape[2:])


@torch.library.custom_op('airnet_basicsr::basicsr_deform_conv_backward', mutates_args=())
def _backward(
    grad_out: Tensor, x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, window: list[int]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    grad_x, grad_offset, grad_mask, grad_weight = (torch.zeros_like(t) for t in (x, offset, mask, weight))
    none = x.new_empty(0)
    groups = mask.shape[1] // (window[0] * window[1])
    extension().modulated_deform_conv_backward(
        x, weight, none, none, offset, mask, none, grad_x, grad_weight, none, grad_offset, grad_mask,
        grad_out.contiguous(), *window, 1, groups, False,
    )  # fmt: skip
    return grad_x, grad_offset, grad_mask, grad_weight


@_backward.register_fake
def _(
    grad_out: Tensor, x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, window: list[int]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(offset), torch.empty_like(mask), torch.empty_like(weight)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.window = inputs
    ctx.save_for_backward(*tensors)


def _gradients(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
    return *_backward(grad_out, *ctx.saved_tensors, ctx.window), None


_forward.register_autograd(_gradients, setup_context=_setup)


def forward(x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, *window: tuple[int, int]) -> Tensor:
    """See :func:`airnet_basicsr.network.ops.modulated_deform_conv2d`, whose checked arguments these are. The kernel
    has no bfloat16, and in float16 its coordinates would be too coarse: both are computed in float32."""
    taps, pixels = weight.shape[2] * weight.shape[3], offset.shape[2] * offset.shape[3]
    if x.shape[1] * taps * pixels > _LARGEST:
        raise InputError(
            f"{offset.shape[3]} x {offset.shape[2]} pixels are too many for BasicSR's DCNv2, which counts in 32 bits: "
            'choose smaller tiles, or the torchvision backend'
        )
    dtype = torch.promote_types(x.dtype, torch.float32)
    tensors = (t.to(dtype).contiguous() for t in (x, offset, mask, weight))
    sizes = [*weight.shape[2:], *(number for pair in window for number in pair)]
    return _forward(*tensors, sizes).to(x.dtype)


def register() -> None:
    """Make this the backend ``basicsr`` of :mod:`airnet_basicsr.network.ops`."""
    register_backend('basicsr', forward, can_run, extension, float64=True)
