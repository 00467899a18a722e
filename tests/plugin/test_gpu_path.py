"""What can be known without a GPU of the lines that only run on one: devices are faked, what they decide is real."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from basicsr.data import build_dataset
from basicsr.models import build_model
from conftest import ROOT, run_python
from small_models import save, small_network
from small_run import write_options
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.data import default_collate
from torch.utils.data._utils.pin_memory import pin_memory

from airnet_basicsr import Restorer
from airnet_basicsr.errors import InputError
from airnet_basicsr.network.airnet import AirNet
from airnet_basicsr.network.ops import deform_conv
from airnet_basicsr.plugin import compute
from airnet_basicsr.plugin.options import load_options
from airnet_basicsr.restore.tiles import is_out_of_memory


@pytest.fixture
def opt(tmp_path, paper_datasets, monkeypatch):
    monkeypatch.chdir(paper_datasets)
    opt = load_options(write_options(tmp_path))
    opt.update(dist=False, is_train=True, rank=0, world_size=1)
    opt['train'].update(encoder_warmup_iter=0, ema_decay=0)
    opt['path'].update(models=str(tmp_path), training_states=str(tmp_path), experiments_root=str(tmp_path))
    for phase, dataset in opt['datasets'].items():
        dataset['phase'] = phase
    return opt


def batch(size=24):
    rng = torch.Generator().manual_seed(0)
    images = {name: torch.rand(1, 2, 3, size, size, generator=rng) for name in ('lq', 'gt', 'key')}
    return images | {'degradation': torch.arange(2)[None]}


class Reached(Exception):
    pass


@pytest.mark.parametrize('backend', ['basicsr', 'torchvision'])
@pytest.mark.parametrize('amp', [None, 'bf16'])
def test_a_training_step_up_to_its_backward_stays_on_the_gpu(opt, monkeypatch, amp, backend):
    """PyTorch's fake tensors know device, shape and dtype, and refuse to mix devices. Autograd's engine needs a GPU."""
    opt['train']['amp'], opt['num_gpu'] = amp, 1
    monkeypatch.setenv(deform_conv.VARIABLE, backend)
    monkeypatch.setattr(torch.cuda, 'get_device_name', lambda device=None: 'a GPU')
    monkeypatch.setattr(deform_conv, '_failure', lambda name: None)
    monkeypatch.setattr(FakeTensorMode, '__deepcopy__', lambda self, memo: self, raising=False)
    monkeypatch.setattr('torch.cuda.amp.common.amp_definitely_not_available', lambda: False)
    monkeypatch.setattr(torch.cuda, 'is_bf16_supported', lambda *arguments: True)
    monkeypatch.setattr(torch.nn.Module, 'to', lambda self, *arguments, **changes: self)  # fakes cannot be moved
    seen = {}

    def backward(loss):
        seen['loss'] = loss
        raise Reached

    monkeypatch.setattr(torch.Tensor, 'backward', backward)
    monkeypatch.setattr(torch.amp.GradScaler, 'scale', lambda self, loss: loss)
    with FakeTensorMode():
        with torch.device('cuda'):
            model = build_model(opt)
        model.net_g.restorer.groups[0].register_forward_hook(lambda *of: seen.update(features=of[2]))
        model.feed_data(batch())
        with pytest.raises(Reached):
            model.optimize_parameters(1)
    assert seen['features'].device.type == seen['loss'].device.type == 'cuda'
    assert seen['features'].dtype == (torch.bfloat16 if amp else torch.float32)
    assert seen['loss'].dtype == torch.float32
    assert seen['features'].is_contiguous()


def test_memory_that_runs_out_on_a_gpu_is_given_back_before_smaller_tiles_are_tried(tmp_path, monkeypatch):
    restorer = Restorer(save(small_network(), tmp_path / 'net.pth'))
    monkeypatch.setattr(torch.cuda, 'mem_get_info', lambda device: (2**40, 2**40))
    emptied, sides = [], []
    monkeypatch.setattr(torch.cuda, 'empty_cache', lambda: emptied.append(1))

    def run(part):
        sides.append(max(part.shape[2:]))
        if sides[-1] > 200:
            raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 1.00 GiB.')
        return part

    restorer.device = torch.device('cuda')
    monkeypatch.setattr(restorer, '_run', run)
    image = np.random.RandomState(0).randint(0, 256, (500, 700, 3), np.uint8)
    assert np.abs(restorer(image).astype(int) - image).max() <= 1
    assert sides[0] == 700 and max(sides[-9:]) <= 200
    assert len(emptied) == 2  # 700, 350, 175


MEMORY = (
    'CUDA out of memory. Tried to allocate 2.00 GiB',
    'CUDA error: out of memory',
    'CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`',
    'cuDNN error: CUDNN_STATUS_ALLOC_FAILED',
)


@pytest.mark.parametrize('message', MEMORY)
def test_every_way_in_which_cuda_says_that_memory_ran_out_is_understood(message):
    assert is_out_of_memory(RuntimeError(message))


def test_tiles_fit_into_half_of_the_free_memory_of_a_gpu(tmp_path, monkeypatch):
    restorer = Restorer(save(small_network(num_feat=64), tmp_path / 'net.pth'))
    restorer.device = torch.device('cuda')
    sides = []
    for free in (2**30, 4 * 2**30, 80 * 2**30):
        monkeypatch.setattr(torch.cuda, 'mem_get_info', lambda device, free=free: (free, free))
        sides.append(restorer._tile_that_fits())
    assert sides[1] == pytest.approx(2 * sides[0], rel=0.01)
    # Whatever the card has, BasicSR's kernels, which count in 32 bits, can do the tile in one piece.
    assert 64 * 9 * sides[2] ** 2 < 2**31


def test_batches_can_be_pinned(opt, monkeypatch):
    """As a data loader with ``pin_memory`` does, through every container of an item."""
    pinned = []
    monkeypatch.setattr(torch.Tensor, 'pin_memory', lambda self, *device: pinned.append(self) or self)
    items = build_dataset(opt['datasets']['train'])
    found = pin_memory(default_collate([items[0], items[1]]), 'cuda')
    assert set(found) == set(items[0]) and len(pinned) == sum(torch.is_tensor(value) for value in found.values())


def test_the_memory_format_is_the_one_that_the_operator_reads(monkeypatch):
    monkeypatch.setattr(deform_conv, '_failure', lambda name: None)
    monkeypatch.setattr(deform_conv, 'available_backends', lambda device: ['basicsr', 'torchvision', 'triton'])
    net, cuda, cpu = AirNet(num_feat=16, num_group=1, num_block=1), torch.device('cuda'), torch.device('cpu')

    def chosen(device, backend=None, wanted=None, net=net):
        if backend:
            monkeypatch.setenv(deform_conv.VARIABLE, backend)
        return compute.memory_format(net, device, {'compute': {'channels_last': wanted}})

    assert chosen(cpu) == torch.channels_last
    assert chosen(cuda, 'basicsr') == chosen(cuda, 'torchvision') == torch.contiguous_format
    assert chosen(cuda, 'triton') == torch.channels_last
    assert chosen(cuda, 'basicsr', True) == torch.channels_last
    assert chosen(cpu, wanted=False) == chosen(cuda, 'triton', False) == torch.contiguous_format
    narrow = AirNet(num_feat=8, num_group=1, num_block=1)
    assert chosen(cpu, net=narrow) == torch.contiguous_format  # a fault of oneDNN
    assert chosen(cuda, 'triton', net=narrow) == torch.channels_last
    with pytest.raises(InputError, match='option compute:channels_last: not safe'):
        chosen(cpu, wanted=True, net=narrow)


@pytest.fixture
def tf32():
    """The two switches of PyTorch, in a list; they are put back."""

    def switches():
        return [torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32]

    before = switches()
    yield switches
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@pytest.mark.parametrize('wanted', [None, True, False])
def test_tf32_is_as_the_option_says_and_pytorchs_own_without(tf32, wanted):
    expected = tf32() if wanted is None else [wanted, wanted]
    compute.apply({'compute': {'tf32': wanted}})
    assert tf32() == expected


@pytest.mark.parametrize('amp', [None, 'fp16'])
def test_fused_adam_learns_as_the_ordinary_one(opt, amp):
    """With the loss scaling of fp16 too, where it unscales the gradients by itself unless they have been."""

    def trained(fused):
        changed = deepcopy(opt)
        changed['train']['amp'] = amp
        changed['train']['grad_clip'] = 0.5
        changed['train']['optim_g']['fused'] = fused
        torch.manual_seed(0)
        model = build_model(changed)
        for iteration in range(1, 4):
            model.feed_data(batch())
            model.optimize_parameters(iteration)
        assert model.optimizer_g.defaults['fused'] is fused
        return torch.cat([parameter.detach().flatten() for parameter in model.net_g.parameters()])

    torch.testing.assert_close(trained(True), trained(None), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_compiled_training_steps_learn_as_the_others_and_keep_names(opt):
    def trained(compiled):
        changed = deepcopy(opt)
        changed['compute'] = {'compile': compiled}
        changed['train']['encoder_warmup_iter'] = 1
        torch.manual_seed(0)
        model = build_model(changed)
        for iteration in range(1, 4):
            model.feed_data(batch())
            model.optimize_parameters(iteration)
        return model.net_g.state_dict()

    plain, compiled = trained(False), trained(True)
    assert list(plain) == list(compiled)
    for name, tensor in plain.items():
        torch.testing.assert_close(
            compiled[name], tensor, rtol=1e-3, atol=1e-4, msg=lambda text, name=name: f'{name}: {text}'
        )


NCCL = """
import torch
torch.cuda.is_available, torch.cuda.device_count = (lambda: True), (lambda: 2)
chosen, begun = [], []
torch.cuda.set_device = chosen.append
torch.distributed.init_process_group = lambda **settings: begun.append(settings)
import airnet_basicsr.plugin
from basicsr.models.base_model import BaseModel
from basicsr.utils.dist_util import init_dist
from basicsr.models import base_model
init_dist('pytorch', backend='nccl', rank=3)
print(chosen, begun)
base_model.DistributedDataParallel = lambda net, **settings: settings
torch.cuda.current_device = lambda: 1
model = BaseModel({'num_gpu': 2, 'is_train': True, 'dist': True, 'find_unused_parameters': True})
model.device = torch.device('cpu')
print(model.model_to_device(torch.nn.Linear(1, 1)))
"""


def test_processes_on_gpus_talk_through_nccl_each_on_its_own(tmp_path, monkeypatch):
    for name, value in {'RANK': '3', 'WORLD_SIZE': '4', 'MASTER_ADDR': 'localhost', 'MASTER_PORT': '1'}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv('PYTHONPATH', str(ROOT))
    done = run_python('-c', NCCL, cwd=tmp_path)
    begun, wrapped = done.stdout.strip().splitlines()[-2:]
    assert begun == "[1] [{'backend': 'nccl', 'rank': 3}]", done.stdout
    assert wrapped == "{'device_ids': [1], 'find_unused_parameters': True}", done.stdout
