"""Responses that come in pieces, put together: strings grow, objects are merged, all else is replaced."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from policies.comparison.bodies import Json

REPLACED: Final = frozenset(
    {"id", "type", "role", "object", "model", "index", "name", "finish_reason", "stop_reason", "done_reason",
     "created_at", "system_fingerprint", "service_tier"}
)  # fmt: skip
"""Strings that stand whole in each piece that has them."""


class _Strings(list[str]):
    """A string that grows; joined at the end, since adding to a string copies all of it."""


class _Items(list[Json]):
    """A list that grows."""


class _Numbered(dict[int, Json]):
    """Members of a list that say their place by ``index``."""


class Assembly(dict[str, Json]):
    """An object that grows by pieces. Lists grow, too, member by member where these have an ``index``."""

    def add(self, piece: dict[str, Json], replaced: Collection[str] = REPLACED) -> None:
        """Merges ``piece`` into what is there."""
        for key, value in piece.items():
            if value is None:
                self.setdefault(key, None)
            elif key in replaced:
                if value != "" or key not in self:
                    self[key] = value
            else:
                self._grow(key, value, replaced)

    def _grow(self, key: str, value: Json, replaced: Collection[str]) -> None:
        old = self.get(key)
        if isinstance(value, str):
            if isinstance(old, _Strings):
                old.append(value)
            else:
                self[key] = _Strings([value])
        elif isinstance(value, dict):
            if not isinstance(old, Assembly):
                old = self[key] = Assembly()
            old.add(value, replaced)
        elif isinstance(value, list):
            self[key] = _extend(old, value, replaced)
        else:
            self[key] = value

    def whole(self) -> dict[str, Json]:
        """The object, put together."""
        return {key: _settle(value) for key, value in self.items()}


def _extend(old: Json, values: list[Json], replaced: Collection[str]) -> _Items | _Numbered:
    numbered = all(isinstance(value, dict) and type(value.get("index")) is int for value in values)
    if isinstance(old, _Numbered) and numbered:
        members = old
    elif isinstance(old, _Items) or not (values and numbered):
        items = old if isinstance(old, _Items) else _Items()
        items.extend(values)
        return items
    else:
        members = _Numbered()
    for value in values:
        member = members.setdefault(value["index"], Assembly())
        member.add(value, replaced)
    return members


def _settle(value: Json) -> Json:
    if isinstance(value, _Strings):
        return "".join(value)
    if isinstance(value, Assembly):
        return value.whole()
    if isinstance(value, _Numbered):
        return [_settle(value[index]) for index in sorted(value)]
    return list(value) if isinstance(value, _Items) else value


def without(value: Json, dropped: Collection[str] = ()) -> dict[str, Json]:
    """The members of an object but those ``dropped``, and those that say nothing (null, "", [], {})."""
    if not isinstance(value, dict):
        return {}
    return {key: member for key, member in value.items() if key not in dropped and member not in _NOTHING}


_NOTHING: Final[tuple[Json, ...]] = (None, "", [], {})
