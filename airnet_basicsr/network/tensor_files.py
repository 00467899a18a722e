"""Files of tensors, PyTorch's and safetensors, read without running code from them; what another file is, in words."""

import hashlib
import io
import json
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from airnet_basicsr.errors import InputError
from airnet_basicsr.network.files import write_whole

SAFETENSORS = '.safetensors'
# What safetensors' own metadata must hold for other programs, and what we add; the rest are facts for people.
_FORMAT, _CHECKSUM = 'format', 'sha256_of_tensors'
_FIRST_BYTES = (
    (b'version https://git-lfs', 'a Git LFS pointer, not the file that it stands for: fetch that with `git lfs pull`'),
    (b'\x89PNG', 'a PNG picture'),
    (b'\xff\xd8\xff', 'a JPEG picture'),
    (b'GIF8', 'a GIF picture'),
    (b'%PDF', 'a PDF document'),
    (b'\x89HDF', 'an HDF5 file, as Keras and MATLAB write them'),
    (b'MATLAB 5.0 MAT', 'a MATLAB file'),
    (b'\x93NUMPY', 'a NumPy array'),
    (b'GGUF', 'a GGUF file'),
    (b'\x7fELF', 'a program for Linux'),
    (b'\x1f\x8b', 'compressed with gzip: unpack it first'),
    (b'BZh', 'compressed with bzip2: unpack it first'),
    (b'\xfd7zXZ', 'compressed with xz: unpack it first'),
    (b'\x28\xb5\x2f\xfd', 'compressed with zstd: unpack it first'),
    (b'7z\xbc\xaf\x27\x1c', 'a 7z archive: unpack it first'),
    (b'Rar!', 'a RAR archive: unpack it first'),
)


def read_tensors(path: str | PathLike) -> tuple[Any, dict[str, str]]:
    """What a file holds, on the CPU, and its metadata (safetensors only).

    Args:
        path: Of ``torch.save`` (both its formats) or safetensors; recognised by the content, not by the name.

    Raises:
        InputError: The file is missing, damaged, holds more than tensors and plain values, or is something else, which
            the message names. Code in it is not run.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise InputError(f'checkpoint {path} does not exist') from error
    except IsADirectoryError as error:
        raise InputError(f'checkpoint {path} is a folder: name a file in it') from error
    except (OSError, ValueError) as error:
        raise InputError(f'checkpoint {path} cannot be read: {getattr(error, "strerror", None) or error}') from error
    what = _what_it_is(path.suffix, content)
    if what:
        raise InputError(f'checkpoint {path} is {what}')
    if _begins_as_safetensors(content):
        return _read_safetensors(path, content)
    if content.startswith(b'PK'):
        what = _fault_of_archive(content)
        if what:
            raise InputError(f'checkpoint {path} {what}')
    try:
        return torch.load(io.BytesIO(content), map_location='cpu', weights_only=True), {}
    except Exception as error:  # whatever a damaged pickle brings up
        raise InputError(f'checkpoint {path} {_fault_of_pickle(str(error))}') from error


def _what_it_is(suffix: str, content: bytes) -> str | None:
    """What other kind of file begins so; None for what may be one of tensors."""
    if not content:
        return 'empty: 0 bytes'
    for begin, what in _FIRST_BYTES:
        if content.startswith(begin):
            return what
    head = content[:4096]
    text = head.lstrip(b'\xef\xbb\xbf \t\r\n').lower()
    if text.startswith((b'<!doctype html', b'<html', b'<head', b'<script')):
        title = re.search(rb'<title[^>]*>([^<]*)', content[:65536], re.IGNORECASE)
        named = f' ("{" ".join(title[1].decode(errors="replace").split())[:80]}")' if title else ''
        return f'a web page{named}, not the file: download that again, in a browser if need be'
    if content[257:262] == b'ustar':
        return 'a tar archive: unpack it first'
    if not any(head):
        return 'nothing but zeros where it begins: its download or copy was not finished; get it again'
    if suffix == '.onnx' or (head[0] == 8 and head[1] < 32 and head[2] in b'\x12\x1a\x32\x3a\x42'):
        return (
            'an ONNX file, which only `airnet restore -m` takes, by a name that ends in .onnx: name the checkpoint '
            'that it was exported from'
        )
    if _is_text(head):
        first = next((line.strip() for line in head.decode(errors='replace').splitlines() if line.strip()), '')
        return f'a text file, which begins with {first[:60]!r}'
    return None


def _is_text(head: bytes) -> bool:
    try:
        text = head.decode()
    except UnicodeDecodeError as error:
        if error.start < len(head) - 3:
            return False
        text = head[: error.start].decode()
    return all(character.isprintable() or character in '\t\r\n' for character in text)


# ---- PyTorch's ---------------------------------------------------------------------------------------------------


def _fault_of_archive(content: bytes) -> str | None:
    """Why a ZIP archive is no sound file of ``torch.save``."""
    damaged = 'is damaged, perhaps cut short ({}): get or save it again'
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
            names = [member.filename for member in members]
            inner = [name.partition('/')[2] for name in names]
            if 'constants.pkl' in inner or any(name.startswith('code/') for name in inner):
                return 'is a TorchScript archive, which is a program: save the state_dict() of its network instead'
            if 'data.pkl' not in inner:
                shown = ', '.join(names[:3]) + (', ...' if len(names) > 3 else '')
                if names and all(name.endswith('.npy') for name in names):
                    return f'is an archive of NumPy arrays ({shown}), not of PyTorch tensors'
                return f'is a ZIP archive without a network of PyTorch (it holds {shown or "nothing"}): unpack it first'
            if len(set(names)) < len(names):
                return damaged.format('it holds two parts of one name')
            for member in members:
                if member.external_attr & 0x10:  # marked as a folder: PyTorch would leave its memory unset
                    return damaged.format(f'{member.filename} is marked as a folder')
                if member.CRC:  # PyTorch does not look at them; where it was told to leave them out, they are 0
                    archive.read(member)
    except (zipfile.BadZipFile, zlib.error, struct.error) as error:
        return damaged.format(error)
    except Exception as error:  # a header that asks for encryption, another compression, impossible places
        return damaged.format(f'{type(error).__name__}: {error}')
    return None


def _fault_of_pickle(reason: str) -> str:
    found = re.search(r'GLOBAL (\S+) was not an allowed global|Unsupported (?:global|class|operand) (\S+)', reason)
    if found:
        what = next(filter(None, found.groups())).strip('`.')
        return (
            f'holds Python objects ({what}), and making them can run code: where it was made, save only the '
            'state_dict() of the network'
        )
    return f'is damaged or no file of PyTorch or safetensors ({_first_sentence(reason)}): get or save it again'


def _first_sentence(reason: str) -> str:
    # Of PyTorch's text only what went wrong, not its advice to run the file's code.
    reason = reason.partition('WeightsUnpickler error:')[2] or reason
    reason = ' '.join(reason.split()).partition('. ')[0]
    return 'it cannot be unpickled' if 'weights_only' in reason else reason[:120] or 'it cannot be unpickled'


# ---- safetensors -------------------------------------------------------------------------------------------------


def _begins_as_safetensors(content: bytes) -> bool:
    return len(content) > 8 and content[8:9] == b'{' and int.from_bytes(content[:8], 'little') < 2**27


def _read_safetensors(path: Path, content: bytes) -> tuple[dict[str, Tensor], dict[str, str]]:
    import safetensors.torch

    try:
        tensors = safetensors.torch.load(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], 'little')])
        metadata = dict(header.get('__metadata__') or {})
    except Exception as error:  # SafetensorError, and what an unknown dtype or a header that is no JSON bring up
        raise InputError(f'checkpoint {path} is damaged safetensors ({error}): get or save it again') from error
    checksum = metadata.pop(_CHECKSUM, None)
    if checksum is not None and checksum != _checksum(tensors):
        raise InputError(f'checkpoint {path} is damaged: its tensors are not those that were written; get it again')
    metadata.pop(_FORMAT, None)
    # The library writes and reads names in an order that differs from time to time.
    return dict(sorted(tensors.items())), dict(sorted(metadata.items()))


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    """Over names, dtypes, shapes and values: safetensors has none of its own."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f'{name} {tensor.dtype} {tuple(tensor.shape)}\n'.encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def write_safetensors(path: str | PathLike, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors and metadata, whole or not at all. Raises InputError where the file cannot be written."""
    import safetensors.torch

    # Tensors that share memory are refused by the library.
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    metadata = {**metadata, _FORMAT: 'pt', _CHECKSUM: _checksum(tensors)}
    write_whole(path, safetensors.torch.save(tensors, metadata))


def is_safetensors_name(path: str | PathLike) -> bool:
    return fspath(path).lower().endswith(SAFETENSORS)


# ---- Nested dictionaries of tensors, as names with dots ----------------------------------------------------------


def flattened(content: Mapping[str, Any], prefix: str = '') -> Iterator[tuple[str, Tensor]]:
    """Name and tensor of all tensors of nested dictionaries."""
    for name, value in content.items():
        if isinstance(value, Mapping):
            yield from flattened(value, f'{prefix}{name}.')
        else:
            yield f'{prefix}{name}', value
