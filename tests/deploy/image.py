"""Runs the steps of deploy/Dockerfile in a fresh root, where no container engine is at hand.

    python -m tests.deploy.image ROOT      needs root, debootstrap and the network

Both stages begin from a minimal Debian, as ``debian:bookworm-slim`` is one. At the end the gateway of the image
starts as its own user on a read-only file system, and is asked for its health.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from benchmarks.children import free_port

TOP = Path(__file__).parents[2]
DOCKERFILE = TOP / "deploy/Dockerfile"
AUTHORITIES = Path("/machine-authorities.crt")
"""The certificates that this machine trusts, in each stage; a package may write Debian's own over the usual place."""
CONFIG = """
listen: 127.0.0.1:@PORT@
store: sqlite:////var/lib/turnout/turnout.db
backends: {a: {url: "http://127.0.0.1:1"}}
routes:
  r: {match: {path: /r}, variants: {v1: {backend: a}}, policy: {type: single, variant: v1}}
"""


def instructions() -> Iterator[tuple[str, str]]:
    """(word, rest) of each instruction, with continued lines joined."""
    text = re.sub(r"^\s*#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE)
    for line in re.sub(r"\\\n", " ", text).splitlines():
        if line.strip():
            word, _, rest = line.strip().partition(" ")
            yield word.upper(), rest.strip()


class Stage:
    """One build stage: a root directory and what RUN begins with."""

    def __init__(self, root: Path, base: Path) -> None:
        subprocess.run(["cp", "-a", str(base), str(root)], check=True)
        self.root = root
        self.workdir = "/"
        self.env = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"}

    def run(self, command: str, *, user: str = "0") -> None:
        settings = {k: v for k, v in os.environ.items() if k.startswith("PIP_")}
        settings["PIP_CERT"] = str(AUTHORITIES)
        words = ["chroot", "--userspec", f"{user}:{user}", str(self.root), "/bin/sh", "-ec"]
        subprocess.run([*words, f"cd {self.workdir}; {command}"], env={**settings, **self.env}, check=True)

    def copy(self, rest: str, stages: dict[str, Stage]) -> None:
        words = shlex.split(rest)
        source = TOP
        if words[0].startswith("--from="):
            source = stages[words.pop(0).removeprefix("--from=")].root
        *names, target = words
        place = self.root / (target if target.startswith("/") else f"{self.workdir}/{target}").lstrip("/")
        for name in names:
            found = source / name.lstrip("/")
            if found.is_dir():
                shutil.copytree(
                    found,
                    place,
                    symlinks=True,
                    dirs_exist_ok=True,
                    ignore=shutil.ignore_patterns("*.so") if source == TOP else None,
                )
            else:
                place.mkdir(parents=True, exist_ok=True)
                shutil.copy(found, place)


def base(place: Path) -> Path:
    root = place / "base"
    if not root.exists():
        subprocess.run(
            ["debootstrap", "--variant=minbase", "bookworm", str(root)], check=True, stdout=subprocess.DEVNULL
        )
        for name in ("/etc/resolv.conf", "/etc/pip.conf"):  # how this machine reaches its registries
            if Path(name).exists():
                shutil.copy(name, root / name.lstrip("/"))
        shutil.copy("/etc/ssl/certs/ca-certificates.crt", root / AUTHORITIES.name)
    return root


def build(place: Path) -> tuple[Stage, str]:
    """The last stage, and the user that it runs as."""
    stages: dict[str, Stage] = {}
    stage: Stage | None = None
    user = "0"
    for word, rest in instructions():
        sys.stderr.write(f"{word} {rest[:100]}\n")
        if word == "FROM":
            name = rest.partition(" AS ")[2] or "final"
            shutil.rmtree(place / name, ignore_errors=True)
            stage = stages[name] = Stage(place / name, base(place))
            continue
        assert stage is not None
        if word == "RUN":
            stage.run(rest, user=user)
        elif word == "COPY":
            stage.copy(rest, stages)
        elif word == "WORKDIR":
            stage.workdir = rest
            (stage.root / rest.lstrip("/")).mkdir(parents=True, exist_ok=True)
        elif word == "ENV":
            for pair in shlex.split(rest.replace("$PATH", stage.env["PATH"])):
                key, _, value = pair.partition("=")
                stage.env[key] = value
        elif word == "USER":
            user = rest
    assert stage is not None
    return stage, user


def serve(stage: Stage, user: str) -> None:
    """Start the gateway as the image does, read-only but for its volume, and ask for its health."""
    port = free_port()
    folder = stage.root / "etc/turnout"
    folder.mkdir(exist_ok=True)
    (folder / "turnout.yaml").write_text(CONFIG.replace("@PORT@", str(port)))
    root, volume = stage.root, stage.root / "var/lib/turnout"
    script = (
        f"mount --bind {root} {root} && mount --bind {volume} {volume} && mount -o remount,bind,ro {root} "
        f"&& cd / && exec chroot --userspec {user}:{user} {root} "
        "/opt/turnout/bin/turnout run --config /etc/turnout/turnout.yaml"
    )
    process = subprocess.Popen(["unshare", "--mount", "/bin/sh", "-ec", script], env=stage.env)
    try:
        for _ in range(100):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/-/healthz", timeout=2) as response:
                    assert response.status == 200
                    break
            except OSError:
                assert process.poll() is None, "the gateway ended"
                time.sleep(0.1)
        else:
            raise AssertionError("the gateway does not respond")
        stage.run(
            f"/opt/turnout/bin/python -c \"import urllib.request; urllib.request.urlopen('http://127.0.0.1:{port}/-/readyz')\""
        )
    finally:
        process.terminate()
        assert process.wait(30) == 0, "the gateway did not drain"


if __name__ == "__main__":
    made, owner = build(Path(sys.argv[1]).absolute())
    serve(made, owner)
    size = subprocess.run(["du", "-sm", str(made.root)], capture_output=True, text=True, check=True).stdout
    sys.stdout.write(f"built, started and drained; {size.split()[0]} MB on disk\n")
