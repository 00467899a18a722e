"""LMDBs in BasicSR's format, written in batches so that an interrupted run can resume where it stopped.

While work is under way everything lies in ``NAME.partial``: the LMDBs and ``prepared.json``, the record of progress.
A batch is committed to the LMDBs, then appended to their ``meta_info.txt``, then recorded; whatever a kill leaves
unrecorded is written once more by the next run, with the same keys and bytes.
"""

import functools
import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TypedDict

import lmdb
from tqdm import tqdm

from airnet_basicsr.errors import InputError
from airnet_basicsr.prepare.images import Cut, Failure, Job, Result, expected_bytes, process
from airnet_basicsr.prepare.workers import ordered

RECORD = 'prepared.json'
# As BasicSR's LmdbMaker: address space, not disk.
_MAP_SIZE = 1024**4
_BATCH_BYTES = 16 * 2**20
_BATCH_JOBS = 200


class Plan(NamedTuple):
    """What to write.

    Attributes:
        name: Of the dataset; the folder for unfinished work is NAME.partial.
        stores: Names of the LMDBs, without suffix.
        jobs: In order.
        failures: What was already left out.
        cut: Sub-images to cut, or None.
        description: Layout and source, for the record.
    """

    name: str
    stores: tuple[str, ...]
    jobs: list[Job]
    failures: list[Failure]
    cut: Cut | None
    description: str


class Written(NamedTuple):
    """What :func:`write` did: remarks and how often each applied, and the files left out."""

    remarks: dict[str, int]
    failures: list[Failure]


class _State(TypedDict):
    """What the record holds: ``done`` jobs, and what :class:`Written` says of them."""

    plan: str
    description: str
    done: int
    meta_bytes: list[int]
    remarks: dict[str, int]
    failures: list[list[str]]


class _Progress:
    """The record of a plan's progress, in memory and on disk."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        self.folder = folder
        self.state: _State = {
            'plan': _fingerprint(plan),
            'description': plan.description,
            'done': 0,
            'meta_bytes': [0] * len(plan.stores),
            'remarks': {},
            'failures': [list(failure) for failure in plan.failures],
        }

    def load(self) -> None:
        self.state = _record(self.folder)

    def save(self) -> None:
        temporary = self.folder / f'{RECORD}.new'
        with open(temporary, 'w', encoding='utf-8') as file:
            json.dump(self.state, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, self.folder / RECORD)

    def note(self, result: Result) -> None:
        self.state['remarks'] = dict(Counter(self.state['remarks']) + Counter(result.remarks))
        if result.failure:
            self.state['failures'].append(list(result.failure))

    def written(self) -> Written:
        return Written(self.state['remarks'], [Failure(*failure) for failure in self.state['failures']])


def write(plan: Plan, out: Path, skip: bool, overwrite: bool, workers: int) -> Written:
    """Write, or resume writing, the LMDBs of ``plan`` into folder ``out``.

    Args:
        plan: What to write.
        out: Folder for the LMDBs; made if missing.
        skip: Leave damaged images out rather than stop.
        overwrite: Replace finished LMDBs of another source or with other options, and unfinished ones.
        workers: Number of processes that read and convert.

    Returns:
        What was done, including by earlier interrupted runs.

    Raises:
        InputError: A damaged image (without ``skip``), something at the target that must not be overwritten, not
            enough disk space, or a failed write; what was written before stays for the next run.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f'the folder {out} cannot be made: {error.strerror}') from error
    folder = out / f'{plan.name}.partial'
    progress = _Progress(plan, folder)
    finished = _finished(plan, out, overwrite, _fingerprint(plan))
    if finished:
        print(f'Already complete: {", ".join(f"{out / store}.lmdb" for store in plan.stores)}')
        return finished
    with _alone(folder):
        return _resume(plan, out, progress, skip, overwrite, workers)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """``folder``, made where it is missing, for this process alone: two that write to it spoil each other's work."""
    try:
        folder.mkdir(exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise InputError(f'the folder {folder} cannot be made: {error.strerror}') from error
    try:
        with suppress(ImportError):  # on Windows
            import fcntl

            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise InputError(
                    f'another process is writing to {folder}: wait for it, or choose another --out'
                ) from error
        yield
    finally:
        os.close(handle)
        with suppress(OSError):  # where it is not empty, there is work in it
            folder.rmdir()


def _resume(plan: Plan, out: Path, progress: _Progress, skip: bool, overwrite: bool, workers: int) -> Written:
    folder = progress.folder
    if (folder / RECORD).is_file():
        recorded = _record(folder)['plan']
        if recorded == _fingerprint(plan):
            progress.load()
        elif not overwrite:
            raise InputError(
                f'{folder} holds unfinished work from another source or with other options. Give those again to '
                'resume it, or --overwrite to drop it.'
            )
        else:
            shutil.rmtree(folder)
    elif folder.exists() and any(folder.iterdir()):
        raise InputError(f'{folder} is in the way and was not written by this program; move it away')

    done = progress.state['done']
    _check_space(plan, out, done)
    if done:
        print(f'Resuming after {done} of {len(plan.jobs)}')
    try:
        folder.mkdir(exist_ok=True)
        progress.save()
        if done < len(plan.jobs):
            _write_jobs(plan, progress, skip, workers)
        for store in plan.stores:
            ready, final = folder / f'{store}.lmdb', out / f'{store}.lmdb'
            if ready.exists():
                shutil.copy(folder / RECORD, ready)
                if final.exists():
                    shutil.rmtree(final)
                os.rename(ready, final)
        shutil.rmtree(folder)
    except (lmdb.Error, OSError) as error:
        raise InputError(
            f'writing to {out} failed: {error}. {progress.state["done"]} of {len(plan.jobs)} are done and safe; '
            'when there is room, run the same command again to resume.'
        ) from error
    except KeyboardInterrupt:
        print(
            f'\nInterrupted: {progress.state["done"]} of {len(plan.jobs)} are done and safe; '
            'run the same command again to resume.'
        )
        raise
    return progress.written()


def _write_jobs(plan: Plan, progress: _Progress, skip: bool, workers: int) -> None:
    """Run the jobs that are not done and store their results."""
    state = progress.state
    paths = [progress.folder / f'{store}.lmdb' for store in plan.stores]
    # readahead off: it helps nobody who only writes, and counts as memory.
    stores = [lmdb.open(str(path), map_size=_MAP_SIZE, readahead=False) for path in paths]
    metas = []
    for path, length in zip(paths, state['meta_bytes'], strict=True):
        meta = open(path / 'meta_info.txt', 'ab')  # noqa: SIM115  closed below, with the LMDBs
        meta.truncate(length)
        meta.seek(0, os.SEEK_END)
        metas.append(meta)

    damaged = {path for path, _ in state['failures']}
    lost = {image.key for job in islice(plan.jobs, state['done']) for image in job if image.path in damaged}
    pending: list[Result] = []

    def commit() -> None:
        for number, (store, meta) in enumerate(zip(stores, metas, strict=True)):
            values = [stored for result in pending for stored in result.stored if stored.store == number]
            with store.begin(write=True) as transaction:
                for stored in values:
                    transaction.put(stored.key.encode('ascii'), stored.data)
            meta.write(''.join(stored.line for stored in values).encode('ascii'))
            meta.flush()
            os.fsync(meta.fileno())
            state['meta_bytes'][number] = meta.tell()
        for result in pending:
            progress.note(result)
        state['done'] += len(pending)
        progress.save()
        pending.clear()

    bar = tqdm(total=len(plan.jobs), initial=state['done'], unit='pair' if len(plan.jobs[0]) > 1 else 'image')
    results = ordered(functools.partial(process, cut=plan.cut), islice(plan.jobs, state['done'], None), workers)
    size = 0
    try:
        for job, result in zip(islice(plan.jobs, state['done'], None), results, strict=True):
            if job[0].clean in lost:
                result = Result([], [], Failure(job[0].path, f'belongs to {job[0].clean}, which was left out'))
            if result.failure:
                if not skip:
                    commit()
                    raise InputError(
                        f'{result.failure.path} {result.failure.reason}. {state["done"]} of {len(plan.jobs)} are done '
                        'and safe: put a good copy in its place or add --on-error skip, and run the command again.'
                    )
                lost.update(image.key for image in job)
            pending.append(result)
            size += sum(len(stored.data) for stored in result.stored)
            bar.update()
            if size > _BATCH_BYTES or len(pending) >= _BATCH_JOBS:
                commit()
                size = 0
        commit()
    finally:
        bar.close()
        results.close()
        for store in stores:
            store.close()
        for meta in metas:
            meta.close()


def _fingerprint(plan: Plan) -> str:
    """Identifies the plan: the same files, with the same keys, stored in the same way."""
    digest = hashlib.sha256(repr((plan.stores, plan.cut)).encode())
    for job in plan.jobs:
        digest.update(repr(job).encode())
    return digest.hexdigest()


def _record(folder: Path) -> _State:
    try:
        return json.loads((folder / RECORD).read_text(encoding='utf-8'))
    except (OSError, ValueError) as error:
        raise InputError(f'{folder / RECORD} cannot be read ({error}); move {folder} away to start anew') from error


def _finished(plan: Plan, out: Path, overwrite: bool, fingerprint: str) -> Written | None:
    """What is recorded if the plan's LMDBs are all there.

    Raises:
        InputError: Something is at the target that this program did not write, or would have to be asked to replace.
    """
    there = [out / f'{store}.lmdb' for store in plan.stores if (out / f'{store}.lmdb').exists()]
    records = []
    for path in there:
        if not (path / RECORD).is_file():
            raise InputError(f'{path} exists and was not written by this program (no {RECORD}); move it away')
        records.append(_record(path))
    if overwrite or not there:
        return None
    partial = out / f'{plan.name}.partial' / RECORD
    if partial.is_file() and _record(partial.parent)['plan'] == fingerprint:
        return None
    if len(there) < len(plan.stores) or any(record['plan'] != fingerprint for record in records):
        raise InputError(
            f'{there[0]} exists, made from another source or with other options, or without its partner; '
            'choose another --out, or --overwrite to replace it'
        )
    return Written(records[0]['remarks'], [Failure(*failure) for failure in records[0]['failures']])


def _check_space(plan: Plan, out: Path, done: int) -> None:
    needed = sum(expected_bytes(image, plan.cut) for job in plan.jobs[done:] for image in job)
    needed += needed // 50 + 2 * _BATCH_BYTES
    free = shutil.disk_usage(out).free
    print(f'Disk: about {needed / 1e9:.2f} GB needed in {out}, {free / 1e9:.2f} GB free')
    if needed > free:
        raise InputError(
            f'{plan.name} needs about {needed / 1e9:.1f} GB in {out}, where {free / 1e9:.1f} GB are free. '
            'Make room or choose another --out; nothing more was written.'
        )
