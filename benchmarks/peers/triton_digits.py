"""`digits` in a real Triton's Python backend: `python -m benchmarks.peers.triton_digits ENVIRONMENT PORT`.

ENVIRONMENT is a virtual environment with nvidia-pytriton (`make servers`), of the same Python as this one. The same
network, batched by Triton: one instance, on one CPU thread. The folder in $MODELS has the weights.
"""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
import tempfile
from pathlib import Path

CONFIG = """
backend: "python"
max_batch_size: 128
input [{ name: "pixels" data_type: TYPE_FP32 dims: [64] }]
output [
  { name: "scores" data_type: TYPE_FP32 dims: [10] },
  { name: "label" data_type: TYPE_INT64 dims: [1] reshape: { shape: [] } }
]
instance_group [{ kind: KIND_CPU }]
dynamic_batching {}
version_policy: { all {} }
"""
MODEL = """
import os, sys
sys.path += os.environ["MODEL_PATH"].split(os.pathsep)  # the stub ignores PYTHONPATH
import numpy, torch, triton_python_backend_utils as triton
from safetensors.torch import load_model
from backends.reference import convolutional, linear

class TritonPythonModel:
    def initialize(self, args):
        torch.set_num_threads(1)
        version = args["model_version"]
        self.model = {"1": linear.Model, "2": convolutional.Model}[version]().eval()
        load_model(self.model, os.path.join(os.environ["MODELS"], "digits", version, "model.safetensors"))

    def execute(self, requests):
        parts = [triton.get_input_tensor_by_name(one, "pixels").as_numpy() for one in requests]
        with torch.inference_mode():
            outputs = self.model(torch.from_numpy(numpy.concatenate(parts)))
        arrays, responses, start = {name: value.numpy() for name, value in outputs.items()}, [], 0
        for part in parts:
            end = start + len(part)
            tensors = [triton.Tensor(name, array[start:end]) for name, array in arrays.items()]
            responses.append(triton.InferenceResponse(tensors))
            start = end
        return responses
"""


def main() -> None:
    """Becomes the server."""
    environment, port = Path(sys.argv[1]), sys.argv[2]
    packages = next((environment / "lib").glob("python3.*/site-packages"))
    source = packages / "pytriton" / "tritonserver"
    folder = Path(tempfile.mkdtemp(prefix="triton-"))
    shutil.copytree(source / "backends", folder / "backends")
    version = packages.parent.name.removeprefix("python")
    stub = source / "python_backend_stubs" / version / "triton_python_backend_stub"
    shutil.copy(stub, folder / "backends" / "python")
    for number in ("1", "2"):
        (folder / "models" / "digits" / number).mkdir(parents=True)
        (folder / "models" / "digits" / number / "model.py").write_text(MODEL)
    (folder / "models" / "digits" / "config.pbtxt").write_text(CONFIG)
    command = [
        str(source / "bin" / "tritonserver"),
        f"--model-repository={folder / 'models'}",
        f"--backend-directory={folder / 'backends'}",
        f"--http-port={port}",
        "--http-address=127.0.0.1",
        "--allow-grpc=false",
        "--allow-metrics=false",
    ]
    os.environ["MODEL_PATH"] = os.pathsep.join([str(Path.cwd()), sysconfig.get_path("purelib")])
    os.environ["LD_LIBRARY_PATH"] = str(packages / "nvidia_pytriton.libs")
    os.environ["PATH"] = f"{environment / 'bin'}:{os.environ['PATH']}"
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
