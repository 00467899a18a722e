"""The backends for GPUs: what can be known of them without one, and their agreement with torchvision on one."""

import os
import subprocess
import sys

import pytest
import torch

from airnet_basicsr.network.ops import available_backends, modulated_deform_conv2d

from .test_deform_conv import SHAPES, arguments, output_and_gradients, reference

needs_triton = pytest.mark.skipif('triton' not in available_backends('cuda'), reason='Triton is not installed')

# float32 and float16: Triton's interpreter multiplies no bfloat16.
INTERPRETED = """
import sys, torch
from airnet_basicsr.network.ops import triton_kernels
for tensors, window, grad_out, expected in torch.load(sys.argv[1]):
    tensors = [t.requires_grad_() for t in tensors]
    out = triton_kernels.forward(*tensors, *window)
    actual = [out, *torch.autograd.grad(out, tensors, grad_out)]
    for one, other in zip(actual, expected, strict=True):
        assert one.dtype == other.dtype
        tolerance = 1e-3 if tensors[0].dtype == torch.float16 else 1e-5
        assert (one.double() - other.double()).norm() <= tolerance * max(float(other.double().norm()), 1e-3)
"""


@needs_triton
def test_triton_kernels_agree_with_torchvision_in_the_interpreter(tmp_path):
    cases = []
    for name in ('one pixel', 'groups', 'no axis like the other'):
        tensors, window = arguments(SHAPES[name], 1.0)
        for dtype in (torch.float32, torch.float16):
            used = [tensors[0].to(dtype), *tensors[1:3], tensors[3].to(dtype)]
            grad_out = torch.randn(reference(used, window).shape).to(dtype)
            expected = output_and_gradients(lambda t, window=window: reference(t, window), used, grad_out)
            kinds = [dtype, *(t.dtype for t in used)]
            expected = [t.detach().to(kind) for t, kind in zip(expected, kinds, strict=True)]
            cases.append((used, window, grad_out, expected))
    torch.save(cases, tmp_path / 'cases.pt')
    # In another process: Triton decides at import whether it interprets.
    done = subprocess.run(
        [sys.executable, '-c', INTERPRETED, str(tmp_path / 'cases.pt')],
        env={**os.environ, 'TRITON_INTERPRET': '1', 'OMP_NUM_THREADS': '1'},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]


@needs_triton
@pytest.mark.slow
@pytest.mark.parametrize('dtype', ['fp32', 'bf16', 'fp16'])
@pytest.mark.parametrize('kernel', ['_forward_kernel', '_backward_kernel', '_weight_kernel'])
def test_triton_kernels_compile_for_hopper(kernel, dtype):
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from airnet_basicsr.network.ops import triton_kernels

    function = getattr(triton_kernels, kernel)
    x, mask = torch.empty(5, 64, 8, 8), torch.empty(5, 9, 8, 8)
    constants = triton_kernels._settings(x, mask, 64, (3, 3, 1, 1, 1, 1, 1, 1)) | {'BLOCKS_PER_SPLIT': 10}
    constants = {name: value for name, value in constants.items() if name in function.arg_names}
    types = dict.fromkeys(('x', 'weight', 'out', 'grad_out'), f'*{dtype}')
    types |= dict.fromkeys(('offset', 'mask', 'grad_x', 'grad_offset', 'grad_mask', 'grad_weight'), '*fp32')
    types |= dict.fromkeys(constants, 'constexpr')
    signature = {name: types.get(name, 'i32') for name in function.arg_names}
    compiled = triton.compile(
        ASTSource(function, signature, constants), target=GPUTarget('cuda', 90, 32), options={'num_stages': 2}
    )
    assert ('wgmma' in compiled.asm['ptx']) == (dtype != 'fp32')


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
@pytest.mark.parametrize('backend', ['torchvision', 'basicsr', 'triton'])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize('shape', SHAPES.values(), ids=SHAPES)
def test_backends_agree_with_torchvision_on_a_gpu(shape, dtype, backend):
    tensors, window = arguments(shape, 1.0)
    tensors = [tensors[0].to(dtype), *tensors[1:3], tensors[3].to(dtype)]
    grad_out = torch.randn(reference(tensors, window).shape).to(dtype)
    expected = output_and_gradients(lambda t: reference(t, window), tensors, grad_out)
    actual = output_and_gradients(
        lambda t: modulated_deform_conv2d(*t, None, *window, backend=backend),
        [t.cuda() for t in tensors],
        grad_out.cuda(),
    )
    tolerance = {torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 8e-3}[dtype]
    for one, other in zip(actual, expected, strict=True):
        assert (one.cpu().double() - other).norm() <= tolerance * max(float(other.norm()), 1e-3)
