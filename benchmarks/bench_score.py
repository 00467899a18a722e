"""Time of `airnet score` on a folder of pictures, beside loops of BasicSR's and pyiqa's own metrics on the same files.

    python benchmarks/bench_score.py FOLDER_OF_PHOTOGRAPHS [--count 1000] [--skip pyiqa]

Pairs of 500 x 500 are cut from the photographs, noise of sigma 10 added, and written as PNG. Each program reads the
files itself, in a process of its own, with the threads that it takes by default; processor time counts its start too.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

SIDE = 500
BASICSR = """
import sys, cv2
from pathlib import Path
import airnet_basicsr.plugin  # repairs BasicSR, which newer torchvision breaks
from basicsr.metrics import calculate_psnr, calculate_ssim
for path in sorted(Path(sys.argv[1]).iterdir()):
    pair = [cv2.imread(str(folder / path.name)) for folder in (path.parent, Path(sys.argv[2]))]
    calculate_psnr(*pair, crop_border=0), calculate_ssim(*pair, crop_border=0)
"""
PYIQA = """
import sys, pyiqa
from pathlib import Path
metrics = [pyiqa.create_metric(name, device='cpu') for name in ('psnr', 'ssim')]
for path in sorted(Path(sys.argv[1]).iterdir()):
    for metric in metrics:
        metric(str(path), str(Path(sys.argv[2]) / path.name))
"""


def write_pairs(photographs: Path, folder: Path, count: int) -> None:
    """Write `count` clean and noisy squares into `folder`/clean and `folder`/noisy."""
    rng = np.random.default_rng(0)
    sources = [path for path in sorted(photographs.iterdir()) if path.suffix.lower() in ('.jpg', '.png')]
    for name in ('clean', 'noisy'):
        (folder / name).mkdir()
    for number in range(count):
        image = cv2.imread(str(sources[number % len(sources)]))
        scale = max(1, SIDE / min(image.shape[:2]))
        image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)[:SIDE, :SIDE]
        noisy = np.clip(np.rint(image + rng.normal(0, 10, image.shape)), 0, 255).astype(np.uint8)
        for name, picture in (('clean', image), ('noisy', noisy)):
            cv2.imwrite(str(folder / name / f'{number:04}.png'), picture)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('photographs', type=Path)
    parser.add_argument('--count', type=int, default=1000)
    parser.add_argument('--skip', nargs='*', default=[], choices=['score', 'BasicSR', 'pyiqa'])
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_pairs(args.photographs, folder, args.count)
        clean, noisy = str(folder / 'clean'), str(folder / 'noisy')
        programs = {
            'score': ['-m', 'airnet_basicsr', 'score', noisy, '--gt', clean, '--out', str(folder / 'scores')],
            'BasicSR': ['-c', BASICSR, noisy, clean],
            'pyiqa': ['-c', PYIQA, noisy, clean],
        }
        for program, arguments in programs.items():
            if program in args.skip:
                continue
            before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
            subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
            after, seconds = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter() - start
            processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            print(f'{program:8} {args.count} pairs: {processor:.1f} s of processor time, {seconds:.1f} s', flush=True)


if __name__ == '__main__':
    main()
