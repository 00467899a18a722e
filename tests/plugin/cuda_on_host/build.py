"""Compiles BasicSR's DCNv2, written for CUDA, with the C++ compiler of a machine without CUDA.

The sources are BasicSR's own, unmodified but for the launches of kernels (``<<<...>>>``), which become plain calls; the
headers in this folder stand in for CUDA's.
"""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

from torch.utils.cpp_extension import load

# One unit of all three files: torch's headers, which take most of the time, are read once.
UNIT = """
#include <ATen/DeviceGuard.h>
#include <torch/extension.h>
#define is_cuda() is_cpu()  // the operator's test for a GPU lets a CPU tensor through
#include "deform_conv_ext.cpp"
#include "deform_conv_cuda.cpp"
#include "kernels.cpp"
"""


def build(folder: Path) -> ModuleType:
    """The extension for the host, compiled into ``folder`` (10 to 30 s)."""
    sources = Path(importlib.util.find_spec('basicsr').submodule_search_locations[0], 'ops', 'dcn', 'src')
    kernels = (sources / 'deform_conv_cuda_kernel.cu').read_text()
    (folder / 'kernels.cpp').write_text(re.sub('<<<.*?>>>', '', kernels, flags=re.DOTALL))
    (folder / 'unit.cpp').write_text(UNIT)
    return load(
        'dcnv2_on_host',
        [str(folder / 'unit.cpp')],
        extra_cflags=['-O1', '-w'],
        extra_include_paths=[str(path) for path in (Path(__file__).parent, sources, folder)],
        build_directory=str(folder),
    )
