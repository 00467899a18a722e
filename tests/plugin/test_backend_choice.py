"""Which backend of the deformable convolution runs: on a faked GPU, by the option file, by the environment."""

import json
import logging
import multiprocessing
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from basicsr.models import build_model
from small_run import write_options
from torch.utils import cpp_extension

from airnet_basicsr.errors import InputError
from airnet_basicsr.network.ops import available_backends, chosen_backend, deform_conv, set_default_backend
from airnet_basicsr.plugin import dcnv2
from airnet_basicsr.plugin.options import load_options


@pytest.fixture(autouse=True)
def nothing_decided_before(monkeypatch):
    monkeypatch.delenv(deform_conv.VARIABLE, raising=False)

    def forget():
        set_default_backend('auto', 'backend')
        for decided in (deform_conv._failure, deform_conv._say, deform_conv._warn_of_failure):
            decided.cache_clear()
        dcnv2.extension.cache_clear()
        dcnv2.can_run.cache_clear()

    forget()
    yield
    forget()


@pytest.fixture
def log(caplog):
    """Messages of BasicSR's logger."""
    logger = logging.getLogger('basicsr')
    before = logger.level, logger.propagate
    logger.addHandler(caplog.handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    yield lambda: [record.getMessage() for record in caplog.records if record.name == 'basicsr']
    logger.removeHandler(caplog.handler)
    logger.level, logger.propagate = before


@pytest.fixture
def gpu(tmp_path, monkeypatch):
    """A GPU on which every kernel runs, and a machine with all that building takes."""
    monkeypatch.setenv('TORCH_EXTENSIONS_DIR', str(tmp_path))
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 1)
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda device: (9, 0))
    monkeypatch.setattr(cpp_extension, 'CUDA_HOME', '/usr/local/cuda')
    monkeypatch.setattr(dcnv2, '_installed', lambda: False)
    monkeypatch.setattr(dcnv2, '_computes', lambda module: True)
    return tmp_path


def test_on_a_gpu_auto_takes_the_extension_that_basicsr_was_installed_with(gpu, log, monkeypatch):
    monkeypatch.setattr(dcnv2, '_installed', lambda: True)
    monkeypatch.setitem(sys.modules, 'basicsr.ops.dcn.deform_conv_ext', SimpleNamespace(own=True))
    assert available_backends('cuda')[0] == 'basicsr'
    assert chosen_backend('cuda') == 'basicsr'
    assert dcnv2.extension().own
    assert log() == ['Deformable convolution on cuda: basicsr backend.']


@pytest.mark.parametrize('installed_but_for_another', [False, True])
def test_else_it_is_built_and_the_log_says_so_before_and_after(gpu, log, monkeypatch, installed_but_for_another):
    calls = []

    def load(name, sources, **settings):
        calls.append(log())
        assert all(source.startswith(str(dcnv2._folder())) for source in sources)
        return SimpleNamespace(name=name)

    monkeypatch.setattr(cpp_extension, 'load', load)
    if installed_but_for_another:
        monkeypatch.setattr(dcnv2, '_installed', lambda: True)
        foreign = SimpleNamespace(foreign=True)
        monkeypatch.setitem(sys.modules, 'basicsr.ops.dcn.deform_conv_ext', foreign)
        monkeypatch.setattr(dcnv2, '_computes', lambda module: module is not foreign)
    assert chosen_backend('cuda') == chosen_backend('cuda') == 'basicsr'
    (before,) = calls
    assert 'compiled for another PyTorch or GPU' in before[0] if installed_but_for_another else len(before) == 1
    assert before[-1].startswith("Building BasicSR's DCNv2 for this GPU with nvcc")
    after = log()[len(before) :]
    assert after[0].startswith("Built BasicSR's DCNv2 in ") and str(gpu) in after[0]
    assert after[1:] == ['Deformable convolution on cuda: basicsr backend.']
    # Another version of torch, or another kind of GPU, gets a build of its own.
    assert torch.__version__.split('+')[0].replace('.', '_') in dcnv2.extension().name
    assert dcnv2.extension().name.endswith('_sm90')


def compiler_fails(*arguments, **settings):
    raise RuntimeError('Error building extension\n[1/3] nvcc ...\nkernel.cu(3): error: no such thing\nninja: stopped')


CANNOT = {
    'no nvcc': ((cpp_extension, 'CUDA_HOME', None), 'there is no nvcc'),
    'no sources': ((dcnv2, '_SOURCES', ('gone.cu',)), 'without the sources of its DCNv2'),
    'no ninja': ((shutil, 'which', lambda name, path=None: None), 'pip install ninja'),
    'a compiler that fails': ((cpp_extension, 'load', compiler_fails), r'kernel.cu\(3\): error: no such thing'),
}


@pytest.mark.parametrize(('change', 'reason'), CANNOT.values(), ids=CANNOT)
def test_where_it_cannot_be_built_torchvision_takes_its_place_with_one_warning(gpu, log, monkeypatch, change, reason):
    monkeypatch.setattr(*change)
    for _ in range(3):
        assert chosen_backend('cuda') == 'torchvision'
    (warning,) = [message for message in log() if 'cannot be used' in message]
    assert re.search(reason, warning)
    assert 'The torchvision backend takes its place' in warning
    assert 'AIRNET_DCN_BACKEND=torchvision' in warning
    with pytest.raises(InputError, match=f"'basicsr' backend cannot be used.*{reason}"):
        deform_conv._choose('basicsr', 'cuda', torch.float32)


def test_no_other_device_takes_the_backends_of_cuda():
    assert available_backends('mps') == ['torchvision']
    assert chosen_backend('mps') == 'torchvision'
    with pytest.raises(InputError, match="'basicsr' backend cannot run on cpu"):
        deform_conv._choose('basicsr', 'cpu', torch.float32)


def trivial_extension(name, sources, build_directory, **settings):
    """What torch's load would do, in a second and with a C compiler alone."""
    assert not Path(build_directory, 'lock').exists()  # what a killed process left, for which torch waits for ever
    time.sleep(1)
    source = Path(build_directory, 'trivial.c')
    source.write_text(
        '#include <Python.h>\n'
        f'static struct PyModuleDef definition = {{PyModuleDef_HEAD_INIT, "{name}", NULL, -1, NULL}};\n'
        f'PyMODINIT_FUNC PyInit_{name}(void) {{ return PyModule_Create(&definition); }}\n'
    )
    library = Path(build_directory, f'{name}.so')
    include = sysconfig.get_paths()['include']
    subprocess.run(['cc', '-shared', '-fPIC', f'-I{include}', source, '-o', library], check=True)
    return dcnv2._load(Path(build_directory))


def build_and_tell(queue, together):
    said = []
    together.wait()
    logging.getLogger('basicsr').handlers[:] = [SimpleNamespace(level=0, handle=lambda r: said.append(r.getMessage()))]
    try:
        said.append(f'loaded {dcnv2.build().__name__}')
    except Exception as error:
        said.append(f'{type(error).__name__} {error}')
    queue.put(' | '.join(said))


def processes(number):
    """What each of so many processes says that build the extension at the same time."""
    context = multiprocessing.get_context('fork')
    queue, together = context.Queue(), context.Barrier(number)
    started = [context.Process(target=build_and_tell, args=(queue, together)) for _ in range(number)]
    for process in started:
        process.start()
    said = [queue.get(timeout=60) for _ in started]
    for process in started:
        process.join()
    return said


@pytest.mark.skipif(shutil.which('cc') is None, reason='no C compiler')
def test_one_process_builds_the_others_wait_and_the_next_run_finds_it(gpu, log, monkeypatch):
    monkeypatch.setattr(cpp_extension, 'load', trivial_extension)
    dcnv2._cached().mkdir()
    (dcnv2._cached() / 'lock').touch()
    said = processes(3)
    assert sum("Building BasicSR's DCNv2" in text for text in said) == 1
    assert sum('Waiting for another process' in text for text in said) == 2
    assert all('loaded airnet_basicsr_dcnv2' in text for text in said), said
    # Kept: also for a machine without a compiler.
    monkeypatch.setattr(cpp_extension, 'CUDA_HOME', None)
    assert dcnv2.can_run()
    (said,) = processes(1)
    assert said.startswith('loaded airnet_basicsr_dcnv2'), said


def test_a_failed_build_is_not_tried_again_by_those_who_waited(gpu, log, monkeypatch):
    def fails(*arguments, **settings):
        time.sleep(1)
        compiler_fails()

    monkeypatch.setattr(cpp_extension, 'load', fails)
    said = processes(3)
    assert all('InputError' in text and 'error: no such thing' in text for text in said), said
    assert sum("Building BasicSR's DCNv2" in text for text in said) == 1
    # A new run tries anew: by then the machine may have what was missing.
    assert all("Building BasicSR's DCNv2" in text for text in processes(1))


@pytest.mark.slow
@pytest.mark.skipif(dcnv2._obstacle() is not None, reason='no compiler for CUDA')
def test_basicsrs_own_sources_compile_for_the_gpus_in_use(tmp_path, monkeypatch):
    monkeypatch.setenv('TORCH_EXTENSIONS_DIR', str(tmp_path))
    monkeypatch.setenv('TORCH_CUDA_ARCH_LIST', '7.5;8.0;9.0')
    module = dcnv2.build()
    assert callable(module.modulated_deform_conv_forward)
    assert callable(module.modulated_deform_conv_backward)
    code = Path(module.__file__).read_bytes()
    assert all(kind in code for kind in (b'sm_75', b'sm_80', b'sm_90'))


# ---- The option file -------------------------------------------------------------------------------------------------


@pytest.fixture
def opt(tmp_path, paper_datasets, monkeypatch):
    monkeypatch.chdir(paper_datasets)
    opt = load_options(write_options(tmp_path))
    opt.update(dist=False, is_train=False, rank=0, world_size=1)
    opt['path']['results_root'] = str(tmp_path / 'results')
    return opt


def test_the_option_file_chooses_the_backend_and_run_json_says_which_ran(opt, tmp_path, log):
    opt['compute'] = {'dcn_backend': 'torchvision'}
    model = build_model(opt)
    assert json.loads((tmp_path / 'results/run.json').read_text())['dcn_backend'] == 'torchvision'
    assert 'Deformable convolution on cpu: torchvision backend.' in log()
    called = []
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(deform_conv._BACKENDS, 'torchvision', lambda x, *_: called.append(1) or x)
        with torch.no_grad():
            model.net_g(torch.rand(1, 3, 16, 16))
    assert called


def test_the_environment_variable_wins_over_the_option_file(opt, tmp_path, monkeypatch):
    opt['compute'] = {'dcn_backend': 'torchvision'}
    monkeypatch.setenv(deform_conv.VARIABLE, 'embedding_bag')
    build_model(opt)
    assert json.loads((tmp_path / 'results/run.json').read_text())['dcn_backend'] == 'embedding_bag'


def test_without_the_section_the_next_model_is_back_at_auto(opt, tmp_path):
    opt['compute'] = {'dcn_backend': 'torchvision'}
    build_model(opt)
    del opt['compute']
    build_model(opt)
    assert json.loads((tmp_path / 'results/run.json').read_text())['dcn_backend'] == available_backends()[0]


def test_a_network_without_deformable_convolutions_needs_no_backend(opt, tmp_path):
    opt['network_g']['with_dcn'] = False
    build_model(opt)
    assert json.loads((tmp_path / 'results/run.json').read_text())['dcn_backend'] is None


@pytest.mark.parametrize(
    ('compute', 'message'),
    [
        ({'dcn_backend': 'fast'}, "option compute:dcn_backend: there is no backend 'fast'"),
        ({'dcn_backend': 'triton'}, "option compute:dcn_backend: the 'triton' backend cannot run on cpu"),
        ({'backend': 'auto'}, 'option compute: unknown key `backend`'),
        ({'tf32': 'on!'}, "option compute:tf32: expected true, false or nothing, found 'on!'"),
        ('fast', 'option compute: expected a mapping'),
    ],
)
def test_a_section_that_cannot_be_used_is_one_clear_error(opt, compute, message):
    opt['compute'] = compute
    with pytest.raises(InputError, match=message):
        build_model(opt)
