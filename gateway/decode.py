"""Bytes and query strings become request structs, or a ValidationFailed that names the field."""

import re
import typing
from collections.abc import Iterator
from datetime import datetime
from functools import cache
from typing import Any
from urllib.parse import parse_qsl
from uuid import UUID

import msgspec

from engine.errors import ValidationFailed

QUERY_FIELDS_MAX = 50

_AT = re.compile(r"^(?P<reason>.*?)(?: - at `(?P<key>key in )?\$(?P<path>.*?)`)?$", re.DOTALL)
_NAMED = re.compile(r"^Object (?:contains unknown|missing required) field `(?P<name>.*)`$", re.DOTALL)
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_SLUG = re.compile(r"[a-z0-9-]{1,100}")
_OFFSET_BLANK = re.compile(r"(?<=[0-9]) (?=[0-9]{2}:[0-9]{2}\Z)", re.ASCII)
_INTEGER = re.compile(r"-?[0-9]{1,9}", re.ASCII)


class Nothing(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a call that has none: nothing, or `{}`."""


@cache
def decoder(form: type) -> msgspec.json.Decoder[Any]:
    """The decoder of one form."""
    return msgspec.json.Decoder(form)


def decode_body(form_decoder: msgspec.json.Decoder[Any], body: bytes) -> Any:
    """Decode a body; raises ValidationFailed, also for characters that Postgres cannot store."""
    if not body:
        raise ValidationFailed("body", "is missing")
    try:
        value = form_decoder.decode(body)
    except msgspec.ValidationError as error:
        raise refused(error) from None
    except msgspec.DecodeError as error:
        raise ValidationFailed("body", f"is not JSON: {error}") from None
    except UnicodeDecodeError:
        raise ValidationFailed("body", "is not UTF-8") from None
    except RecursionError:
        raise ValidationFailed("body", "is nested too deeply") from None
    if b"\\u0000" in body:
        for path in _with_nul(msgspec.json.decode(body), ""):
            raise ValidationFailed(path, "contains a NUL character")
    return value


def refused(error: msgspec.ValidationError) -> ValidationFailed:
    """What msgspec says, with the field taken out of its `$.items[0].quantity`."""
    match = _AT.match(str(error))
    reason = match["reason"] if match else str(error)
    path = (match["path"] or "").lstrip(".") if match else ""
    if named := _NAMED.match(reason):
        path = f"{path}.{named['name']}" if path else named["name"]
        reason = "is not a known field" if "unknown" in reason else "is missing"
    return ValidationFailed(path or "body", reason)


def _with_nul(value: object, path: str) -> Iterator[str]:
    if isinstance(value, str) and "\0" in value:
        yield path or "body"
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from _with_nul(inner, f"{path}.{name}" if path else name)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _with_nul(inner, f"{path}[{index}]")


@cache
def _fields_of_type(form: type, kind: type) -> frozenset[str]:
    hints = typing.get_type_hints(form)
    return frozenset(
        field.encode_name
        for field in msgspec.structs.fields(form)
        if kind is hints[field.name] or kind in typing.get_args(hints[field.name])
    )


def decode_query(form: type, query_string: bytes) -> Any:
    """Decode a query string into a struct; parameters that it does not have are left alone."""
    try:
        pairs = parse_qsl(
            query_string.decode("ascii"),
            keep_blank_values=True,
            errors="strict",
            max_num_fields=QUERY_FIELDS_MAX,
        )
    except ValueError:
        raise ValidationFailed("query", "is not of its form") from None
    known = {field.encode_name for field in msgspec.structs.fields(form)}
    values: dict[str, object] = {}
    for name, text in pairs:
        if name not in known:
            continue
        if "\0" in text:
            raise ValidationFailed(name, "contains a NUL character")
        if name in _fields_of_type(form, int):
            if not _INTEGER.fullmatch(text):
                raise ValidationFailed(name, "must be an integer")
            values[name] = int(text)
        elif name in _fields_of_type(form, datetime):
            # A `+02:00` that was not escaped arrives with a blank: a query's plus sign is one.
            values[name] = _OFFSET_BLANK.sub("+", text)
        else:
            values[name] = text
    try:
        return msgspec.convert(values, form)
    except msgspec.ValidationError as error:
        raise refused(error) from None


def decode_id(text: str, field: str = "id") -> UUID:
    """An id in a path; raises ValidationFailed for what is not a UUID in its usual spelling."""
    if not _UUID.fullmatch(text):
        raise ValidationFailed(field, "is not a UUID")
    return UUID(text)


def decode_id_or_slug(text: str) -> UUID | str:
    """An event's id or slug in a path."""
    if _UUID.fullmatch(text):
        return UUID(text)
    if not _SLUG.fullmatch(text):
        raise ValidationFailed("id", "is neither a UUID nor a slug")
    return text
