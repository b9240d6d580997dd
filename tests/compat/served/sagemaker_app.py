"""SageMaker's inference toolkit in its own server: ``sagemaker_app.py PORT``; a number times the variable FACTOR.

As in a container, but for folders of its own in place of /opt/ml and /etc. It needs Java.
"""

import os
import sys
import tempfile
from pathlib import Path

INFERENCE = """
import os
from sagemaker_inference.errors import BaseInferenceToolkitError

def model_fn(model_dir):
    return float(os.environ["FACTOR"])

def predict_fn(rows, factor):
    if rows.dtype.kind not in "if":
        raise BaseInferenceToolkitError(400, "Bad Request", "the features are numbers")
    return rows * factor
"""


def main(port: int) -> None:
    folder = Path(tempfile.mkdtemp())
    code = folder / "model" / "code"
    code.mkdir(parents=True)
    (code / "inference.py").write_text(INFERENCE)
    os.environ.update(
        SAGEMAKER_BASE_DIR=str(folder),
        SAGEMAKER_BIND_TO_PORT=str(port),
        SAGEMAKER_MODEL_SERVER_WORKERS="1",
        TMPDIR=str(folder),  # the file with its process id
        TEMP=str(folder),  # sockets of its workers
        PYTHONPATH=str(code),
    )
    from sagemaker_inference import default_handler_service, environment, model_server

    model_server.MMS_CONFIG_FILE = str(folder / "mms.properties")
    model_server._create_model_server_config_file(environment.Environment(), default_handler_service.__name__)
    command = ["multi-model-server", "--start", "--foreground", "--mms-config", model_server.MMS_CONFIG_FILE]
    command += ["--model-store", "/", "--models", f"model={environment.model_dir}"]
    os.chdir(folder)  # its logs
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(int(sys.argv[1]))
