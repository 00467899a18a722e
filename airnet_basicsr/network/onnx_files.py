"""AirNet as an ONNX file, and running such files with ONNX Runtime."""

import json
from collections.abc import Mapping, Sequence
from os import PathLike, fspath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from airnet_basicsr.errors import InputError
from airnet_basicsr.network.airnet import SLOPE, overlap_of
from airnet_basicsr.network.files import write_whole
from airnet_basicsr.network.recognise import Descriptor
from airnet_basicsr.network.traits import Traits

OPSET, PLAIN_OPSET = 19, 16  # the first with DeformConv; the first with GridSample
_IR_VERSIONS = {OPSET: 9, PLAIN_OPSET: 8}  # those of their time, for runtimes of that time
_FLOAT, _FLOAT16 = 1, 10  # onnx.TensorProto's
# What the values of ONNX Runtime and PyTorch may differ by, where they lie around 1.
_BOUNDS = {False: 1e-4, True: 2e-2}
_INSTALL = 'pip install onnx onnxruntime (or airnet-basicsr[onnx])'


class _Graph:
    """Nodes and weights of the network, built from its state dict.

    Not by torch.onnx, which was tried (2.11, dynamo, translations for both spellings): its graph gives the same values,
    but it starts at opset 18, and neither its converter nor onnx's leads from there to 16 (no adapter for Split and
    Pad); it needs onnxscript; and it took 6 seconds of a processor for one block, so minutes for the paper's 25.

    BatchNorm is folded into the convolutions. In float16, what computes coordinates and samples stays in float32.
    """

    def __init__(self, state: dict[str, Tensor], epsilon: float, plain: bool, half: bool) -> None:
        from onnx import helper, numpy_helper

        self._make_node, self._from_array = helper.make_node, numpy_helper.from_array
        self.state, self.epsilon, self.plain, self.half = state, epsilon, plain, half
        self.dtype = torch.float16 if half else torch.float32
        self.stored: set[str] = set()
        self.nodes: list[Any] = []
        self.weights: list[Any] = []

    def _store(self, name: str, value: np.ndarray) -> str:
        if name not in self.stored:
            self.stored.add(name)
            self.weights.append(self._from_array(value, name))
        return name

    def _weight(self, name: str, value: Tensor) -> str:
        return self._store(name, value.detach().to(self.dtype).cpu().contiguous().numpy())

    def _number(self, name: str, value: int) -> str:
        return self._store(name, np.array(value, np.int64))

    def node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        name = f'{kind}_{len(self.nodes)}'
        self.nodes.append(self._make_node(kind, list(inputs), [name], name=name, **attributes))
        return name

    def relu(self, x: str) -> str:
        return self.node('LeakyRelu', x, alpha=SLOPE)

    def conv(self, name: str, x: str, norm: str | None = None) -> str:
        weight, bias = self.state[f'{name}.weight'], self.state.get(f'{name}.bias')
        if norm:
            scale = self.state[f'{norm}.weight'] / (self.state[f'{norm}.running_var'] + self.epsilon).sqrt()
            weight = weight * scale.view(-1, 1, 1, 1)
            bias = self.state[f'{norm}.bias'] - self.state[f'{norm}.running_mean'] * scale
        inputs = [x, self._weight(f'{name}.weight', weight)]
        if bias is not None:
            inputs.append(self._weight(f'{name}.bias', bias))
        side = weight.shape[2]
        return self.node('Conv', *inputs, kernel_shape=[side, side], pads=[side // 2] * 4)

    def _plain_deform_conv(self, name: str, x: str, offset: str, mask: str) -> str:
        """In operators that every runtime has: x sampled where each tap lies, the taps summed by a 1x1 convolution."""
        axis = self._integers  # the same few constants for each convolution: named alike, they are stored once
        size, batch = self.node('Shape', x, start=2, end=4), self.node('Shape', x, start=0, end=1)
        height, width = (self.node('Gather', size, axis(f'at{i}', [i]), axis=0) for i in (0, 1))
        taps = self.node('Reshape', offset, self.node('Concat', batch, axis('taps', [9, 2]), size, axis=0))
        side = torch.arange(-1.0, 2.0)
        tap_y = self._weight('tap_y', side.repeat_interleave(3).view(1, 9, 1, 1))
        tap_x = self._weight('tap_x', side.repeat(3).view(1, 9, 1, 1))
        one, two = self._weight('one', torch.ones(1)), self._weight('two', torch.full((1,), 2.0))
        rows = self.node('Concat', batch, self.node('Mul', height, axis('nine', [9])), width, axis=0)
        places = []
        for i, (length, tap) in enumerate(((height, tap_y), (width, tap_x))):
            moved = self.node('Gather', taps, self._number(f'coordinate{i}', i), axis=2)
            ends = self._number('begin', 0), self.node('Squeeze', length), self._number('step', 1)
            line = self.node('Cast', self.node('Range', *ends), to=1)
            if i == 0:
                line = self.node('Unsqueeze', line, axis('at1', [1]))
            place = self.node('Add', self.node('Add', moved, line), tap)
            # From pixels to -1 ... 1 between the outer edges of the first and the last.
            place = self.node('Add', self.node('Mul', place, two), one)
            place = self.node('Sub', self.node('Div', place, self.node('Cast', length, to=1)), one)
            places.append(self.node('Unsqueeze', self.node('Reshape', place, rows), axis('at3', [3])))
        grid = self.node('Concat', places[1], places[0], axis=3)
        sampled = self.node('GridSample', x, grid, mode='bilinear', padding_mode='zeros', align_corners=0)
        single = self.node(
            'Reshape',
            mask,
            self.node(
                'Concat', batch, axis('at1', [1]), self.node('Slice', rows, axis('at1', [1]), axis('at3', [3])), axis=0
            ),
        )
        sampled = self.node('Mul', sampled, single)
        sampled = self.node('Reshape', sampled, self.node('Concat', batch, axis('rest', [-1]), size, axis=0))
        return self.node(
            'Conv', sampled, self._weight(f'{name}.weight', self.state[f'{name}.weight'].flatten(1)[..., None, None])
        )

    def deform_conv(self, name: str, x: str, z: str) -> str:
        if not self.half:
            return self._deform_conv(name, x, z)
        self.dtype = torch.float32
        out = self._deform_conv(name, *(self.node('Cast', part, to=_FLOAT) for part in (x, z)))
        self.dtype = torch.float16
        return self.node('Cast', out, to=_FLOAT16)

    def _deform_conv(self, name: str, x: str, z: str) -> str:
        both = self.conv(f'{name}.conv_offset_mask', self.node('Concat', x, z, axis=1))
        split = self._integers(f'{name}.split', [18, 9])
        offset, mask = f'{name}.offset', f'{name}.mask'
        self.nodes.append(self._make_node('Split', [both, split], [offset, mask], name=split, axis=1))
        if self.plain:
            return self._plain_deform_conv(name, x, offset, self.node('Sigmoid', mask))
        weight = self._weight(f'{name}.weight', self.state[f'{name}.weight'])
        keys = {'kernel_shape': [3, 3], 'pads': [1] * 4, 'offset_group': 1}
        return self.node('DeformConv', x, weight, offset, '', self.node('Sigmoid', mask), **keys)

    def module(self, name: str, x: str, z: str) -> str:
        deformable = f'{name}.dcn.conv_offset_mask.weight' in self.state
        out = self.node('Add', x, self.deform_conv(f'{name}.dcn', x, z) if deformable else self.conv(f'{name}.dcn', x))
        if f'{name}.sft.gamma.0.weight' not in self.state:
            return out
        gamma, beta = (
            self.conv(f'{name}.sft.{part}.2', self.relu(self.conv(f'{name}.sft.{part}.0', z)))
            for part in ('gamma', 'beta')
        )
        return self.node('Add', out, self.node('Add', self.node('Mul', x, gamma), beta))

    def _integers(self, name: str, values: Sequence[int]) -> str:
        return self._store(name, np.array(values, np.int64))

    def pixel_blocks(self, x: str, size: str, side: int, channels: int) -> str:
        """:func:`~airnet_basicsr.network.airnet.pixel_blocks`; SpaceToDepth orders the channels in another way."""
        missing = self.node('Mod', self.node('Neg', size), self._integers('unshuffle', [side]))
        pads = self.node('Concat', self._integers('no_pads', [0] * 6), missing, axis=0)
        one_hot = torch.eye(channels * side**2).view(channels * side**2, channels, side, side)
        kernel = self._weight('pixel_unshuffle', one_hot)
        attributes = {'kernel_shape': [side] * 2, 'strides': [side] * 2}
        return self.node('Conv', self.node('Pad', x, pads, mode='edge'), kernel, **attributes)

    def airnet(self, x: str, options: Mapping[str, Any]) -> str:
        side = options['unshuffle']
        out = self.node('Cast', x, to=_FLOAT16) if self.half else x
        if side > 1:
            size = self.node('Shape', x, start=2, end=4)
            out = self.pixel_blocks(out, size, side, options['num_in_ch'])
        out = self.network(out, options['num_group'], options['num_block'])
        if self.half:
            out = self.node('Cast', out, to=_FLOAT)
        if side > 1:
            out = self.node('DepthToSpace', out, blocksize=side, mode='CRD')
            corner, axes = self._integers('corner', [0, 0]), self._integers('axes', [2, 3])
            out = self.node('Slice', out, corner, size, axes)
        return self.node('Add', x, out) if options['image_residual'] else out

    def network(self, x: str, groups: int, blocks: int) -> str:
        encoder = 'encoder.blocks.0'
        inner = self.relu(self.conv(f'{encoder}.body.0', x, norm=f'{encoder}.body.1'))
        inner = self.conv(f'{encoder}.body.3', inner, norm=f'{encoder}.body.4')
        shortcut = self.conv(f'{encoder}.shortcut.0', x, norm=f'{encoder}.shortcut.1')
        z = self.relu(self.node('Add', inner, shortcut))
        out = shallow = self.conv('restorer.head', x)
        for i in range(groups):
            group_in = out
            for j in range(blocks):
                block, block_in = f'restorer.groups.{i}.blocks.{j}', out
                for part in '12':
                    out = self.relu(self.module(f'{block}.dgm{part}', out, z))
                    out = self.conv(f'{block}.conv{part}', out)
                    if part == '1':
                        out = self.relu(out)
                out = self.node('Add', out, block_in)
            out = self.node('Add', self.conv(f'restorer.groups.{i}.conv', out), group_in)
        return self.conv('restorer.tail', self.node('Add', self.conv('restorer.conv', out), shallow))


def export_onnx(described: Descriptor, path: str | PathLike, plain: bool = False, half: bool = False) -> None:
    """Write the restoring part of a network to ``path`` as ONNX, once ONNX Runtime gives PyTorch's values with it.

    Input ``image`` and output ``restored``: float32, B x 3 x H x W of any B, H and W, values in [0, 1] (the output is
    not clipped).

    Args:
        described: What :func:`~airnet_basicsr.network.recognise.load` gives for an AirNet.
        path: Where to write it.
        plain: Spell the deformable convolution out in GridSample (opset 16), for runtimes without DeformConv
            (opset 19). It takes nine times the memory of a feature map.
        half: Weights and convolutions in float16; half the size. Input and output stay float32.

    Raises:
        InputError: A package is missing, the file cannot be written, or it gives other values than PyTorch.
    """
    try:
        import onnx
        from onnx import TensorProto, helper
    except ImportError as error:
        raise InputError(f'exporting needs the package onnx: {_INSTALL}') from error
    options = described.options
    graph = _Graph(described.model.state_dict(), described.model.encoder.blocks[0].body[1].eps, plain, half)
    last = graph.airnet('image', options)
    graph.nodes.append(helper.make_node('Identity', [last], ['restored']))
    shape: list[str | int | None] = ['batch', described.input_channels, 'height', 'width']
    image, restored = (helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n in ('image', 'restored'))
    opset = PLAIN_OPSET if plain else OPSET
    model = helper.make_model(
        helper.make_graph(graph.nodes, 'AirNet', [image], [restored], graph.weights),
        opset_imports=[helper.make_opsetid('', opset)],
        ir_version=_IR_VERSIONS[opset],
    )
    facts = {'num_feat': options['num_feat'], 'overlap': overlap_of(described.model), 'options': json.dumps(options)}
    helper.set_model_props(model, {name: str(fact) for name, fact in facts.items()})
    onnx.checker.check_model(model)
    content = model.SerializeToString()
    _check(content, described, path, _BOUNDS[half])
    write_whole(path, content)


def _check(content: bytes, described: Descriptor, path: str | PathLike, bound: float) -> None:
    exported = OnnxNetwork(content, torch.device('cpu'), name=fspath(path))
    x = torch.rand(1, described.input_channels, 37, 45, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = described.model.cpu().float()(x)
    difference = (exported(x) - expected).abs().max().item()
    if not difference <= bound * max(1.0, expected.abs().max().item()):
        raise InputError(
            f'{fspath(path)} is not written: in ONNX Runtime it gives other values than PyTorch, by up to '
            f'{difference:.3g}; are all weights numbers, and small enough for float16 where that was asked for?'
        )


class OnnxNetwork:
    """An exported file that is called as the network is.

    Raises:
        InputError: ONNX Runtime is missing, or the file is not one that :func:`export_onnx` wrote.
    """

    def __init__(self, model: str | bytes, device: torch.device, name: str | None = None) -> None:
        path = name or str(model)
        try:
            import onnxruntime
        except ImportError as error:
            raise InputError(f'running {path} needs ONNX Runtime: {_INSTALL}') from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        # Its memory pool keeps, for every size of picture, what the largest took.
        options.enable_cpu_mem_arena = False
        provider = 'CUDAExecutionProvider' if device.type == 'cuda' else 'CPUExecutionProvider'
        if provider not in onnxruntime.get_available_providers():
            raise InputError(f'{path} cannot run on {device}: this ONNX Runtime has no {provider}; choose device cpu')
        try:
            self.session = onnxruntime.InferenceSession(model, options, [provider])
            properties = self.session.get_modelmeta().custom_metadata_map
            memory = 36 * int(properties['num_feat']) + 400  # of AirNet on single pixels, which is the most
            self.traits = Traits(None, bytes_per_pixel=memory, shared=int(properties['overlap']))
        except Exception as error:  # ONNX Runtime's errors share no base class
            reason = str(error).partition('\n')[0]
            raise InputError(f'{path} is no ONNX file that `airnet model export` wrote ({reason})') from error

    def __call__(self, x: Tensor) -> Tensor:
        try:
            (out,) = self.session.run(None, {'image': x.contiguous().cpu().numpy()})
        except Exception as error:  # as above; PyTorch's kind, so that callers can tell where memory did not suffice
            raise RuntimeError(f'ONNX Runtime: {error}') from error
        return torch.from_numpy(out).to(x.device)
