"""Exported files give what PyTorch gives, at any size."""

import numpy as np
import pytest
import torch
from golden import official_checkpoint
from small_models import save, small_network

from airnet_basicsr import Restorer
from airnet_basicsr.errors import InputError
from airnet_basicsr.network import recognise
from airnet_basicsr.network.airnet import OVERLAP, overlap_of
from airnet_basicsr.network.onnx_files import OnnxNetwork, export_onnx

onnx = pytest.importorskip('onnx')
pytest.importorskip('onnxruntime')


def agree(described, path, sizes, bound=1e-3, **spelling):
    export_onnx(described, path, **spelling)
    exported = OnnxNetwork(str(path), torch.device('cpu'))
    for batch, height, width in sizes:
        x = torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            expected = described.model(x)
        assert exported(x).shape == expected.shape
        assert (exported(x) - expected).abs().max() <= bound


def test_the_paper_s_network(tmp_path):
    agree(recognise.load(official_checkpoint()), tmp_path / 'all.onnx', [(1, 33, 47), (1, 64, 48), (1, 16, 80)])
    model = onnx.load(tmp_path / 'all.onnx')
    assert model.opset_import[0].version >= 19
    assert sum(node.op_type == 'DeformConv' for node in model.graph.node) == 50


@pytest.mark.parametrize('options', [{'with_sft': False}, {'with_dcn': False}, {'num_group': 2, 'num_block': 3}])
def test_its_variants(tmp_path, options):
    state = small_network(**options).state_dict()
    agree(recognise.load(state), tmp_path / 'variant.onnx', [(2, 20, 30), (1, 1, 1), (1, 31, 17)])


@pytest.mark.parametrize(
    'options',
    [
        {'unshuffle': 2},
        {'unshuffle': 4, 'num_group': 2},
        {'unshuffle': 2, 'image_residual': True},
        {'image_residual': True},
    ],
)
def test_pixel_blocks_and_residual_at_any_size(tmp_path, options):
    described = recognise.load(small_network(**options).state_dict())
    assert described.options == {**described.options, **options}
    agree(described, tmp_path / 'blocks.onnx', [(2, 33, 47), (1, 1, 1), (1, 2, 5), (1, 40, 48)], bound=1e-5)
    properties = {p.key: p.value for p in onnx.load(tmp_path / 'blocks.onnx').metadata_props}
    assert int(properties['overlap']) == overlap_of(described.model) >= options.get('unshuffle', 1) * OVERLAP


@pytest.mark.parametrize('options', [{}, {'unshuffle': 2, 'image_residual': True}])
def test_the_plain_spelling_needs_opset_16_alone(tmp_path, options):
    described = recognise.load(small_network(**options).state_dict())
    sizes = [(2, 33, 47), (1, 1, 1), (1, 2, 5), (1, 90, 131)]
    agree(described, tmp_path / 'plain.onnx', sizes, bound=1e-5, plain=True)
    model = onnx.load(tmp_path / 'plain.onnx')
    assert model.opset_import[0].version == 16
    assert {'GridSample'} <= {node.op_type for node in model.graph.node} and 'DeformConv' not in str(model.graph)


@pytest.mark.parametrize('plain', [False, True])
def test_float16_is_half_as_large(tmp_path, plain):
    described = recognise.load(small_network(unshuffle=2, image_residual=True).state_dict())
    agree(described, tmp_path / 'half.onnx', [(2, 33, 47), (1, 40, 48)], bound=1e-2, plain=plain, half=True)
    export_onnx(described, tmp_path / 'whole.onnx', plain)
    assert (tmp_path / 'half.onnx').stat().st_size < 0.8 * (tmp_path / 'whole.onnx').stat().st_size


def test_a_file_that_gives_other_values_is_not_written(tmp_path):
    net = small_network()
    net.restorer.head.weight.data *= 1e6
    with pytest.raises(InputError, match='x.onnx is not written: in ONNX Runtime it gives other values'):
        export_onnx(recognise.load(net.state_dict()), tmp_path / 'x.onnx', half=True)
    assert not (tmp_path / 'x.onnx').exists()


def test_restorer_runs_exported_files(tmp_path):
    path = save(small_network(), tmp_path / 'small.pth')
    export_onnx(recognise.load(small_network().state_dict()), tmp_path / 'small.onnx')
    image = np.random.default_rng(0).integers(256, size=(150, 200), dtype=np.uint8)
    exported = Restorer(tmp_path / 'small.onnx', tile=96)(image).astype(int)
    assert np.abs(exported - Restorer(path, tile=96)(image)).max() <= 1
    with pytest.raises(InputError, match='is computed in float32'):
        Restorer(tmp_path / 'small.onnx', dtype='bfloat16')


def test_files_that_are_no_exports(tmp_path):
    (tmp_path / 'text.onnx').write_text('no model')
    for name in ('text.onnx', 'missing.onnx'):
        with pytest.raises(InputError, match=f'{name} is no ONNX file that'):
            Restorer(tmp_path / name)
