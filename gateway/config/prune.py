"""Removal of faulty values from a document, so that the rest can be validated."""

from __future__ import annotations

from typing import Any

from gateway.config.explain import holds
from gateway.config.faults import KeyPath


class Pruned:
    """Data with parts cut out, which keeps the original path of each value."""

    def __init__(self, data: dict[str, Any]) -> None:
        self.data = data
        self._kept: dict[KeyPath, list[int]] = {}
        """Original path of a list → the original indices of the items that are left."""
        self._cut: list[KeyPath] = []
        self.without_policy: list[str] = []
        """Routes whose policy was replaced by a stand-in."""

    def original(self, path: KeyPath) -> KeyPath:
        """The path in the original document of the value at ``path``."""
        result: KeyPath = ()
        for part in path:
            kept = self._kept.get(result)
            moved = kept[part] if kept is not None and isinstance(part, int) and part < len(kept) else part
            result = (*result, moved)
        return result

    def explains(self, path: KeyPath) -> bool:
        """Whether a cut above or below ``path`` (an original path) may have caused a fault there."""
        return any(cut[: len(path)] == path or path[: len(cut)] == cut for cut in self._cut)

    def cut(self, path: KeyPath, *, missing: bool, harmless: bool) -> None:
        """Cut out the value at ``path``; if it is ``missing``, the section that lacks it.

        A ``harmless`` cut cannot cause another fault.
        """
        if _is_required(path):
            self._stand_in(path)
            return
        if missing:
            path = path[:-1]
        if not path:
            self.data.clear()
            return
        if not harmless:
            self._cut.append(self.original(path))
        if _is_required(path):
            self._stand_in(path)
        else:
            self._remove(path)

    def _remove(self, path: KeyPath) -> None:
        parent = self._at(path[:-1])
        last = path[-1]
        if isinstance(parent, dict):
            parent.pop(last, None)
        elif isinstance(parent, list) and isinstance(last, int) and last < len(parent):
            whole = self.original(path[:-1])
            kept = self._kept.setdefault(whole, list(range(len(parent))))
            del kept[last], parent[last]

    def _stand_in(self, path: KeyPath) -> None:
        """Replace a required section, so that its fault does not hide the others of the route."""
        route = self._at(path[:-1])
        if not isinstance(route, dict):
            return
        self._cut.append(self.original(path))
        if path[-1] == "policy":
            variants = route.get("variants")
            first = next(iter(variants), "none") if isinstance(variants, dict) else "none"
            self.without_policy.append(str(path[1]))
            route["policy"] = {"type": "single", "variant": first}
        else:
            route["match"] = {"path": f"/{path[1]}"}

    def _at(self, path: KeyPath) -> Any:
        data: Any = self.data
        for part in path:
            data = data[part] if holds(data, part) else None
        return data


def _is_required(path: KeyPath) -> bool:
    return len(path) == 3 and path[0] == "routes" and path[2] in ("policy", "match")
