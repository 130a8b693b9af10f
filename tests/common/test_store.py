"""The local artifact store: keys stay inside, files appear whole or not at all."""

from __future__ import annotations

import pytest

from services.common.store import LocalStore
from splatmill.errors import Reason, SplatmillError


@pytest.fixture
def store(tmp_path):
    return LocalStore(tmp_path / "data")


def put(store: LocalStore, key: str, data: bytes) -> None:
    writer = store.create(key)
    writer.write(data)
    writer.commit()


@pytest.mark.parametrize("key", ["", "/etc/passwd", "../out", "a/../../out", "a\\..\\b", "a\0b"])
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
