"""Protobuf messages of any type, as an adversary or a broken client would send them."""

from __future__ import annotations

from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import strategies as st

_NASTY = (
    "", " ", ".", "..", "../../etc/passwd", "/etc/passwd", "a/../../b", "..\\..\\x", "a\0b", "con.jpg", "-rf",
    "%2e%2e%2f", "'; DROP TABLE job; --", "\u202egpj.exe", "\N{PILE OF POO}" * 70, "x" * 5000, "preview.jpg",
    "logs/process.log", "upload/images/0.jpg", "../database_id", "splatmill.db",
)  # fmt: skip
_EDGES = (0, 1, -1, 2, 3, 7, 255, 256, 2**31 - 1, -(2**31), 2**32 - 1, 2**53, 2**63 - 1, -(2**63), 2**64 - 1)
_RANGE = {
    FieldDescriptor.TYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.TYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.TYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.TYPE_UINT64: (0, 2**64 - 1),
    FieldDescriptor.TYPE_ENUM: (-3, 12),
}


def messages(descriptor: Descriptor, known: tuple[str, ...], depth: int = 3) -> st.SearchStrategy[Message]:
    """Messages of a type.

    Args:
        descriptor: The type.
        known: Texts that mean something to the service, such as ids of jobs.
        depth: How deep messages are nested.
    """

    def build(values: dict[str, Any]) -> Message:
        message = GetMessageClass(descriptor)()
        for name, value in values.items():
            field = descriptor.fields_by_name[name]
            if field.is_repeated:
                getattr(message, name).extend(value)
            elif field.type == FieldDescriptor.TYPE_MESSAGE:
                getattr(message, name).CopyFrom(value)
            else:
                setattr(message, name, value)
        return message

    fields = {}
    for field in descriptor.fields:
        is_map = field.message_type is not None and field.message_type.GetOptions().map_entry
        if is_map or (field.type == FieldDescriptor.TYPE_MESSAGE and depth == 0):
            continue
        value = _values(field, known, depth)
        fields[field.name] = st.lists(value, max_size=3) if field.is_repeated else value
    return st.fixed_dictionaries({}, optional=fields).map(build)


def _values(field: FieldDescriptor, known: tuple[str, ...], depth: int) -> st.SearchStrategy[Any]:
    if field.type == FieldDescriptor.TYPE_MESSAGE:
        return messages(field.message_type, known, depth - 1)
    if field.type == FieldDescriptor.TYPE_STRING:
        texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=40)
        return st.one_of(st.sampled_from(known), st.sampled_from(_NASTY), texts)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return st.binary(max_size=64)
    if field.type == FieldDescriptor.TYPE_BOOL:
        return st.booleans()
    if field.type in (FieldDescriptor.TYPE_DOUBLE, FieldDescriptor.TYPE_FLOAT):
        return st.floats(width=32)
    low, high = _RANGE[field.type]
    return st.one_of(
        st.sampled_from([n for n in _EDGES if low <= n <= high]), st.integers(low, high)
    )  # fmt: skip
