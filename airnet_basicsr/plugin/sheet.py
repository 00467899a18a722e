"""Samples of the degradations of a training run, for people to look at."""

import argparse
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from basicsr.data import build_dataset

from airnet_basicsr.errors import InputError
from airnet_basicsr.network.files import write_whole
from airnet_basicsr.plugin.data_order import Draw
from airnet_basicsr.plugin.options import load_options

_LINE = 18


def draw_sheet(opt: dict[str, Any], count: int, seed: int = 0) -> np.ndarray:
    """``count`` samples of each degradation of a MultiDegradationDataset, each beside its clean patch.

    Args:
        opt: The dataset's options, ``datasets: train`` in an option file.
        count: Samples of each, at least 1.
        seed: Of all that is drawn; the same as ``manual_seed`` of a training run draws what its first epoch does.

    Returns:
        uint8, H x W x 3, BGR: a row for each degradation, under its name.
    """
    if opt.get('type') != 'MultiDegradationDataset':
        raise InputError('option datasets:train:type: samples are drawn of a MultiDegradationDataset')
    torch.manual_seed(seed)
    dataset = build_dataset({'name': 'train', **opt, 'phase': 'train', 'scale': 1, 'contrastive': True})
    rows: list[list[np.ndarray]] = [[] for _ in dataset.degradations]
    for position in range(count):
        draw = Draw(position % len(dataset))
        draw.epoch, draw.position, draw.ordinal = position // len(dataset), position, position
        item = dataset[draw]
        for which, row in enumerate(rows):
            slot = dataset.slots.index(which)
            pair = torch.cat((item['lq'][slot], item['gt'][slot]), 2).clamp(0, 1).mul(255).round().byte()
            row.append(pair.numpy().transpose(1, 2, 0)[..., ::-1])
    lines = []
    for name, row in zip(dataset.degradations, rows, strict=True):
        pictures = np.hstack([np.pad(pair, ((2, 2), (2, 2), (0, 0))) for pair in row])
        title = np.zeros((_LINE, pictures.shape[1], 3), np.uint8)
        cv2.putText(title, name, (4, 13), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (255, 255, 255), 1, cv2.LINE_AA)
        lines += [title, pictures]
    return np.vstack(lines)


def main() -> int:
    """The program ``airnet sheet``; gives its exit status."""
    parser = argparse.ArgumentParser(
        description='Draw samples of the degradations of a training run, beside the clean patches.'
    )
    parser.add_argument(
        '-opt', type=Path, required=True, metavar='TRAINING.yml', help='option file of the training run'
    )
    parser.add_argument('-o', '--output', type=Path, default=Path('sheet.png'), help='PNG file (default: sheet.png)')
    parser.add_argument('--count', type=int, default=6, help='samples of each degradation (default: 6)')
    arguments = parser.parse_args()
    if arguments.count < 1:
        raise InputError(f'--count: expected at least 1, found {arguments.count}')
    if arguments.output.suffix.lower() != '.png':
        raise InputError(f'-o {arguments.output}: the sheet is a PNG; name a file that ends in .png')
    options = load_options(arguments.opt)
    train = (options.get('datasets') or {}).get('train')
    if not isinstance(train, dict):
        raise InputError(f'option file {arguments.opt} has no datasets:train')
    sheet = draw_sheet(train, arguments.count, options.get('manual_seed') or 0)
    write_whole(arguments.output, cv2.imencode('.png', sheet)[1].tobytes())
    print(f'{arguments.output}: {arguments.count} samples of each degradation, clean patches to their right')
    return 0
