"""Loading of configuration files."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path

from gateway.config.advice import warnings_of
from gateway.config.document import Document
from gateway.config.faults import MAX_FAULTS, ConfigError, Fault, render_faults
from gateway.config.otel import protocol_warnings
from gateway.config.permitted import refused_places
from gateway.config.references import Finding
from gateway.config.validate import fault_at, validate
from gateway.config.yaml_text import MAX_CHARACTERS, Tree, read

__all__ = ["ConfigError", "Examined", "Fault", "examine", "load", "load_file", "read_text", "render_faults"]


@dataclass(frozen=True, slots=True)
class Examined:
    """The result of examining a text: either ``document`` or ``faults``."""

    document: Document | None
    faults: tuple[Fault, ...]
    warnings: tuple[Fault, ...] = ()
    tree: Tree | None = None

    @property
    def secret_files(self) -> frozenset[str]:
        """Files whose content is part of the document."""
        return self.tree.secret_files if self.tree is not None else frozenset()

    def placed(self, findings: Iterable[Finding]) -> tuple[Fault, ...]:
        """``findings`` with their positions, in the order of the text."""
        faults = [fault_at(self.tree, finding) for finding in findings] if self.tree is not None else []
        return tuple(sorted(faults, key=lambda fault: (fault.line, fault.column)))


def load(text: str, *, source: str, env: Mapping[str, str]) -> Document:
    """Load a document from ``text``.

    Args:
        text: YAML.
        source: Name of the text for error messages.
        env: Values of ``${NAME}``.

    Raises:
        ConfigError: The text has faults; it holds all of them.
    """
    found = examine(text, env=env)
    if found.document is None:
        raise ConfigError(source, found.faults)
    return found.document


def load_file(path: str | Path) -> Document:
    """Load a file, with the environment of the process. Raises ConfigError."""
    return load(read_text(path), source=str(path), env=os.environ)


def read_text(path: str | Path, *, absent: str = "name yours, or write one with 'turnout init'") -> str:
    """Read a file; ``absent`` says what to do if there is none.

    Raises:
        ConfigError: It cannot be read, or is not UTF-8.
    """
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_CHARACTERS * 4 + 1)
        return data.decode()
    except FileNotFoundError:
        message = f"there is no such file; {absent}"
    except OSError as error:
        message = f"the file can't be read: {error.strerror or error}"
    except UnicodeDecodeError as error:
        message = f"byte {error.start + 1} is not UTF-8; save the file in UTF-8"
    raise ConfigError(str(path), [Fault(0, 0, "", message)])


def examine(text: str, *, env: Mapping[str, str], allowed: Collection[str] | None = None) -> Examined:
    """Return the document of ``text`` with warnings, or its faults. Does not raise.

    ``allowed``: what `permitted` returned of the configuration file; None: the text may use everything.
    """
    tree, faults = read(text, env, allowed)
    if tree is None:
        return Examined(None, _reported(faults))
    if allowed is not None:
        faults += [fault_at(tree, finding) for finding in refused_places(tree.data, allowed)]
    document, wrong = validate(tree)
    unset = {fault.path for fault in faults if fault.path}
    faults += [fault for fault in wrong if fault.path not in unset]
    if faults or document is None:
        return Examined(None, _reported(sorted(faults, key=lambda fault: (fault.line, fault.column))))
    found = Examined(document, (), tree=tree)
    of_environment = protocol_warnings(document.telemetry.traces, env)
    warnings = islice(chain(warnings_of(document), of_environment), MAX_FAULTS)
    return replace(found, warnings=found.placed(warnings))


def _reported(faults: list[Fault]) -> tuple[Fault, ...]:
    if len(faults) < MAX_FAULTS:
        return tuple(faults)
    return *faults[:MAX_FAULTS], Fault(0, 0, "", "there may be more faults; correct these first")
