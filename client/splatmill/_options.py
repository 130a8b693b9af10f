"""A job's options from flat names, such as ``{"iterations": 3000, "matcher": "sequential"}``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from google.protobuf.descriptor import FieldDescriptor

from splatmill.errors import Reason, SplatmillError
from splatmill.v1 import options_pb2

_TRUE, _FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off")
_INTEGERS = (FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_INT64)


def job_options(options: Mapping[str, object] | options_pb2.JobOptions | None) -> options_pb2.JobOptions:
    """Finds each option's stage; values may be text. The server checks the ranges.

    Raises:
        SplatmillError: INVALID_OPTION for an unknown name or a value of another type.
    """
    if isinstance(options, options_pb2.JobOptions):
        return options
    job = options_pb2.JobOptions()
    fields = {field.name: (part, field) for part, field in _fields()}
    for name, value in (options or {}).items():
        if name not in fields:
            raise SplatmillError(
                Reason.INVALID_OPTION,
                f"There is no option {name!r}.",
                f"Options are: {', '.join(sorted(fields))}.",
                field=name,
            )
        part, field = fields[name]
        try:
            setattr(getattr(job, part), name, _converted(field, value))
        except (ValueError, TypeError) as error:
            raise SplatmillError(
                Reason.INVALID_OPTION, f"{name} = {value!r}: {error}.", "See the list of options.", field=name
            ) from None
    return job


def _fields() -> Iterator[tuple[str, FieldDescriptor]]:
    for part in options_pb2.JobOptions.DESCRIPTOR.fields:
        assert part.message_type is not None
        for field in part.message_type.fields:
            yield part.name, field


def _converted(field: FieldDescriptor, value: object) -> Any:
    text = str(value).strip()
    if field.enum_type is not None:
        prefix = field.enum_type.values_by_number[0].name.removesuffix("UNSPECIFIED")
        names = {entry.name.removeprefix(prefix).lower(): entry.number for entry in field.enum_type.values}
        del names["unspecified"]
        if text.lower() not in names:
            raise ValueError(f"must be one of {', '.join(names)}")
        return names[text.lower()]
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        if text.lower() not in (*_TRUE, *_FALSE):
            raise ValueError("must be true or false")
        return text.lower() in _TRUE
    if field.cpp_type in _INTEGERS:
        number = float(text) if not text.lstrip("+-").isdigit() else int(text)
        if number != int(number):
            raise ValueError("must be a whole number")
        return int(number)
    return float(text)
