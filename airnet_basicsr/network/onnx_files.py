"""AirNet as an ONNX file, and running such files with ONNX Runtime."""

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

import numpy as np
import torch
from torch import Tensor

from airnet_basicsr.errors import InputError
from airnet_basicsr.network.airnet import SLOPE, overlap_of
from airnet_basicsr.network.files import write_whole
from airnet_basicsr.network.recognise import Descriptor

OPSET = 19  # the first with DeformConv
_INSTALL = 'pip install onnx onnxruntime (or airnet-basicsr[onnx])'


class _Graph:
    """Nodes and weights of the network, built from its state dict.

    Not by torch.onnx: of its two exporters one is deprecated, neither knows our operator, and the network is a handful
    of node kinds. BatchNorm is folded into the convolutions.
    """

    def __init__(self, state: dict[str, Tensor], epsilon: float) -> None:
        from onnx import helper, numpy_helper

        self._make_node, self._from_array = helper.make_node, numpy_helper.from_array
        self.state, self.epsilon = state, epsilon
        self.nodes: list[Any] = []
        self.weights: list[Any] = []

    def _weight(self, name: str, value: Tensor) -> str:
        self.weights.append(self._from_array(value.detach().float().cpu().contiguous().numpy(), name))
        return name

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

    def deform_conv(self, name: str, x: str, z: str) -> str:
        both = self.conv(f'{name}.conv_offset_mask', self.node('Concat', x, z, axis=1))
        split = self._integers(f'{name}.split', [18, 9])
        offset, mask = f'{name}.offset', f'{name}.mask'
        self.nodes.append(self._make_node('Split', [both, split], [offset, mask], name=split, axis=1))
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
        self.weights.append(self._from_array(np.array(values, np.int64), name))
        return name

    def pixel_blocks(self, x: str, size: str, side: int, channels: int) -> str:
        """:func:`~airnet_basicsr.network.airnet.pixel_blocks`; SpaceToDepth orders the channels in another way."""
        missing = self.node('Mod', self.node('Neg', size), self._integers('unshuffle', [side]))
        pads = self.node('Concat', self._integers('no_pads', [0] * 6), missing, axis=0)
        one_hot = torch.eye(channels * side**2).view(channels * side**2, channels, side, side)
        kernel = self._weight('pixel_unshuffle', one_hot)
        attributes = {'kernel_shape': [side] * 2, 'strides': [side] * 2}
        return self.node('Conv', self.node('Pad', x, pads, mode='edge'), kernel, **attributes)

    def airnet(self, x: str, options: Mapping[str, Any]) -> str:
        side, blocks = options['unshuffle'], x
        if side > 1:
            size = self.node('Shape', x, start=2, end=4)
            blocks = self.pixel_blocks(x, size, side, options['num_in_ch'])
        out = self.network(blocks, options['num_group'], options['num_block'])
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


def export_onnx(described: Descriptor, path: str | PathLike) -> None:
    """Write the restoring part of a network to ``path`` as ONNX (opset 19).

    Input ``image`` and output ``restored``: float32, B x 3 x H x W of any B, H and W, values in [0, 1] (the output is
    not clipped).

    Raises:
        InputError: The package onnx is missing, or the file cannot be written.
    """
    try:
        import onnx
        from onnx import TensorProto, helper
    except ImportError as error:
        raise InputError(f'exporting needs the package onnx: {_INSTALL}') from error
    options = described.options
    graph = _Graph(described.model.state_dict(), described.model.encoder.blocks[0].body[1].eps)
    last = graph.airnet('image', options)
    graph.nodes.append(helper.make_node('Identity', [last], ['restored']))
    shape: list[str | int | None] = ['batch', described.input_channels, 'height', 'width']
    image, restored = (helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n in ('image', 'restored'))
    model = helper.make_model(
        helper.make_graph(graph.nodes, 'AirNet', [image], [restored], graph.weights),
        opset_imports=[helper.make_opsetid('', OPSET)],
        ir_version=9,  # that of opset 19, for runtimes of its time
    )
    helper.set_model_props(model, {'num_feat': str(options['num_feat']), 'overlap': str(overlap_of(described.model))})
    onnx.checker.check_model(model)
    write_whole(path, model.SerializeToString())


class OnnxNetwork:
    """An exported file that is called as the network is.

    Raises:
        InputError: ONNX Runtime is missing, or the file is not one that :func:`export_onnx` wrote.
    """

    def __init__(self, path: str, device: torch.device) -> None:
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
            self.session = onnxruntime.InferenceSession(path, options, [provider])
            properties = self.session.get_modelmeta().custom_metadata_map
            self.num_feat, self.overlap = int(properties['num_feat']), int(properties['overlap'])
        except Exception as error:  # ONNX Runtime's errors share no base class
            reason = str(error).partition('\n')[0]
            raise InputError(f'{path} is no ONNX file that `airnet model export` wrote ({reason})') from error

    def __call__(self, x: Tensor) -> Tensor:
        try:
            (out,) = self.session.run(None, {'image': x.contiguous().cpu().numpy()})
        except Exception as error:  # as above; PyTorch's kind, so that callers can tell where memory did not suffice
            raise RuntimeError(f'ONNX Runtime: {error}') from error
        return torch.from_numpy(out).to(x.device)
