"""What restoring costs beyond the network, and what tiles change: seams, memory, throughput, ONNX Runtime.

    python benchmarks/bench_restore.py seams MODEL PHOTO [W H]  tiles against the whole, on 1500 x 1000 pixels
    python benchmarks/bench_restore.py memory MODEL PHOTO       peak memory of airnet-restore on 4000 x 3000 pixels
    python benchmarks/bench_restore.py throughput MODEL FOLDER  the network alone and airnet-restore, in turns
    python benchmarks/bench_restore.py onnx MODEL               PyTorch and ONNX Runtime, both spellings, in turns

OMP_NUM_THREADS sets the number of threads. docs/restore.md has results.
"""

import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from airnet_basicsr import Restorer
from airnet_basicsr.network import recognise
from airnet_basicsr.network.checkpoints import preferred_network, read_checkpoint
from airnet_basicsr.network.onnx_files import OnnxNetwork, export_onnx
from airnet_basicsr.restore.command import main as restore
from airnet_basicsr.restore.image_files import SUFFIXES, read_picture


def _resized(photo: str, width: int, height: int) -> Image.Image:
    return Image.open(photo).convert('RGB').resize((width, height), Image.Resampling.LANCZOS)


def seams(model: str, photo: str, width: str = '1500', height: str = '1000') -> None:
    clean = np.float32(_resized(photo, int(width), int(height))) / 255
    noisy = clean + np.random.RandomState(0).standard_normal(clean.shape).astype(np.float32) * 25 / 255
    noisy = noisy.clip(0, 1)
    whole = Restorer(model, tile=max(clean.shape))(noisy)
    for tile in (None, 512, 256, 128):
        calls = []
        restored = Restorer(model, tile=tile)(noisy, lambda done, total, calls=calls: calls.append(total))
        largest = np.abs(restored - whole).max() * 255
        print(f'tile {tile or "default"}: {len(calls)} tiles, largest difference {largest:.5f}/255', flush=True)


def memory(model: str, photo: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder, 'large.jpg')
        _resized(photo, 4000, 3000).save(picture, quality=95)
        start = time.perf_counter()
        command = [sys.executable, '-m', 'airnet_basicsr.restore', picture, '-o', folder + '/out', '-m', model]
        command.append('--no-leave-alone')  # all of it is to be restored
        subprocess.run(command, check=True)
        seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(f'4000 x 3000: peak {peak:.0f} MiB in {seconds:.0f} s')


def throughput(model: str, folder: str, rounds: int = 3) -> None:
    paths = sorted(path for path in Path(folder).iterdir() if path.suffix.lower() in SUFFIXES)
    network = Restorer(model).network
    images = [torch.from_numpy(np.float32(read_picture(path).pixels) / 255).permute(2, 0, 1)[None] for path in paths]
    ratios = []
    for _ in range(rounds):
        start = time.perf_counter(), time.process_time()
        with torch.inference_mode():
            for image in images:
                network(image)
        between = time.perf_counter(), time.process_time()
        with tempfile.TemporaryDirectory() as out:
            restore([*map(str, paths), '-o', out, '-m', model, '--no-leave-alone'])
        end = time.perf_counter(), time.process_time()
        alone, alone_cpu = (b - a for a, b in zip(start, between, strict=True))
        whole, whole_cpu = (b - a for a, b in zip(between, end, strict=True))
        ratios.append((alone / whole, alone_cpu / whole_cpu))
        print(
            f'network {alone:.1f} s ({alone_cpu:.1f} s of CPU), with files {whole:.1f} s ({whole_cpu:.1f} s)',
            flush=True,
        )
    wall, cpu = (statistics.median(ratio) for ratio in zip(*ratios, strict=True))
    print(f'{len(paths)} pictures, median of {rounds}: {wall:.1%} of the network alone, {cpu:.1%} by CPU time')


def onnx(model: str, rounds: int = 3) -> None:
    described = recognise.load(preferred_network(read_checkpoint(model)), model)
    networks = {'PyTorch': described.model.to(memory_format=torch.channels_last)}
    with tempfile.TemporaryDirectory() as folder:
        for name, plain in (('DeformConv', False), ('plain', True)):
            export_onnx(described, f'{folder}/{name}.onnx', plain=plain)
            networks[name] = OnnxNetwork(f'{folder}/{name}.onnx', torch.device('cpu'))
        for size in (128, 256, 512):
            x = torch.rand(1, 3, size, size).contiguous(memory_format=torch.channels_last)
            seconds: dict[str, list[float]] = {name: [] for name in networks}
            outputs = {}
            with torch.inference_mode():
                for _ in range(rounds):
                    for name, network in networks.items():
                        start = time.perf_counter()
                        outputs[name] = network(x)
                        seconds[name].append(time.perf_counter() - start)
            shown = ', '.join(f'{name} {min(times):.3f} s' for name, times in seconds.items())
            difference = max(float((outputs['PyTorch'] - output).abs().max()) for output in outputs.values())
            print(f'{size} x {size}: {shown}; largest difference {difference:.1e}', flush=True)


if __name__ == '__main__':
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    {'seams': seams, 'memory': memory, 'throughput': throughput, 'onnx': onnx}[sys.argv[1]](*sys.argv[2:])
