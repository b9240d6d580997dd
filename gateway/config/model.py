"""What every part of the document shares: strict keys, no change after load, and checked text."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

import httpx
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
)
from pydantic_core.core_schema import CoreSchema, no_info_before_validator_function

from gateway.config.units import split_address, written
from gateway.http.fields import valid_host

_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_FIELD_VALUE: Final = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_LABEL: Final = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_OBJECT: Final = re.compile(rf"(?:{_LABEL}/)?{_LABEL}(?:\.{_LABEL})*")
_SERVER_NAME: Final = re.compile(
    r"[A-Za-z0-9_][A-Za-z0-9._-]*|(?=[^:]*:[^:]*:)[0-9A-Fa-f:.]+(?:%[A-Za-z0-9._-]+)?"
)
_HOST_PATTERN: Final = re.compile(
    r"(?:\*\.)?[A-Za-z0-9](?:[A-Za-z0-9._~-]|%[0-9A-Fa-f]{2})*|\[[0-9A-Fa-f:.]{2,45}\]"
)
"""What `gateway.http.fields.valid_host` lets through, without a port."""
_METHOD: Final = re.compile(r"[A-Z][A-Z0-9-]{0,31}")
_OF_THE_CONNECTION: Final = frozenset((
    "connection", "content-length", "expect", "host", "keep-alive", "proxy-connection", "te", "trailer",
    "transfer-encoding", "upgrade",
))  # fmt: skip
"""Names of headers that frame and direct a message."""


class ConfigModel(BaseModel):
    """A section of the document. Unknown keys are faults and nothing changes after load."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        serialize_by_alias=True,
    )


def _name(value: str) -> str:
    if not _NAME.fullmatch(value):
        raise ValueError(
            f"{value!r} is not a name; write at most 64 letters, digits, '.', '_', '-', "
            "starting with a letter or digit"
        )
    return value


def _namespace(value: str) -> str:
    if not re.fullmatch(_LABEL, value):
        raise ValueError(f"{value!r} is not a namespace; write at most 63 lower-case letters, digits and '-'")
    return value


def _object(value: str) -> str:
    if not _OBJECT.fullmatch(value):
        raise ValueError(
            f"{value!r} is not the name of a Kubernetes object; write NAME or NAMESPACE/NAME with lower-case letters, "
            "digits, '-' and '.'"
        )
    return value


def _header_name(value: str) -> str:
    if not _TOKEN.fullmatch(value):
        raise ValueError(f"{value!r} is not the name of a header; write one such as x-user-id")
    return value.lower()


def _settable(value: str) -> str:
    if value.replace("_", "-") in _OF_THE_CONNECTION:
        instead = "use 'rewrite.host', or 'host' of the backend" if value == "host" else "leave it out"
        raise ValueError(f"the gateway sets {value!r} itself; {instead}")
    return value


def _header_value(value: str) -> str:
    if not _FIELD_VALUE.fullmatch(value) or value != value.strip():
        raise ValueError(
            "a header's value holds ISO 8859-1 without control characters or spaces at its ends; write it so"
        )
    return value


def _method(value: str) -> str:
    if not _METHOD.fullmatch(value.upper()):
        raise ValueError(f"{value!r} is not a method; write one such as POST")
    return value.upper()


def _path(value: str) -> str:
    if not value.startswith("/") or re.search(r"[?#\s\x00-\x1f\x7f]", value):
        raise ValueError(
            f"{value!r} is not a path; write one that begins with '/' and has no '?', '#' or space"
        )
    return value


def _host(value: str) -> str:
    if not valid_host(value.encode()):
        raise ValueError(f"{value!r} is not a host; write a name or an address, with a port if need be")
    return value


def _version(value: object) -> object:
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if isinstance(value, str) and not _NAME.fullmatch(value):
        raise ValueError(f"{value!r} is not a version; write one such as 3")
    return value


def _address(value: object) -> str:
    if isinstance(value, dict | list):
        raise ValueError("write one address, host:port such as 127.0.0.1:8080, and no mapping or list")
    text = f"0.0.0.0{value}" if str(value).startswith(":") else str(value)
    split_address(text)
    return text


def _url(value: str) -> str:
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError:
        raise ValueError(f"{value!r} is not an address; write one such as http://127.0.0.1:9101") from None
    if (
        parts.scheme not in ("http", "https", "h2c", "h2")
        or not parts.hostname
        or re.search(r"[\s\x00-\x1f\x7f]", value)
    ):
        raise ValueError(
            f"{value!r} is not an http, https, h2c or h2 address; write one such as http://127.0.0.1:9101"
        )
    if parts.query or parts.fragment or "?" in value or "#" in value:
        raise ValueError(f"{value!r} has a query or fragment; write scheme, host, port and at most a path")
    if _ascii_host(parts.hostname, _SERVER_NAME) is None:
        raise ValueError(f"{parts.hostname!r} is not a host; write one such as models.internal")
    if parts.username is not None or parts.password is not None:
        raise ValueError(
            "credentials in an address end up in logs; write them under 'headers' of the backend"
        )
    if port == 0:
        raise ValueError(f"{value!r} has port 0; write the port that the backend listens on")
    return parts.scheme + value[len(parts.scheme) :]  # in lower case, as those who read it expect


def _ascii_host(value: str, form: re.Pattern[str]) -> str | None:
    """A host as DNS has it, which engines write into the files of their proxies; None for what is not of ``form``."""
    try:
        host = value.encode("idna").decode()
    except UnicodeError:  # an empty label, or one that is too long
        return None
    return host if form.fullmatch(host) else None


def _server_name(value: str) -> str:
    host = _ascii_host(value, _SERVER_NAME) if value else ""
    if host is None:
        raise ValueError(f"{value!r} is not a server name; write one such as models.internal, without a port")
    return host


def _host_pattern(value: str) -> str:
    host = _ascii_host(value, _HOST_PATTERN)
    if host is None:
        raise ValueError(
            f"{value!r} is not a host; write one such as models.internal, *.models.internal or [::1], without a port"
        )
    return host


def _as_tuple(value: object) -> object:
    """One value where a list may stand."""
    if isinstance(value, Iterable) and not isinstance(value, str | bytes | dict):
        return value
    return (value,)


def _store(value: str) -> str:
    if re.fullmatch(r"sqlite:///.+", value) or re.fullmatch(
        r"rediss?(\+cluster)?://[^/\s]+(/\d*)?(\?\S*)?", value
    ):
        return value
    raise ValueError("this is not a store; write sqlite:///FILE or redis://HOST:6379/0")


def _archive(value: str) -> str:
    scheme, separator, rest = value.partition("://")
    if not value or (separator and scheme not in ("s3", "gs", "gcs", "abfs", "abfss", "hdfs", "file")):
        raise ValueError(
            f"{value!r} is not an archive; write s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or a folder"
        )
    if separator and "@" in rest and not scheme.startswith("abfs"):
        raise ValueError(
            "credentials in an address end up in logs; give them to the process, for example AWS_ACCESS_KEY_ID"
        )
    return value


Name = Annotated[str, AfterValidator(_name), written(_NAME, example="v2")]
Namespace = Annotated[str, AfterValidator(_namespace), written(_LABEL, example="prod")]
ObjectName = Annotated[str, AfterValidator(_object), written(_OBJECT, example="prod/digits")]
"""Of a Kubernetes object, with or without its namespace."""
HeaderName = Annotated[str, AfterValidator(_header_name), written(_TOKEN, example="x-user-id")]
"""Lower case."""
SetHeaderName = Annotated[HeaderName, AfterValidator(_settable)]
"""A header that the configuration adds to messages: none that could change where a message ends or goes."""
HeaderValue = Annotated[str, AfterValidator(_header_value)]
Method = Annotated[str, AfterValidator(_method), written("[A-Za-z][A-Za-z0-9-]{0,31}", example="POST")]
"""Upper case."""
Path = Annotated[str, AfterValidator(_path), written(r"/[^?#\s]*", example="/v2/models/digits")]
HostName = Annotated[str, AfterValidator(_host), written(r"[A-Za-z0-9\[][^\s/@]*", example="models.internal")]
"""What a Host field may hold."""
HostPattern = Annotated[
    str,
    AfterValidator(_host_pattern),
    written(r"(?:\*\.)?[^\s/@:*\[\]]+|\[[^\s/@]+\]", example="models.internal"),
]
"""A host without a port, or ``*.`` and what such hosts end with."""
ServerName = Annotated[str, AfterValidator(_server_name)]
"""What a certificate names: a host without a port."""
Version = Annotated[str, BeforeValidator(_version), written(_NAME, {"type": "integer"}, example="3")]
"""Of a model: a number, or a name."""
HostPort = Annotated[str, BeforeValidator(_address), written(r".*:\d{1,5}", example="127.0.0.1:8080")]
"""``host:port``; ``:port`` is every address of this machine. `gateway.config.units.split_address` splits it."""
Store = Annotated[str, AfterValidator(_store)]
ArchiveAddress = Annotated[str, AfterValidator(_archive)]


def is_web_address(value: str) -> bool:
    """Whether the gateway's HTTP client can call the URL ``value``."""
    try:
        url = httpx.URL(value)
    except httpx.InvalidURL:
        return False
    blank = re.search(r"\s", value) is not None
    return url.scheme in ("http", "https") and bool(url.host) and (url.port or 0) <= 65535 and not blank


Url = Annotated[
    str,
    AfterValidator(_url),
    written(r"[Hh](?:[Tt][Tt][Pp][Ss]?|2[Cc]?)://[^?#\s]+", example="http://127.0.0.1:9101"),
]


def _web(value: str) -> str:
    if not is_web_address(value):
        raise ValueError(
            f"{value!r} is not an http or https address; write one such as https://10.0.0.1:6443"
        )
    return value


WebUrl = Annotated[
    Url, AfterValidator(_web), written(r"[Hh][Tt][Tt][Pp][Ss]?://[^?#\s]+", example="https://10.0.0.1:6443")
]
"""What the gateway's own HTTP client calls."""


class _OneOrMore:
    """Marks a tuple for which a single value may be written."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return no_info_before_validator_function(_as_tuple, handler(source))

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        found = handler(core)
        return {"anyOf": [found["items"], found]}


OneOrMore = _OneOrMore()
