"""The errors that a client gets, each with its HTTP status. A message says what to send instead."""

from __future__ import annotations

from typing import Final

MAX_MESSAGE: Final = 1000
"""Characters; a message quotes what the client sent, which may be of any length."""


class ServerError(Exception):
    """An error with an answer of its own: ``{"error": message}`` under `status`."""

    status = 500

    @property
    def message(self) -> str:
        text = str(self.args[0]) if self.args else "internal error; the server's log has the details"
        # A model, or the server of an ensemble's step, may have put half a surrogate pair into it.
        text = text.encode(errors="replace").decode()
        return text if len(text) <= MAX_MESSAGE else f"{text[:MAX_MESSAGE]}…"


class InvalidInput(ServerError):
    """The request can't be used as it is. A model raises it for values that it can't take."""

    status = 400


class NotFound(ServerError):
    """No such model, version or page."""

    status = 404


class MethodNotAllowed(ServerError):
    """The path exists, for another method."""

    status = 405

    def __init__(self, message: str, allow: str) -> None:
        super().__init__(message)
        self.allow = allow


class TooLarge(ServerError):
    """The body is beyond the server's limit."""

    status = 413


class RequestTimedOut(ServerError):
    """The request arrived too slowly."""

    status = 408


class TargetTooLong(ServerError):
    """The request target is beyond the server's limit."""

    status = 414


class HeadTooLarge(ServerError):
    """The request head is beyond the server's limit."""

    status = 431


class UnsupportedVersion(ServerError):
    """A version of HTTP that the server doesn't speak."""

    status = 505


class UnsupportedEncoding(ServerError):
    """A content-encoding that the server doesn't know."""

    status = 415


class ModelFailed(ServerError):
    """The model raised, or gave something other than its configuration says."""

    status = 500


class Unavailable(ServerError):
    """Nothing is wrong with the request; the server can't take it now."""

    status = 503
    retry_after = 1
    """Seconds, for the Retry-After header."""


class LoadError(Exception):
    """A model could not be loaded; the message says where and why."""


class Forbidden(ServerError):
    """Switched off on this server, or for this client."""

    status = 403
