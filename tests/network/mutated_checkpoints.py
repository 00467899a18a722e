"""Checkpoint files as they should not be: sound ones, changed at random, and what else lies about under such names.

``PYTHONPATH=tests python tests/network/mutated_checkpoints.py 3000 [SEED]`` tries that many files on every command that
reads models; what the reader that they all begin with refuses goes no further, and one of those that write is drawn.
"""

import io
import pickle
import random
import sys
import tarfile
import tempfile
import warnings
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from small_models import small_network

from airnet_basicsr import Restorer
from airnet_basicsr.errors import InputError
from airnet_basicsr.network import model_files
from airnet_basicsr.network.airnet import AirNet
from airnet_basicsr.network.checkpoints import (
    Checkpoint,
    differences,
    preferred_network,
    read_checkpoint,
    to_official,
    write_checkpoint,
)
from airnet_basicsr.network.momentum_contrast import MomentumContrast
from airnet_basicsr.restore.explain import fit

PICTURE = np.random.default_rng(0).integers(256, size=(25, 31, 3), dtype=np.uint8)
OPTIONS = {'num_feat': 8, 'unshuffle': 2, 'image_residual': True}


def saved(content, **options) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


class Bases:
    """Sound files of two networks: their contents, and what each network makes of the picture."""

    def __init__(self) -> None:
        self.restored = {}
        self.contents = []
        for name, options in (('paper', {'num_feat': 8}), ('blocks', OPTIONS)):
            net = small_network(**options)
            state = {key: tensor.clone() for key, tensor in net.state_dict().items()}
            contrast = dict(MomentumContrast(net.encoder, queue_size=512, momentum=0.999).state_dict())
            generator = torch.Generator().manual_seed(0)
            reference = fit({kind: torch.rand(20, 32, generator=generator) for kind in ('noise25', 'rain', 'clean')})
            for kind in ('noise25', 'rain', 'clean'):
                reference[kind]['patch_size'] = torch.tensor(16)
            reference['noise25']['sigma'] = torch.tensor(25.0)
            self.contents += [
                (name, {'params': state}),
                (name, {'params': state, 'params_ema': dict(state)}),
                (name, {'params': state, 'reference': reference}),
                (name, {'params': state, 'contrast': contrast, 'reference': reference}),
            ]
            if name == 'paper':
                self.contents += [(name, to_official(state, contrast))]
            self.restored[name] = restored_by(net)


def restored_by(net: torch.nn.Module) -> np.ndarray:
    x = torch.from_numpy(np.float32(PICTURE) / 255).permute(2, 0, 1)[None]
    with torch.inference_mode():
        return net(x)[0].permute(1, 2, 0).clamp(0, 1).numpy()


# ---- Changes -----------------------------------------------------------------------------------------------------


def states_in(content):
    """The dictionaries that hold tensors, at any depth."""
    if any(isinstance(value, torch.Tensor) for value in content.values()):
        yield content
    for value in content.values():
        if isinstance(value, dict):
            yield from states_in(value)


def copied(content):
    return {key: copied(value) if isinstance(value, dict) else value for key, value in content.items()}


ODD_VALUES = [None, 'text', 3, 2.5, [1, 2], (), b'bytes', {}, {'a': 1}, torch.Size([3]), torch.float32, {1, 2}]
ODD_DTYPES = [torch.int8, torch.int64, torch.bool, torch.complex64, torch.uint8, torch.int32]
FLOATS = [torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn]
WRAPPERS = ['net', 'state_dict', 'model', 'network', 'net_g', 'generator', 'model_state_dict']
PREFIXES = ['module.', '_orig_mod.', 'net.', 'model.', 'net_g.', 'module._orig_mod.', '_orig_mod.module.', 'generator.']


def odd_tensor(draw: random.Random, tensor: torch.Tensor) -> torch.Tensor:
    options = [
        lambda: tensor.to(draw.choice(ODD_DTYPES)),
        lambda: tensor.flatten(),
        lambda: tensor[None],
        lambda: tensor.new_zeros(0),
        lambda: tensor.new_zeros(()),
        lambda: torch.zeros(1).expand(10**9, 3, 3, 3),
        lambda: tensor.new_zeros(*tensor.shape, 2),
        lambda: tensor.to_sparse() if tensor.dim() else tensor[None].to_sparse(),
        lambda: torch.quantize_per_tensor(tensor.float(), 0.1, 0, torch.qint8),
        lambda: tensor.to('meta'),
        lambda: tensor[:-1] if tensor.dim() else tensor[None],
        lambda: tensor.new_zeros(7, 5, 3, 3),
    ]
    return draw.choice(options)()


def change_structure(draw: random.Random, content: dict) -> dict:
    """Changes after which no command may take the file for a sound one, nor end in a trace; some do no harm."""
    content = copied(content)
    for _ in range(draw.choice([1, 1, 1, 2, 5])):
        state = draw.choice(list(states_in(content)) or [content])
        if not state:
            continue
        name = draw.choice(list(state))
        tensor = state[name]
        # Of what an earlier change made odd there may be no copy.
        if not isinstance(tensor, torch.Tensor) or tensor.layout != torch.strided or tensor.is_quantized:
            tensor = torch.zeros(2)
        kind = draw.randrange(10)
        if kind == 0:
            del state[name]
        elif kind == 1:
            at = draw.randrange(len(str(name)) + 1)
            state[str(name)[:at] + draw.choice(['x', '.', '7', 'module.', 'é', '\0', '']) + str(name)[at + 1 :]] = (
                state.pop(name)
            )
        elif kind in (2, 3, 4):
            state[name] = odd_tensor(draw, tensor)
        elif kind == 5:
            state[name] = draw.choice(ODD_VALUES)
        elif kind == 6:
            state[draw.choice([1, None, (1, 2), b'key', 2.5, 'more', 'restorer.groups.9999999.blocks.3.x', True])] = (
                tensor
            )
        elif kind == 7:
            state[draw.choice(['made_with.unshuffle', 'made_with.image_residual', 'made_with.other'])] = draw.choice(
                [torch.tensor(2), torch.tensor(-1), torch.tensor(float('nan')), torch.zeros(3), torch.tensor(10**12)]
            )
        elif kind == 8 and tensor.is_floating_point():
            state[name] = torch.full_like(tensor, draw.choice([float('nan'), float('inf'), 1e30]))
        else:
            key = draw.choice(list(content))
            content[key] = draw.choice(ODD_VALUES)
    return content


def harmless(draw: random.Random, content: dict) -> dict:
    """Another wrapping of the same network, which every command must take."""
    flat = next(states_in(content)) if 'params' in content else content
    kind = draw.randrange(6)
    if kind == 0:
        prefix = draw.choice(PREFIXES)
        flat = {prefix + name: tensor for name, tensor in flat.items()}
    elif kind == 1:
        flat = {'net.' + name: tensor for name, tensor in flat.items()}
        flat['loss.weight'] = torch.zeros(3)
    elif kind == 2:
        flat = {name: t.double() if t.is_floating_point() else t for name, t in flat.items()}
    elif kind == 3:
        flat = {'n_averaged': torch.tensor(4), **{'module.' + name: tensor for name, tensor in flat.items()}}
    elif kind == 4:
        return content
    if draw.random() < 0.5:
        flat = {draw.choice(WRAPPERS): flat, 'epoch': 3, 'hyper_parameters': {'lr': 0.1}}
        if draw.random() < 0.3:
            flat = {draw.choice(WRAPPERS): flat}
    return flat


def change_bytes(draw: random.Random, content: bytes) -> bytes:
    data = bytearray(content)
    kind = draw.randrange(6)
    at = draw.randrange(len(data)) if draw.random() < 0.5 else draw.randrange(min(4000, len(data)))
    if kind == 0:
        return bytes(data[:at])
    if kind == 1:
        for _ in range(draw.choice([1, 1, 3, 50])):
            data[draw.randrange(len(data)) if draw.random() < 0.5 else min(at, len(data) - 1)] ^= 1 << draw.randrange(8)
    elif kind == 2:
        del data[at : at + draw.choice([1, 8, 1000])]
    elif kind == 3:
        data[at:at] = draw.randbytes(draw.choice([1, 8, 1000]))
    elif kind == 4:
        data[at : at + 512] = bytes(len(data[at : at + 512]))
    else:
        end = len(data) - draw.randrange(min(2000, len(data)))
        data[end : end + 4] = draw.randbytes(len(data[end : end + 4]))
    return bytes(data)


class Innocent:
    def __init__(self) -> None:
        self.value = 3


def zipped(**members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w', random.Random(0).choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])) as archive:
        for name, content in members.items():
            archive.writestr(name.replace('__', '/'), content)
    return file.getvalue()


def repacked(content: bytes, **changes: bytes | None) -> bytes:
    """A ZIP archive with other members, checksums in order."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(file, 'w') as new:
        for name in old.namelist():
            inner = old.read(name)
            change = changes.get(name.rpartition('/')[2].replace('.', '_'), inner)
            if change is not None:
                new.writestr(name, change)
    return file.getvalue()


def other_pickle(draw: random.Random, sound: bytes) -> bytes:
    """The archive with other bytes in its description of the tensors, and checksums that fit them."""
    with zipfile.ZipFile(io.BytesIO(sound)) as archive:
        pickled = archive.read(next(name for name in archive.namelist() if name.endswith('data.pkl')))
    changes = {'version': None} if draw.random() < 0.5 else {}
    return repacked(sound, data_pkl=change_bytes(draw, pickled), **changes)


def other_file(draw: random.Random, sound: bytes) -> bytes:
    """What is no checkpoint at all."""
    module = torch.nn.Linear(3, 2)
    arrays = io.BytesIO()
    np.savez(arrays, a=np.zeros(3))
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode='w') as archive:
        archive.addfile(tarfile.TarInfo('All.pth'))
    import safetensors.torch

    options = [
        lambda: b'<!DOCTYPE html><html><title>Sign in</title></html>',
        lambda: b'version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 3\n',
        lambda: b'name: train\nmodel_type: AirNetModel\n',
        lambda: draw.randbytes(draw.choice([1, 8, 9, 30, 3000])),
        lambda: bytes(2000),
        lambda: arrays.getvalue(),
        lambda: tar.getvalue(),
        lambda: b'\x89PNG\r\n\x1a\n' + draw.randbytes(40),
        lambda: b'\x1f\x8b\x08' + draw.randbytes(40),
        lambda: zipped(All__pth=sound, readme=b'x'),
        lambda: zipped(),
        lambda: zipped(archive__data=b'x'),
        lambda: zipped(**{'archive__data.pkl': pickle.dumps(draw.choice(ODD_VALUES)), 'archive__version': b'3'}),
        lambda: zipped(**{'archive__data.pkl': draw.randbytes(50), 'archive__version': b'3'}),
        lambda: repacked(sound, byteorder=b'middle'),
        lambda: saved(module),
        lambda: saved({'params': module}),
        lambda: saved(module.state_dict()),
        lambda: saved({'params': module.state_dict()}),
        lambda: saved(draw.choice(ODD_VALUES)),
        lambda: saved([torch.zeros(2), torch.zeros(3)]),
        lambda: saved(torch.zeros(3)),
        lambda: saved({'iter': 4, 'epoch': 1, 'optimizers': [], 'schedulers': []}),
        lambda: saved({'state_dict': {}, 'epoch': np.float64(3)}),
        lambda: saved({'params': {'a': np.zeros(3)}}),
        lambda: saved(Innocent()),
        lambda: saved({'args': Path('x'), 'params': {}}),
        lambda: pickle.dumps(draw.choice(ODD_VALUES), draw.randrange(6)),
        lambda: pickle.dumps(Innocent(), draw.randrange(6)),
        lambda: safetensors.torch.save(module.state_dict()),
        lambda: (20).to_bytes(8, 'little') + b'{"a": {"dtype": "X"}}',
        lambda: (2**26).to_bytes(8, 'little') + b'{"a"',
    ]
    return draw.choice(options)()


def mutant(draw: random.Random, bases: Bases, path: Path) -> tuple[str, str | None]:
    """Write a file to ``path``: how it was made, and the network that it must be where it is accepted.

    The second is None where a change may have made another network of it.
    """
    name, content = draw.choice(bases.contents)
    kind = draw.choice(['bytes', 'bytes', 'structure', 'structure', 'structure', 'harmless', 'other', 'pickle'])
    if kind == 'structure':
        content = change_structure(draw, content)
        name = None
    elif kind == 'harmless':
        content = harmless(draw, content)
    if kind == 'pickle':
        path.write_bytes(other_pickle(draw, saved(content)))
        return kind, None
    if kind == 'other':
        path.write_bytes(other_file(draw, saved(content)))
        return kind, None
    as_safetensors = kind == 'bytes' and 'params' in content and draw.random() < 0.4
    legacy = draw.random() < 0.15
    if as_safetensors:
        state = {key: content.get(key) for key in ('contrast', 'reference')}
        networks = {key: content[key] for key in ('params', 'params_ema') if key in content}
        target = path.with_suffix('.safetensors')
        write_checkpoint(target, Checkpoint(networks, state['contrast'], state['reference']))
        data = target.read_bytes()
        target.unlink()
    else:
        data = saved(content, _use_new_zipfile_serialization=not legacy)
    if kind == 'bytes':
        data = change_bytes(draw, data)
        if legacy and not as_safetensors:
            name = None  # that format has no checksum
    path.write_bytes(data)
    return kind, name


# ---- Commands ----------------------------------------------------------------------------------------------------


def run(path: Path, draw: random.Random) -> dict[str, object]:
    """What each command makes of the file: a value, or the InputError. Other errors pass."""
    source = str(path)
    try:
        read_checkpoint(source)
    except InputError as error:
        return {'read': checked(error)}
    out = path.parent / 'out'
    out.mkdir(exist_ok=True)

    def restore():
        restorer = Restorer(path, leave_alone=False)
        if restorer.explainer:
            restorer.explain(PICTURE)
        return restorer(np.float32(PICTURE) / 255)

    def again(target, write):
        def function():
            write(target)
            return Restorer(target, leave_alone=False)(np.float32(PICTURE) / 255)

        return function

    writers = {
        'convert': again(out / 'ours.pth', lambda to: model_files.convert(source, str(to), 'ours')),
        'safetensors': again(out / 'ours.safetensors', lambda to: model_files.convert(source, str(to), 'ours')),
        'official': again(out / 'official.pth', lambda to: model_files.convert(source, str(to), 'official')),
        'slim': again(out / 'slim.safetensors', lambda to: model_files.slim(source, str(to))),
    }
    if draw.random() < 0.05:
        writers = {'export': again(out / 'x.onnx', lambda to: model_files.export(source, str(to)))}
    writer = draw.choice(list(writers))
    commands = {
        'info': lambda: model_files.info(source),
        'restore': restore,
        'pretrain': lambda: pretrain(source),
        writer: writers[writer],
    }
    results = {}
    for command, function in commands.items():
        try:
            results[command] = function()
        except InputError as error:
            results[command] = checked(error)
    return results


def checked(error: InputError) -> InputError:
    assert str(error) and '\n' not in str(error) and 'weights_only' not in str(error), error
    return error


def pretrain(path: str) -> np.ndarray | None:
    """As train and test load path:pretrain_network_g, into the network that the file holds."""
    from airnet_basicsr.plugin.models.restoration_model import RestorationModel

    state = preferred_network(read_checkpoint(path))
    options = next((o for o in ({'num_feat': 8}, OPTIONS) if fits(state, o)), OPTIONS)
    net = AirNet(**{'num_group': 1, 'num_block': 1, **options}).eval()
    model = object.__new__(RestorationModel)
    model.opt, model.is_train = {'dist': False}, True
    model.load_network(net, path, True, 'params_ema')
    return restored_by(net)


def fits(state, options) -> bool:
    with torch.device('meta'):
        return not differences(state, AirNet(**{'num_group': 1, 'num_block': 1, **options}).state_dict())


def check(kind: str, expected: np.ndarray | None, results: dict[str, object]) -> None:
    """Raise AssertionError unless the commands agree and give what they must."""
    accepted = {command for command, result in results.items() if not isinstance(result, InputError)}
    why = {command: str(result) for command, result in results.items() if isinstance(result, InputError)}
    if kind == 'other':
        assert not accepted, accepted
    if kind == 'harmless':
        assert not why.keys() - {'official', 'export'}, why
    # Values that are no numbers, or too large, are told by what computes with them; without the marker of pixel blocks
    # the network is one for 12 channels, which is no RGB.
    words = ('no numbers', 'beyond', 'other values', 'channels, not for RGB')
    numbers = any(word in message for message in why.values() for word in words)
    if not numbers:
        assert not accepted or not why.keys() - {'official', 'export', 'pretrain'}, why
    for command in accepted - {'info'}:
        bound = 5e-3 if command == 'slim' else 1e-5
        if expected is not None:
            assert np.abs(results[command] - expected).max() <= bound, command
        elif 'restore' in accepted and np.abs(results['restore']).max() < 100:
            assert np.abs(results[command] - results['restore']).max() <= max(bound, 0.02), command


def main(count: int, seed: int) -> int:
    """Try ``count`` files; gives the number of faults, each of which is printed."""
    warnings.simplefilter('ignore')
    bases = Bases()
    kinds: Counter[str] = Counter()
    faults = 0
    with tempfile.TemporaryDirectory() as folder:
        for number in range(count):
            draw = random.Random(f'{seed} {number}')
            path = Path(folder, draw.choice(['x.pth', 'x.pt', 'x.ckpt', 'x.safetensors', 'x']))
            try:
                kind, name = mutant(draw, bases, path)
            except RuntimeError as error:
                if 'allocate' in str(error):
                    continue  # changed twice: a view of more elements than memory holds was to be filled
                raise
            try:
                results = run(path, draw)
                check(kind, bases.restored[name] if name else None, results)
                refused = sum(isinstance(result, InputError) for result in results.values())
                kinds[f'{kind}, {"refused" if refused == len(results) else "taken"}'] += 1
            except Exception as error:  # noqa: BLE001
                faults += 1
                print(f'{seed} {number} ({kind}): {type(error).__name__}: {str(error)[:400]}', flush=True)
                kinds['FAULT'] += 1
            if number % 500 == 499:
                print(number + 1, dict(kinds), flush=True)
    print(dict(kinds))
    return faults


if __name__ == '__main__':
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0) > 0)
