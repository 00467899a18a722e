"""BasicSR's own DCNv2, compiled for the host, behind our operator: against torchvision's, and in the whole network.

What a GPU does differently (threads, atomic sums, the order of products) is for the tests marked ``gpu``. All else is
the same code: the order of arguments and gradients, groups, strides, dtypes and memory layouts.
"""

import shutil
from types import SimpleNamespace

import pytest
import torch
import torchvision
from cuda_on_host.build import build

from airnet_basicsr.errors import InputError
from airnet_basicsr.network.airnet import AirNet
from airnet_basicsr.network.ops import deform_conv, modulated_deform_conv2d, native
from airnet_basicsr.plugin import dcnv2

pytestmark = pytest.mark.skipif(
    shutil.which('c++') is None or shutil.which('ninja') is None, reason='no C++ compiler or no ninja'
)
EXACT = {'rtol': 1e-13, 'atol': 1e-13}

# batch, channels, outputs, (height, width), offset groups, kernel, stride, padding, dilation
SHAPES = {
    'the network': (2, 64, 64, (13, 10), 1, (3, 3), (1, 1), (1, 1), (1, 1)),
    'groups': (2, 12, 5, (7, 6), 4, (3, 3), (1, 1), (1, 1), (1, 1)),
    'a column of taps': (1, 4, 3, (9, 7), 2, (3, 1), (2, 1), (1, 0), (2, 1)),
    'no axis like the other': (3, 8, 10, (12, 15), 2, (3, 2), (2, 3), (0, 2), (1, 3)),
    'one pixel': (1, 4, 3, (1, 1), 1, (3, 3), (1, 1), (1, 1), (1, 1)),
}


@pytest.fixture(scope='module')
def extension(tmp_path_factory):
    return build(tmp_path_factory.mktemp('dcnv2_on_host'))


@pytest.fixture(autouse=True)
def on_host(extension, monkeypatch):
    """The backend ``basicsr`` runs on the CPU, with the extension for the host."""
    monkeypatch.setattr(dcnv2, 'extension', lambda: extension)
    monkeypatch.setattr(deform_conv, 'available_backends', lambda device: ['basicsr', 'native', 'torchvision'])
    monkeypatch.setattr(deform_conv, '_failure', lambda name: None)


def arguments(name, dtype=torch.float64):
    """x, offset, mask, weight and bias, by name; then stride, padding, dilation. Some taps lie outside the picture."""
    batch, channels, outs, size, groups, kernel, *window = SHAPES[name]
    rng = torch.Generator().manual_seed(0)
    out = [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in zip(size, kernel, *window, strict=True)]
    taps = groups * kernel[0] * kernel[1]

    def randn(*shape):
        return torch.randn(*shape, generator=rng, dtype=torch.float64).to(dtype)

    tensors = {
        'x': randn(batch, channels, *size),
        'offset': 3 * randn(batch, 2 * taps, *out),
        'mask': randn(batch, taps, *out).sigmoid(),
        'weight': randn(outs, channels, *kernel) / (channels * kernel[0] * kernel[1]) ** 0.5,
        'bias': randn(outs),
    }
    return tensors, window, randn(batch, outs, *out)


def results(function, tensors, grad_out):
    """The output and the gradients, by the arguments' names."""
    tensors = {name: tensor.detach().requires_grad_() for name, tensor in tensors.items()}
    out = function(**tensors)
    grads = torch.autograd.grad(out, list(tensors.values()), grad_out)
    return {'out': out, **dict(zip(tensors, grads, strict=True))}


def agree(actual, expected, **tolerance):
    for name, tensor in expected.items():
        torch.testing.assert_close(actual[name], tensor, msg=lambda text, name=name: f'{name}: {text}', **tolerance)


def ours(window, backend='basicsr'):
    return lambda **tensors: modulated_deform_conv2d(
        **tensors, **dict(zip(('stride', 'padding', 'dilation'), window, strict=True)), backend=backend
    )


def theirs(window):
    stride, padding, dilation = window

    def function(x, offset, mask, weight, bias):
        return torchvision.ops.deform_conv2d(x, offset, weight, bias, stride, padding, dilation, mask)

    return function


@pytest.mark.parametrize('name', SHAPES)
def test_values_and_all_gradients_are_torchvisions(name):
    tensors, window, grad_out = arguments(name)
    agree(results(ours(window), tensors, grad_out), results(theirs(window), tensors, grad_out), **EXACT)


def test_any_memory_layout_gives_the_same():
    tensors, window, grad_out = arguments('groups')
    expected = results(theirs(window), tensors, grad_out)
    whole = torch.cat((tensors['offset'], tensors['mask']), 1).contiguous(memory_format=torch.channels_last)
    tensors['offset'], tensors['mask'] = whole.split((tensors['offset'].shape[1], tensors['mask'].shape[1]), 1)
    tensors['x'] = tensors['x'].contiguous(memory_format=torch.channels_last)
    tensors['weight'] = tensors['weight'].transpose(0, 3).contiguous().transpose(0, 3)
    assert not any(tensors[name].is_contiguous() for name in ('x', 'offset', 'mask', 'weight'))
    grad_out = grad_out.contiguous(memory_format=torch.channels_last)
    actual = results(ours(window), tensors, grad_out)
    agree(actual, expected, **EXACT)
    assert actual['out'].is_contiguous(memory_format=torch.channels_last)
    # The gradient of a sum is one number, expanded.
    tensors = {name: tensor.detach().requires_grad_() for name, tensor in tensors.items()}
    sums = [
        torch.autograd.grad(function(window)(**tensors).sum(), list(tensors.values())) for function in (ours, theirs)
    ]
    agree(dict(zip(tensors, sums[0], strict=True)), dict(zip(tensors, sums[1], strict=True)), **EXACT)


@pytest.mark.parametrize('frozen', ['x', 'offset', 'mask', 'weight'])
def test_a_tensor_that_needs_no_gradient_changes_none_of_the_others(frozen):
    tensors, window, grad_out = arguments('groups')
    expected = results(theirs(window), tensors, grad_out)
    fixed = {frozen: tensors.pop(frozen)}
    agree(results(lambda **others: ours(window)(**others, **fixed), tensors, grad_out),
          {name: tensor for name, tensor in expected.items() if name != frozen}, **EXACT)  # fmt: skip


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32_and_rounded_once(dtype):
    tensors, window, grad_out = arguments('the network')
    # As under autocast: coordinates stay in float32.
    kinds = {'x': dtype, 'offset': torch.float32, 'mask': torch.float32, 'weight': dtype}
    halves = {name: tensors[name].to(kind) for name, kind in kinds.items()}
    rounded = {name: tensor.double() for name, tensor in halves.items()}
    actual = results(ours(window), halves, grad_out.to(dtype))
    expected = results(lambda **own: theirs(window)(**own, bias=None), rounded, grad_out.to(dtype).double())
    for name, tensor in expected.items():
        assert actual[name].dtype == kinds.get(name, dtype)
        assert (actual[name].double() - tensor).norm() <= torch.finfo(dtype).eps / 2 * tensor.norm(), name


def test_autocast_which_the_extension_knows_nothing_of_reaches_it_as_float32():
    tensors, window, _ = arguments('the network', torch.float32)
    with torch.autocast('cpu', torch.bfloat16):
        out = ours(window)(**tensors)
    assert out.dtype == torch.bfloat16
    rounded = {k: t if k in ('offset', 'mask') else t.bfloat16().float() for k, t in tensors.items()}
    torch.testing.assert_close(out.float(), theirs(window)(**rounded), rtol=2**-7, atol=2**-7)


def trained_once(net, backend, dtype, monkeypatch):
    """The restored pictures, the embedding and the gradient of every parameter, by name."""
    monkeypatch.setenv(deform_conv.VARIABLE, backend)
    rng = torch.Generator().manual_seed(1)
    x = torch.rand(2, 3, 20, 17, generator=rng, dtype=torch.float64).to(dtype)
    net = net.to(dtype).train()
    net.zero_grad()
    restored, encoding = net(x, encode=True)
    (restored.square().mean() + encoding.projection.square().mean()).backward()
    gradients = {name: parameter.grad.clone() for name, parameter in net.named_parameters()}
    return {'restored': restored.detach(), 'embedding': encoding.embedding.detach(), **gradients}


@pytest.fixture
def net():
    torch.manual_seed(0)
    net = AirNet(num_feat=16, num_group=2, num_block=2)
    for name, parameter in net.named_parameters():
        if 'conv_offset_mask' in name:
            torch.nn.init.normal_(parameter, std=0.1)  # untrained, all offsets are zero
    return net


def test_the_network_restores_and_learns_as_with_torchvision(net, monkeypatch):
    expected = trained_once(net, 'torchvision', torch.float64, monkeypatch)
    agree(trained_once(net, 'basicsr', torch.float64, monkeypatch), expected, rtol=1e-12, atol=1e-13)


@pytest.mark.skipif(native.library() is None, reason='the compiled backend was not built')
def test_the_network_restores_and_learns_as_on_a_cpu(net, monkeypatch):
    expected = trained_once(net, 'native', torch.float32, monkeypatch)
    actual = trained_once(net, 'basicsr', torch.float32, monkeypatch)
    for name, tensor in expected.items():
        assert (actual[name] - tensor).norm() <= 1e-4 * tensor.norm(), name


def test_the_operator_keeps_the_rules_that_torch_compile_relies_on():
    tensors, window, _ = arguments('groups')
    own = [tensors[name].requires_grad_() for name in ('x', 'offset', 'mask', 'weight')]
    arguments_ = (*own, [3, 3, *(number for pair in window for number in pair)])
    torch.library.opcheck(
        torch.ops.airnet_basicsr.basicsr_deform_conv, arguments_, test_utils=['test_schema', 'test_faketensor']
    )


def test_an_extension_whose_kernels_do_nothing_is_found_out(extension):
    assert dcnv2._computes(extension, 'cpu')
    # As on a GPU that it was not compiled for: a message, and zeros.
    silent = SimpleNamespace(modulated_deform_conv_forward=lambda *arguments: None)
    assert not dcnv2._computes(silent, 'cpu')


def test_a_picture_beyond_32_bits_is_refused_before_the_kernel_counts_wrongly():
    x = torch.empty(1, 64, 2000, 2000, device='meta')
    offset, mask = torch.empty(1, 18, 2000, 2000, device='meta'), torch.empty(1, 9, 2000, 2000, device='meta')
    with pytest.raises(InputError, match='2000 x 2000 pixels are too many .* smaller tiles'):
        dcnv2.forward(x, offset, mask, torch.empty(64, 64, 3, 3, device='meta'), (1, 1), (1, 1), (1, 1))
