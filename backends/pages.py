"""All calls but inference: health, metadata, statistics, the repository."""

from __future__ import annotations

import asyncio
from importlib.metadata import version as distribution_version
from typing import Any, Final

from backends.errors import Forbidden, InvalidInput, LoadError, ServerError
from backends.http.message import Response, as_json
from backends.model import Model
from backends.registry import Registry
from backends.served import Served
from backends.wire.document import json_object

EXTENSIONS: Final = (
    "binary_tensor_data",
    "model_configuration",
    "model_repository",
    "parameters",
    "statistics",
)

NO_SHARED_MEMORY: Final = "shared memory is not served here; send tensors in the requests"
NO_SETTINGS: Final = "settings of traces and logs are not served here; see the options of turnout backend"


class Pages:
    """Each method is one call of the protocol and gives its answer, or raises a ServerError."""

    def __init__(self, registry: Registry, control: bool) -> None:
        self._registry = registry
        self._control = control

    def server(self) -> Response:
        return as_json(
            {"name": "turnout", "version": distribution_version("turnout"), "extensions": EXTENSIONS}
        )

    def live(self) -> Response:
        return as_json({"live": True})

    def ready(self, draining: bool) -> Response:
        reason = self.unready(draining)
        if reason:
            return as_json({"ready": False, "error": reason}, 503)
        return as_json({"ready": True})

    def unready(self, draining: bool) -> str:
        """Why the server is not ready; "" if it is."""
        if draining:
            return "the server is shutting down"
        if self._registry.loading:
            return "; ".join(["the models are still being loaded", *self._registry.progress()])
        return "; ".join(self._registry.faults)

    def metadata(self, name: str, version: str) -> Response:
        served = self._registry.find(name, version)
        config = served.config
        return as_json(
            {
                "name": served.name,
                "versions": list(self._registry.models[name].versions),
                "platform": config.platform,
                "inputs": [_tensor(spec) for spec in served.signature.inputs.values()],
                "outputs": [_tensor(spec) for spec in served.signature.outputs.values()],
            }
        )

    def model_ready(self, name: str, version: str) -> Response:
        served = self._registry.find(name, version)
        return as_json({"name": served.name, "version": served.version, "ready": True})

    def config(self, name: str, version: str) -> Response:
        served = self._registry.find(name, version)
        document = served.config.model_dump(mode="json", exclude_none=True)
        for tensor in (*document["input"], *document["output"]):
            tensor["data_type"] = (
                f"TYPE_{tensor['data_type'].replace('BYTES', 'STRING')}"  # as Triton has them
            )
        return as_json({**document, "executor": served.executor})

    def stats(self, name: str, version: str) -> Response:
        return as_json({"model_stats": [_stats(served) for served in self._chosen(name, version)]})

    def _chosen(self, name: str, version: str) -> list[Served]:
        if version:
            return [self._registry.find(name, version)]
        if name:
            return list(self._registry.models[self._registry.find(name).name].versions.values())
        return [served for model in self._registry.models.values() for served in model.versions.values()]

    def index(self, body: bytes) -> Response:
        """What the repository holds; ``{"ready": true}`` asks for what is served only. Raises InvalidInput."""
        only_ready = _document(body).get("ready", False)
        if type(only_ready) is not bool:
            raise InvalidInput("ready is not a boolean; send true or false")
        rows = [row for model in self._registry.models.values() for row in _rows(model)]
        return as_json([row for row in rows if row["state"] == "READY" or not only_ready])

    async def change(self, name: str, action: str, body: bytes) -> Response:
        """Loads what the repository holds of a model now, or unloads it, even if the client leaves meanwhile.

        Raises:
            Forbidden: Changes are not allowed on this server.
            InvalidInput: The load has parameters.
            NotFound: There is no such model.
            Unloadable: The model can't be loaded.
        """
        if not self._control:
            raise Forbidden("models can't be loaded or unloaded here; start the server with --allow-load")
        if action == "unload":
            await asyncio.shield(self._registry.unload(name))
            return as_json({})
        if _document(body).get("parameters"):
            raise InvalidInput("parameters of a load are not served here; change the files in the repository")
        try:
            await asyncio.shield(self._registry.load(name))
        except LoadError as error:
            raise Unloadable(f"model {name!r} could not be loaded: {error}") from None
        return as_json({})


class Unloadable(ServerError):
    """What the repository holds can't be loaded."""

    status = 422


def _tensor(spec: Any) -> dict[str, object]:
    return {"name": spec.name, "datatype": spec.datatype.name, "shape": spec.shape}


def _stats(served: Served) -> dict[str, object]:
    return {"name": served.name, "version": served.version, **served.stats.as_dict()}


def _rows(model: Model) -> list[dict[str, str]]:
    faults, progress = model.all_faults(), model.progress()
    states = dict.fromkeys(faults, "UNAVAILABLE") | dict.fromkeys(progress, "LOADING")
    states |= {version: "READY" for version, served in model.versions.items() if not served.fault}
    reasons = {"": "unloaded"} | faults | progress
    return [
        {"name": model.name, "version": version, "state": state, "reason": reasons.get(version, "")}
        for version, state in sorted(
            (states or {"": "UNAVAILABLE"}).items(), key=lambda item: int(item[0] or 0)
        )
    ]


def _document(body: bytes) -> dict[str, Any]:
    return json_object(body) if body else {}
