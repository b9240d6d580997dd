"""Talking to a running gateway from the command line."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
from ipaddress import ip_address
from typing import Any, Final

import httpx
from pydantic import TypeAdapter, ValidationError

from gateway.commands.documents import USUAL, control_url
from gateway.commands.output import add_json
from gateway.config.document import Document
from gateway.config.faults import ConfigError
from gateway.config.load import read_text
from gateway.config.model import Name, is_web_address
from gateway.config.yaml_text import read

DEFAULT: Final = "http://127.0.0.1:8080"
_NAME: Final[TypeAdapter[str]] = TypeAdapter(Name)


def reason_of(error: Exception) -> str:
    """The message of an error, without the number that an operating system gives it."""
    return re.sub(r"^\[Errno -?\d+\] ", "", str(error).rstrip(".")) or type(error).__name__


def connect_failure(error: httpx.HTTPError | OSError) -> str:
    """Why a server could not be called, and what to write instead where that is known."""
    if isinstance(error, OSError):
        return "the file that SSL_CERT_FILE names can't be read"
    reason = reason_of(error)
    if "CERTIFICATE_VERIFY_FAILED" in reason and "mismatch" in reason:
        return "its certificate is for another name: call it by a name that is in the certificate"
    if "CERTIFICATE_VERIFY_FAILED" in reason and "expired" in reason:
        return "its certificate has expired"
    if "CERTIFICATE_VERIFY_FAILED" in reason:
        return "its certificate is not trusted: name the file with its CA in SSL_CERT_FILE"
    if "[SSL:" in reason:
        return "it does not speak TLS: write http:// instead of https://"
    if isinstance(error, httpx.RemoteProtocolError | httpx.ReadError):
        return "it does not speak plain HTTP/1.1: write https:// if it uses TLS"
    return reason


class RemoteError(Exception):
    """The gateway could not be reached, or refused the call; the message says what to do."""

    lasting = False
    """Whether the same call would be refused again."""


def add_remote_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--url",
        type=_url,
        help=f"URL of the gateway's control API (default: TURNOUT_URL, a local address in {USUAL} in this "
        f"directory, or {DEFAULT}); the key is read from TURNOUT_KEY, CA certificates from SSL_CERT_FILE",
    )
    add_json(parser)


def route_name(text: str) -> str:
    """The type of ROUTE: a name, which is the same in a URL. Raises ArgumentTypeError."""
    try:
        return _NAME.validate_python(text)
    except ValidationError as error:
        raise argparse.ArgumentTypeError(str(error.errors()[0]["ctx"]["error"])) from None


def _url(text: str) -> str:
    url = (text if "://" in text else f"http://{text}").rstrip("/")
    if is_web_address(url):
        return url
    raise argparse.ArgumentTypeError(f"{text!r} is not the URL of a gateway; write one such as {DEFAULT}")


def gateway_url() -> str:
    """Where the gateway of this shell or directory is: a file in a directory sends no key to another machine."""
    url = os.environ.get("TURNOUT_URL")
    if not url:
        with contextlib.suppress(ConfigError, ValueError):
            found = _of_file()
            url = found if found is not None and _local(found) else None
    return _url(url or DEFAULT)


def _of_file() -> str | None:
    """The address in the file of this directory, whose other sections may have faults: the gateway runs without them.

    Raises ConfigError, ValueError.
    """
    tree, _ = read(read_text(USUAL), os.environ)
    data = tree.data if tree is not None and isinstance(tree.data, dict) else {}
    address = {name: data[name] for name in ("listen", "control") if name in data}
    found = control_url(Document.model_validate({"routes": {}} | address), everywhere="127.0.0.1")
    return found.replace("http:", "https:", 1) if found is not None and data.get("tls") else found


def _local(url: str) -> bool:
    host = httpx.URL(url).host
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def named_url(arguments: argparse.Namespace) -> str:
    """The URL of the gateway that the options, the environment or the directory name. Raises RemoteError."""
    try:
        return str(arguments.url or gateway_url())
    except argparse.ArgumentTypeError as error:
        raise RemoteError(f"TURNOUT_URL: {error}") from None


def shown_url(arguments: argparse.Namespace) -> str:
    """`named_url` without user and password. Raises RemoteError."""
    return str(httpx.URL(named_url(arguments)).copy_with(userinfo=b""))


def call(
    arguments: argparse.Namespace, method: str, path: str, body: Any = None, *, holds: str
) -> dict[str, Any]:
    """Call the gateway; return the JSON object, which must have the key ``holds``.

    The API key comes from the environment (TURNOUT_KEY), so that it is not visible in process lists.

    Raises:
        RemoteError: There is no gateway, it refuses the call, or it responds with something else.
    """
    url = named_url(arguments)
    response = _response(url, method, path, body)
    found = _json_of(url, response)
    if holds not in found:
        raise RemoteError(_refused(url, response))
    return found


def call_text(arguments: argparse.Namespace, path: str) -> str:
    """Read a text of the gateway. Raises RemoteError."""
    return _response(named_url(arguments), "GET", path).text


def _response(url: str, method: str, path: str, body: Any = None) -> httpx.Response:
    """Raises RemoteError, also for a response with an error."""
    key = os.environ.get("TURNOUT_KEY")
    if key is not None and not (key.isascii() and key.isprintable()):
        raise RemoteError("TURNOUT_KEY has a character that no key has; copy the key again")
    headers = {"authorization": f"Bearer {key}"} if key else {}
    try:
        response = httpx.request(method, f"{url}{path}", json=body, headers=headers, timeout=10.0)
    except (httpx.HTTPError, OSError) as error:
        raise RemoteError(
            f"no gateway responds at {url} ({connect_failure(error)}); start one with 'turnout run', "
            "or name it with --url"
        ) from error
    if response.is_error:
        refused = _json_of(url, response).get("error")
        if response.status_code == 401 and not key:
            raise RemoteError(
                f"{url} asks for a key; set TURNOUT_KEY (one that 'turnout init' wrote: "
                "export $(cat turnout.keys))"
            )
        message = refused.get("message") if isinstance(refused, dict) else None
        failure = RemoteError(message or _refused(url, response))
        failure.lasting = message is not None and response.status_code < 500 and response.status_code != 429
        raise failure
    return response


def _json_of(url: str, response: httpx.Response) -> dict[str, Any]:
    """Raises RemoteError unless it is an object."""
    try:
        found = response.json()
    except ValueError:
        raise RemoteError(
            f"{url} responded with {response.status_code} and without JSON; is it a gateway?"
        ) from None
    if not isinstance(found, dict):
        raise RemoteError(_refused(url, response))
    return found


def _refused(url: str, response: httpx.Response) -> str:
    return f"{url} responded with {response.status_code}, but is not a gateway; name one with --url"
