"""What happens when memory runs out in the native library, and what is done to the process's malloc."""

import sys

import pytest
from conftest import ROOT, run_python

from airnet_basicsr.network.ops import native

OUT_OF_MEMORY = """
import resource, sys
import torch
from airnet_basicsr.network.ops import native
torch.set_num_threads(8)
torch.manual_seed(0)
channels, side = 2048, 9
x = torch.randn(1, channels, 6, 6).contiguous(memory_format=torch.channels_last)
offset, mask = torch.zeros(1, 2 * side**2, 6, 6), torch.ones(1, side**2, 6, 6)
weight = torch.randn(side**2 * channels, 16)
window = [side, side, 1, 1, side // 2, side // 2, 1, 1]
expected = native._forward(x, offset, mask, weight, window)
grad = torch.ones_like(expected)
outcomes = set()
for megabytes in [*range(0, 120, 15), 2000]:
    size = int(open('/proc/self/statm').read().split()[0]) * 4096
    resource.setrlimit(resource.RLIMIT_AS, (size + megabytes * 2**20, -1))
    try:
        right = torch.equal(native._forward(x, offset, mask, weight, window), expected)
        outcomes.add('right' if right else 'wrong')
    except (MemoryError, RuntimeError) as error:
        outcomes.add(type(error).__name__)
    try:
        native._backward(grad, x, offset, mask, weight, window)
    except (MemoryError, RuntimeError) as error:
        outcomes.add(type(error).__name__)
    resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
print(sorted(outcomes))
"""


@pytest.mark.skipif(sys.platform != 'linux', reason='limits memory as Linux does')
@pytest.mark.skipif(native.library() is None, reason='the native library is not built')
def test_without_memory_the_native_library_raises_and_the_process_lives(tmp_path):
    done = run_python('-c', OUT_OF_MEMORY, cwd=ROOT)
    assert done.returncode == 0, done.stdout[-2000:]
    outcomes = done.stdout.strip().splitlines()[-1]
    assert 'MemoryError' in outcomes and "'right'" in outcomes and 'wrong' not in outcomes


def test_restoring_leaves_the_malloc_of_the_host_process_alone(tmp_path):
    """A library's call must not change what its host's memory does; our own programs may."""
    program = (
        'import numpy as np\n'
        'from airnet_basicsr.network.ops import memory\n'
        'calls = []\n'
        'memory._set = lambda *what: calls.append(what)\n'
        'from airnet_basicsr import Restorer\n'
        'Restorer(leave_alone=False)(np.zeros((32, 32, 3), np.uint8))\n'
        'memory.release_freed()\n'
        'print(calls)\n'
    )
    done = run_python('-c', program, cwd=ROOT)
    assert done.stdout.strip().splitlines()[-1] == '[]'
