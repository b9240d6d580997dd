"""The model repository on disk, laid out as Triton's: ``MODEL/config.json`` and ``MODEL/VERSION/…``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from backends.config import ModelConfig, read_config
from backends.errors import LoadError


@dataclass(frozen=True, slots=True)
class FoundVersion:
    """One version folder that is to be served."""

    model: str
    number: int
    folder: Path
    fingerprint: tuple[object, ...]
    """Equal when nothing that the version is made of has changed: its configuration and its files."""


@dataclass(frozen=True, slots=True)
class FoundModel:
    """One model folder. `config` is None, and `fault` says why, when it can't be served."""

    name: str
    config: ModelConfig | None
    versions: Mapping[int, FoundVersion]
    fault: str = ""
    missing: Mapping[int, str] = field(default_factory=dict)
    """Versions that `version_policy` names and the folder does not hold, with the fault."""


def scan(root: Path) -> dict[str, FoundModel]:
    """The models in the folder ``root``, by name. Raises LoadError when it is no folder that can be read."""
    if not root.is_dir():
        raise LoadError(f"{root} is not a directory; name the model repository, with one directory per model")
    try:
        folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError as error:
        raise LoadError(f"{root} can't be read ({error.strerror})") from None
    return {path.name: scan_model(path) for path in folders}


def scan_model(folder: Path) -> FoundModel:
    """The model in ``folder``; faults of it are in the result, not raised."""
    try:
        config = read_config(folder / "config.json")
        if config.name != folder.name:
            raise LoadError(
                f"{folder / 'config.json'}: name is {config.name!r}; write {folder.name!r}, as the folder"
            )
        versions, missing = _versions(folder, config)
    except LoadError as error:
        return FoundModel(folder.name, None, {}, str(error))
    except OSError as error:  # files may vanish meanwhile
        return FoundModel(
            folder.name, None, {}, f"{error.filename or folder} can't be read ({error.strerror})"
        )
    return FoundModel(folder.name, config, versions, missing=missing)


def _versions(folder: Path, config: ModelConfig) -> tuple[dict[int, FoundVersion], dict[int, str]]:
    numbers = sorted(int(path.name) for path in folder.iterdir() if _is_version(path))
    served = config.version_policy.pick(numbers)
    specific = config.version_policy.specific
    missing = {
        number: f"{folder / str(number)} is missing; version_policy names it, so add it or remove it there"
        for number in (specific.versions if specific is not None else ())
        if number not in numbers
    }
    if not served and not missing:
        raise LoadError(
            f"{folder} has no version to serve; put the model in a folder with a number, as {folder / '1'}"
        )
    found = {
        number: FoundVersion(
            config.name, number, folder / str(number), _fingerprint(config, folder / str(number))
        )
        for number in served
    }
    return found, missing


def _is_version(path: Path) -> bool:
    name = path.name
    return name.isascii() and name.isdigit() and not name.startswith("0") and path.is_dir()


def _fingerprint(config: ModelConfig, folder: Path) -> tuple[object, ...]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    marks = tuple((str(path), stat.st_mtime_ns, stat.st_size) for path in files for stat in (path.stat(),))
    # Which versions are served is not part of what a version is.
    return (config.model_copy(update={"version_policy": None}), marks)
