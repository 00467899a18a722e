"""Speed and memory of our operator and network against the plain build (plain.py), on one machine in one run.

    python benchmarks/bench.py                     all CPU measurements, under 15 minutes
    python benchmarks/bench.py operator forward    some of them
    python benchmarks/bench.py --device cuda       on a GPU

Prints tables, last the measures with their floors, and writes everything to a JSON file. Times are medians of runs in
which the contestants take turns, so that whatever else the machine does hits all alike; ratios are of those medians.
"""

import argparse
import contextlib
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from plain import PlainAirNet
from torch import Tensor, nn

from airnet_basicsr.network.airnet import AirNet
from airnet_basicsr.network.onnx_files import export_onnx
from airnet_basicsr.network.ops import available_backends, modulated_deform_conv2d
from airnet_basicsr.network.ops.memory import keep_freed
from airnet_basicsr.network.recognise import Descriptor

DTYPES = {'fp32': torch.float32, 'bf16': torch.bfloat16}
# The plain build needs minutes for each picture of this size on two cores, so few turns must do.
PICTURE = (320, 480)


class Bench:
    def __init__(self, device: str) -> None:
        self.device = device
        self.rows: list[dict] = []
        self.measures: list[dict] = []

    def time(self, run: Callable) -> float:
        if self.device == 'cuda':
            torch.cuda.synchronize()
        start = time.perf_counter()
        run()
        if self.device == 'cuda':
            torch.cuda.synchronize()
        return time.perf_counter() - start

    def compare(
        self, what: str, runs: dict[str, Callable], against: str, turns: int, warm: bool = True, once: tuple = ()
    ) -> dict[str, float]:
        """Times ``runs`` in turn; gives how many times faster than ``against`` each is.

        Args:
            warm: Run each once before; False where the caller has seen to it.
            once: Those that take part in the first turn only, because they take minutes.
        """
        for run in runs.values() if warm else ():
            run()
        seconds = {name: [] for name in runs}
        for turn in range(turns):
            for name, run in runs.items():
                if turn == 0 or name not in once:
                    seconds[name].append(self.time(run))
        medians = {name: statistics.median(own) for name, own in seconds.items()}
        faster = {name: medians[against] / median for name, median in medians.items()}
        for name, median in medians.items():
            self.say(what, name, seconds=median, faster=faster[name], turns=len(seconds[name]))
        return faster

    def judge(self, measure: str, value: float, least: float | None = None, most: float | None = None) -> None:
        """Notes a measure for the last table; it has a floor (``least``) or a ceiling (``most``)."""
        met = value >= least if most is None else value <= most
        bound = {'at_least': least} if most is None else {'at_most': most}
        self.measures.append({'measure': measure, 'measured': value, **bound, 'met': met})

    def print_measures(self) -> None:
        for row in self.measures:
            bound = f'>= {row["at_least"]}' if 'at_least' in row else f'<= {row["at_most"]}'
            print(f'{row["measure"]:72} {row["measured"]:8.4g} {bound:10} {"met" if row["met"] else "NOT MET"}')

    def say(self, what: str, name: str, **numbers: float) -> None:
        self.rows.append({'what': what, 'name': name, **numbers})
        print(f'{what:44} {name:24}', *(f'{key} {value:.4g}' for key, value in numbers.items()), flush=True)


def dtypes(bench: Bench) -> dict[str, torch.dtype]:
    """Those worth measuring: bfloat16 on a processor without instructions for it would take minutes to say little."""
    known = Path('/proc/cpuinfo')
    has = bench.device == 'cuda' or known.exists() and 'bf16' in known.read_text()
    return {name: dtype for name, dtype in DTYPES.items() if has or dtype != torch.bfloat16}


def network(device: str, groups: int = 5, blocks: int = 5) -> AirNet:
    """Untrained, but with offsets of about a pixel: zero offsets would read memory too regularly."""
    torch.manual_seed(0)
    net = AirNet(num_group=groups, num_block=blocks).to(device)
    for name, parameter in net.named_parameters():
        if 'conv_offset_mask.weight' in name:
            nn.init.normal_(parameter, std=0.01)
    return net


def ours(net: AirNet, dtype: torch.dtype, device: str) -> Callable[[Tensor], Tensor]:
    """Our way of restoring: channels-last, under inference_mode, in ``dtype`` by autocast."""
    net = net.eval().to(memory_format=torch.channels_last)

    def run(x: Tensor) -> Tensor:
        with torch.inference_mode(), torch.autocast(device, dtype, enabled=dtype != torch.float32):
            return net(x.contiguous(memory_format=torch.channels_last))

    return run


def plainly(net: AirNet) -> Callable[[Tensor], Tensor]:
    plain = PlainAirNet(net.eval())

    def run(x: Tensor) -> Tensor:
        with torch.inference_mode():
            return plain(x)[0]

    return run


def step(model: Callable, net: AirNet, x: Tensor, dtype: torch.dtype) -> Callable[[], None]:
    """A joint training step without the key encoder's pass (0.1 % of it): forward, a loss on both outputs, backward,
    Adam."""
    optimizer = torch.optim.Adam(net.parameters(), 1e-4)
    clean = torch.rand_like(x)

    def run() -> None:
        optimizer.zero_grad()
        with torch.autocast(x.device.type, dtype, enabled=dtype != torch.float32):
            restored, projection = model(x)
        loss = nn.functional.l1_loss(restored.float(), clean) + 0.1 * projection.float().square().mean()
        loss.backward()
        optimizer.step()

    return run


def our_step(device: str, dtype: torch.dtype, x: Tensor) -> Callable[[], None]:
    net = network(device).train().to(memory_format=torch.channels_last)

    def model(x: Tensor) -> tuple[Tensor, Tensor]:
        restored, encoding = net(x.contiguous(memory_format=torch.channels_last), encode=True)
        return restored, encoding.projection

    return step(model, net, x, dtype)


def plain_step(device: str, x: Tensor) -> Callable[[], None]:
    net = network(device).train()
    return step(PlainAirNet(net), net, x, torch.float32)


def one_call(backend: str, tensors: list[Tensor], grad_out: Tensor | None) -> None:
    """The operator, and its backward if there is a gradient to start from."""
    out = modulated_deform_conv2d(*tensors, padding=1, backend=backend)
    if grad_out is not None:
        torch.autograd.grad(out, tensors, grad_out)


def operator(bench: Bench) -> None:
    """One 64 -> 64 3x3 call: every backend and dtype, and the product of matrices alone as the limit."""
    device = bench.device
    for size, batch, backward in ((PICTURE, 1, False), ((128, 128), 1, False), ((64, 64), 5, True)):
        pixels = batch * size[0] * size[1]
        torch.manual_seed(0)
        x, offset = torch.randn(batch, 64, *size, device=device), torch.randn(batch, 18, *size, device=device)
        mask, weight = torch.rand(batch, 9, *size, device=device), torch.randn(64, 64, 3, 3, device=device) / 24
        columns, matrix = torch.randn(pixels, 576, device=device), torch.randn(576, 64, device=device)
        grad_out = torch.randn(batch, 64, *size, device=device)
        runs = {'matrix product alone': partial(torch.matmul, columns, matrix)}
        for name, dtype in dtypes(bench).items():
            for backend in available_backends(device):
                if backend == 'torchvision' and dtype != torch.float32:
                    continue
                layout = torch.contiguous_format if backend in ('torchvision', 'basicsr') else torch.channels_last
                own = [x.to(dtype, memory_format=layout), offset.to(memory_format=layout)]
                own += [mask.to(memory_format=layout), weight.to(dtype)]
                own = [t.detach().requires_grad_(backward) for t in own]

                grad = grad_out.to(dtype) if backward else None
                runs[f'{backend} {name}'] = partial(one_call, backend, own, grad)
        if backward:
            del runs['matrix product alone']
        what = f'operator {batch}x64x{size[0]}x{size[1]}' + (' with backward' if backward else '')
        bench.compare(what, runs, 'torchvision fp32', 3)


def exported(net: AirNet) -> Callable[[Tensor], Tensor] | None:
    """The network as we export it, in ONNX Runtime on as many threads as torch uses; None where that is missing."""
    try:
        import onnxruntime
    except ImportError:
        return None
    options = {'num_group': len(net.restorer.groups), 'num_block': len(net.restorer.groups[0].blocks), 'num_feat': 64}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, 'airnet.onnx')
        export_onnx(Descriptor(net.eval(), {**options, 'num_in_ch': 3}, True), path)
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(path, settings, ['CPUExecutionProvider'])
    return lambda x: torch.from_numpy(session.run(None, {'image': x.numpy()})[0])


def forward(bench: Bench) -> None:
    """The whole network on one picture, and how far the outputs are apart."""
    net = network(bench.device)
    x = torch.rand(1, 3, *PICTURE, device=bench.device)
    contestants = {
        f'ours {name}': ours(network(bench.device), dtype, bench.device) for name, dtype in dtypes(bench).items()
    }
    if bench.device == 'cpu' and (other := exported(net)):
        contestants['ONNX Runtime fp32'] = other
    contestants['plain fp32'] = plainly(net)
    outs: dict[str, Tensor] = {}

    def keep(name: str, run: Callable) -> None:
        outs[name] = run(x).float()

    runs = {name: partial(keep, name, run) for name, run in contestants.items()}
    what = f'forward 1x3x{PICTURE[0]}x{PICTURE[1]}'
    if bench.device == 'cpu':
        # A whole warm-up would double the minutes; a small picture loads what is loaded once.
        for run in contestants.values():
            run(x[:, :, :32, :32])
        faster = bench.compare(what, runs, 'plain fp32', 3, warm=False, once=('plain fp32',))
        bench.judge(f'{what} fp32: times faster than plain', faster['ours fp32'], least=6)
        if 'ours bf16' in faster:
            bench.judge(f'{what} bf16: times faster than plain', faster['ours bf16'], least=10)
        if 'ONNX Runtime fp32' in faster:
            ratio = faster['ours fp32'] / faster['ONNX Runtime fp32']
            bench.judge(f'{what} fp32: times faster than ONNX Runtime', ratio, least=1)
    else:
        bench.compare(what, runs, 'plain fp32', 5)
    for name, out in outs.items():
        bench.say(what, name, largest_difference=(out - outs['plain fp32']).abs().max().item())
    difference = (outs['ours fp32'] - outs['plain fp32']).abs().max().item()
    bench.judge(f'{what} fp32: largest difference from plain', difference, most=1e-4)


def training(bench: Bench) -> None:
    """A joint step: on the CPU of the issue's small size, on a GPU of the recipe's."""
    for batch, patch in ((5, 64),) if bench.device == 'cpu' else ((5, 128), (40, 128)):
        x = torch.rand(batch, 3, patch, patch, device=bench.device)
        runs = {f'ours {name}': our_step(bench.device, dtype, x) for name, dtype in dtypes(bench).items()}
        runs['plain fp32'] = plain_step(bench.device, x)
        what = f'training step {batch}x3x{patch}x{patch}'
        if bench.device == 'cpu':
            for dtype in dtypes(bench).values():
                our_step('cpu', dtype, x[:1, :, :16, :16])()
            faster = bench.compare(what, runs, 'plain fp32', 3, warm=False, once=('plain fp32',))
            bench.judge(f'{what} fp32: times faster than plain', faster['ours fp32'], least=10)
        else:
            faster = bench.compare(what, runs, 'plain fp32', 5)
            bench.judge(f'{what} bf16: times faster than plain', faster['ours bf16'], least=3 if batch == 5 else 4)


def scaling(bench: Bench) -> None:
    """Time per pixel as pictures and batches grow. A network of one group and one block: the same work per pixel in
    every block."""
    run = ours(network(bench.device, 1, 1), torch.float32, bench.device)
    sizes = ((1, 128, 128), (4, 128, 128), (16, 128, 128), (1, *PICTURE), (1, 1280, 1920))
    pictures = {size: torch.rand(size[0], 3, *size[1:], device=bench.device) for size in sizes}
    runs = {f'{b}x3x{h}x{w}': partial(run, x) for (b, h, w), x in pictures.items()}
    what, picture = 'scaling, 1 of 25 blocks, fp32', f'1x3x{PICTURE[0]}x{PICTURE[1]}'
    faster = bench.compare(what, runs, picture, 2)
    pixels = {f'{b}x3x{h}x{w}': b * h * w for b, h, w in sizes}
    for name in runs:
        slower_per_pixel = pixels[picture] / (pixels[name] * faster[name])
        bench.say(what, name, time_per_pixel_against_320x480=slower_per_pixel)
    bench.judge('time per pixel at 1280x1920 against 320x480', slower_per_pixel, most=1.15)


def compiled(bench: Bench) -> None:
    """Whether torch.compile would gain anything. Not among the parts that run unasked: it wants a compiler."""
    net = network(bench.device, 1, 1)
    x = torch.rand(1, 3, *PICTURE, device=bench.device)
    runs = {
        'as it is': partial(ours(net, torch.float32, bench.device), x),
        'torch.compile': partial(ours(torch.compile(net), torch.float32, bench.device), x),
    }
    bench.compare('forward, 1 of 25 blocks, fp32', runs, 'as it is', 5)


def profile(bench: Bench) -> None:
    """Where the time goes, and the share of the speed that one large product of matrices reaches."""
    net = ours(network(bench.device, 1, 1), torch.float32, bench.device)
    x = torch.rand(1, 3, *PICTURE, device=bench.device)
    net(x)
    activities = [torch.profiler.ProfilerActivity.CPU]
    if bench.device == 'cuda':
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as prof:
        net(x)
    key = 'self_device_time_total' if bench.device == 'cuda' else 'self_cpu_time_total'
    events = sorted(prof.key_averages(), key=lambda e: -getattr(e, key))
    total = sum(getattr(e, key) for e in events)
    for event in events[:8]:
        share = getattr(event, key) / total
        bench.say('profile, 1 of 25 blocks, fp32', event.key[-24:], share=share, calls=event.count)
    a, b = torch.rand(2, 2048, 2048, device=bench.device)
    limit = 2 * 2048**3 / statistics.median(bench.time(lambda: a @ b) for _ in range(5))
    pixels = PICTURE[0] * PICTURE[1]
    # 3x3 kernels: two offset convolutions (128 -> 27), two deformable and two ordinary ones (64 -> 64) in the block,
    # two more after it and one in the encoder, the three to or from RGB; 1x1: four in each guided module.
    products = 9 * (2 * 128 * 27 + 7 * 64 * 64 + 3 * 3 * 64) + 8 * 64 * 64 + 3 * 64
    seconds = statistics.median(bench.time(lambda: net(x)) for _ in range(3))
    bench.say('profile, 1 of 25 blocks, fp32', 'of the product limit',
              share=2 * products * pixels / seconds / limit, limit_gflops=limit / 1e9)  # fmt: skip


# Of the plain forward one of 25 blocks: nothing outlives its block there, and the whole takes minutes.
PEAKS = {
    'forward ours': lambda device, x: ours(network(device), torch.float32, device)(x),
    'forward plain': lambda device, x: plainly(network(device, 1, 1))(x),
    'step ours': lambda device, x: our_step(device, torch.float32, x)(),
    'step plain': lambda device, x: plain_step(device, x)(),
}


def memory(bench: Bench) -> None:
    """Peak memory, each in a process of its own, above that of the process before the measured run."""
    peaks = {}
    for name in PEAKS:
        done = subprocess.run(
            [sys.executable, __file__, '--peak', name, '--device', bench.device], capture_output=True, text=True
        )
        if done.returncode:
            raise SystemExit(done.stderr)
        peaks[name] = float(done.stdout.split()[-1])
        bench.say('peak memory', name, MiB=peaks[name])
    for run in ('forward', 'step'):
        ratio = peaks[f'{run} ours'] / peaks[f'{run} plain']
        bench.judge(f'peak memory of the {run} against plain', ratio, most=0.5 if bench.device == 'cuda' else 1)


def most_memory() -> int:
    """KiB that this process has held at most. Not getrusage: its figure includes what the parent held before."""
    return int(Path('/proc/self/status').read_text().partition('VmHWM:')[2].split()[0])


def peak(name: str, device: str) -> None:
    size = PICTURE if name.startswith('forward') else (64, 64)
    x = torch.rand(1 if name.startswith('forward') else 5, 3, *size, device=device)
    if device == 'cuda':
        PEAKS[name](device, x)
        print(torch.cuda.max_memory_allocated() / 2**20)
        return
    PEAKS[name](device, torch.rand(1, 3, 16, 16))  # loads what is loaded once
    before = highest_memory()
    PEAKS[name](device, x)
    print(highest_memory() - before)


def highest_memory() -> float:
    """MiB of this process at its peak, on Linux. getrusage's maximum would start from that of the process before it."""
    return int(re.search(r'VmHWM:\s+(\d+) kB', Path('/proc/self/status').read_text())[1]) / 2**10


PARTS = {part.__name__: part for part in (operator, scaling, profile, forward, training, memory, compiled)}


def processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path('/proc/cpuinfo').read_text().splitlines():
            if line.startswith('model name'):
                return line.partition(': ')[2]
    return platform.processor()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('parts', nargs='*', help=f'of {", ".join(PARTS)}; without any, all but compiled')
    parser.add_argument('--device', choices=('cpu', 'cuda'), default='cpu')
    parser.add_argument('--out', type=Path, default=Path('results', 'benchmark.json'))
    parser.add_argument('--peak', choices=PEAKS, help=argparse.SUPPRESS)
    keep_freed()  # as our programs do
    args = parser.parse_args()
    if args.peak:
        return peak(args.peak, args.device)
    if unknown := set(args.parts) - set(PARTS):
        parser.error(f'there is no part {sorted(unknown)[0]!r}; choose from {", ".join(PARTS)}')
    bench = Bench(args.device)
    machine = {
        'processor': processor() if args.device == 'cpu' else torch.cuda.get_device_name(),
        'instructions': torch.backends.cpu.get_cpu_capability(),
        'threads': torch.get_num_threads(),
        'torch': torch.__version__,
    }
    print(*(f'{key}: {value}' for key, value in machine.items()), sep=', ')
    for name in args.parts or [name for name in PARTS if name != 'compiled']:
        PARTS[name](bench)
    bench.print_measures()
    os.makedirs(args.out.parent, exist_ok=True)
    args.out.write_text(
        json.dumps({'machine': machine, 'rows': bench.rows, 'measures': bench.measures}, indent=1) + '\n'
    )
    return print(f'Written to {args.out}')


if __name__ == '__main__':
    main()
