"""``airnet model``: look into, convert, shrink and export model files."""

import argparse
import hashlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from torch import Tensor

from airnet_basicsr.errors import InputError, end_in_one_line
from airnet_basicsr.network import recognise
from airnet_basicsr.network.airnet import MADE_WITH
from airnet_basicsr.network.checkpoints import (
    Checkpoint,
    StateDict,
    preferred_network,
    read_checkpoint,
    save_whole,
    to_official,
    write_checkpoint,
)
from airnet_basicsr.network.matconvnet import is_matlab
from airnet_basicsr.network.momentum_contrast import MomentumContrast
from airnet_basicsr.network.onnx_files import export_onnx
from airnet_basicsr.network.tensor_files import is_safetensors_name, write_safetensors

# The release keeps this many keys for each degradation of its training.
KEYS_PER_DEGRADATION = 256
RELEASES = {5: 'All', 3: 'Denoise', 1: 'Derain or Dehaze'}


def info(path: str) -> list[str]:
    """What the file at ``path`` is, as lines for people. Raises InputError where its network is not known here."""
    checkpoint = read_checkpoint(path)
    described = recognise.load(preferred_network(checkpoint), f'checkpoint {path}')
    content = Path(path).read_bytes()
    if is_matlab(path):
        kind = 'MATLAB file (MatConvNet)'
    elif described.architecture != 'AirNet':
        kind = f'checkpoint ({", ".join(checkpoint.networks)})'
    elif checkpoint.official:
        kind = 'checkpoint of the official release'
    elif described.can_embed:
        kind = f'checkpoint of this project ({", ".join(checkpoint.networks)})'
    else:
        kind = 'checkpoint of this project, for inference only'
    state = preferred_network(checkpoint)
    dtypes = sorted({str(t.dtype).removeprefix('torch.') for t in state.values() if t.is_floating_point()})
    values = sum(t.numel() for name, t in state.items() if t.is_floating_point() and 'running_' not in name)
    lines = [
        f'file: {path}, {len(content):,} bytes',
        f'sha256: {hashlib.sha256(content).hexdigest()}',
        f'kind: {kind}',
        f'network: {described.architecture}, {values:,} parameters, {", ".join(dtypes)}',
        f'options: {", ".join(f"{key}={value}" for key, value in described.options.items())}',
    ]
    steps = state.get('encoder.blocks.0.body.1.num_batches_tracked')
    if steps is not None and steps > 0:
        lines.append(f'training: {int(steps):,} batches seen by the encoder')
    if checkpoint.contrast:
        keys = checkpoint.contrast['queue'].shape[1]
        degradations = keys // KEYS_PER_DEGRADATION
        release = RELEASES.get(degradations, 'none of its checkpoints')
        lines.append(
            f"contrast: key encoder and {keys} keys; in the release's training {degradations} degradation(s): {release}"
        )
    if described.traits.wants_sigma:
        lines.append('told: the noise level (airnet restore --sigma)')
    empty = [name for name, tensor in state.items() if not tensor.float().isfinite().all()]
    if empty:
        lines.append(f'warning: {len(empty)} tensors hold values that are no numbers, among them {empty[0]}')
    lines += [f'{name}: {fact}' for name, fact in checkpoint.facts.items()]
    kinds = [name for name in checkpoint.reference or () if not name.startswith('_')]
    if described.architecture == 'AirNet':
        lines.append(f'explains: {", ".join(kinds) or "no reference embeddings"}')
    return lines


def convert(source: str, target: str, to: str, facts: Mapping[str, str] = MappingProxyType({})) -> None:
    """Write ``source`` as a file of ours (``to='ours'``) or of the official release (``to='official'``).

    A target that ends in ``.safetensors`` is written in that format, with ``facts`` (for people; :func:`info` prints
    them) and the network's options as metadata.

    Our files keep key encoder and queue, so that the way back gives the same tensors bit by bit. A file of ours that
    never had them gets a copy of the encoder and a queue of random keys, as at the start of a training run.

    Raises:
        InputError: A file cannot be read or written, or is for inference only.
    """
    checkpoint = read_checkpoint(source)
    if to == 'ours':
        described = recognise.load(preferred_network(checkpoint), f'checkpoint {source}')
        write_checkpoint(target, _with(checkpoint, facts), described.metadata)
        return
    described, network = recognise.load_airnet(preferred_network(checkpoint), f'checkpoint {source}')
    if not described.can_embed:
        raise InputError(f'checkpoint {source} is for inference only and lacks tensors of the official network')
    markers = [name for name in preferred_network(checkpoint) if name.startswith(MADE_WITH)]
    if markers:
        made_with = ' and '.join(name.removeprefix(MADE_WITH) for name in markers)
        raise InputError(f'checkpoint {source} was made with {made_with}, which the official release does not know')
    contrast = checkpoint.contrast
    if contrast is None:
        size = KEYS_PER_DEGRADATION * max(RELEASES)
        contrast = MomentumContrast(network.encoder, queue_size=size, momentum=0.999).state_dict()
    state = to_official(preferred_network(checkpoint), contrast)
    if is_safetensors_name(target):
        write_safetensors(target, state, {**checkpoint.facts, **facts, **described.metadata})
    elif facts:
        raise InputError(
            f"{target}: the release's files hold no facts; end its name in .safetensors, or leave them out"
        )
    else:
        save_whole(target, state)


def _with(checkpoint: Checkpoint, facts: Mapping[str, str]) -> Checkpoint:
    return checkpoint._replace(facts={**checkpoint.facts, **facts})


def slim(source: str, target: str, facts: Mapping[str, str] = MappingProxyType({})) -> None:
    """Write a file for inference only: the averaged network where there is one, in float16; ``facts`` as for convert.

    Of the encoder only what restoring needs stays, or all of it where reference embeddings ask for it.
    Raises InputError where a file cannot be read or written.
    """
    checkpoint = read_checkpoint(source)
    state = preferred_network(checkpoint)
    described = recognise.load(state, f'checkpoint {source}')
    kept: StateDict = {
        name: _half(tensor, f'{name} of checkpoint {source}')
        for name, tensor in state.items()
        if checkpoint.reference or not name.startswith(recognise.EMBEDDING_PARTS)
    }
    small = checkpoint._replace(networks={'params': kept}, contrast=None, official=False)
    write_checkpoint(target, _with(small, facts), described.metadata)


def _half(tensor: Tensor, name: str) -> Tensor:
    if not tensor.is_floating_point():
        return tensor
    if not tensor.float().isfinite().all():
        raise InputError(f'{name} has values that are no numbers: the training that made it went wrong')
    half = tensor.half()
    if not half.isfinite().all():
        raise InputError(f'{name} has values beyond float16: the file cannot be made small')
    return half


def export(source: str, target: str, plain: bool = False, half: bool = False) -> None:
    """Write the ONNX file of a checkpoint; see :func:`airnet_basicsr.network.onnx_files.export_onnx`."""
    described, _ = recognise.load_airnet(preferred_network(read_checkpoint(source)), f'checkpoint {source}')
    export_onnx(described, target, plain, half)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='airnet model',
        description='Inspect, convert, shrink and export model files.',
        epilog='airnet model reference adds the embeddings that airnet restore --explain needs (with BasicSR only).',
    )
    commands = parser.add_subparsers(dest='command', required=True, metavar='COMMAND')

    def command(name: str, text: str, default: str | None = None) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.add_argument('model', metavar='MODEL')
        if default:
            sub.add_argument('-o', '--output', metavar='FILE', help=f'default: MODEL without its ending, and {default}')
        if name in ('convert', 'slim'):
            sub.add_argument(
                '--fact',
                action='append',
                default=[],
                type=_fact,
                metavar='NAME=TEXT',
                help='a fact that `info` prints, as in --fact licence=Apache-2.0; may be repeated',
            )
        return sub

    command('info', 'print what is in a file: network, size, training facts, hash')
    sub = command(
        'convert',
        "convert between this project's checkpoints and the official release's; FILE.safetensors writes safetensors",
        '.safetensors, or _official.pth',
    )
    sub.add_argument('--to', choices=('ours', 'official'), required=True)
    command('slim', 'write a small file, for inference only', '_slim.safetensors')
    sub = command('export', 'export to ONNX, for pictures of any size; airnet restore -m FILE.onnx runs it', '.onnx')
    sub.add_argument('--plain', action='store_true', help='opset 16, for runtimes without DeformConv (opset 19)')
    sub.add_argument('--float16', action='store_true', help='half the size; input and output stay float32')
    return parser


def _fact(text: str) -> tuple[str, str]:
    name, equals, fact = text.partition('=')
    if not (name.strip() and equals) or name.strip() in ('architecture', 'options'):
        raise argparse.ArgumentTypeError(f'{text!r} is no NAME=TEXT')
    return name.strip(), fact.strip()


def _output(args: argparse.Namespace) -> str:
    """Where to write, by default beside the model; raises InputError where that would be in its place."""
    endings = {'slim': '_slim.safetensors', 'export': '.onnx'}
    if args.output is None:
        ending = endings.get(args.command) or ('.safetensors' if args.to == 'ours' else '_official.pth')
        target = Path(args.model).with_suffix('')
        target = target.with_name(target.name + ending)
        if target == Path(args.model):
            raise InputError(f'{target} is the model itself: name another file with -o')
        return str(target)
    if (args.command == 'export') != args.output.lower().endswith('.onnx'):
        wanted = '.onnx' if args.command == 'export' else '.safetensors or .pth'
        raise InputError(f'{args.output}: name a file that ends in {wanted}, by which other commands know its format')
    if Path(args.output).resolve() == Path(args.model).resolve():
        raise InputError(f'{args.output} is the model itself: name another file with -o')
    return args.output


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; gives the exit status."""
    end_in_one_line()
    args = _parser().parse_args(argv)
    if args.command == 'info':
        print('\n'.join(info(args.model)))
        return 0
    target = _output(args)
    if args.command == 'convert':
        convert(args.model, target, args.to, dict(args.fact))
    elif args.command == 'slim':
        slim(args.model, target, dict(args.fact))
    else:
        export(args.model, target, args.plain, args.float16)
    print(f'{target}: {Path(target).stat().st_size:,} bytes')
    return 0


if __name__ == '__main__':
    sys.exit(main())
