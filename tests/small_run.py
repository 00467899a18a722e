"""Training runs and tests, made small, for the tests that need one."""

import logging
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ROOT

OPTION_FILES = ROOT / 'options'

OPTIONS = """
name: run
model_type: AirNetModel
scale: 1
num_gpu: 0
manual_seed: 3
plugin: !!python/name:airnet_basicsr.plugin.__name__ ''
datasets:
  train:
    name: small
    type: MultiDegradationDataset
    gt_size: 24
    degradations:
      noise: {type: GaussianNoise, sigma: 25, dataroot_gt: datasets/BSD400.lmdb}
      rain:
        {type: PairedImages, dataroot_gt: datasets/Rain100L_train_gt.lmdb, dataroot_lq: datasets/Rain100L_train_lq.lmdb}
    num_worker_per_gpu: 0
    batch_size_per_gpu: 1
    dataset_enlarge_ratio: 5
  val:
    name: val
    type: DegradationTestDataset
    degradation: {type: GaussianNoise, sigma: 25, protocol: float, dataroot_gt: datasets/CBSD68.lmdb}
network_g: {type: AirNet, num_feat: 16, num_group: 1, num_block: 1}
path: {pretrain_network_g: ~, resume_state: ~}
train:
  ema_decay: 0.9
  optim_g: {type: Adam, lr: 0.001}
  scheduler: {type: MultiStepLR, milestones: [20, 30], gamma: 0.5}
  total_iter: 40
  warmup_iter: -1
  encoder_warmup_iter: 6
  queue_size: 16
  key_momentum: 0.9
  pixel_opt: {type: L1Loss}
  contrast_opt: {type: InfoNCELoss, loss_weight: 0.1}
val:
  val_freq: 10
  save_img: false
  metrics: {psnr: {type: calculate_psnr, crop_border: 0}}
logger: {print_freq: 1, save_checkpoint_freq: 7, use_tb_logger: false}
"""


def write_options(folder: Path, **changes) -> Path:
    """The run's option file in ``folder``, with values changed by key."""
    text = OPTIONS
    for key, value in changes.items():
        assert f'{key}: ' in text
        text = re.sub(rf'\b{key}: [^\n,}}]+', f'{key}: {value}', text)
    path = folder / 'run.yml'
    path.write_text(text)
    return path


def run(pipeline: Callable, file: str, folder: Path, monkeypatch: pytest.MonkeyPatch, *force: str) -> None:
    """BasicSR's own program (its ``train_pipeline`` or ``test_pipeline``) with ``-opt options/FILE``, in ``folder``."""
    monkeypatch.setattr(sys, 'argv', ['program', '-opt', str(OPTION_FILES / file), '--force_yml', 'num_gpu=0', *force])
    # BasicSR sets its logger up once in a process, for good; here each run has a log file of its own.
    logger = logging.getLogger('basicsr')
    monkeypatch.setattr('basicsr.utils.logger.initialized_logger', {})
    monkeypatch.setattr(logger, 'handlers', [])
    monkeypatch.setattr(logger, 'propagate', logger.propagate)
    monkeypatch.chdir(folder)
    pipeline(str(folder))
