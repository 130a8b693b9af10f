"""Options between their three shapes: protobuf, checked models, and flat HTTP form fields."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import StrEnum
from types import UnionType
from typing import Any, TypeVar, get_args

from google.protobuf.message import Message
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from services.common.options import DEFAULTS, PostprocOptions, SfmOptions, StageOptions, TrainingOptions
from splatmill.errors import Reason, SplatmillError
from splatmill.v1 import options_pb2, progress_pb2, reconstruction_pb2

_SAYABLE = 1e9  # a bound beyond is that of the number's type

ModelT = TypeVar("ModelT", bound=StageOptions)

# Field of JobOptions, its model, its stage.
PARTS: tuple[tuple[str, type[StageOptions], progress_pb2.Stage.ValueType], ...] = (
    ("sfm", SfmOptions, progress_pb2.STAGE_SFM),
    ("training", TrainingOptions, progress_pb2.STAGE_TRAIN),
    ("postproc", PostprocOptions, progress_pb2.STAGE_POSTPROC),
)


def from_proto(message: Message, model: type[ModelT]) -> ModelT:
    """Checks a message of options.

    Raises:
        SplatmillError: A value is out of range (INVALID_OPTION); field names it.
    """
    values: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        if not message.HasField(field.name):
            continue
        value = getattr(message, field.name)
        if field.enum_type is not None:
            value = _enum_text(field, value)
        values[field.name] = value
    return _validated(model, {name: value for name, value in values.items() if value is not None})


def to_proto(options: StageOptions, message: Message) -> Message:
    """Writes the options that are set into ``message`` and answers it."""
    for name, value in options.model_dump(exclude_none=True).items():
        field = message.DESCRIPTOR.fields_by_name[name]
        enum = field.enum_type
        number = None if enum is None else enum.values_by_name[f"{_prefix(field)}{str(value).upper()}"].number
        setattr(message, name, value if number is None else number)
    return message


def parse_form(fields: Mapping[str, str]) -> options_pb2.JobOptions:
    """Reads flat form fields, such as ``{"iterations": "3000"}``; an empty one means not set.

    Raises:
        SplatmillError: An unknown name or a bad value (INVALID_OPTION).
    """
    owners = {name: part for part, model, _ in PARTS for name in model.model_fields}
    by_part: dict[str, dict[str, str]] = {}
    for name, value in fields.items():
        if name not in owners:
            raise SplatmillError(
                Reason.INVALID_OPTION,
                f"There is no option {name[:100]!r}.",
                f"Options are: {', '.join(sorted(owners))}.",
                field=name,
            )
        if value.strip():
            by_part.setdefault(owners[name], {})[name] = value.strip()
    job = options_pb2.JobOptions()
    for part, model, _ in PARTS:
        if part in by_part:
            to_proto(_validated(model, by_part[part]), getattr(job, part))
    return job


def check(job: options_pb2.JobOptions) -> None:
    """Checks all options of a job; raises INVALID_OPTION."""
    for part, model, _ in PARTS:
        from_proto(getattr(job, part), model)


def describe() -> Iterator[reconstruction_pb2.OptionInfo]:
    """Every option with type, range, default and help."""
    for _, model, stage in PARTS:
        for name, field in model.model_fields.items():
            yield _described(stage, name, field)


def _described(
    stage: progress_pb2.Stage.ValueType, name: str, field: FieldInfo
) -> reconstruction_pb2.OptionInfo:
    kind = _value_type(field)
    info = reconstruction_pb2.OptionInfo(stage=stage, name=name, help=field.description or "")
    info.default_value = DEFAULTS[name]
    if issubclass(kind, StrEnum):
        info.type = "enum"
        info.choices.extend(str(choice) for choice in kind)
    else:
        info.type = {bool: "bool", int: "int", float: "float"}[kind]
    for bound in field.metadata:
        low = getattr(bound, "ge", getattr(bound, "gt", None))
        high = getattr(bound, "le", getattr(bound, "lt", None))
        if low is not None:
            info.minimum = low
        if high is not None:
            info.maximum = high
    return info


def _value_type(field: FieldInfo) -> Any:
    annotation = field.annotation
    choices = get_args(annotation) if isinstance(annotation, UnionType) else (annotation,)
    return next(choice for choice in choices if choice is not type(None))


def _prefix(field: Any) -> str:
    """``MATCHER_`` of the enum ``Matcher``."""
    zero = field.enum_type.values_by_number[0].name
    return str(zero.removesuffix("UNSPECIFIED"))


def _enum_text(field: Any, number: int) -> str | None:
    value = field.enum_type.values_by_number.get(number)
    if value is None:
        raise SplatmillError(
            Reason.INVALID_OPTION,
            f"{field.name} has no value {number}.",
            "See ListOptions.",
            field=field.name,
        )
    return None if number == 0 else str(value.name).removeprefix(_prefix(field)).lower()


def _validated(model: type[ModelT], values: Mapping[str, Any]) -> ModelT:
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else ""
        raise SplatmillError(
            Reason.INVALID_OPTION,
            f"{name} = {str(values.get(name))[:100]!r}: {first['msg'].removeprefix('Value error, ')}.",
            _remedy(model, name),
            field=name,
        ) from error


def _remedy(model: type[StageOptions], name: str) -> str:
    """The type and range of an option in words."""
    info = _described(progress_pb2.STAGE_UNSPECIFIED, name, model.model_fields[name])
    if info.choices:
        return f"{name} is one of: {', '.join(info.choices)}."
    words = {"bool": "true or false", "int": "a whole number", "float": "a number"}[info.type]
    bounds = [
        f"{word} {value:.10g}"
        for word, value, given in (
            ("at least", info.minimum, info.HasField("minimum")),
            ("at most", info.maximum, info.HasField("maximum")),
        )
        if given and abs(value) < _SAYABLE
    ]
    return f"{name} is {words}{', ' if bounds else ''}{' and '.join(bounds)}. {info.help}"
