"""The parts of gpu.sh that are Python: see there. Each result is kept as soon as it is measured."""

import json
import os
import shutil
import statistics
import sys
import time
import zlib
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import torch

DEVICE = os.environ.get('DEVICE', 'cuda')
TINY = DEVICE == 'cpu'
OUT, FROM = Path(os.environ.get('OUT', 'results/gpu')), Path(os.environ.get('FROM', 'results/gpu'))
LIMIT = float(os.environ.get('LIMIT', 420))
GO_ON = 75  # the exit status of a part whose time was up
PACKED = 40 * 10**6  # bytes


class Results:
    """One part's results, by name; those of an earlier call are kept."""

    def __init__(self, part: str) -> None:
        self.path, self.until = OUT / f'{part}.json', time.monotonic() + LIMIT
        earlier = FROM / f'{part}.json'
        self.measured: dict[str, Any] = json.loads(earlier.read_text())['measured'] if earlier.is_file() else {}

    def keep(self, name: str, value: Any) -> None:
        self.measured[name] = value
        print(f'{name}: {json.dumps(value)}', flush=True)
        whole = {'machine': machine(), 'measured': self.measured}
        aside = self.path.with_suffix('.tmp')
        aside.write_text(json.dumps(whole, indent=1) + '\n')
        aside.replace(self.path)

    def once(self, name: str, measure: Callable[[], Any]) -> None:
        """Measure what is not there yet; what cannot be measured leaves its reason."""
        if name in self.measured:
            return
        self.stop_in_time()
        try:
            value = measure()
        except Exception as error:
            lines = str(error).strip().splitlines() or ['']
            value = {'failed': f'{type(error).__name__}: {lines[0]}'}
        self.keep(name, value)
        if DEVICE == 'cuda':
            torch.cuda.empty_cache()

    def stop_in_time(self, leave: Callable[[str, int], object] | None = None) -> None:
        if time.monotonic() > self.until:
            said = f'The time is up ({LIMIT:.0f} s): run this part again to resume.'
            if leave:
                leave(said, GO_ON)
            print(said)
            sys.exit(GO_ON)


def machine() -> dict[str, str | None]:
    import torchvision

    return {
        'device': torch.cuda.get_device_name() if DEVICE == 'cuda' else 'CPU',
        'torch': torch.__version__,
        'torchvision': torchvision.__version__,
        'cuda': torch.version.cuda,
    }


def seconds(run: Callable[[], object]) -> float:
    """Median of ten, or of what two seconds allow, after two that warm up."""
    times: list[float] = []
    for turn in range(12):
        synchronize()
        started = time.perf_counter()
        run()
        synchronize()
        if turn >= 2:
            times.append(time.perf_counter() - started)
        if len(times) >= 3 and sum(times) > 2:
            break
    return statistics.median(times)


def synchronize() -> None:
    if DEVICE == 'cuda':
        torch.cuda.synchronize()


def memory_of(run: Callable[[], object]) -> float | None:
    """MiB of GPU memory at the most, beyond what is held before."""
    if DEVICE != 'cuda':
        return None
    synchronize()
    held = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run()
    synchronize()
    return (torch.cuda.max_memory_allocated() - held) / 2**20


# ---- tests -----------------------------------------------------------------------------------------------------------


class Recorder:
    """Leaves out the tests that have passed before, and notes each outcome."""

    def __init__(self, results: Results) -> None:
        self.results = results

    def pytest_collection_modifyitems(self, config: Any, items: list[Any]) -> None:
        passed = [item for item in items if self.results.measured.get(item.nodeid) == 'passed']
        config.hook.pytest_deselected(items=passed)
        items[:] = [item for item in items if item not in passed]

    def pytest_runtest_setup(self, item: Any) -> None:
        import pytest

        # An exit by sys.exit would be an error of this test, and of each after it.
        self.results.stop_in_time(pytest.exit)

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when == 'call' or report.outcome != 'passed':
            self.results.keep(report.nodeid, report.longreprtext[-1500:] if report.failed else report.outcome)


def tests() -> int:
    import pytest

    results = Results('tests')
    where = ['tests/network/ops/test_gpu_backends.py', 'tests/plugin/test_on_a_gpu.py']
    status = pytest.main(['-m', 'gpu', '-q', '-p', 'no:cacheprovider', *where], plugins=[Recorder(results)])
    return 0 if status == pytest.ExitCode.NO_TESTS_COLLECTED else int(status)


# ---- backends --------------------------------------------------------------------------------------------------------


def operator_arguments(size: tuple[int, ...], channels: int) -> list[torch.Tensor]:
    batch, height, width = size
    rng = torch.Generator().manual_seed(0)
    offset = 2 * torch.randn(batch, 18, height, width, generator=rng)
    mask = torch.rand(batch, 9, height, width, generator=rng)
    x = torch.randn(batch, channels, height, width, generator=rng)
    weight = torch.randn(channels, channels, 3, 3, generator=rng) / (9 * channels) ** 0.5
    return [tensor.to(DEVICE) for tensor in (x, offset, mask, weight)]


def backends() -> int:
    import airnet_basicsr.plugin  # noqa: F401  (the backend basicsr)
    from airnet_basicsr.network.ops import available_backends, modulated_deform_conv2d

    results = Results('backends')
    channels = 16 if TINY else 64
    sizes = {'small': (1, 16, 24)} if TINY else {'picture': (1, 320, 480), 'batch 5': (5, 128, 128)}
    if not TINY:
        sizes['batch 40'] = (40, 128, 128)

    def output_and_gradients(tensors: list[torch.Tensor], seen: torch.Tensor, backend: str) -> list[torch.Tensor]:
        out = modulated_deform_conv2d(*tensors, padding=1, backend=backend)
        return [out.detach(), *torch.autograd.grad(out, tensors, seen.to(out.dtype))]

    def measure(size: tuple[int, ...], backend: str, dtype: torch.dtype, channels_last: bool) -> dict[str, Any]:
        own = operator_arguments(size, channels)
        own = [own[0].to(dtype), *own[1:3], own[3].to(dtype)]
        layout = torch.channels_last if channels_last else torch.contiguous_format
        own = [tensor.to(memory_format=layout).requires_grad_() for tensor in own]
        # Exact: torchvision's operator in float64, image by image, on the first two.
        exact = [tensor.detach()[: 2 if i < 3 else None].double().requires_grad_() for i, tensor in enumerate(own)]
        few = [tensor.detach()[: 2 if i < 3 else None].requires_grad_() for i, tensor in enumerate(own)]
        rng = torch.Generator().manual_seed(1)
        seen = torch.randn(own[0].shape, generator=rng).to(DEVICE)  # the operator keeps size and channels
        expected, actual = (
            output_and_gradients(tensors, seen[:2], which)
            for tensors, which in ((exact, 'torchvision'), (few, backend))
        )
        errors = [float((a.double() - e).norm() / e.norm()) for a, e in zip(actual, expected, strict=True)]
        del expected, actual, exact, few

        def forward() -> None:
            with torch.no_grad():
                modulated_deform_conv2d(*own, padding=1, backend=backend)

        return {
            'forward_s': seconds(forward),
            'with_backward_s': seconds(partial(output_and_gradients, own, seen, backend)),
            'MiB': memory_of(partial(output_and_gradients, own, seen, backend)),
            'error': dict(zip(('out', 'x', 'offset', 'mask', 'weight'), errors, strict=True)),
        }

    for label, size in sizes.items():
        for backend in available_backends(DEVICE):
            for name, dtype in (('fp32', torch.float32), ('bf16', torch.bfloat16)):
                for channels_last in (False, True):
                    layout = 'channels-last' if channels_last else 'contiguous'
                    run = partial(measure, size, backend, dtype, channels_last)
                    results.once(f'{label}, {backend}, {name}, {layout}', run)
    return 0


# ---- throughput ------------------------------------------------------------------------------------------------------

# By name, what of the option file is changed. Every contestant but the first differs from another in one thing.
CONTESTANTS: dict[str, dict[str, Any]] = {
    'fp32': {'tf32': False},
    'TF32': {'tf32': True},
    'bf16': {'tf32': True, 'amp': 'bf16'},
    'bf16, channels-last': {'tf32': True, 'amp': 'bf16', 'channels_last': True},
    'bf16, fused Adam': {'tf32': True, 'amp': 'bf16', 'fused': True},
    'bf16, torchvision': {'tf32': True, 'amp': 'bf16', 'dcn_backend': 'torchvision'},
    'bf16, triton, channels-last': {
        'tf32': True, 'amp': 'bf16', 'dcn_backend': 'triton', 'channels_last': True,
    },
    'bf16, compiled': {'tf32': True, 'amp': 'bf16', 'compile': True},
}  # fmt: skip


def throughput() -> int:
    import airnet_basicsr.plugin  # noqa: F401  (registers)
    from airnet_basicsr.plugin.options import load_options

    results = Results('throughput')
    base = load_options('options/train_airnet_aio.yml')
    patch, batches = (16, (1,)) if TINY else (128, (1, 8))  # an item is a patch of each of five degradations
    for items in batches:
        for name, changes in CONTESTANTS.items():
            if TINY and (changes.get('compile') or changes.get('dcn_backend')):
                continue
            run = partial(training_step, base, changes, items, patch)
            results.once(f'training step, batch {5 * items}, patch {patch}, {name}', run)
    for size in ((24, 16),) if TINY else ((320, 480), (1080, 1920)):
        for dtype in ('float32', 'bfloat16') if not TINY else ('float32',):
            results.once(f'restoring {size[1]} x {size[0]}, {dtype}', partial(restoring, size, dtype))
    return 0


def training_step(base: dict[str, Any], changes: dict[str, Any], items: int, patch: int) -> dict[str, Any]:
    """A joint step of AirNetModel as the option file describes it, on random patches."""
    from basicsr.models import build_model

    opt = deepcopy(base)
    opt.update(dist=False, is_train=True, rank=0, world_size=1, num_gpu=int(DEVICE == 'cuda'), val=None)
    opt['train'].update(encoder_warmup_iter=0, amp=changes.get('amp'))
    if 'fused' in changes:
        opt['train']['optim_g']['fused'] = changes['fused']
    keys = ('tf32', 'channels_last', 'dcn_backend', 'compile')
    opt['compute'] = {key: changes[key] for key in keys if key in changes}
    if TINY:
        opt['network_g'].update(num_feat=16, num_group=1, num_block=1)
        opt['train']['queue_size'] = 16
    torch.manual_seed(0)
    model = build_model(opt)
    rng = torch.Generator().manual_seed(0)
    batch = {name: torch.rand(items, 5, 3, patch, patch, generator=rng) for name in ('lq', 'gt', 'key')}
    batch['degradation'] = torch.arange(5).repeat(items, 1)

    def step() -> None:
        model.feed_data(batch)
        model.optimize_parameters(1)

    median = seconds(step)
    return {'s': median, 'patches_per_s': 5 * items / median, 'MiB': memory_of(step), 'loss': model.log_dict['l_pix']}


def restoring(size: tuple[int, int], dtype: str) -> dict[str, Any]:
    """One picture by the network alone, without tiles."""
    from airnet_basicsr.network.airnet import AirNet

    torch.manual_seed(0)
    net = AirNet(num_group=1, num_block=1) if TINY else AirNet()
    net = net.eval().to(DEVICE)
    x = torch.rand(1, 3, *size, device=DEVICE)
    lower = getattr(torch, dtype)

    def run() -> None:
        with torch.inference_mode(), torch.autocast(DEVICE, lower, enabled=lower != torch.float32):
            net(x)

    return {'s': seconds(run), 'MiB': memory_of(run)}


# ---- pack ------------------------------------------------------------------------------------------------------------


def pack(reference: str, data: str) -> int:
    """What a training run of options/reference/ reads; of photographs and scenes as many as fit, evenly chosen."""
    source, target = Path(reference), Path(data)
    if not (source / 'complete').is_file():
        print(f'{source} is not complete: datasets_prep/reference.sh makes it', file=sys.stderr)
        return 1
    files = [path for path in sorted(source.rglob('*')) if path.is_file() and path.parent.name not in UNPACKED]
    for every in range(1, 11):
        chosen = [path for path in files if _is_chosen(path, every)]
        size = sum(path.stat().st_size for path in chosen)
        if size <= PACKED:
            break
    else:
        print(f'{size / 1e6:.1f} MB are more than {PACKED / 1e6:.0f}: give fewer photographs', file=sys.stderr)
        return 1
    shutil.rmtree(target, ignore_errors=True)
    for path in chosen:
        (target / path.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target / path.relative_to(source))
    print(f'{len(chosen)} files, {size / 1e6:.1f} MB, in {target}')
    return 0


# Not read while training.
UNPACKED = ('val_haze_gt', 'val_haze_lq', 'val_clean')


def _is_chosen(path: Path, every: int) -> bool:
    # By the name's hash: a scene and its depth map go together.
    return path.parent.name not in ('clean', 'scenes', 'depth') or zlib.crc32(path.stem.encode()) % every == 0


PARTS: dict[str, Callable[..., int]] = {f.__name__: f for f in (tests, backends, throughput, pack)}

if __name__ == '__main__':
    sys.exit(PARTS[sys.argv[1]](*sys.argv[2:]))
