"""The networks that AirNet is compared with: their published sizes, how far they look, that they learn."""

import numpy as np
import pytest
import torch
from skimage import data
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from airnet_basicsr.errors import InputError
from airnet_basicsr.network import recognise
from airnet_basicsr.network.aodnet import AODNet
from airnet_basicsr.network.brdnet import BRDNet
from airnet_basicsr.network.dncnn import DnCNN
from airnet_basicsr.network.ffdnet import FFDNet
from airnet_basicsr.network.ircnn import IRCNN
from airnet_basicsr.network.mprnet import MPRNet
from airnet_basicsr.network.nafnet import NAFNet
from airnet_basicsr.network.promptir import PromptIR
from airnet_basicsr.network.traits import traits_of

SMALL = {
    'AODNet': AODNet,
    'BRDNet': lambda: BRDNet(num_feat=8),
    'DnCNN': lambda: DnCNN(num_feat=16, num_layer=5),
    'FFDNet': lambda: FFDNet(num_feat=32, num_layer=4),
    'IRCNN': lambda: IRCNN(num_feat=16),
    'MPRNet': lambda: MPRNet(n_feat=8, scale_unetfeats=4, scale_orsnetfeats=4, num_cab=1),
    'NAFNet': lambda: NAFNet(width=8, middle_blk_num=1, enc_blk_nums=(1, 2), dec_blk_nums=(2, 1)),
    'PromptIR': lambda: PromptIR(
        dim=8, num_blocks=(1, 2, 1, 1), num_refinement_blocks=1, prompt_dims=(8, 16, 32), prompt_sizes=(8, 4, 2)
    ),
}
BOUNDED = ('AODNet', 'BRDNet', 'DnCNN', 'FFDNet', 'IRCNN')


def count(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


@pytest.fixture(params=SMALL)
def net(request) -> nn.Module:
    torch.manual_seed(0)
    return SMALL[request.param]()


@pytest.fixture(params=BOUNDED)
def bounded(request) -> nn.Module:
    """A network of finite field of view, in eval mode, whose farthest pixels matter."""
    torch.manual_seed(0)
    net = SMALL[request.param]().eval()
    for parameter in net.parameters():
        parameter.requires_grad_(False)
        if parameter.dim() == 4:  # positive: nothing cancels, no ReLU is shut
            parameter.uniform_(0.5, 1).div_(parameter[0].numel())
    return net.double()


def test_sizes_are_the_published_ones():
    assert count(DnCNN(batch_norm=False)) == 668_227
    assert count(FFDNet()) == 852_108
    assert count(FFDNet(num_in_ch=1, num_feat=64, num_layer=15)) == 485_316
    assert count(IRCNN(batch_norm=False)) == 188_163
    assert count(AODNet()) == 1_761
    brdnet = BRDNet()
    norms = [module for module in brdnet.modules() if isinstance(module, nn.BatchNorm2d)]
    assert count(brdnet) - sum(map(count, norms)) == 1_115_051
    assert len(norms) == 19
    assert count(MPRNet()) == 3_637_249
    for sizes, millions in (((80, 48, 32), '15.74'), ((96, 48, 32), '20.13')):
        assert f'{count(MPRNet(*sizes)) / 1e6:.2f}' == millions
    gopro = {'enc_blk_nums': (1, 1, 1, 28), 'middle_blk_num': 1, 'dec_blk_nums': (1, 1, 1, 1)}
    for options, millions in (({}, '29.16'), (gopro, '17.11'), ({**gopro, 'width': 64}, '67.89')):
        assert f'{count(NAFNet(**options)) / 1e6:.2f}' == millions
    # 35.59 million with the six 1x1 convolutions that the authors' network has and never uses.
    unused = [(64, 64), (128, 128), (320, 256), (48 + 64, 48), (96 + 128, 96), (192 + 256, 192)]
    assert f'{(count(PromptIR()) + sum(a * b for a, b in unused)) / 1e6:.2f}' == '35.59'


def test_any_size_is_restored(net):
    net.eval()
    for size in ((1, 1), (7, 5), (33, 46)):
        with torch.no_grad():
            assert net(torch.rand(2, 3, *size)).shape == (2, 3, *size)


def test_a_patch_is_memorised(net):
    clean = torch.from_numpy(data.astronaut()[104:120, 200:216] / np.float32(255)).permute(2, 0, 1)[None]
    degraded = 0.5 * clean + 0.5  # as a haze
    optimizer = torch.optim.Adam(net.parameters(), 5e-3)
    losses = []
    for _ in range({AODNet: 300, FFDNet: 250}.get(type(net), 60)):  # these two give the picture, not what is wrong
        restored = net.train()(degraded)
        outputs = restored if isinstance(restored, list) else [restored]
        loss = sum(F.l1_loss(output, clean) for output in outputs) / len(outputs)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) / 5 < 0.3 * F.l1_loss(degraded, clean).item()


def test_a_state_dict_says_which_network_it_is_of(net):
    net.eval()
    x = torch.rand(1, 3, 24, 16)
    found = recognise.load(net.state_dict())
    assert type(found.model) is type(net)
    with torch.no_grad():
        assert torch.equal(found.model(x), net(x))


def test_a_state_dict_of_another_network_is_refused():
    state = SMALL['NAFNet']().state_dict()
    del state['ending.bias']
    with pytest.raises(InputError, match=r'ending\.bias is missing'):
        recognise.load(state, 'file')
    with pytest.raises(InputError, match='of no network that is known here'):
        recognise.load({'fc.weight': torch.zeros(1)}, 'file')


def test_a_pixel_depends_on_no_farther_one_than_the_network_says(bounded):
    reach, multiple = bounded.traits.reach, bounded.traits.multiple_of
    side = 2 * (reach + 4)
    x = torch.full((1, 3, side, side), 0.5, dtype=torch.float64)
    changed = x.clone()
    changed[..., side // 2, side // 2] += 0.25
    moved = (bounded(changed) - bounded(x))[0].abs().amax(0) > 0
    distances = [abs(int(place) - side // 2) for line in moved.nonzero() for place in line]
    assert reach - multiple < max(distances) <= reach


def test_tiles_that_share_what_the_network_says_add_up_to_the_whole(bounded):
    traits = bounded.traits
    torch.manual_seed(1)
    x = torch.rand(1, 3, 2 * traits.overlap, 12, dtype=torch.float64)
    # As the tiler does: what is nearer to an inner edge than a quarter of the overlap is thrown away.
    kept = traits.overlap // 4
    cut = traits.overlap + traits.multiple_of
    assert cut % traits.multiple_of == 0
    start = cut - traits.overlap
    lower = bounded(x[:, :, start:])[:, :, kept:]
    torch.testing.assert_close(lower, bounded(x)[:, :, start + kept :], rtol=0, atol=1e-12)


def test_a_network_that_says_nothing_looks_at_the_whole_picture():
    assert traits_of(nn.Conv2d(3, 3, 3)).reach is None


def test_dncnn_folds_into_the_authors_layout():
    torch.manual_seed(0)
    net = DnCNN(num_feat=8, num_layer=4)
    net(torch.rand(4, 3, 16, 16))  # statistics
    net.eval()
    layers = list(net.model)
    folded = [layers[0], layers[1], fuse_conv_bn_eval(*layers[2:4]), layers[4], fuse_conv_bn_eval(*layers[5:7])]
    names = nn.Sequential(*folded, layers[7], layers[8]).state_dict()
    found = recognise.load({f'model.{name}': tensor for name, tensor in names.items()})
    assert found.options['batch_norm'] is False
    x = torch.rand(1, 3, 9, 9)
    with torch.no_grad():
        torch.testing.assert_close(found.model(x), net(x))


def test_ffdnet_is_told_the_level_of_each_picture():
    torch.manual_seed(0)
    net = FFDNet(num_feat=8, num_layer=3, sigma=25).eval()
    x = torch.rand(2, 3, 9, 7)
    with torch.no_grad():
        told = net(x, torch.tensor([15.0, 50.0]))
        torch.testing.assert_close(told, torch.cat((net(x[:1], 15), net(x[1:], 50))))
        assert (told[:1] - net(x[:1], 50)).abs().max() > 1e-3
        assert torch.equal(net(x), net(x, 25.0))


def test_promptir_of_its_authors_loads_without_the_layers_that_it_never_uses():
    net = SMALL['PromptIR']()
    state = {f'net.{name}': tensor for name, tensor in net.state_dict().items()}  # as Lightning writes it
    state |= {'net.chnl_reduce1.weight': torch.zeros(64, 64, 1, 1)}
    state |= {'net.reduce_noise_channel_1.weight': torch.zeros(8, 16, 1, 1)}
    found = recognise.load({name.removeprefix('net.'): tensor for name, tensor in state.items()})
    assert isinstance(found.model, PromptIR)


def test_mprnet_gives_all_its_stages_in_training_and_the_last_one_otherwise():
    torch.manual_seed(0)
    net = SMALL['MPRNet']()
    x = torch.rand(1, 3, 17, 24)
    stages = net.train()(x)
    assert [stage.shape for stage in stages] == 3 * [x.shape]
    assert torch.equal(net.eval()(x), stages[0])
