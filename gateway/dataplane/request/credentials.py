"""What a request's head has of credentials, and which of them are the gateway's."""

from __future__ import annotations


class Credentials:
    """At most one API key and one Authorization value.

    Those that name the principal are for the gateway, and go no further unless the route says so.
    """

    __slots__ = ("authorization", "key", "key_field", "listed", "passed")

    authorization: bytes | None
    key: bytes | None
    key_field: bytes
    """Lower-cased name of the field that it came in."""
    listed: tuple[bytes, ...]
    """The lower-cased names of fields that concern this connection alone."""
    passed: bool
    """Whether all of them are the backend's."""

    def __init__(self) -> None:
        self.authorization = self.key = None
        self.key_field = b""
        self.listed = ()
        self.passed = False

    def presented(self) -> bytes | None:
        """What names the principal: an API key, or an Authorization value."""
        return self.key if self.key is not None else self.authorization

    def onward(self, *, openly: bool) -> list[bytes]:
        """The field lines of those that are the backend's. ``openly``: the gateway asks for none, so all of them.

        Otherwise it is an Authorization next to an API key, which is the gateway's.
        """
        if openly:
            self.passed = True
            return self._authorization_lines() + self._key_lines()
        return self._authorization_lines() if self.key is not None else []

    def gateways_own(self) -> list[bytes]:
        """The field lines of those that are the gateway's."""
        if self.passed:
            return []
        return self._authorization_lines() if self.key is None else self._key_lines()

    def _authorization_lines(self) -> list[bytes]:
        if self.authorization is None or b"authorization" in self.listed:
            return []
        return [b"authorization: %b\r\n" % self.authorization]

    def _key_lines(self) -> list[bytes]:
        if self.key is None or self.key_field in self.listed:
            return []
        return [b"%b: %b\r\n" % (self.key_field, self.key)]
