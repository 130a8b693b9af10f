"""A job's log: a file that only grows so far."""

from __future__ import annotations

from services.common.store import ArtifactStore

_CUT = b"... older lines were removed ...\n"


def append_log(store: ArtifactStore, key: str, data: bytes, max_bytes: int) -> None:
    """Adds lines; when the file gets too large its older half goes, in whole lines."""
    if store.exists(key) and store.size(key) + len(data) > max_bytes:
        kept = b"".join(store.read(key, offset=max(0, store.size(key) - max_bytes // 2)))
        writer = store.create(key)
        writer.write(_CUT + kept.partition(b"\n")[2])
        writer.commit()
    store.append(key, data)
