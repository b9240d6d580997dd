"""A small Kubernetes API server for HTTPRoutes, which keeps the rules of field ownership.

After Kubernetes' own ``managedfields`` and ``patch`` handlers: each field has managers; an update takes over what it
changes; an apply owns what it names, and conflicts with other managers of a different value unless forced. ``rules``,
``parentRefs`` and ``hostnames`` are atomic lists, as in the published CRD: one field each. Annotations are a map.
"""

from __future__ import annotations

import copy
import http.server
import json
import re
import socket
import ssl
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, urlsplit

Json = dict[str, Any]
Field = tuple[str, ...]

PATH = re.compile(r"/apis/gateway\.networking\.k8s\.io/v1/namespaces/([^/]+)/httproutes/([^/]+)(/status)?")
JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"
APPLY = "application/apply-patch+yaml"


class StatusError(Exception):
    """A response that is a ``Status`` object."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.body = {
            "kind": "Status",
            "status": "Failure",
            "message": message,
            "reason": reason,
            "code": code,
        }
        self.code = code


class ApiServer:
    """Serves HTTPRoutes on loopback until `stop`; `start` continues on the same port with the same objects."""

    def __init__(self, token: str = "", context: ssl.SSLContext | None = None) -> None:
        self.token = token
        self.allowed = {"get", "patch"}
        """Verbs of the token."""
        self.objects: dict[tuple[str, str], Json] = {}
        self.admit: Callable[[Json], None] = lambda found: None
        """A mutating webhook."""
        self.before_patch: Callable[[], None] = lambda: None
        """Runs between a client's read and its patch."""
        self.calls: list[tuple[str, str, str]] = []
        """(method, path, user agent or field manager)"""
        self.connections: set[socket.socket] = set()
        self._version = 0
        self._lock = threading.RLock()
        self._context = context
        self.port = 0
        self.start()

    @property
    def url(self) -> str:
        return f"{'http' if self._context is None else 'https'}://127.0.0.1:{self.port}"

    def start(self) -> None:
        own = self

        class Handler(_Handler):
            server_of = own

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self.port = self._server.server_port
        if self._context is not None:
            self._server.socket = self._context.wrap_socket(self._server.socket, server_side=True)
        threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        ).start()

    def stop(self) -> None:
        self._server.shutdown()
        for connection in tuple(self.connections):
            connection.shutdown(socket.SHUT_RDWR)
        self._server.server_close()

    # What others do --------------------------------------------------------------------------------------
    def create(self, found: Json, manager: str = "kubectl-client-side-apply") -> Json:
        """Create an object. Raises StatusError."""
        key = found["metadata"].get("namespace", "default"), found["metadata"]["name"]
        base = {"apiVersion": found["apiVersion"], "kind": found["kind"], "metadata": {}, "spec": {}}
        base["metadata"] = {"name": key[1], "namespace": key[0], "uid": f"uid-{key}", "generation": 0}
        base["metadata"]["creationTimestamp"] = _now()
        with self._lock:
            self.objects[key] = base
            wanted = copy.deepcopy(found)
            wanted["metadata"] = {**base["metadata"], **found["metadata"]}
            return self._store(key, wanted, manager, "Update")

    def update(self, namespace: str, name: str, change: Callable[[Json], None], manager: str) -> Json:
        """Edit an object as ``kubectl edit`` does."""
        with self._lock:
            wanted = copy.deepcopy(self.objects[namespace, name])
            change(wanted)
            return self._store((namespace, name), wanted, manager, "Update")

    def apply(self, namespace: str, name: str, applied: Json, manager: str, *, force: bool = False) -> Json:
        """Server-side apply. Raises StatusError 409 on a conflict."""
        with self._lock:
            live = self.objects[namespace, name]
            wanted, given = copy.deepcopy(live), _fields(applied)
            conflicts = [
                f'conflict with "{entry["manager"]}": .{".".join(field)}'
                for field, value in given.items()
                for entry in live["metadata"].get("managedFields", ())
                if (entry["manager"], entry["operation"]) != (manager, "Apply")
                and field in _owned(entry)
                and _fields(live).get(field) != value
            ]
            if conflicts and not force:
                raise StatusError(
                    409, "Conflict", f"Apply failed with {len(conflicts)} conflict: {conflicts[0]}"
                )
            for field, value in given.items():
                _set(wanted, field, value)
            return self._store((namespace, name), wanted, manager, "Apply", set(given))

    def controller(self, namespace: str, name: str, **conditions: tuple[str, str, str]) -> None:
        """Tell as a controller how the newest version is served: (status, reason, message) by type."""
        with self._lock:
            found = self.objects[namespace, name]
            generation = found["metadata"]["generation"]
            shown = {
                "Accepted": ("True", "Accepted", ""),
                "ResolvedRefs": ("True", "ResolvedRefs", ""),
            } | conditions
            parent = found["spec"]["parentRefs"][0]
            common = {"observedGeneration": generation, "lastTransitionTime": _now()}
            made = [
                {"type": kind, "status": status, "reason": reason, "message": message, **common}
                for kind, (status, reason, message) in shown.items()
            ]
            entry = {"parentRef": parent, "controllerName": "example.com/controller", "conditions": made}
            if found.get("status") != {"parents": [entry]}:
                found["status"] = {"parents": [entry]}
                self._bump(found)

    # The API --------------------------------------------------------------------------------------------
    def get(self, key: tuple[str, str]) -> Json:
        """Raises StatusError."""
        with self._lock:
            if key not in self.objects:
                raise StatusError(
                    404, "NotFound", f'httproutes.gateway.networking.k8s.io "{key[1]}" not found'
                )
            return copy.deepcopy(self.objects[key])

    def patch(self, key: tuple[str, str], kind: str, body: Any, query: dict[str, str]) -> Json:
        """Raises StatusError."""
        self.before_patch()
        manager = query.get("fieldManager", "unknown")
        if kind == APPLY:
            return self.apply(*key, body, manager, force=query.get("force") == "true")
        with self._lock:
            wanted = self.get(key)
            if kind == JSON_PATCH:
                _json_patch(wanted, body)
            elif kind == MERGE_PATCH:
                wanted = _merged(wanted, body)
            else:
                raise StatusError(415, "UnsupportedMediaType", f"{kind} is not supported")
            if wanted["metadata"]["resourceVersion"] != self.objects[key]["metadata"]["resourceVersion"]:
                raise StatusError(
                    409, "Conflict", "the object has been modified; please apply your changes to it"
                )
            return self._store(key, wanted, manager, "Update")

    def _store(
        self,
        key: tuple[str, str],
        wanted: Json,
        manager: str,
        operation: str,
        named: set[Field] | None = None,
    ) -> Json:
        """Raises StatusError."""
        live = self.objects[key]
        self.admit(wanted)
        _validate(wanted)
        before, after = _fields(live), _fields(wanted)
        changed = {field for field in before.keys() | after.keys() if before.get(field) != after.get(field)}
        entries = copy.deepcopy(live["metadata"].get("managedFields", []))
        taken = changed if named is None else named
        if changed or named is not None:
            _take_over(entries, manager, operation, taken, changed, present=set(after))
        same = not changed and entries == live["metadata"].get("managedFields", [])
        if same:
            return copy.deepcopy(live)
        wanted["metadata"]["managedFields"] = entries
        wanted["status"] = live.get("status", {})
        if wanted["spec"] != live["spec"]:
            wanted["metadata"]["generation"] = live["metadata"]["generation"] + 1
        self.objects[key] = wanted
        self._bump(wanted)
        return copy.deepcopy(wanted)

    def _bump(self, found: Json) -> None:
        self._version += 1
        found["metadata"]["resourceVersion"] = str(self._version)


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one segment
    server_of: ApiServer

    def setup(self) -> None:
        super().setup()
        self.server_of.connections.add(self.connection)

    def finish(self) -> None:
        self.server_of.connections.discard(self.connection)
        super().finish()

    def do_GET(self) -> None:
        self._respond("get", lambda own, key, query, body: own.get(key))

    def do_PATCH(self) -> None:
        kind = self.headers["content-type"]
        self._respond("patch", lambda own, key, query, body: own.patch(key, kind, body, query))

    def _respond(
        self, verb: str, call: Callable[[ApiServer, tuple[str, str], dict[str, str], Any], Json]
    ) -> None:
        own, url = self.server_of, urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        text = self.rfile.read(int(self.headers.get("content-length") or 0))
        own.calls.append((self.command, url.path, query.get("fieldManager", "")))
        try:
            if own.token and self.headers.get("authorization") != f"Bearer {own.token}":
                raise StatusError(401, "Unauthorized", "Unauthorized")
            found = PATH.fullmatch(url.path)
            if found is None:
                raise StatusError(404, "NotFound", "the server could not find the requested resource")
            if verb not in own.allowed:
                raise StatusError(
                    403, "Forbidden", f'User "turnout" cannot {verb} resource "httproutes" in API group'
                )
            body = call(own, (found[1], found[2]), query, json.loads(text) if text else None)
            code = 200
        except StatusError as error:
            code, body = error.code, error.body
        data = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None: ...


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _fields(found: Json) -> dict[Field, Any]:
    """The fields that have owners, with their values: lists are atomic."""
    made: dict[Field, Any] = {("spec", key): value for key, value in found.get("spec", {}).items()}
    for key, value in (found.get("metadata", {}).get("annotations") or {}).items():
        made["metadata", "annotations", key] = value
    return made


def _set(found: Json, field: Field, value: Any) -> None:
    for key in field[:-1]:
        found = found.setdefault(key, {})
    found[field[-1]] = copy.deepcopy(value)


def _take_over(
    entries: list[Json],
    manager: str,
    operation: str,
    taken: set[Field],
    changed: set[Field],
    *,
    present: set[Field],
) -> None:
    """Who owns what after a write: an update owns what it changed, an apply what it named."""
    owned = {(e["manager"], e["operation"]): (_owned(e), e["time"]) for e in entries}
    mine, since = owned.get((manager, operation), (set(), _now()))
    kept = taken if operation == "Apply" else (mine | taken) & present
    for other, (fields, time) in list(owned.items()):
        owned[other] = fields - changed, time
    owned[manager, operation] = kept, _now() if changed or kept != mine else since
    entries[:] = [
        {
            "manager": name,
            "operation": kind,
            "apiVersion": "gateway.networking.k8s.io/v1",
            "time": time,
            "fieldsType": "FieldsV1",
            "fieldsV1": _tree(fields),
        }
        for (name, kind), (fields, time) in owned.items()
        if fields
    ]


def _tree(fields: set[Field]) -> Json:
    made: Json = {}
    for field in sorted(fields):
        at = made
        for key in field:
            at = at.setdefault(f"f:{key}", {})
    return made


def _owned(entry: Json) -> set[Field]:
    def walk(tree: Json, at: Field) -> set[Field]:
        if not tree:
            return {at}
        return set().union(*(walk(below, (*at, key[2:])) for key, below in tree.items()))

    return walk(entry["fieldsV1"], ())


def _validate(found: Json) -> None:
    for number, rule in enumerate(found["spec"].get("rules", ())):
        for index, backend in enumerate(rule.get("backendRefs", ())):
            weight = backend.get("weight", 1)
            if not isinstance(weight, int) or not 0 <= weight <= 1_000_000:
                where = f"spec.rules[{number}].backendRefs[{index}].weight"
                raise StatusError(422, "Invalid", f"{where}: Invalid value: {weight}: must be 0 to 1000000")


def _json_patch(found: Json, operations: list[Json]) -> None:
    for operation in operations:
        keys = [key.replace("~1", "/").replace("~0", "~") for key in operation["path"].split("/")[1:]]
        at: Any = found
        try:
            for key in keys[:-1]:
                at = at[int(key) if isinstance(at, list) else key]
            last = int(keys[-1]) if isinstance(at, list) else keys[-1]
            if operation["op"] == "test" and at[last] != operation["value"]:
                raise StatusError(422, "", f"testing value {operation['path']} failed: test failed")
            if operation["op"] == "replace":
                at[last]  # must exist
            if operation["op"] in ("add", "replace"):
                at[last] = operation["value"]
        except (KeyError, IndexError):
            raise StatusError(422, "", f"{operation['op']} operation does not apply: missing path") from None


def _merged(live: Any, patch: Any) -> Any:
    if not isinstance(patch, dict):
        return patch
    made = dict(live) if isinstance(live, dict) else {}
    for key, value in patch.items():
        if value is None:
            made.pop(key, None)
        else:
            made[key] = _merged(made.get(key), value)
    return made
