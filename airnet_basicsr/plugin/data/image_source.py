"""Named images of a folder or an LMDB, read as 8-bit RGB or refused with a message."""

import os
from pathlib import Path
from typing import NoReturn

import cv2
import lmdb
import numpy as np
from basicsr.utils import FileClient, get_root_logger

from airnet_basicsr.errors import InputError
from airnet_basicsr.network.files import walk
from airnet_basicsr.restore.image_files import FORMATS, READ_ONLY, REFUSED
from airnet_basicsr.restore.stored_images import decode, is_lmdb, read_lmdb_list

IMAGE_SUFFIXES = (*FORMATS, *READ_ONLY)


class ImageSource:
    """The images of one folder (with its subfolders) or of one LMDB in BasicSR's format.

    Attributes:
        keys: Sorted names: the LMDB's keys, or paths below the folder without their suffix.
        partners: For LMDBs whose ``meta_info.txt`` names in a fourth column the clean image of each degraded one, that
            mapping of keys; else empty.

    Args:
        dataroot: The folder; one that holds ``data.mdb``, or whose name ends in ``.lmdb``, is read as LMDB.
        option: The option that named it, for messages.

    Raises:
        InputError: There is no such folder or LMDB, or no image in it.
    """

    def __init__(self, dataroot: str, option: str) -> None:
        self.root = Path(dataroot).expanduser()
        self.option = option
        self.partners: dict[str, str] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._client: FileClient | None = None
        if not self.root.is_dir():
            raise InputError(f'option {option}: there is no folder {self.root}')
        self.is_lmdb = is_lmdb(self.root)
        self._files = {} if self.is_lmdb else self._list_folder()
        self.keys = self._list_lmdb() if self.is_lmdb else sorted(self._files)
        if not self.keys:
            raise InputError(f'option {option}: there are no images in {self.root}')

    def _list_folder(self) -> dict[str, str]:
        files: dict[str, str] = {}
        refused = []

        def unreadable(error: OSError) -> NoReturn:
            raise InputError(f'option {self.option}: {error.filename} cannot be read: {error.strerror}') from error

        for path in sorted(walk(self.root, unreadable)):
            name = os.path.relpath(path, self.root)
            stem, suffix = os.path.splitext(name)
            if suffix.lower() in REFUSED:
                refused.append(name)
            if suffix.lower() not in IMAGE_SUFFIXES:
                continue
            if stem in files:
                raise InputError(f'{self.root}: {files[stem]} and {name} would be the same image; remove one')
            files[stem] = name
        if refused:
            get_root_logger().warning(
                f'option {self.option}: {len(refused)} images in {self.root} are of formats that are not taken: '
                f'{", ".join(refused[:5])}{", ..." if len(refused) > 5 else ""}. Convert them to PNG.'
            )
        return files

    def _list_lmdb(self) -> list[str]:
        try:
            entries = read_lmdb_list(self.root)
        except InputError as error:
            raise InputError(f'option {self.option}: {error}') from error
        self._shapes = {entry.key: entry.shape for entry in entries}
        self.partners = {entry.key: entry.clean for entry in entries if entry.clean}
        return sorted(self._shapes)

    def describe(self, key: str) -> str:
        """Where image ``key`` is, for messages."""
        return f'{key} in {self.root}' if self.is_lmdb else str(self.root / self._files[key])

    def path(self, key: str) -> str:
        """What BasicSR calls the image's path: its file, or its key in an LMDB."""
        return key if self.is_lmdb else str(self.root / self._files[key])

    def shape(self, key: str) -> tuple[int, ...]:
        """(h, w, c) as an LMDB's ``meta_info.txt`` has it, else (): unknown without reading."""
        return self._shapes.get(key, ())

    def read(self, key: str) -> np.ndarray:
        """Image ``key`` as RGB, uint8, H x W x 3, turned upright.

        Raises:
            InputError: It cannot be decoded, or is not an 8-bit colour image without alpha.
        """
        image = self._decode(key)
        channels = 1 if image.ndim == 2 else image.shape[2]
        if channels != 3 or image.dtype != np.uint8:
            kind = {1: 'grey', 4: 'RGBA'}.get(channels, f'of {channels} channels') if channels != 3 else 'RGB'
            raise InputError(
                f'image {self.describe(key)} is {kind}, {image.dtype}; only 8-bit RGB is taken, so that nothing is '
                'converted unnoticed. Convert it or remove it.'
            )
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)

    def read_plane(self, key: str, dtype: type[np.generic]) -> np.ndarray:
        """Image ``key`` as a single plane, H x W: a depth map or a layer.

        Raises:
            InputError: It cannot be decoded, or is not grey with numbers of ``dtype``.
        """
        image = self._decode(key)
        if image.ndim != 2 or image.dtype != dtype:
            bits = 8 * np.dtype(dtype).itemsize
            raise InputError(f'image {self.describe(key)} is no grey picture of {bits} bits')
        return image

    def _decode(self, key: str) -> np.ndarray:
        try:
            content = self._open().get(key if self.is_lmdb else self.path(key), 'images')
        except (OSError, lmdb.Error) as error:
            raise InputError(f'image {self.describe(key)} cannot be read: {error}') from error
        if content is None:
            raise InputError(f'image {self.describe(key)}: listed in meta_info.txt but not stored')
        image = decode(bytes(content), cv2.IMREAD_UNCHANGED, self.path(key))
        if image is None:
            raise InputError(f'image {self.describe(key)} cannot be decoded: damaged, or not an image')
        return image

    def _open(self) -> FileClient:
        # At the first reading, as BasicSR does: worker processes then open their own.
        if self._client is None:
            self._client = (
                FileClient('lmdb', db_paths=[str(self.root)], client_keys=['images']) if self.is_lmdb else FileClient()
            )
        return self._client

    def __getstate__(self) -> dict:
        return {**self.__dict__, '_client': None}
