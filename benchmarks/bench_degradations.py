"""Samples of each degradation for each second of processor time, and relative to the first that the option file names.

    python benchmarks/bench_degradations.py -opt options/train_airnet_aio.yml [--samples 300]

A sample is a query and a key patch with the clean query patch, as the training run's loader makes them: reading and
decoding the picture is part of it. One process, without a loader; the best of three rounds, which take turns.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import cv2
import torch

import airnet_basicsr.plugin  # noqa: F401  (before BasicSR, which it repairs)
from airnet_basicsr.plugin.data.multi_degradation_dataset import MultiDegradationDataset
from airnet_basicsr.plugin.options import load_options


def alone(opt: dict[str, Any], name: str) -> MultiDegradationDataset:
    """The dataset with one of its degradations, once in each item."""
    degradation = {key: value for key, value in opt['degradations'][name].items() if key != 'weight'}
    return MultiDegradationDataset({**opt, 'phase': 'train', 'contrastive': True, 'degradations': {name: degradation}})


def rate(dataset: MultiDegradationDataset, samples: int) -> float:
    """Samples for each second of processor time."""
    start = time.process_time()
    for index in torch.randint(len(dataset), (samples,)).tolist():
        dataset[index]
    return samples / (time.process_time() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('-opt', type=Path, required=True, help='option file of a training run')
    parser.add_argument('--samples', type=int, default=300, help='of each degradation in each round (default: 300)')
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    opt = load_options(arguments.opt)['datasets']['train']
    datasets = {name: alone(opt, name) for name in opt['degradations']}
    best = dict.fromkeys(datasets, 0.0)
    for _ in range(3):
        for name, dataset in datasets.items():
            best[name] = max(best[name], rate(dataset, arguments.samples))
    first = next(iter(best.values()))
    for name, found in best.items():
        print(f'{name}: {found:.0f} samples/s, {found / first:.2f} times {next(iter(best))}')


if __name__ == '__main__':
    main()
