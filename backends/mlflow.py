"""Models out of an MLflow registry: their files are copied into a model repository, which the server loads from.

Only MLflow's REST API is used, with artifacts served by the tracking server (`mlflow server`, its default).
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import shutil
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Final
from urllib.parse import quote

import httpx

from backends.config import NAME
from backends.errors import LoadError
from backends.registry import Registry
from backends.threads import in_daemon

log = logging.getLogger("turnout.backend")

API: Final = "/api/2.0/mlflow"
ARTIFACTS: Final = "/api/2.0/mlflow-artifacts/artifacts"
MLFLOW: Final = "mlflow:"
"""What `--models` begins with."""
TIMEOUT_S: Final = 60.0
MAX_DEPTH: Final = 16
MAX_PAUSE_S: Final = 600.0
"""Between two attempts to load a version; the pause doubles from that between two looks at MLflow to this one."""
_SPEC: Final = re.compile(r"(?P<name>[^@/]+)(?:@(?P<alias>[^@/]+)|/(?P<version>[0-9]+))")


@dataclass(frozen=True, slots=True)
class Wanted:
    """A registered model: the version that `alias` names now, or `version` itself."""

    name: str
    alias: str = ""
    version: int = 0

    @classmethod
    def parse(cls, text: str) -> Wanted:
        """``NAME@ALIAS`` or ``NAME/VERSION``. Raises LoadError."""
        match = _SPEC.fullmatch(text)
        if match is None or not re.fullmatch(NAME, match["name"]):
            raise LoadError(f"{text!r} is not a model of MLflow; write NAME@ALIAS or NAME/VERSION")
        return cls(match["name"], match["alias"] or "", int(match["version"] or 0))


@dataclass(frozen=True, slots=True)
class MlflowSource:
    """Where models come from, and how often (seconds) to look for changes."""

    url: str
    wanted: tuple[Wanted, ...]
    poll: float


class MlflowRegistry:
    """Keeps the model repository ``folder`` as an MLflow registry says. Its methods block."""

    def __init__(self, source: MlflowSource, folder: Path) -> None:
        self._wanted: dict[str, list[Wanted]] = {}
        for one in source.wanted:
            self._wanted.setdefault(one.name, []).append(one)
        self._folder = folder
        self._poll = source.poll
        user = os.environ.get("MLFLOW_TRACKING_USERNAME")
        token = os.environ.get("MLFLOW_TRACKING_TOKEN")
        self._client = httpx.Client(
            base_url=source.url,
            timeout=TIMEOUT_S,
            auth=(user, os.environ.get("MLFLOW_TRACKING_PASSWORD", "")) if user else None,
            headers={"authorization": f"Bearer {token}"} if token else None,
        )
        self._chosen: dict[str, list[int]] = {}
        self._logged: set[str] = set()
        """Faults of the last `sync`."""
        self._lock = threading.Lock()
        """Held while the folder is changed."""

    def sync(self) -> tuple[list[str], dict[str, str]]:
        """Brings the folder up to date, and logs the faults that are new.

        Returns:
            The names of the models that changed, and by name what kept others from being brought.
        """
        changed: list[str] = []
        faults: dict[str, str] = {}
        with self._lock:
            for name, wanted in self._wanted.items():
                try:
                    versions = sorted({self._version(one) for one in wanted})
                    if self._chosen.get(name) != versions:
                        self._bring(name, versions)
                        self._chosen[name] = versions
                        changed.append(name)
                except LoadError as error:
                    faults[name] = str(error)
                except Exception as error:  # noqa: BLE001  a full disk, a response that is not MLflow's
                    faults[name] = f"MLflow: {name}: {type(error).__name__}: {error}"
            for fault in set(faults.values()) - self._logged:
                log.error(
                    "%s; trying again every %g s, and what is loaded is served further", fault, self._poll
                )
            self._logged = set(faults.values())
        return changed, faults

    def forget_old(self, name: str) -> None:
        """Deletes the files of versions that are no longer chosen, once the server has left them.

        Raises OSError.
        """
        with self._lock:
            for path in (self._folder / name).iterdir():
                if path.name.isdigit() and int(path.name) not in self._chosen[name]:
                    shutil.rmtree(path)

    @property
    def brought(self) -> list[str]:
        """The names of the models whose files are in the folder."""
        return list(self._chosen)

    def close(self) -> None:
        """Closes the connections."""
        self._client.close()

    def _version(self, wanted: Wanted) -> int:
        if wanted.version:
            return wanted.version
        found = self._get(f"{API}/registered-models/alias", name=wanted.name, alias=wanted.alias)
        return int(found["model_version"]["version"])

    def _bring(self, name: str, versions: list[int]) -> None:
        configs = {}
        for version in versions:
            target = self._folder / name / str(version)
            if not target.exists():
                self._download(name, version, target)
            configs[version] = self._config(name, version, target)
        newest = configs[versions[-1]]
        if any(config != newest for config in configs.values()):
            raise LoadError(f"{name}: the versions {versions} have different config.json; serve one of them")
        document = {**newest, "name": name, "version_policy": {"specific": {"versions": versions}}}
        scratch = self._folder / name / ".config"
        scratch.write_text(json.dumps(document))
        scratch.replace(self._folder / name / "config.json")

    def _config(self, name: str, version: int, folder: Path) -> Mapping[str, Any]:
        try:
            document = json.loads((folder / "config.json").read_bytes())
        except FileNotFoundError:
            raise LoadError(
                f"{name} version {version} has no config.json among its artifacts; log one next to the model"
            ) from None
        except ValueError as error:
            raise LoadError(f"{name} version {version}: config.json is not JSON ({error})") from None
        if not isinstance(document, dict):
            raise LoadError(f"{name} version {version}: config.json is not a JSON object")
        return {key: value for key, value in document.items() if key not in ("name", "version_policy")}

    def _download(self, name: str, version: int, target: Path) -> None:
        found = self._get(f"{API}/model-versions/get-download-uri", name=name, version=str(version))
        place = self._place(str(found["artifact_uri"]))
        scratch = target.with_name(f".{target.name}")
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        log.info("model %s version %d comes from MLflow", name, version)
        self._fetch(place, scratch, MAX_DEPTH)
        scratch.rename(target)

    def _place(self, uri: str) -> str:
        """The path of an artifact directory on the tracking server."""
        scheme, _, rest = uri.partition(":")
        path = rest.lstrip("/")
        if scheme == "runs":
            run, _, below = path.partition("/")
            info = self._get(f"{API}/runs/get", run_id=run)["run"]["info"]
            return self._place(f"{info['artifact_uri']}/{below}")
        if scheme == "models" and path.startswith("m-"):
            info = self._get(f"{API}/logged-models/{path}")["model"]["info"]
            return self._place(str(info["artifact_uri"]))
        if scheme == "mlflow-artifacts":
            # mlflow-artifacts:/PATH, or with the host that serves them
            return path if not rest.startswith("//") else path.partition("/")[2]
        raise LoadError(f"artifacts at {uri} are not served by MLflow; start it with --serve-artifacts")

    def _fetch(self, place: str, target: Path, depth: int) -> None:
        files = self._get(ARTIFACTS, path=place).get("files", [])
        for file in files:
            # A name, as MLflow lists it: nothing else gets out of the folder.
            name = PurePosixPath(str(file["path"])).name
            if name in ("", ".", "..") or depth == 0:
                raise LoadError(f"{place} holds {file['path']!r}, which can't be copied")
            if file.get("is_dir"):
                (target / name).mkdir()
                self._fetch(f"{place}/{name}", target / name, depth - 1)
            else:
                self._copy(f"{ARTIFACTS}/{quote(f'{place}/{name}')}", target / name)

    def _copy(self, path: str, target: Path) -> None:
        try:
            with self._client.stream("GET", path) as response, target.open("wb") as file:
                response.raise_for_status()
                for piece in response.iter_bytes(1 << 20):
                    file.write(piece)
        except httpx.HTTPError as error:
            raise LoadError(f"MLflow: {path}: {error}") from None

    def _get(self, endpoint: str, **query: str) -> dict[str, Any]:
        try:
            response = self._client.get(endpoint, params=query)
            document = response.json()
        except (httpx.HTTPError, ValueError) as error:
            raise LoadError(f"MLflow at {self._client.base_url}: {type(error).__name__}: {error}") from None
        if response.status_code != 200 or not isinstance(document, dict):
            message = document.get("message") if isinstance(document, dict) else response.status_code
            raise LoadError(f"MLflow: {message} ({', '.join(query.values())})")
        return document


async def first_sync(mlflow: MlflowRegistry, poll: float) -> dict[str, str]:
    """Waits until there is a model to load; by name, what kept others from being brought."""
    while True:
        changed, faults = await in_daemon("mlflow", mlflow.sync)
        if changed:
            return faults
        await asyncio.sleep(poll)


async def follow(mlflow: MlflowRegistry, registry: Registry, poll: float) -> None:
    """Loads what changes, every ``poll`` seconds; a version takes over once it is loaded."""
    loads: dict[str, asyncio.Task[None]] = {}
    async with asyncio.TaskGroup() as group:
        while True:
            await asyncio.sleep(poll)
            try:
                changed, _ = await in_daemon("mlflow", mlflow.sync)
            except Exception as error:  # noqa: BLE001  no thread is left; what is loaded is served meanwhile
                log.error("MLflow is not looked at: %s; trying again in %g s", error, poll)
                continue
            # Those of the first load, which is the server's.
            failed = [name for name in mlflow.brought if name not in loads and _has_failed(registry, name)]
            for name in {*changed, *failed}:
                if name in loads:
                    loads[name].cancel()  # it would load, or try again, what is no longer wanted
                loads[name] = group.create_task(_take_over(mlflow, registry, name, poll))


def _has_failed(registry: Registry, name: str) -> bool:
    model = registry.models.get(name)
    return model is not None and bool(model.faults) and not (model.unloads or model.changing.locked())


def _unloads(registry: Registry, name: str) -> int:
    model = registry.models.get(name)
    return model.unloads if model is not None else 0


async def _take_over(mlflow: MlflowRegistry, registry: Registry, name: str, pause: float) -> None:
    """Loads a model until that succeeds or it is unloaded, after ``pause`` seconds and then after growing pauses."""
    unloads = _unloads(registry, name)
    while unloads == _unloads(registry, name):
        try:
            await registry.load(name)
            await in_daemon("mlflow", partial(mlflow.forget_old, name))
            return
        except Exception as error:  # noqa: BLE001  a thread or a file may be short, too, which ends no server
            log.error("%s; what is loaded is served further; trying again in %g s", error, pause)
        await asyncio.sleep(pause)
        pause = min(2 * pause, max(pause, MAX_PAUSE_S))
