"""The local artifact store: keys stay inside, files appear whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
import threading

import pytest

from services.common import store as store_module
from services.common.store import LocalStore
from splatmill.errors import Reason, SplatmillError


@pytest.fixture
def store(tmp_path):
    return LocalStore(tmp_path / "data")


def put(store: LocalStore, key: str, data: bytes) -> None:
    writer = store.create(key)
    writer.write(data)
    writer.commit()


BAD_KEYS = [
    "",
    ".",
    "/etc/passwd",
    "../out",
    "a/../../out",
    "a/..",
    "a\\..\\b",
    "a\0b",
    "n" * 300,
    "\udc80",
    "d/" * 2000,
]


@pytest.mark.parametrize("key", BAD_KEYS, ids=range(len(BAD_KEYS)))
def test_keys_that_lead_out_are_refused(store, key):
    with pytest.raises(SplatmillError) as caught:
        store.create(key)
    assert caught.value.reason is Reason.INVALID_REQUEST


def test_a_link_that_leads_out_is_refused(store, tmp_path):
    (tmp_path / "secret").write_text("x")
    (store.root / "link").symlink_to(tmp_path)
    with pytest.raises(SplatmillError):
        list(store.read("link/secret"))


def test_a_file_appears_only_at_commit(store):
    writer = store.create("jobs/a/photo.jpg")
    writer.write(b"half")
    assert not store.exists("jobs/a/photo.jpg")
    assert store.list("jobs/a") == []
    writer.abort()
    assert list((store.root / "jobs/a").iterdir()) == []
    put(store, "jobs/a/photo.jpg", b"whole")
    assert store.list("jobs/a") == [("photo.jpg", 5)]


def test_parts_of_a_file(store):
    put(store, "f", bytes(range(100)))
    assert b"".join(store.read("f", 10, 25, chunk=7)) == bytes(range(10, 35))
    assert b"".join(store.read("f", 90)) == bytes(range(90, 100))
    assert list(store.read("f", 100)) == []
    assert store.size("f") == 100


def test_moving_replaces(store):
    put(store, "work/train-1/a/b.txt", b"new")
    put(store, "output/a/b.txt", b"old")
    store.move("work/train-1/a/b.txt", "output/a/b.txt")
    assert b"".join(store.read("output/a/b.txt")) == b"new"
    assert not store.exists("work/train-1/a/b.txt")


def test_missing_files(store):
    with pytest.raises(SplatmillError) as caught:
        store.size("nothing")
    assert caught.value.reason is Reason.ARTIFACT_NOT_FOUND
    store.delete_prefix("nothing")
    assert store.list("nothing") == []


def test_an_output_folder_begins_empty(store, tmp_path):
    put(store, "work/sfm-1/left.txt", b"x")
    folder = store.prepare_output("work/sfm-1", tmp_path)
    assert list(folder.iterdir()) == []
    (folder / "new.txt").write_text("y")
    store.checkin(folder, "work/sfm-1")
    assert store.list("work/sfm-1") == [("new.txt", 1)]
    store.append("log", b"a")
    store.append("log", b"b")
    assert b"".join(store.read("log")) == b"ab"


def test_an_input_folder_must_be_there_and_holds_whole_files_only(store, tmp_path):
    with pytest.raises(SplatmillError) as caught:
        store.checkout("jobs/a/upload", tmp_path)
    assert caught.value.reason is Reason.INPUT_NOT_FOUND
    put(store, "jobs/a/upload/images/1.jpg", b"whole")
    store.create("jobs/a/upload/images/2.jpg").write(b"of an upload whose process was killed")
    folder = store.checkout("jobs/a/upload", tmp_path)
    assert [path.name for path in (folder / "images").iterdir()] == ["1.jpg"]


class _FullFile:
    """A file on a full disk, as far as the writer can tell."""

    def write(self, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    def close(self) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_folder_that_goes_away_while_it_is_read(store, tmp_path, monkeypatch):
    """The registry removes what an upload has come by while a worker takes the photos."""
    put(store, "upload/images/1.jpg", b"1")
    put(store, "upload/incoming/2.jpg", b"2")
    scandir = os.scandir

    def goes_away(path):
        if str(path).endswith("incoming"):
            shutil.rmtree(path, ignore_errors=True)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", goes_away)
    assert store.list("upload") == [("images/1.jpg", 1)]
    put(store, "upload/incoming/2.jpg", b"2")
    assert (store.checkout("upload", tmp_path) / "images/1.jpg").exists()
    assert not (store.root / "upload/incoming").exists()


def test_a_full_disk_is_said_and_leaves_nothing(store):
    writer = store.create("jobs/a/photo.jpg")
    writer._file.close()
    writer._file = _FullFile()
    with pytest.raises(SplatmillError) as caught:
        writer.write(b"x")
    assert caught.value.reason is Reason.STORAGE_FULL
    assert caught.value.retryable
    writer.abort()
    assert list((store.root / "jobs/a").iterdir()) == []


def test_a_commit_that_fails_can_be_aborted(store, monkeypatch):
    writer = store.create("a/b")
    writer.write(b"x")

    def broken(number: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(store_module.os, "fsync", broken)
    with pytest.raises(OSError, match="Input/output"):
        writer.commit()
    writer.abort()
    assert list((store.root / "a").iterdir()) == []


def test_readers_see_the_old_file_or_the_new_one(store):
    versions = [bytes([k]) * 100_000 for k in range(3)]
    put(store, "f", versions[0])
    stop = threading.Event()
    bad: list[bytes] = []

    def read() -> None:
        while not stop.is_set():
            data = b"".join(store.read("f", chunk=1000))
            if data not in versions:
                bad.append(data)

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(60):
        put(store, "f", versions[number % 3])
    stop.set()
    reader.join()
    assert not bad


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(SplatmillError) as caught:
        LocalStore(tmp_path / "file" / "data")
    assert "SPLATMILL_DATA_DIR" in caught.value.remedy
