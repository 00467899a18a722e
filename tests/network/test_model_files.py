"""The airnet-model command: what a file is, both directions of conversion, small files, reference embeddings."""

import hashlib

import numpy as np
import pytest
import torch
from conftest import ROOT, run_python
from golden import official_checkpoint
from skimage import data
from small_models import save, small_network

from airnet_basicsr import Restorer
from airnet_basicsr.errors import InputError
from airnet_basicsr.network import model_files, recognise
from airnet_basicsr.plugin import reference as reference_embeddings


@pytest.fixture(scope='module')
def official(tmp_path_factory):
    path = tmp_path_factory.mktemp('official') / 'All.pth'
    torch.save(official_checkpoint(), path)
    return path


@pytest.fixture(scope='module')
def small(tmp_path_factory):
    return save(small_network(), tmp_path_factory.mktemp('small') / 'small.pth')


def test_official_to_ours_and_back_is_bit_identical(official, tmp_path):
    assert model_files.main(['convert', str(official), '--to', 'ours', '-o', str(tmp_path / 'ours.pth')]) == 0
    assert 'params' in torch.load(tmp_path / 'ours.pth', weights_only=True)
    assert (
        model_files.main(['convert', str(tmp_path / 'ours.pth'), '--to', 'official', '-o', str(tmp_path / 'b.pth')])
        == 0
    )
    before, after = official_checkpoint(), torch.load(tmp_path / 'b.pth', weights_only=True)
    assert len(before) == 584 and before.keys() == after.keys()
    for name, tensor in before.items():
        assert tensor.dtype == after[name].dtype and torch.equal(tensor, after[name]), name


def test_a_training_s_file_becomes_a_whole_official_one(tmp_path):
    net = recognise.load(official_checkpoint()).model
    path = save(net, tmp_path / 'net_g.pth')
    model_files.main(['convert', str(path), '--to', 'official', '-o', str(tmp_path / 'official.pth')])
    made = torch.load(tmp_path / 'official.pth', weights_only=True)
    expected = official_checkpoint()
    assert {name: t.shape for name, t in made.items()} == {name: t.shape for name, t in expected.items()}
    assert torch.equal(made['E.E.encoder_k.E.1.shortcut.0.weight'], expected['E.E.encoder_q.E.1.shortcut.0.weight'])
    torch.testing.assert_close(made['E.E.queue'].norm(dim=0), torch.ones(1280))


def test_info_tells_what_a_file_is(official, small, tmp_path):
    done = run_python('-m', 'airnet_basicsr.network.model_files', 'info', official, cwd=ROOT)
    assert done.returncode == 0
    for expected in ('official release', '7,610,377 parameters', 'num_feat=64', 'num_block=5', '5 degradation(s): All'):
        assert expected in done.stdout
    assert hashlib.sha256(official.read_bytes()).hexdigest() in done.stdout
    assert f'{official.stat().st_size:,} bytes' in done.stdout
    torch.save({'params': torch.nn.Linear(3, 3).state_dict()}, tmp_path / 'other.pth')
    done = run_python('-m', 'airnet_basicsr.network.model_files', 'info', tmp_path / 'other.pth', cwd=ROOT)
    assert done.returncode == 1 and 'Traceback' not in done.stdout
    assert 'other.pth is of no network that is known here' in done.stdout


def test_a_slim_file_restores_alike(small, tmp_path, capsys):
    model_files.main(['slim', str(small), '-o', str(tmp_path / 'slim.pth')])
    assert (tmp_path / 'slim.pth').stat().st_size < small.stat().st_size / 2
    photo = data.astronaut()[:64, :64]
    assert np.abs(Restorer(small)(photo).astype(int) - Restorer(tmp_path / 'slim.pth')(photo)).max() <= 1
    capsys.readouterr()
    model_files.main(['info', str(tmp_path / 'slim.pth')])
    said = capsys.readouterr().out
    assert 'for inference only' in said and 'float16' in said
    with pytest.raises(InputError, match='for inference only and lacks'):
        model_files.convert(str(tmp_path / 'slim.pth'), str(tmp_path / 'x.pth'), 'official')


def test_markers_survive_every_command_and_the_release_does_not_know_them(tmp_path, capsys):
    net = small_network(unshuffle=2, image_residual=True)
    source = save(net, tmp_path / 'blocks.pth')
    photo = data.astronaut()[:61, :63]
    expected = Restorer(source)(photo)
    assert np.abs(expected.astype(int) - photo).max() > 1
    for command in (['convert', '--to', 'ours'], ['slim']):
        target = tmp_path / f'{command[0]}.pth'
        model_files.main([command[0], str(source), *command[1:], '-o', str(target)])
        state = torch.load(target, weights_only=True)['params']
        markers = {name: t for name, t in state.items() if name.startswith('made_with.')}
        assert {name: (t.item(), t.dtype) for name, t in markers.items()} == {
            'made_with.unshuffle': (2, torch.int64),
            'made_with.image_residual': (1, torch.int64),
        }
        assert np.abs(Restorer(target)(photo).astype(int) - expected).max() <= 1
        capsys.readouterr()
        model_files.main(['info', str(target)])
        assert 'unshuffle=2, image_residual=True' in capsys.readouterr().out
    with pytest.raises(InputError, match='blocks.pth was made with unshuffle and image_residual, which the official'):
        model_files.convert(str(source), str(tmp_path / 'official.pth'), 'official')
    assert not (tmp_path / 'official.pth').exists()


def test_reference_embeddings_tell_noise_from_none(paper_datasets, small, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(paper_datasets)
    options = tmp_path / 'train.yml'
    text = (ROOT / 'options/train_airnet_aio.yml').read_text()
    assert 'gt_size: 128' in text
    options.write_text(text.replace('gt_size: 128', 'gt_size: 64'))
    reference = tmp_path / 'reference.pth'
    reference_embeddings.main([str(small), '-opt', str(options), '-o', str(reference), '--count', '12'])
    restorer = Restorer(reference)
    photo = np.float32(data.rocket()[100:300, 200:400]) / 255
    noise = np.random.default_rng(0).standard_normal(photo.shape, np.float32)
    seen = restorer.explain((photo + noise * 50 / 255).clip(0, 1))
    assert seen.kind == 'noise' and 35 < seen.sigma <= 50 and seen.confidence > 0.5
    assert sum(seen.probabilities.values()) == pytest.approx(1)
    assert restorer.explain(photo).kind != 'noise' or restorer.explain(photo).sigma < 25
    assert 0 <= restorer.explain(np.zeros((1, 1), np.uint8)).confidence <= 1
    # Explaining survives shrinking.
    model_files.main(['slim', str(reference), '-o', str(tmp_path / 'slim.pth')])
    assert Restorer(tmp_path / 'slim.pth').explain(photo).kind == restorer.explain(photo).kind
    capsys.readouterr()
    model_files.main(['info', str(tmp_path / 'slim.pth')])
    assert 'explains: noise15, noise25, noise50, rain, haze, clean' in capsys.readouterr().out


def test_a_program_that_inspects_state_dicts_finds_the_network():
    state = official_checkpoint()
    assert recognise.detect(state) and not recognise.detect({'weight': torch.zeros(1)})
    for options in ({'with_sft': False}, {'with_dcn': False}, {'num_feat': 8, 'num_group': 2, 'num_block': 3}):
        net = small_network(**options)
        found = recognise.load({f'module.{name}': t for name, t in net.state_dict().items()})
        assert {**found.options, **options} == found.options
        assert found.scale == 1 and found.input_channels == found.output_channels == 3
        x = torch.rand(1, 3, 20, 24)
        torch.testing.assert_close(found.model(x), net(x))


@pytest.mark.parametrize('words', [['slim'], ['convert', '--to', 'ours'], ['convert', '--to', 'official']])
def test_a_model_is_not_written_over_itself(small, words, monkeypatch):
    before = small.read_bytes()
    monkeypatch.chdir(small.parent)
    with pytest.raises(InputError, match='is the model itself'):
        model_files.main([*words, str(small), '-o', 'small.pth'])
    assert small.read_bytes() == before


@pytest.mark.parametrize('value', [float('inf'), float('nan')])
def test_offsets_that_are_no_numbers_are_told(tmp_path, value):
    net = small_network()
    torch.nn.init.constant_(net.restorer.groups[0].blocks[0].dgm1.dcn.conv_offset_mask.bias, value)
    path = save(net, tmp_path / 'x.pth')
    assert '1 tensors hold values that are no numbers' in '\n'.join(model_files.info(str(path)))
    assert Restorer(path).traits.overlap > 0
