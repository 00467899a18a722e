"""What the processes that train or test together tell one another."""

import platform
import re
from pathlib import Path
from typing import Any

import torch
from torch import distributed


def gather(value: Any) -> list[Any]:
    """``value`` of every process, in their order."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return [value]
    values = [None] * distributed.get_world_size()
    distributed.all_gather_object(values, value)
    return values


def hardware(device: torch.device, processes: int) -> str:
    """What trains, for the log: the GPUs, or the processor and its cores."""
    if device.type == 'cuda':
        return f'{processes} x {torch.cuda.get_device_name(device)}'
    cpus = Path('/proc/cpuinfo')
    names = re.findall(r'^model name\s*: (.+)$', cpus.read_text(), re.MULTILINE) if cpus.is_file() else []
    return f'{len(names)} cores of {names[0]}' if names else platform.processor() or platform.machine()
