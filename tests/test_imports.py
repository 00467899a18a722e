"""Which part of the package knows what, and that importing it changes nothing."""

from pathlib import Path

from conftest import ROOT, run_python

import airnet_basicsr

# Runs a program in which BasicSR, torchvision and the plugin cannot be imported.
ALONE = """
import sys
for name in ('basicsr', 'torchvision', 'lmdb', 'airnet_basicsr.plugin'):
    sys.modules[name] = None
"""


def test_every_module_has_a_room():
    root = Path(airnet_basicsr.__file__).parent
    modules = {path.stem for path in root.glob('*.py')}
    rooms = {path.parent.name for path in root.glob('*/__init__.py')}
    assert modules == {'__init__', '__main__', 'errors', 'test', 'train'}
    assert rooms == {'network', 'plugin', 'prepare', 'report', 'restore'}


def test_importing_the_package_imports_nothing():
    done = run_python('-c', "import sys, airnet_basicsr; print('torch' in sys.modules, len(sys.modules))", cwd=ROOT)
    assert done.stdout.startswith('False'), done.stdout


def test_restoring_needs_neither_basicsr_nor_torchvision(tmp_path):
    program = (
        ALONE
        + """
hook = sys.excepthook
import numpy as np
from airnet_basicsr import Restorer
assert 'torch._dynamo' not in sys.modules
restorer = Restorer()
restorer.explain(np.zeros((40, 50, 3), np.uint8))
print(restorer.restore(np.zeros((40, 50, 3), np.uint8)).shape)
assert 'torch._dynamo' not in sys.modules and sys.excepthook is hook
"""
    )
    done = run_python('-c', program, cwd=tmp_path)
    assert done.stdout.strip() == '(40, 50, 3)', done.stdout


def test_network_and_restore_import_no_plugin(tmp_path):
    program = (
        ALONE
        + """
import importlib, pkgutil
import airnet_basicsr
for part in ('network', 'restore'):
    package = importlib.import_module(f'airnet_basicsr.{part}')
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + '.'):
        if not module.name.endswith(('._native', '.triton_kernels')):
            importlib.import_module(module.name)
            print(module.name)
"""
    )
    done = run_python('-c', program, cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    assert 'airnet_basicsr.network.ops.deform_conv' in done.stdout and 'airnet_basicsr.restore.command' in done.stdout


def test_a_model_in_a_notebook_leaves_ctrl_c_and_the_error_hook_alone(tmp_path):
    """Also in a thread, where Python lets nobody handle signals."""
    program = """
import signal, sys, threading
before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] + [sys.excepthook]
import airnet_basicsr.plugin
from basicsr.models import build_model
from airnet_basicsr.plugin.options import load_options
opt = load_options(sys.argv[1])
opt.update(is_train=True, dist=False, num_gpu=0, rank=0, world_size=1)
opt['network_g'].update(num_feat=8, num_group=1, num_block=1)
opt['path'].update(models='.', training_states='.', experiments_root='.')
built = []
thread = threading.Thread(target=lambda: built.append(build_model(opt)))
thread.start()
thread.join()
after = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] + [sys.excepthook]
print(len(built), before == after)
"""
    done = run_python('-c', program, ROOT / 'options/train_airnet_aio.yml', cwd=tmp_path)
    assert done.stdout.strip().splitlines()[-1] == '1 True', done.stdout
