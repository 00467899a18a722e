"""Parity with the official network, brought in through the import of its checkpoints."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from basicsr.models import build_model
from golden import FIXTURES, official_checkpoint

from airnet_basicsr.network.checkpoints import from_official
from airnet_basicsr.plugin.options import load_options

OPTIONS = Path(__file__).parents[1] / 'options'


@pytest.fixture(scope='module')
def official(tmp_path_factory):
    path = tmp_path_factory.mktemp('official') / 'All.pth'
    torch.save(official_checkpoint(), path)
    return path


def build(official, **train):
    """The model of the shipped all-in-one option file, on the CPU, from the official checkpoint."""
    opt = load_options(OPTIONS / 'train_airnet_aio.yml')
    opt.update(num_gpu=0, dist=False, is_train=True, rank=0, world_size=1)
    opt['path'].update(pretrain_network_g=str(official))
    opt['train'].update(encoder_warmup_iter=0, **train)
    return build_model(opt)


def numbers(name):
    with np.load(FIXTURES / name) as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays.files}


def test_eval_forward(official):
    golden = numbers('eval_forward.npz')
    net = build(official).net_g.eval()
    with torch.no_grad():
        restored, encoding = net(golden['input'], encode=True)
        assert torch.equal(net(golden['input']), restored)
    torch.testing.assert_close(restored, golden['restored'], rtol=0, atol=1e-4)
    torch.testing.assert_close(encoding.z, golden['z'], rtol=0, atol=1e-5)
    torch.testing.assert_close(encoding.embedding, golden['embedding'], rtol=0, atol=1e-4)


def test_train_step(official):
    golden = numbers('train_step.npz')
    model = build(official)
    logits = []
    model.cri_contrast.register_forward_hook(lambda module, inputs, output: logits.append(output[1].detach()))
    batch = {'lq': golden['x_query'], 'key': golden['x_key'], 'gt': golden['gt'], 'degradation': torch.arange(5)}
    model.feed_data({name: tensor[None] for name, tensor in batch.items()})
    model.optimize_parameters(1)

    torch.testing.assert_close(model.output.detach(), golden['restored'], rtol=0, atol=1e-4)
    torch.testing.assert_close(logits[0], golden['logits'], rtol=1e-3, atol=1e-4)
    assert model.log_dict['l_pix'] == pytest.approx(golden['l1'].item(), rel=1e-3)
    assert model.log_dict['l_contrast'] == pytest.approx(0.1 * golden['ce'].item(), rel=1e-3)
    assert model.log_dict['l_pix'] + model.log_dict['l_contrast'] == pytest.approx(golden['loss'].item(), rel=1e-3)

    norms = json.loads((FIXTURES / 'train_step_grad_norms.json').read_text())
    ours = {name: parameter.grad.norm() for name, parameter in model.net_g.named_parameters()}
    theirs, _ = from_official({name: torch.tensor(norm) for name, norm in norms.items()})
    assert len(theirs) == len(norms) == 497
    assert ours.keys() == theirs.keys()
    for name, norm in theirs.items():
        assert ours[name].item() == pytest.approx(norm.item(), rel=0.01, abs=1e-7), name

    contrast = model.contrast.state_dict()
    torch.testing.assert_close(contrast['queue'][:, :8], golden['queue_after'], rtol=0, atol=1e-4)
    assert torch.equal(contrast['queue_ptr'], golden['queue_ptr_after'].reshape(1))
    after = from_official({k.removeprefix('after/'): v for k, v in golden.items() if k.startswith('after/')})
    for part, state in zip(after, (model.net_g.state_dict(), contrast), strict=True):
        for name, values in part.items():
            torch.testing.assert_close(state[name].flatten()[:256], values.flatten(), rtol=1e-3, atol=1e-4, msg=name)
    assert any(name.startswith('key_encoder.') for name in after[1])
