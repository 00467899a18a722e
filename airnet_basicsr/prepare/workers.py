"""Work spread over processes, its results in order, with a bounded number of them in memory."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from typing import Protocol, TypeVar

import cv2
import PIL.Image

from airnet_basicsr.errors import InputError

# In flight for each process: enough to keep it busy while the parent writes, few enough to stay small.
_WINDOW = 4


Item = TypeVar('Item')
Made = TypeVar('Made')


class Progress(Protocol):
    """Gives the items (``total`` of them, where they have no length), and shows how far it is."""

    def __call__(self, items: Iterable[Item], total: int | None = None) -> Iterable[Item]: ...


def ordered(function: Callable[[Item], Made], items: Iterable[Item], workers: int) -> Generator[Made, None, None]:
    """``function(item)`` for each item, computed by ``workers`` processes; at most four items for each wait."""
    # Before the fork: a worker does not inherit OpenCV's threads, and would wait for them without end.
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    pool = ProcessPoolExecutor(workers, initializer=_start)
    waiting: deque[Future[Made]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= _WINDOW * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise InputError(
            'a worker process was killed, as happens when memory runs out; run the same command again to resume, '
            'with fewer --workers'
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)
        cv2.setNumThreads(threads)


def take_large_images() -> None:
    """For this process alone: Pillow's guard against images from strangers would stop large ones."""
    PIL.Image.MAX_IMAGE_PIXELS = None


def _start() -> None:
    # Ctrl-C reaches every process of the terminal; the parent alone decides what happens then.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    take_large_images()
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _leave_with_parent() -> None:
    """A worker whose parent was killed would wait for work forever."""
    parent = multiprocessing.parent_process()
    assert parent is not None, 'only a worker calls this'
    wait([parent.sentinel])
    os._exit(1)
