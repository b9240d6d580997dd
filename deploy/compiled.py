"""Compiles the modules that every request passes through (`gateway.build` names them), with mypyc.

    python deploy/compiled.py                   in place: extension modules beside the sources
    python deploy/compiled.py --into DIRECTORY  a copy of the packages there, compiled; the checkout stays as it is
    python deploy/compiled.py --cached DIRECTORY  the same below it, made again only if the sources have changed;
                                                prints where
    python deploy/compiled.py --remove          what the first one made is gone

Needs mypy, setuptools, a C compiler and Python's headers. All of the work is done in a scratch directory.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from gateway import build  # noqa: E402 - the checkout's own

PACKAGES = ("gateway", "policies", "backends", "dashboards")
# Nothing calls into the library by name: its functions may call, and take in, one another directly.
_FLAGS = "-fvisibility=hidden -fno-semantic-interposition -fno-plt"

_SETUP = """
from mypyc.build import mypycify
from setuptools import setup

options = ["--config-file=", "--python-version={python}", "--ignore-missing-imports", "--follow-imports=silent"]
modules = mypycify([*options, *{files!r}], opt_level={level!r}, debug_level={debug!r}, group_name="turnout")
setup(name="turnout", packages=[], py_modules=[], ext_modules=modules)
"""


class BuildError(Exception):
    """The compiler said no; the message has what it said."""


def compile_into(target: Path, *, root: Path = ROOT) -> list[Path]:
    """Puts the extension modules for ``root``'s sources below ``target``; returns their paths relative to it.

    ``TURNOUT_COMPILE_LEVEL`` in the environment: the level of the C compiler's optimisation, 3 by default.

    Raises:
        BuildError: The compiler has refused the sources.
    """
    files = build.sources(root)
    with TemporaryDirectory(prefix="turnout-compiled-") as name:
        scratch = Path(name)
        copy_sources(root, scratch, ("gateway", "policies"))
        stamp = scratch / "gateway" / "_stamp.py"
        stamp.write_text(_stamp(build.digests(files)))
        _compile(scratch, [*files, stamp.relative_to(scratch).as_posix()])
        found = sorted(path.relative_to(scratch) for path in scratch.rglob(f"*{build.SUFFIX}"))
        found = [path for path in found if path.parts[0] != "build"]
        for path in found:
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(scratch / path, target / path)
    return found


def copy_sources(root: Path, target: Path, packages: tuple[str, ...] = PACKAGES) -> None:
    """Copies ``packages`` without anything that was compiled."""
    ignore = shutil.ignore_patterns("__pycache__", "*.so", "*.pyc", "node_modules")
    for package in packages:
        shutil.copytree(root / package, target / package, ignore=ignore, dirs_exist_ok=True)


def lacking() -> str:
    """What a build needs and this machine does not have; "" if it has everything."""
    compiler = (sysconfig.get_config_var("CC") or "cc").split()[0]
    if shutil.which(compiler) is None:
        return f"the C compiler {compiler} (Debian: gcc)"
    header = Path(sysconfig.get_path("include"), "Python.h")
    return "" if header.exists() else f"Python's headers, {header} (Debian: python3-dev)"


def cached(home: Path) -> Path:
    """The directory below ``home`` with the packages of the checkout, compiled. Raises BuildError."""
    if build.form() == "compiled":
        raise BuildError("the checkout itself is compiled ('make interpreted' returns it to sources)")
    if missing := lacking():
        raise BuildError(f"the sources are interpreted, because this machine lacks {missing}")
    made_from = f"{build.digests(build.sources())} {build.SUFFIX} mypyc {version('mypy')}"
    found = (home / hashlib.sha256(made_from.encode()).hexdigest()[:16]).absolute()
    if not found.exists():
        print("compiling the request path: about a minute, until its sources change again", file=sys.stderr)  # noqa: T201
        new = found.with_suffix(f".{os.getpid()}")
        compile_into(new)
        new.rename(found)
    copy_sources(ROOT, found)  # what is not compiled may have changed
    return found


def _stamp(digests: str) -> str:
    return (
        '"""Made by deploy/compiled.py."""\n'
        "from typing import Final\n"
        f"DIGESTS: Final = {digests!r}\n"
        f"COMPILER: Final = {'mypyc ' + version('mypy')!r}\n"
    )


def _compile(scratch: Path, files: list[str]) -> None:
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    level, debug = os.environ.get("TURNOUT_COMPILE_LEVEL", "3"), os.environ.get("TURNOUT_COMPILE_DEBUG", "0")
    (scratch / "setup.py").write_text(_SETUP.format(files=files, level=level, debug=debug, python=python))
    words = [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"]
    env = {**os.environ, "CFLAGS": f"{_FLAGS} {os.environ.get('CFLAGS', '')}"}
    done = subprocess.run(words, cwd=scratch, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BuildError(f"mypyc could not compile the sources:\n{done.stdout}{done.stderr}")


def remove(root: Path = ROOT) -> list[Path]:
    """Removes what was compiled in place, whatever interpreter it was for; returns what is gone."""
    stems = [*(path.with_suffix("") for path in build.sources(root).values()), root / "gateway" / "_stamp"]
    stems.append(root / build.LIBRARY)
    gone = [
        path
        for stem in stems
        for path in stem.parent.glob(f"{stem.name}.*")
        if path.suffix in (".so", ".pyd")
    ]
    for path in gone:
        path.unlink()
    return gone


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--into", type=Path, metavar="DIRECTORY")
    what.add_argument("--cached", type=Path, metavar="DIRECTORY")
    what.add_argument("--remove", action="store_true")
    given = parser.parse_args()
    gone = [] if given.into or given.cached else remove()
    if given.remove:
        print(f"{len(gone)} compiled modules removed: the sources are interpreted")  # noqa: T201
        return 0
    try:
        if given.cached:
            print(cached(given.cached))  # noqa: T201
            return 0
        found = compile_into(given.into or ROOT)
    except BuildError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 1
    except KeyboardInterrupt:
        return 130
    if given.into:
        copy_sources(ROOT, given.into)
    print(f"{len(found)} modules compiled into {given.into or ROOT}")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
