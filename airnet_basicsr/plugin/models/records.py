"""What a test leaves in ``results/NAME``: what was tested, and a line for each image."""

import argparse
import hashlib
import json
import math
import platform
import zlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from basicsr.version import __version__ as basicsr_version
from torch import Tensor, distributed, nn

import airnet_basicsr
from airnet_basicsr.network.files import write_whole
from airnet_basicsr.plugin import compute

# Of datasets that do not say how their images were made.
_UNKNOWN = {'protocol': None, 'seed': None, 'crop_multiple': 1}


class Records:
    """``run.json`` (options, checkpoint and its hash, versions) and ``per_image.jsonl``.

    A line is written when its image is done: its degradation, the metrics of the restored and of the degraded image,
    the seconds that restoring took, the side of the tiles where there were any. Infinite and undefined values are
    ``"inf"`` and ``"nan"``.
    """

    def __init__(self, opt: dict[str, Any], net: nn.Module, device: torch.device) -> None:
        self.folder = Path(opt['path']['results_root'])
        if opt['rank'] == 0:
            (self.folder / 'per_image.jsonl').unlink(missing_ok=True)
            run = json.dumps(_description(opt, net, device), indent=2, default=str) + '\n'
            write_whole(self.folder / 'run.json', run.encode())
        if opt['dist']:
            distributed.barrier()  # before the first process has removed what was there, none may write

    def add(self, record: Mapping[str, Any]) -> None:
        # In one piece, at whatever is the file's end: other processes write to it too.
        with open(self.folder / 'per_image.jsonl', 'ab', buffering=0) as file:
            file.write((json.dumps(record) + '\n').encode())


def name_of(paths: Sequence[str]) -> str:
    """An image's name, from the paths in its batch."""
    return Path(paths[0]).stem


def begin_record(dataset: Any, place: int, data: Mapping[str, Any], lq: Tensor) -> dict[str, Any]:
    """The line of an image of ``dataset``, a batch of its own, before it is restored; ``lq`` is 1 x C x H x W."""
    opt = dataset.opt
    made = getattr(dataset, 'record', {'degradation': {'type': opt['type']}, **_UNKNOWN})
    return {
        'dataset': opt['name'],
        'image': name_of(data['lq_path']),
        'scene': name_of(data.get('gt_path', data['lq_path'])),
        'index': place,
        'images': len(dataset),
        **made,
        'size': list(lq.shape[-2:]),
        'lq_crc32': zlib.crc32(lq.float().cpu().numpy().tobytes()),
    }


def plain(values: Mapping[str, float]) -> dict[str, float | str]:
    """As JSON knows them; infinite and undefined values in words."""
    return {name: value if math.isfinite(value) else str(value) for name, value in values.items()}


def _description(opt: dict[str, Any], net: nn.Module, device: torch.device) -> dict[str, Any]:
    checkpoint = opt['path'].get('pretrain_network_g') if opt.get('network_g') else None
    return {
        'name': opt['name'],
        'date': datetime.now().astimezone().isoformat(timespec='seconds'),
        'model_type': opt['model_type'],
        'network': opt.get('network_g'),
        'parameters': sum(parameter.numel() for parameter in net.parameters()),
        'checkpoint': checkpoint
        and {'path': checkpoint, 'sha256': hashlib.sha256(Path(checkpoint).read_bytes()).hexdigest()},
        'option_file': _option_file(),
        'options': opt,
        'paper': opt.get('paper'),
        'versions': {
            'airnet_basicsr': airnet_basicsr.__version__,
            'basicsr': basicsr_version,
            'torch': torch.__version__,
            'numpy': np.__version__,
            'python': platform.python_version(),
        },
        'device': torch.cuda.get_device_name() if device.type == 'cuda' else 'CPU',
        'dcn_backend': compute.backend_of(net, device),
        'metrics': (opt.get('val') or {}).get('metrics') or {},
    }


def _option_file() -> str | None:
    """The option file of the command line; BasicSR does not hand it on."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument('-opt')
    return parser.parse_known_args()[0].opt
