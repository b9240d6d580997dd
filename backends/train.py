"""Trains the reference model `digits` in its three versions, and writes it as a model repository.

Run as ``python -m backends.train DIR``. Seeds are fixed, and training ends alike on every processor.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Final

NAME: Final = "digits"
CONFIG: Final[dict[str, Any]] = {
    "name": NAME,
    "platform": "pytorch_module",
    "max_batch_size": 128,
    "input": [{"name": "pixels", "data_type": "TYPE_FP32", "dims": [64]}],
    "output": [
        {"name": "scores", "data_type": "TYPE_FP32", "dims": [10]},
        {"name": "label", "data_type": "TYPE_INT64", "dims": []},
    ],
    "instance_group": [{"count": 1, "kind": "KIND_AUTO"}],
    "dynamic_batching": {
        "max_queue_delay_microseconds": 0,
        "default_queue_policy": {"max_queue_size": 1024},
    },
    "version_policy": {"all": {}},
}
_SEED: Final = 1
"""Chosen for version 3: over two dozen seeds its fault costs between a tenth and four fifths of the answers."""
_EPOCHS: Final = 32
_BATCH: Final = 64


@dataclass(frozen=True, slots=True)
class Trained:
    """One version: its `accuracy` on the held-out images, 0 to 1."""

    version: int
    accuracy: float
    parameters: int


@dataclass(frozen=True, slots=True)
class Summary:
    """What `main` made."""

    model: str
    folder: Path
    versions: tuple[Trained, ...]


def main(models: Path) -> Summary:
    """Trains and writes ``models/digits``, replacing what is there; a few seconds."""
    from backends.reference import convolutional, linear, unscaled
    from backends.reference.digits import training

    with new_model(models, CONFIG) as folder:
        data = training()
        first = _fit_linear(linear.Model(), data)
        second = _fit_convolutional(convolutional.Model(), data)
        third = unscaled.Model().eval()
        third.load_state_dict(second.state_dict())
        versions = []
        pairs: list[tuple[Any, ModuleType]] = [(first, linear), (second, convolutional), (third, unscaled)]
        for version, (model, module) in enumerate(pairs, start=1):
            write_version(folder / str(version), model, module)
            versions.append(_rate(version, model))
    return Summary(NAME, models / NAME, tuple(versions))


def ensure(models: Path) -> Summary | None:
    """Trains if ``models`` has no `digits` yet; None if it had."""
    return None if (models / NAME / "config.json").exists() else main(models)


@contextmanager
def new_model(models: Path, config: Mapping[str, Any]) -> Iterator[Path]:
    """A folder for the versions of a model, which then takes the place of the one of this name in ``models``.

    A reader finds either of them, or for a moment neither. PyTorch has one thread meanwhile: sums keep their order,
    and networks this small are slower with more.
    """
    import torch

    models.mkdir(parents=True, exist_ok=True)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory(dir=models, prefix=".training-") as scratch:
            new, old = Path(scratch) / config["name"], models / config["name"]
            new.mkdir()
            yield new
            (new / "config.json").write_text(json.dumps(config, indent=2) + "\n")
            if old.exists():
                old.rename(Path(scratch) / "replaced")
            new.rename(old)
    finally:
        torch.set_num_threads(threads)


def write_version(folder: Path, model: Any, module: ModuleType) -> None:
    """Writes the code in ``module`` and the weights of ``model`` into ``folder``."""
    from safetensors.torch import save_model

    folder.mkdir()
    assert module.__file__ is not None
    shutil.copyfile(module.__file__, folder / "model.py")
    save_model(model, str(folder / "model.safetensors"))


def _fit_linear(model: Any, data: Any) -> Any:
    """Multinomial logistic regression with a little ridge, by L-BFGS: convex, so every start ends alike."""
    import torch

    pixels, labels = torch.from_numpy(data.pixels), torch.from_numpy(data.labels)
    torch.nn.init.zeros_(model.net.weight)
    torch.nn.init.zeros_(model.net.bias)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=300, line_search_fn="strong_wolfe")

    def loss() -> Any:
        optimizer.zero_grad()
        fit = torch.nn.functional.cross_entropy(model.net(model.scale(pixels)), labels)
        total = fit + 1e-3 * model.net.weight.square().sum()
        total.backward()
        return total

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    return model.eval()


def _fit_convolutional(model: Any, data: Any) -> Any:
    """AdamW with a one-cycle learning rate.

    In double precision: processors round in different orders, and what begins as the last bit of a float
    has grown to another network after five hundred steps. Of a double it stays below what a float shows.
    """
    import torch

    pixels, labels = torch.from_numpy(data.pixels).double(), torch.from_numpy(data.labels)
    generator = torch.Generator().manual_seed(_SEED)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        model.apply(lambda part: part.reset_parameters() if hasattr(part, "reset_parameters") else None)
        model.double()
        steps = _EPOCHS * -(-len(labels) // _BATCH)
        optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-2)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=steps)
        for _ in range(_EPOCHS):
            order: Any = torch.randperm(len(labels), generator=generator)
            for chosen in order.split(_BATCH):
                optimizer.zero_grad()
                logits = model.net(model.scale(pixels[chosen]))
                loss: Any = torch.nn.functional.cross_entropy(logits, labels[chosen])
                loss.backward()
                optimizer.step()
                schedule.step()
    return model.float().eval()


def _rate(version: int, model: Any) -> Trained:
    import torch

    from backends.reference.digits import held_out

    data = held_out()
    with torch.inference_mode():
        labels = model(torch.from_numpy(data.pixels))["label"].numpy()
    accuracy = float((labels == data.labels).mean())
    return Trained(version, accuracy, sum(parameter.numel() for parameter in model.parameters()))


if __name__ == "__main__":
    summary = main(Path(sys.argv[1] if len(sys.argv) > 1 else "models"))
    json.dump(asdict(summary), sys.stdout, default=str, indent=2)
    sys.stdout.write("\n")
