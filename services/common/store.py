"""Where files live: photos, models, splats and logs, under keys such as ``jobs/a1b2c3d4/scene.spz``."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Protocol

from splatmill.errors import Reason, SplatmillError

CHUNK = 1 << 20
_PARTIAL = ".partial-"
_MAX_NAME_BYTES = 255
_MAX_KEY_LENGTH = 1024
_FULL = (errno.ENOSPC, errno.EDQUOT)


class ArtifactWriter(Protocol):
    """A file being written; it appears under its key at commit, whole or not at all."""

    def write(self, data: bytes) -> None:
        """Adds bytes."""
        ...

    def commit(self) -> None:
        """Makes the file appear."""
        ...

    def abort(self) -> None:
        """Drops what was written; harmless after commit."""
        ...


class ArtifactStore(Protocol):
    """A place for files. Keys are relative paths with forward slashes. Calls block."""

    def create(self, key: str) -> ArtifactWriter:
        """Begins a file."""
        ...

    def read(
        self, key: str, offset: int = 0, length: int | None = None, chunk: int = CHUNK
    ) -> Iterator[bytes]:
        """A file's bytes, piece by piece."""
        ...

    def size(self, key: str) -> int:
        """Size in bytes; raises ARTIFACT_NOT_FOUND."""
        ...

    def exists(self, key: str) -> bool:
        """Whether there is such a file."""
        ...

    def list(self, prefix: str) -> list[tuple[str, int]]:
        """Files below a prefix: paths relative to it, and sizes; sorted."""
        ...

    def folders(self, prefix: str) -> dict[str, float]:
        """Folders directly below a prefix, and when each was last changed, in seconds since the epoch."""
        ...

    def move(self, source: str, target: str) -> None:
        """Renames a file, replacing what was there."""
        ...

    def append(self, key: str, data: bytes) -> None:
        """Adds to the end of a file, made if it is not there."""
        ...

    def delete_prefix(self, prefix: str) -> None:
        """Removes everything below a prefix; harmless when there is nothing."""
        ...

    def checkout(self, prefix: str, scratch: Path) -> Path:
        """A folder of this machine that holds what is below the prefix, to be read only.

        Raises:
            SplatmillError: There is nothing (INPUT_NOT_FOUND).
        """
        ...

    def prepare_output(self, prefix: str, scratch: Path) -> Path:
        """An empty folder of this machine for what shall be below the prefix after checkin."""
        ...

    def checkin(self, folder: Path, prefix: str) -> None:
        """Stores what prepare_output's folder holds."""
        ...

    def lasting_folder(self, prefix: str) -> Path | None:
        """A folder whose files are there for every later worker; None where the store has no such thing."""
        ...

    def free_bytes(self) -> int:
        """Room that is left."""
        ...


class LocalStore:
    """An artifact store in a folder.

    Args:
        root: The folder; made if it is not there.

    Raises:
        SplatmillError: The folder cannot be made (INVALID_OPTION).
    """

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SplatmillError(
                Reason.INVALID_OPTION, f"The data folder {self.root} cannot be used: {error.strerror}.",
                "Set SPLATMILL_DATA_DIR to a folder that can be written to.", field="data_dir",
            ) from error  # fmt: skip

    def path(self, key: str) -> Path:
        """Where a key lies.

        Raises:
            SplatmillError: The key leads out of the store (INVALID_REQUEST).
        """
        if not _is_plain(key) or not (self.root / key).resolve().is_relative_to(self.root):
            raise SplatmillError(
                Reason.INVALID_REQUEST, f"{key!r} is no path inside the store.", "Use a plain relative path."
            )
        return self.root / key

    def create(self, key: str) -> LocalWriter:
        """See ArtifactStore."""
        return LocalWriter(self.path(key))

    def read(
        self, key: str, offset: int = 0, length: int | None = None, chunk: int = CHUNK
    ) -> Iterator[bytes]:
        """See ArtifactStore."""
        path = self._existing(key)
        left = length
        with path.open("rb") as file:
            file.seek(offset)
            while left is None or left > 0:
                data = file.read(chunk if left is None else min(chunk, left))
                if not data:
                    return
                left = None if left is None else left - len(data)
                yield data

    def size(self, key: str) -> int:
        """See ArtifactStore."""
        return self._existing(key).stat().st_size

    def exists(self, key: str) -> bool:
        """See ArtifactStore."""
        return self.path(key).is_file()

    def list(self, prefix: str) -> list[tuple[str, int]]:
        """See ArtifactStore."""
        base = self.path(prefix)
        found: list[tuple[str, int]] = []
        for path in _files_below(base):
            with contextlib.suppress(FileNotFoundError):
                if path.is_file() and not path.name.startswith(_PARTIAL):
                    found.append((path.relative_to(base).as_posix(), path.stat().st_size))
        return sorted(found)

    def folders(self, prefix: str) -> dict[str, float]:
        """See ArtifactStore."""
        found: dict[str, float] = {}
        with contextlib.suppress(FileNotFoundError):
            for path in self.path(prefix).iterdir():
                with contextlib.suppress(FileNotFoundError):
                    if path.is_dir():
                        found[path.name] = path.stat().st_mtime
        return found

    def move(self, source: str, target: str) -> None:
        """See ArtifactStore."""
        destination = self.path(target)
        destination.parent.mkdir(parents=True, exist_ok=True)
        os.replace(self._existing(source), destination)

    def append(self, key: str, data: bytes) -> None:
        """See ArtifactStore."""
        path = self.path(key)
        with _room_needed():
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab") as file:
                file.write(data)

    def delete_prefix(self, prefix: str) -> None:
        """See ArtifactStore."""
        path = self.path(prefix)
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)

    def checkout(self, prefix: str, scratch: Path) -> Path:
        """See ArtifactStore; the folder itself, less what a killed upload has left half written."""
        folder = self.path(prefix)
        if not folder.is_dir():
            raise SplatmillError(
                Reason.INPUT_NOT_FOUND, f"There is nothing below {prefix!r} in {self.root}.",
                "Does this worker use the same data folder as the registry? See SPLATMILL_DATA_DIR.",
            )  # fmt: skip
        for path in _files_below(folder):
            if path.name.startswith(_PARTIAL):
                path.unlink(missing_ok=True)
        return folder

    def prepare_output(self, prefix: str, scratch: Path) -> Path:
        """See ArtifactStore; the folder itself."""
        self.delete_prefix(prefix)
        path = self.path(prefix)
        with _room_needed():
            path.mkdir(parents=True)
        return path

    def checkin(self, folder: Path, prefix: str) -> None:
        """See ArtifactStore; nothing to do."""

    def lasting_folder(self, prefix: str) -> Path | None:
        """See ArtifactStore; made by whoever writes to it first."""
        return self.path(prefix)

    def free_bytes(self) -> int:
        """See ArtifactStore."""
        return shutil.disk_usage(self.root).free

    def _existing(self, key: str) -> Path:
        path = self.path(key)
        if not path.is_file():
            raise SplatmillError(
                Reason.ARTIFACT_NOT_FOUND, f"There is no file {key!r}.", "List the job's artifacts."
            )
        return path


class LocalWriter:
    """A file beside its final name until commit.

    Every method but abort raises STORAGE_FULL when there is no room.
    """

    def __init__(self, target: Path) -> None:
        self._target = target
        self._partial = target.with_name(f"{_PARTIAL}{secrets.token_hex(8)}")
        self._open = True
        with _room_needed():
            target.parent.mkdir(parents=True, exist_ok=True)
            self._file: BinaryIO = self._partial.open("wb")

    def write(self, data: bytes) -> None:
        """Adds bytes."""
        if not self._open:
            raise ValueError("write after commit or abort")
        with _room_needed():
            self._file.write(data)

    def commit(self) -> None:
        """Flushes to disk and renames into place."""
        if not self._open:
            raise ValueError("commit after commit or abort")
        with _room_needed():
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            os.replace(self._partial, self._target)
            self._open = False
            _sync_folder(self._target.parent)

    def abort(self) -> None:
        """Removes what was written."""
        if self._open:
            self._open = False
            with contextlib.suppress(OSError):  # closing flushes, and the disk may be full
                self._file.close()
            self._partial.unlink(missing_ok=True)


def _is_plain(key: str) -> bool:
    """Whether a key is a relative path of usable names, without tricks."""
    parts = PurePosixPath(key).parts
    try:
        names = [part.encode() for part in parts]
    except UnicodeEncodeError:
        return False
    return (
        bool(names)
        and not key.startswith("/")
        and ".." not in parts
        and not set("\\\0") & set(key)
        and all(len(name) <= _MAX_NAME_BYTES for name in names)
        and len(key) <= _MAX_KEY_LENGTH
    )


def _files_below(folder: Path) -> Iterator[Path]:
    """Files at any depth. Others may remove some meanwhile, and whole folders: which ``rglob`` minds."""
    for base, _, names in os.walk(folder):
        yield from (Path(base, name) for name in names)


def _sync_folder(folder: Path) -> None:
    """Makes a rename outlive a power cut."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


@contextlib.contextmanager
def _room_needed() -> Iterator[None]:
    """A full disk as STORAGE_FULL."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise SplatmillError(
            Reason.STORAGE_FULL, "There is no room left for files.",
            "Delete jobs that are no longer needed, or give the data folder more room.", retryable=True,
        ) from error  # fmt: skip
