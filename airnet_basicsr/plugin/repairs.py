"""Every repair of BasicSR, in one place; each names the fault and leaves a BasicSR without it alone.

Versions looked at: 1.4.2 as published, and git master of 2024-05 (``basicsr-fixed`` 1.4.2).
"""

import functools
import importlib.util
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from types import ModuleType
from typing import Any
from weakref import WeakValueDictionary

from airnet_basicsr.errors import InputError
from airnet_basicsr.plugin.data_order import Draw, data_order


def _ours(function: Callable) -> Callable:
    vars(function).update(repaired_by=__name__)
    return function


def _is_ours(function: Callable) -> bool:
    return getattr(function, 'repaired_by', None) == __name__


def before_import() -> None:
    """What must be in place before ``import basicsr``."""
    installed = importlib.util.find_spec('basicsr')
    # In our checkout Python takes the folder of launchers, which has no __init__.py, for an empty package.
    if installed is None or installed.origin is None:
        raise InputError(
            'BasicSR, which trains and tests, is not installed: pip install "airnet-basicsr[train]" "setuptools<82" '
            'wheel cython && pip install --no-build-isolation basicsr==1.4.2'
        )
    _torchvision_functional_tensor()


def after_import() -> None:
    """What repairs an imported BasicSR; also where its own train.py imported it, and us, first."""
    _derive_option_files()
    _share_lmdb_environments()
    _resume_from_a_good_state()
    _check_options()
    _distribute_without_cuda()
    _ask_for_a_launcher()
    _average_buffers()
    _keep_the_data_order()
    _train_to_the_last_iteration()
    _log_rate_and_data_time()
    _log_to_current_wandb()
    _number_of_the_last_validation()
    _handle_errors_and_signals()


def _derive_option_files() -> None:
    """Option files cannot share what they have in common, run any code, a broken one ends in a stack trace, and a
    training run cannot be resumed with the copy in its experiment's folder (``SameFileError``).

    ``!base`` (see :mod:`airnet_basicsr.plugin.options`) merges a file into another. In the experiment's folder, where
    the base is not, the merged whole is kept.
    """
    import yaml
    from basicsr.utils import options

    from airnet_basicsr.plugin.options import TAGS, check_file, no_yaml, read_numbers, standalone_text

    train = _train_module()
    if _is_ours(train.copy_opt_file):
        return
    plain_yaml, plain_copy = options.ordered_yaml, options.copy_opt_file
    basicsr_loader: Any
    basicsr_loader, dumper = plain_yaml()
    # To BasicSR's own class: where its train.py imported us, one is in the middle of an option file.
    for tag, constructor in TAGS.items():
        basicsr_loader.add_constructor(tag, constructor)

    class Loader(basicsr_loader):
        def get_single_node(self) -> Any:
            root = super().get_single_node()
            check_file(root)
            return root

        def get_single_data(self) -> Any:
            try:
                options = super().get_single_data()
            except yaml.YAMLError as error:
                raise no_yaml(error) from error
            read_numbers(options)
            return options

    @_ours
    @functools.wraps(plain_copy)
    def copy_opt_file(opt_file: str, experiments_root: str) -> None:
        with tempfile.TemporaryDirectory() as folder:
            standalone = os.path.join(folder, os.path.basename(opt_file))
            with open(standalone, 'w', encoding='utf-8') as file:
                file.write(standalone_text(opt_file))
            plain_copy(standalone, experiments_root)

    options.ordered_yaml = lambda: (Loader, dumper)
    train.copy_opt_file = copy_opt_file


def _check_options() -> None:
    """What an option file has wrong ends in a stack trace, of BasicSR or in mid-run, or is passed over.

    BasicSR's own train.py and test.py are in the middle of parse_options when they import us: their options are checked
    as soon as they have them.
    """
    from basicsr.utils import options

    from airnet_basicsr.plugin.option_checks import check_command_line, check_options

    if _is_ours(options.parse_options):
        return
    plain_parse = options.parse_options

    @_ours
    @functools.wraps(plain_parse)
    def parse_options(root_path: str, is_train: bool = True) -> tuple[dict[str, Any], Any]:
        check_command_line(is_train)
        opt, args = plain_parse(root_path, is_train)
        check_options(opt, is_train)
        return opt, args

    def checking(plain: Callable) -> Callable:
        @functools.wraps(plain)
        def checked(opt: dict[str, Any]) -> Any:
            check_options(opt, opt['is_train'])
            return plain(opt)

        return checked

    options.parse_options = parse_options
    main = sys.modules['__main__']
    for program, first in (('train', 'load_resume_state'), ('test', 'make_exp_dirs')):
        if hasattr(main, f'{program}_pipeline'):
            setattr(main, first, checking(getattr(main, first)))
        else:
            vars(importlib.import_module(f'basicsr.{program}')).update(parse_options=parse_options)


def _train_module() -> Any:
    # In BasicSR's own checkout train.py runs as __main__, and imported us while it read its option file.
    main = sys.modules['__main__']
    return main if hasattr(main, 'train_pipeline') else importlib.import_module('basicsr.train')


def _torchvision_functional_tensor() -> None:
    """1.4.2 imports ``torchvision.transforms.functional_tensor``, gone since torchvision 0.17 (mended in master)."""
    name = 'torchvision.transforms.functional_tensor'
    if importlib.util.find_spec('torchvision') is None or importlib.util.find_spec(name) is not None:
        return
    from torchvision.transforms import functional

    module = ModuleType(name)
    vars(module).update(rgb_to_grayscale=functional.rgb_to_grayscale)
    sys.modules[name] = module


def _share_lmdb_environments() -> None:
    """lmdb 3 refuses to open one environment twice in a process; LmdbBackend opens one for each dataset object.

    They share it here, also with worker processes forked later (read-only and unlocked, as BasicSR opens it), for
    as long as one of them lives. An LMDB that has taken another's place is another one.
    """
    import lmdb
    from basicsr.utils.file_client import LmdbBackend

    if _is_ours(LmdbBackend.__init__) or int(lmdb.__version__.split('.')[0]) < 3:
        return
    opened: WeakValueDictionary[tuple, Any] = WeakValueDictionary()
    plain_init = LmdbBackend.__init__

    @_ours
    @functools.wraps(plain_init)
    def init(self: Any, db_paths: Any, client_keys: Any = 'default', *args: Any, **kwargs: Any) -> None:
        paths = db_paths if isinstance(db_paths, list) else [db_paths]
        keys = client_keys if isinstance(client_keys, list) else [client_keys]
        environments = {}
        for path, key in zip(paths, keys, strict=True):
            data = os.stat(os.path.join(path, 'data.mdb'))
            file = data.st_dev, data.st_ino
            environments[key] = opened.get(file)
            if environments[key] is None:
                plain_init(self, str(path), key, *args, **kwargs)
                environments[key] = opened[file] = self._client[key]
        self.db_paths, self._client = paths, environments

    LmdbBackend.__init__ = init


def _resume_from_a_good_state() -> None:
    """load_resume_state takes the newest state unchecked, looks for it below the working directory, and needs CUDA.

    ``--auto_resume`` therefore fails after a crash that left half a file, starts anew without a word where the program
    was not started in the folder that holds ``experiments``, and fails on a CPU.
    """
    from basicsr.utils import check_resume, set_random_seed

    from airnet_basicsr.plugin.models.training_state import named_state, newest_good_state, remove_unfinished

    def load_resume_state(opt: dict[str, Any]) -> dict[str, Any] | None:
        path = opt['path'].get('resume_state')
        data_order.start_anew()
        if opt['rank'] == 0:
            for folder in ('models', 'training_states'):
                remove_unfinished(opt['path'][folder])
        found = newest_good_state(opt['path']['training_states'], opt['path']['models']) if opt['auto_resume'] else None
        if found is not None:
            path, state = found
        elif path is None:
            return None
        else:
            state = named_state(path, opt['path']['models'])
        opt['path']['resume_state'] = path
        check_resume(opt, state['iter'])
        if 'manual_seed' in state:  # written by RestorationModel
            opt['manual_seed'] = state['manual_seed']
            set_random_seed(opt['manual_seed'] + opt['rank'])
        data_order.resume(state['epoch'], state.get('drawn', 0) // opt['world_size'], state['iter'])
        return state

    _train_module().load_resume_state = load_resume_state


def _average_buffers() -> None:
    """model_ema averages parameters only: with BatchNorm, the average would be tested with untrained statistics."""
    import torch
    from basicsr.models.base_model import BaseModel

    if _is_ours(BaseModel.model_ema):
        return
    average_parameters = BaseModel.model_ema

    @_ours
    @functools.wraps(average_parameters)
    @torch.no_grad()
    def model_ema(self: Any, decay: float = 0.999) -> None:
        average_parameters(self, decay)
        for average, current in zip(self.net_g_ema.buffers(), self.get_bare_model(self.net_g).buffers(), strict=True):
            if average.is_floating_point():
                average.mul_(decay).add_(current, alpha=1 - decay)
            else:
                average.copy_(current)

    BaseModel.model_ema = model_ema


def _keep_the_data_order() -> None:
    """EnlargedSampler gives plain indices, workers restart the same random numbers at each epoch, and a resumed run
    begins its epoch anew.

    So crops and noise repeat, depend on the number of workers, and change when a run is resumed. The sampler's indices
    become :class:`Draw` here (to datasets that do not look, the same integers as before), and the first epoch after
    resuming continues where it was.
    """
    from basicsr.data.data_sampler import EnlargedSampler

    if _is_ours(EnlargedSampler.__iter__):
        return
    plain_iter, plain_set_epoch = EnlargedSampler.__iter__, EnlargedSampler.set_epoch

    @_ours
    @functools.wraps(plain_iter)
    def draws(self: Any) -> Any:
        first = data_order.drawn
        for ordinal, index in enumerate(plain_iter(self)):
            if ordinal >= first:
                draw = Draw(index)
                draw.epoch, draw.position, draw.ordinal = self.epoch, ordinal * self.num_replicas + self.rank, ordinal
                yield draw

    @functools.wraps(plain_set_epoch)
    def set_epoch(self: Any, epoch: int) -> None:
        plain_set_epoch(self, epoch)
        data_order.begin(epoch)

    EnlargedSampler.__iter__, EnlargedSampler.set_epoch = draws, set_epoch


def _train_to_the_last_iteration() -> None:
    """create_train_val_dataloader counts an epoch's incomplete batch, which its loader drops, and no resumed run.

    Training therefore ends before total_iter, or at once, with exit status 0; with fewer images than a batch it never
    begins. Data workers that are started by spawn, as in distributed training, die of the signals that training
    survives.
    """
    from airnet_basicsr.plugin.train_loader import TrainLoader

    train = _train_module()
    if _is_ours(train.create_train_val_dataloader):
        return
    plain_create = train.create_train_val_dataloader

    @_ours
    @functools.wraps(plain_create)
    def create_train_val_dataloader(opt: dict[str, Any], logger: Any) -> tuple[Any, Any, list[Any], int, int]:
        with TrainLoader.batches(opt):
            loader, sampler, val_loaders, _, total_iter = plain_create(opt, logger)
        loader = TrainLoader(loader, opt)
        return loader, sampler, val_loaders, loader.last_epoch(total_iter), total_iter

    train.create_train_val_dataloader = create_train_val_dataloader


def _distribute_without_cuda() -> None:
    """init_dist divides by the number of GPUs, model_to_device names one: training in processes on a CPU fails."""
    import torch
    from basicsr.models.base_model import BaseModel
    from basicsr.utils import dist_util
    from torch import distributed
    from torch.nn.parallel import DistributedDataParallel

    if torch.cuda.is_available() or _is_ours(BaseModel.model_to_device):
        return
    plain_model_to_device = BaseModel.model_to_device

    def init_pytorch(backend: str, **kwargs: Any) -> None:
        distributed.init_process_group(backend='gloo', **kwargs)

    def init_slurm(backend: str, port: int | None = None) -> None:
        first = subprocess.getoutput(f'scontrol show hostname {os.environ["SLURM_NODELIST"]} | head -n1')
        os.environ['MASTER_ADDR'] = first
        os.environ['MASTER_PORT'] = str(port or os.environ.get('MASTER_PORT', 29500))
        os.environ['WORLD_SIZE'], os.environ['RANK'] = os.environ['SLURM_NTASKS'], os.environ['SLURM_PROCID']
        distributed.init_process_group(backend='gloo')

    @_ours
    @functools.wraps(plain_model_to_device)
    def model_to_device(self: Any, net: Any) -> Any:
        if not self.opt['dist']:
            return plain_model_to_device(self, net)
        unused = self.opt.get('find_unused_parameters', False)
        return DistributedDataParallel(net.to(self.device), find_unused_parameters=unused)

    dist_util._init_dist_pytorch, dist_util._init_dist_slurm = init_pytorch, init_slurm
    BaseModel.model_to_device = model_to_device


def _ask_for_a_launcher() -> None:
    """Without torchrun or srun, ``--launcher`` ends in a KeyError; without scontrol, its shell's complaint is taken for
    the first node's name."""
    from basicsr.utils import dist_util

    if _is_ours(dist_util._init_dist_slurm):
        return

    def asking(plain: Callable, launcher: str, starter: str, variables: tuple[str, ...]) -> Callable:
        @_ours
        @functools.wraps(plain)
        def init(*args: Any, **kwargs: Any) -> None:
            missing = [name for name in variables if name not in os.environ]
            if missing:
                raise InputError(
                    f'--launcher {launcher}: {", ".join(missing)} not set. Start the program with {starter}, or leave '
                    '--launcher out to train in one process.'
                )
            if launcher == 'slurm' and shutil.which('scontrol') is None:
                raise InputError('--launcher slurm: there is no scontrol on PATH, which names the first node')
            plain(*args, **kwargs)

        return init

    dist_util._init_dist_pytorch = asking(
        dist_util._init_dist_pytorch, 'pytorch', 'torchrun', ('RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT')
    )
    dist_util._init_dist_slurm = asking(
        dist_util._init_dist_slurm, 'slurm', 'srun', ('SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_NODELIST')
    )


def _log_rate_and_data_time() -> None:
    """MessageLogger prints the learning rate and the time spent on data, and leaves them out of TensorBoard."""
    from basicsr.utils.logger import MessageLogger

    if _is_ours(MessageLogger.__call__):
        return
    plain_call = MessageLogger.__call__

    @_ours
    @functools.wraps(plain_call)
    def call(self: Any, log_vars: dict[str, Any]) -> None:
        if self.use_tb_logger and self.tb_logger is not None:
            self.tb_logger.add_scalar('lr', log_vars['lrs'][0], log_vars['iter'])
            self.tb_logger.add_scalar('data_time', log_vars['data_time'], log_vars['iter'])
        plain_call(self, log_vars)

    MessageLogger.__call__ = call


def _log_to_current_wandb() -> None:
    """init_wandb_logger calls ``wandb.util.generate_id``, gone from wandb; without wandb it ends in a stack trace."""
    train = _train_module()
    if _is_ours(train.init_wandb_logger):
        return
    plain_init = train.init_wandb_logger

    @_ours
    @functools.wraps(plain_init)
    def init_wandb_logger(opt: dict[str, Any]) -> None:
        try:
            import wandb
        except ImportError as error:
            raise InputError(
                'option logger:wandb:project: wandb is not installed. pip install wandb, or leave the option out'
            ) from error
        if not hasattr(wandb.util, 'generate_id'):
            wandb.util.generate_id = lambda: secrets.token_hex(4)
        plain_init(opt)

    train.init_wandb_logger = init_wandb_logger


def _number_of_the_last_validation() -> None:
    """The validation after training is logged at an iteration one past the end."""
    from basicsr.models.base_model import BaseModel

    if _is_ours(BaseModel.validation):
        return
    plain_validation = BaseModel.validation

    @_ours
    @functools.wraps(plain_validation)
    def validation(self: Any, dataloader: Any, current_iter: Any, *args: Any, **kwargs: Any) -> None:
        if self.is_train:
            current_iter = min(current_iter, int(self.opt['train']['total_iter']))
        plain_validation(self, dataloader, current_iter, *args, **kwargs)

    BaseModel.validation = validation


def _handle_errors_and_signals() -> None:
    """BasicSR's own train.py and test.py end in a stack trace whatever the cause, and lose work when interrupted.

    They run as ``__main__`` in BasicSR's checkout, where main() is not ours to change.
    """
    from airnet_basicsr.plugin.models.interruption import interruption
    from airnet_basicsr.plugin.programs import handle_errors

    main = sys.modules['__main__']
    if hasattr(main, 'train_pipeline') or hasattr(main, 'test_pipeline'):
        handle_errors()
    if hasattr(main, 'train_pipeline'):
        interruption.handle_signals()
