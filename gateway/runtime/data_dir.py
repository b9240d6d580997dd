"""The local directory that a gateway writes to, apart from its store.

It holds the spool of rewards (`gateway.ingest.spool`) and, with several workers, the folder of their metrics.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

_PREFIX: Final = "metrics-"
_LOCK: Final = "owner.lock"


def data_dir(store: str, spool: str | None) -> Path:
    """The directory that ``record.spool`` names.

    By default it is next to the file of an embedded store, or in the working directory for another store.
    """
    if spool is not None:
        return Path(spool)
    if store.startswith("sqlite:///"):
        path = Path(store.removeprefix("sqlite:///"))
        return path.with_name(f"{path.name}.spool")
    return Path("turnout.spool")


def why_unwritable(directory: Path) -> str:
    """Return why no file can be written and synced in ``directory``, "" if one can. Creates the directory."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        probe = directory / f"probe-{os.getpid()}-{os.urandom(4).hex()}"
        try:
            with probe.open("xb") as file:
                file.write(b"probe")
                file.flush()
                os.fsync(file.fileno())
        finally:
            probe.unlink(missing_ok=True)
    except OSError as error:
        return str(error)
    return ""


def remove_if_empty(directory: Path) -> None:
    """Remove ``directory`` unless it holds something."""
    with contextlib.suppress(OSError):
        directory.rmdir()


@contextmanager
def workers_folder(directory: Path) -> Iterator[Path]:
    """Create an empty folder for this process's workers and remove it at the end. Raises OSError.

    The folder is locked while its owner lives, which tells folders of killed owners, removed here, from those in
    use. A process id could not: in a container it is the same after each restart.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    _sweep(directory)
    name = f"{_PREFIX}{os.getpid()}-{os.urandom(4).hex()}"
    folder, making = directory / name, directory / f".{name}"
    making.mkdir(mode=0o700)
    lock = os.open(making / _LOCK, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        making.rename(folder)  # under a name that `_sweep` looks for only once it is locked
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)
        remove_if_empty(directory)


def _sweep(directory: Path) -> None:
    for folder in directory.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            if folder.is_symlink() or folder.stat().st_uid != os.geteuid():
                continue
            lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder)
            finally:
                os.close(lock)
