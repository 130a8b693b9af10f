"""A file from the registry: resumed at the byte it has reached, checked against its hash."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, BinaryIO

import grpc.aio

from splatmill._patience import Patience
from splatmill._status import from_rpc_error
from splatmill.errors import Reason, SplatmillError
from splatmill.v1 import reconstruction_pb2 as pb

if TYPE_CHECKING:
    from splatmill.v1.reconstruction_pb2_grpc import ReconstructionServiceAsyncStub

_JOB_ID_LENGTH = 8
_READ_BYTES = 1 << 20


def is_job_id(key: str) -> bool:
    """Whether a key is a job_id (8 characters) rather than a pub_key (10)."""
    return len(key) == _JOB_ID_LENGTH


class Download:
    """One file on its way.

    Args:
        stub: The service.
        address: Of the service, for messages.
        key: The job_id or the pub_key.
        name: The file's name.
        sink: Gets the bytes; what it holds already, and its position is the end of, counts.
        patience: When to give up.
    """

    def __init__(
        self,
        stub: ReconstructionServiceAsyncStub,
        address: str,
        key: str,
        name: str,
        sink: BinaryIO,
        patience: Patience,
    ) -> None:
        self._stub = stub
        self._address = address
        self._key = key
        self._name = name
        self._sink = sink
        self._patience = patience
        self._artifact: pb.Artifact | None = None
        self._digest = hashlib.sha256()
        self._offset = 0
        self._restarts = 0

    async def run(self) -> pb.Artifact:
        """Fetches until the file is whole.

        Raises:
            SplatmillError: No such file, or the server stayed away.
        """
        self._take_in_what_is_there()
        while True:
            try:
                await self._rest()
            except grpc.aio.AioRpcError as broken:
                if from_rpc_error(broken).reason == Reason.BAD_OFFSET and self._offset > 0:
                    self._restart()  # what was there before is longer than the file is now
                    continue
                await self._patience.after(broken, self._address)
                continue
            if self._is_whole():
                assert self._artifact is not None
                return self._artifact

    def _take_in_what_is_there(self) -> None:
        self._sink.seek(0)
        while data := self._sink.read(_READ_BYTES):
            self._digest.update(data)
            self._offset += len(data)

    def _restart(self) -> None:
        self._sink.seek(0)
        self._sink.truncate()
        self._digest = hashlib.sha256()
        self._offset = 0
        self._artifact = None
        self._restarts += 1
        if self._restarts > 3:
            raise SplatmillError(
                Reason.UNAVAILABLE,
                f"{self._name} arrived damaged several times.",
                "Check the network and try again.",
                True,
            )

    async def _rest(self) -> None:
        request = pb.DownloadArtifactRequest(name=self._name, offset=self._offset)
        if is_job_id(self._key):
            request.job_id = self._key
        else:
            request.pub_key = self._key
        call = self._stub.DownloadArtifact(request)
        try:
            async for response in call:
                if response.WhichOneof("payload") == "artifact":
                    if not self._same_file(response.artifact):
                        self._restart()
                        return
                    self._artifact = response.artifact
                    continue
                self._sink.write(response.data)
                self._digest.update(response.data)
                self._offset += len(response.data)
                self._patience.renew()
        finally:
            call.cancel()

    def _same_file(self, artifact: pb.Artifact) -> bool:
        """Whether the bytes so far are of this file; a log has no hash, and only grows."""
        if self._artifact is not None:
            return artifact.sha256 == self._artifact.sha256
        return bool(artifact.sha256) or self._offset == 0

    def _is_whole(self) -> bool:
        if self._artifact is None:  # it was restarted
            return False
        if self._artifact.sha256:
            whole = self._digest.digest() == self._artifact.sha256
        else:
            whole = self._offset >= self._artifact.size_bytes
        if not whole:
            self._restart()
        return whole
