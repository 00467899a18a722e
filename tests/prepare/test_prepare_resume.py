"""Interrupted preparation resumes where it stopped, and ends as if nothing had happened."""

import json
import os
import random
import resource
import signal
import subprocess
import time
from pathlib import Path

import pytest
from building import PREPARE, content, in_no_process, prepare, reside

# Sub-images make it slow enough to be interrupted.
OPTIONS = ('--sub-images', 64, 16, '--workers', 2)


@pytest.fixture(scope='module')
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('ots')
    reside(folder, 12, 20)
    return folder


@pytest.fixture(scope='module')
def undisturbed(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of one go."""
    out = tmp_path_factory.mktemp('undisturbed')
    done = prepare('ots', '--source', source, '--out', out, *OPTIONS)
    assert done.returncode == 0, done.stderr
    return out


def _start(source: Path, out: Path) -> subprocess.Popen:
    command = [*PREPARE, 'ots', '--source', str(source), '--out', str(out), *map(str, OPTIONS)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def _same(out: Path, other: Path) -> bool:
    names = ('OTS_gt.lmdb', 'OTS_lq.lmdb')
    return not list(out.glob('*.partial')) and all(content(out / name) == content(other / name) for name in names)


def _done(out: Path) -> int:
    try:
        return json.loads((out / 'OTS.partial' / 'prepared.json').read_text())['done']
    except OSError:
        return 0


def _wait_for_progress(process: subprocess.Popen, out: Path) -> None:
    before = _done(out)
    while _done(out) == before and process.poll() is None:
        time.sleep(0.002)


def _kill_and_run_again(source: Path, out: Path, undisturbed: Path, kills: int) -> None:
    draw = random.Random(kills)
    interrupted = 0
    said = ''
    for number in range(kills):
        process = _start(source, out)
        if number % 3 == 0:  # else it might never get as far as to have something to resume from
            _wait_for_progress(process, out)
        time.sleep(draw.uniform(0, 0.8))
        interrupted += process.poll() is None
        process.kill()
        said += process.communicate()[0]
    done = prepare('ots', '--source', source, '--out', out, *OPTIONS)
    assert done.returncode == 0, done.stderr
    assert interrupted and 'Resuming after' in said + done.stdout
    assert _same(out, undisturbed)
    assert prepare('verify', out).returncode == 0


def test_killed_three_times(source: Path, undisturbed: Path, tmp_path: Path) -> None:
    _kill_and_run_again(source, tmp_path, undisturbed, 3)


@pytest.mark.slow
def test_killed_ten_times(source: Path, undisturbed: Path, tmp_path: Path) -> None:
    _kill_and_run_again(source, tmp_path, undisturbed, 10)


def test_no_worker_outlives_a_killed_run(source: Path, tmp_path: Path) -> None:
    process = _start(source, tmp_path)
    _wait_for_progress(process, tmp_path)
    tasks = Path(f'/proc/{process.pid}/task').glob('*/children')
    workers = [int(pid) for task in tasks for pid in task.read_text().split()]
    assert len(workers) == 2
    process.kill()
    process.wait()
    deadline = time.monotonic() + 20
    while not in_no_process(*workers) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert in_no_process(*workers)


def test_two_at_once_do_not_write_to_one_folder(source: Path, undisturbed: Path, tmp_path: Path) -> None:
    process = _start(source, tmp_path)
    _wait_for_progress(process, tmp_path)
    os.killpg(process.pid, signal.SIGSTOP)
    second = prepare('ots', '--source', source, '--out', tmp_path, *OPTIONS)
    os.killpg(process.pid, signal.SIGCONT)
    assert second.returncode == 1 and 'another process is writing to' in second.stderr, second.stderr
    process.communicate(timeout=120)
    assert process.returncode == 0 and _same(tmp_path, undisturbed)


def test_ctrl_c_says_what_is_done(source: Path, undisturbed: Path, tmp_path: Path) -> None:
    process = _start(source, tmp_path)
    _wait_for_progress(process, tmp_path)
    os.killpg(process.pid, signal.SIGINT)
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 130
    assert 'Interrupted' in said and 'of 252 are done and safe' in said and 'Traceback' not in said
    assert prepare('ots', '--source', source, '--out', tmp_path, *OPTIONS).returncode == 0
    assert _same(tmp_path, undisturbed)


def test_a_full_disk_damages_nothing(source: Path, undisturbed: Path, tmp_path: Path) -> None:
    # A limit on the size of files stands for the full disk: writes fail in the middle all the same.
    limit = (undisturbed / 'OTS_lq.lmdb' / 'data.mdb').stat().st_size // 2
    done = prepare('ots', '--source', source, '--out', tmp_path, *OPTIONS,
                   preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))  # fmt: skip
    assert done.returncode == 1 and 'Traceback' not in done.stderr
    assert 'failed' in done.stderr and 'run the same command again' in done.stderr
    again = prepare('ots', '--source', source, '--out', tmp_path, *OPTIONS)
    assert again.returncode == 0 and 'Resuming after' in again.stdout
    assert _same(tmp_path, undisturbed)


def test_finished_work_is_not_redone_or_replaced(undisturbed: Path, source: Path, tmp_path: Path) -> None:
    out = undisturbed
    before = (out / 'OTS_lq.lmdb' / 'data.mdb').stat().st_mtime_ns
    again = prepare('ots', '--source', source, '--out', out, *OPTIONS)
    assert again.returncode == 0 and 'Already complete' in again.stdout
    other = prepare('ots', '--source', source, '--out', out)
    assert other.returncode == 1 and '--overwrite' in other.stderr
    assert (out / 'OTS_lq.lmdb' / 'data.mdb').stat().st_mtime_ns == before

    reside(tmp_path / 'source', 1, 2)
    for options in ((), ('--sub-images', 64, 64, '--overwrite')):
        done = prepare('ots', '--source', tmp_path / 'source', '--out', tmp_path / 'out', *options)
        assert done.returncode == 0, done.stderr
    assert '0001_0p8_0p04_s001.png (64,64,3) 0 0001_s001\n' in content(tmp_path / 'out' / 'OTS_lq.lmdb')[1]
