"""Every backend against torchvision's operator, which is the reference, and against finite differences."""

import logging

import pytest
import torch
import torchvision

from airnet_basicsr.errors import InputError
from airnet_basicsr.network.ops import available_backends, deform_conv, modulated_deform_conv2d, native

FAST = [name for name in ('native', 'embedding_bag') if name in available_backends()]

# batch, channels, outputs, height, width, offset groups, kernel, stride, padding, dilation
SHAPES = {
    'odd sizes': (2, 5, 7, 9, 11, 1, (3, 3), (1, 1), (1, 1), (1, 1)),
    'one pixel': (1, 4, 3, 1, 1, 1, (3, 3), (1, 1), (1, 1), (1, 1)),
    'one row': (3, 16, 16, 1, 13, 1, (3, 3), (1, 1), (1, 1), (1, 1)),
    'the network': (2, 64, 64, 13, 10, 1, (3, 3), (1, 1), (1, 1), (1, 1)),
    'groups': (2, 36, 20, 7, 6, 3, (3, 3), (1, 1), (1, 1), (1, 1)),
    'a group per channel': (1, 4, 2, 5, 6, 4, (1, 1), (1, 1), (0, 0), (1, 1)),
    'no axis like the other': (2, 8, 40, 12, 15, 2, (3, 2), (2, 1), (0, 2), (1, 3)),
}


def arguments(shape, scale=3.0, dtype=torch.float32):
    """x, offset, mask, weight; then stride, padding, dilation. ``scale``: standard deviation of the offsets."""
    batch, channels, outs, height, width, groups, kernel, stride, padding, dilation = shape
    torch.manual_seed(0)
    size = [
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip((height, width), kernel, stride, padding, dilation, strict=True)
    ]
    taps = groups * kernel[0] * kernel[1]
    tensors = (
        torch.randn(batch, channels, height, width, dtype=dtype),
        torch.randn(batch, 2 * taps, *size, dtype=dtype) * scale,
        torch.rand(batch, taps, *size, dtype=dtype),
        torch.randn(outs, channels, *kernel, dtype=dtype) / (channels * kernel[0] * kernel[1]) ** 0.5,
    )
    return tensors, (stride, padding, dilation)


def reference(tensors, window):
    x, offset, mask, weight = (t.double() for t in tensors)
    return torchvision.ops.deform_conv2d(x, offset, weight, None, *window, mask)


def output_and_gradients(function, tensors, grad_out):
    tensors = [t.detach().clone().requires_grad_() for t in tensors]
    out = function(tensors)
    return [out, *torch.autograd.grad(out, tensors, grad_out.to(out.dtype))]


@pytest.mark.parametrize('backend', FAST)
@pytest.mark.parametrize('scale', [0.0, 0.5, 20.0], ids=['no offset', 'small offsets', 'mostly outside'])
@pytest.mark.parametrize('shape', SHAPES.values(), ids=SHAPES)
def test_output_and_every_gradient_agree_with_torchvision(shape, scale, backend):
    tensors, window = arguments(shape, scale)
    expected_out = reference(tensors, window)
    grad_out = torch.randn(expected_out.shape)
    expected = output_and_gradients(lambda t: reference(t, window), tensors, grad_out)
    actual = output_and_gradients(
        lambda t: modulated_deform_conv2d(*t, None, *window, backend=backend), tensors, grad_out
    )
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other.float(), rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize('backend', FAST)
@pytest.mark.parametrize('shift', [-1e-5, -1e-7, 1e-7, 1.0, -1.0])
def test_taps_a_hair_beside_the_edge_read_what_is_there_and_no_more(shift, backend):
    (x, offset, mask, weight), window = arguments((1, 16, 16, 128, 128, 1, (3, 3), (1, 1), (1, 1), (1, 1)))
    offset = torch.full_like(offset, shift)
    # In the reference's float32 too: 128 - 1e-5 is not the same number in float64.
    expected = torchvision.ops.deform_conv2d(x, offset, weight, None, *window, mask)
    actual = modulated_deform_conv2d(x, offset, mask, weight, None, *window, backend=backend)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize('backend', FAST)
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_half_precision_is_as_close_as_its_rounding_allows(dtype, backend):
    tensors, window = arguments(SHAPES['the network'])
    tensors = [t.to(dtype) for t in tensors]
    grad_out = torch.randn(reference(tensors, window).shape).to(dtype)
    expected = output_and_gradients(lambda t: reference(t, window), tensors, grad_out)
    actual = output_and_gradients(
        lambda t: modulated_deform_conv2d(*t, None, *window, backend=backend), tensors, grad_out
    )
    for one, other in zip(actual, expected, strict=True):
        assert one.dtype == dtype
        # Rounded once at the columns and once at the result.
        assert (one.double() - other).norm() <= torch.finfo(dtype).eps * other.norm()


@pytest.mark.parametrize('backend', ['auto', 'torchvision'])
def test_gradients_are_the_finite_differences_in_float64(backend):
    tensors, window = arguments((2, 2, 3, 3, 2, 2, (2, 2), (1, 1), (1, 1), (1, 1)), 1.0, torch.float64)
    bias = torch.randn(3, dtype=torch.float64)
    tensors = [t.requires_grad_() for t in (*tensors, bias)]
    assert torch.autograd.gradcheck(lambda *t: modulated_deform_conv2d(*t, *window, backend=backend), tensors)


@pytest.mark.parametrize('backend', FAST)
def test_memory_layout_of_the_arguments_changes_nothing_but_that_of_the_result(backend):
    (x, offset, mask, weight), window = arguments(SHAPES['the network'])

    def run(*tensors):
        return modulated_deform_conv2d(*tensors, None, *window, backend=backend)

    expected = run(x, offset, mask, weight)
    assert expected.is_contiguous()
    last = [t.contiguous(memory_format=torch.channels_last) for t in (x, offset, mask, weight)]
    out = run(*last)
    assert out.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(out, expected)
    # As the network passes them: two parts of one tensor; x a view with gaps.
    both = torch.cat((offset, mask), 1).contiguous(memory_format=torch.channels_last)
    gaps = torch.randn(*x.shape[:3], 2 * x.shape[3])[..., ::2].copy_(x)
    torch.testing.assert_close(run(gaps, *both.split((18, 9), 1), weight.transpose(2, 3).contiguous().mT), expected)
    same = offset[:, :, :1, :1].expand_as(offset)
    torch.testing.assert_close(run(x, same, mask, weight), run(x, same.contiguous(), mask, weight))


@pytest.mark.parametrize('backend', FAST)
def test_gradients_are_the_same_bit_for_bit_every_time(backend):
    tensors, window = arguments((3, 16, 16, 40, 37, 1, (3, 3), (1, 1), (1, 1), (1, 1)))
    grad_out = torch.randn(3, 16, 40, 37)
    runs = [
        output_and_gradients(lambda t: modulated_deform_conv2d(*t, None, *window, backend=backend), tensors, grad_out)
        for _ in range(5)
    ]
    for run in runs[1:]:
        for one, other in zip(run, runs[0], strict=True):
            assert torch.equal(one, other)


@pytest.mark.skipif(native.library() is None, reason='the compiled backend was not built')
@pytest.mark.parametrize('threads', [1, 2, 5])
def test_the_number_of_threads_changes_nothing_but_the_order_of_sums(threads):
    tensors, window = arguments(SHAPES['the network'])
    grad_out = torch.randn(2, 64, 13, 10)
    expected = output_and_gradients(lambda t: reference(t, window), tensors, grad_out)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        actual = output_and_gradients(
            lambda t: modulated_deform_conv2d(*t, None, *window, backend='native'), tensors, grad_out
        )
    finally:
        torch.set_num_threads(before)
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other.float(), rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize('backend', FAST)
@pytest.mark.parametrize('channel', [0, 1])
def test_a_nan_offset_shows_in_the_result(channel, backend):
    (x, offset, mask, weight), window = arguments(SHAPES['odd sizes'])
    offset[0, channel, 2, 3] = float('nan')
    out = modulated_deform_conv2d(x, offset, mask, weight, None, *window, backend=backend)
    assert out[0, :, 2, 3].isnan().all()
    assert out.isnan().sum() == weight.shape[0]


@pytest.mark.parametrize('backend', FAST)
def test_what_lies_outside_the_picture_is_zero_even_beside_an_infinite_pixel(backend):
    x = torch.full((1, 16, 1, 1), float('inf'))
    offset, mask, weight = torch.full((1, 2, 1, 1), 7e9), torch.ones(1, 1, 1, 1), torch.ones(16, 16, 1, 1)
    assert (modulated_deform_conv2d(x, offset, mask, weight, backend=backend) == 0).all()


@pytest.mark.parametrize('backend', [*FAST, 'torchvision'])
def test_autocast_gives_its_dtype_and_keeps_the_coordinates_exact(backend):
    (x, offset, mask, weight), window = arguments(SHAPES['the network'])
    bias = torch.randn(64)
    offset = offset + 200.3 - 200  # bfloat16 could not hold 200.3
    tensors = [t.requires_grad_() for t in (x, offset, mask, weight)]
    with torch.autocast('cpu', torch.bfloat16):
        out = modulated_deform_conv2d(*tensors, bias, *window, backend=backend)
    assert out.dtype == torch.bfloat16
    expected = reference([x.bfloat16(), offset, mask, weight.bfloat16()], window) + bias.bfloat16().view(1, -1, 1, 1)
    assert (out.double() - expected).norm() <= 0.01 * expected.norm()
    assert all(grad.dtype == torch.float32 for grad in torch.autograd.grad(out.float().sum(), tensors))


def test_inference_mode_and_torch_compile_leave_the_result_alone():
    (x, offset, mask, weight), window = arguments(SHAPES['the network'])
    expected = reference((x, offset, mask, weight), window).float()
    with torch.inference_mode():
        torch.testing.assert_close(modulated_deform_conv2d(x, offset, mask, weight, None, *window), expected)

    @torch.compile(backend='eager', fullgraph=True)
    def compiled(x):
        return modulated_deform_conv2d(x, offset, mask, weight, None, *window)

    torch.testing.assert_close(compiled(x), expected)


@pytest.mark.skipif(native.library() is None, reason='the compiled backend was not built')
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_the_compiled_operator_keeps_the_rules_of_custom_operators(dtype):
    x, weight = torch.randn(2, 16, 5, 4, dtype=dtype), torch.randn(9 * 16, 32)
    offset, mask = torch.randn(2, 18, 5, 4), torch.rand(2, 9, 5, 4)
    tensors = [t.requires_grad_() for t in (x.to(memory_format=torch.channels_last), offset, mask, weight)]
    window = [3, 3, 1, 1, 1, 1, 1, 1]
    torch.library.opcheck(
        torch.ops.airnet_basicsr.deform_conv, (*tensors, window), test_utils=['test_schema', 'test_faketensor']
    )


def test_the_backend_is_said_once_in_the_log(caplog):
    (x, offset, mask, weight), window = arguments(SHAPES['one pixel'])
    deform_conv._say.cache_clear()
    with caplog.at_level(logging.INFO, 'basicsr'):
        logging.getLogger('basicsr').addHandler(caplog.handler)
        for _ in range(3):
            modulated_deform_conv2d(x, offset, mask, weight, None, *window, backend='torchvision')
        logging.getLogger('basicsr').removeHandler(caplog.handler)
    messages = {record.getMessage() for record in caplog.records}
    assert messages == {'Deformable convolution on cpu: torchvision backend.'}


def test_without_the_compiled_backend_auto_takes_the_next(monkeypatch):
    monkeypatch.setattr(native, 'library', lambda: None)
    assert available_backends() == ['embedding_bag', 'torchvision']
    (x, offset, mask, weight), window = arguments(SHAPES['odd sizes'])
    torch.testing.assert_close(
        modulated_deform_conv2d(x, offset, mask, weight, None, *window),
        reference((x, offset, mask, weight), window).float(),
    )
    with pytest.raises(InputError, match="'native' backend cannot run on cpu"):
        modulated_deform_conv2d(x, offset, mask, weight, None, *window, backend='native')


def test_the_environment_variable_chooses_the_backend(monkeypatch):
    called = []
    monkeypatch.setitem(deform_conv._BACKENDS, 'embedding_bag', lambda x, *_: called.append(1) or x)
    monkeypatch.setenv(deform_conv.VARIABLE, 'embedding_bag')
    (x, offset, mask, weight), window = arguments(SHAPES['odd sizes'])
    modulated_deform_conv2d(x, offset, mask, weight, None, *window)
    assert called
    monkeypatch.setenv(deform_conv.VARIABLE, 'fast')
    with pytest.raises(InputError, match="environment variable AIRNET_DCN_BACKEND: there is no backend 'fast'"):
        modulated_deform_conv2d(x, offset, mask, weight, None, *window)


def _changed(**changes):
    def change(arguments):
        arguments.update(changes)

    return change


BAD = {
    'weight for other channels': (_changed(weight=torch.zeros(7, 4, 3, 3)), 'weight is for 4 input channels'),
    'three dimensions': (_changed(x=torch.zeros(5, 9, 11)), 'x has the shape .* four dimensions'),
    'offset of another size': (_changed(offset=torch.zeros(2, 18, 9, 10)), r'offset has the shape .* must be \(2, 18'),
    'offset of too few channels': (_changed(offset=torch.zeros(2, 9, 9, 11)), 'offset has the shape'),
    'mask of another batch': (_changed(mask=torch.zeros(1, 9, 9, 11)), 'mask has the shape'),
    'mask for no whole group': (_changed(mask=torch.zeros(2, 10, 9, 11)), 'mask has 10 channels'),
    'groups that do not divide': (
        _changed(mask=torch.zeros(2, 18, 9, 11), offset=torch.zeros(2, 36, 9, 11)),
        'divide the 5 channels',
    ),
    'bias of another length': (_changed(bias=torch.zeros(3)), 'bias has the shape'),
    'mixed dtypes': (_changed(weight=torch.zeros(7, 5, 3, 3, dtype=torch.float64)), 'weight is torch.float64'),
    'offset coarser than x': (_changed(offset=torch.zeros(2, 18, 9, 11).bfloat16()), 'offset is torch.bfloat16'),
    'whole numbers': (
        lambda a: a.update({k: a[k].int() for k in ('x', 'offset', 'mask', 'weight')}),
        'x is torch.int32; it must be float32',
    ),
    'mixed devices': (_changed(offset=torch.zeros(2, 18, 9, 11, device='meta')), 'x is on cpu but offset on meta'),
    'smaller than the kernel': (_changed(padding=0, dilation=5), 'smaller than the kernel'),
    'no stride': (_changed(stride=0), 'stride is 0'),
    'three paddings': (_changed(padding=(1, 1, 1)), 'padding is'),
    'empty batch': (
        lambda a: a.update({k: a[k][:0] for k in ('x', 'offset', 'mask')}),
        'must not be empty',
    ),
    'unknown backend': (_changed(backend='cuda'), "backend: there is no backend 'cuda'"),
    'backend of another device': (_changed(backend='triton'), "'triton' backend cannot run on cpu"),
    'backend of another device (BasicSR)': (_changed(backend='basicsr'), "'basicsr' backend cannot run on cpu"),
}


@pytest.mark.parametrize(('change', 'message'), BAD.values(), ids=BAD)
def test_bad_input_is_one_clear_error(change, message):
    (x, offset, mask, weight), (stride, padding, dilation) = arguments(SHAPES['odd sizes'])
    everything = {'x': x, 'offset': offset, 'mask': mask, 'weight': weight, 'bias': None, 'stride': stride}
    everything |= {'padding': padding, 'dilation': dilation, 'backend': None}
    change(everything)
    with pytest.raises(InputError, match=message):
        modulated_deform_conv2d(**everything)


@pytest.mark.skipif(native.library() is None, reason='the compiled backend was not built')
def test_float64_is_refused_by_the_backend_that_lacks_it():
    tensors, window = arguments(SHAPES['odd sizes'], dtype=torch.float64)
    with pytest.raises(InputError, match='does not compute in float64'):
        modulated_deform_conv2d(*tensors, None, *window, backend='native')
