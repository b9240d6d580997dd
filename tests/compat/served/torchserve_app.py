"""TorchServe: ``torchserve_app.py PORT``; a number comes back times the variable FACTOR. It needs Java."""

import json
import os
import socket
import sys
import tempfile
import zipfile
from pathlib import Path

HANDLER = """
import json, os
from ts.utils.util import PredictionException

def handle(rows, context):
    found = []
    for row in rows or ():
        x = row["body"]["x"]
        if isinstance(x, str):
            raise PredictionException("x is a number", 400)
        found.append({"output": x * float(os.environ["FACTOR"])})
    return found
"""


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def main(port: int) -> None:
    folder = Path(tempfile.mkdtemp())  # short: its workers' sockets lie there, as does the process id
    with zipfile.ZipFile(folder / "m.mar", "w") as archive:
        archive.writestr("handler.py", HANDLER)
        model = {"modelName": "m", "handler": "handler.py", "modelVersion": "1.0"}
        archive.writestr("MAR-INF/MANIFEST.json", json.dumps({"runtime": "python", "model": model}))
    lines = [
        f"inference_address=http://127.0.0.1:{port}",
        *(f"{name}_address=http://127.0.0.1:{free_port()}" for name in ("management", "metrics")),
        *(f"grpc_{name}_port={free_port()}" for name in ("inference", "management")),
        f"initial_worker_port={free_port()}",
        "default_workers_per_model=1",
    ]
    settings = folder / "config.properties"
    settings.write_text("\n".join(lines))
    os.environ.update(LOG_LOCATION=str(folder), METRICS_LOCATION=str(folder), TMPDIR=str(folder))
    command = ["torchserve", "--start", "--foreground", "--disable-token-auth", "--ts-config", str(settings)]
    os.execvp(command[0], [*command, "--model-store", str(folder), "--models", "m.mar"])


if __name__ == "__main__":
    main(int(sys.argv[1]))
