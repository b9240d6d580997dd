"""Trains the reference language model `bytes-lm` in its two versions, and writes it as a model repository.

The text is the standard library's `pydoc_data.topics`, so nothing is downloaded; seeds are fixed.
Run as ``python -m backends.train_text DIR``.
"""

from __future__ import annotations

import json
import math
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from backends.train import new_model, write_version

NAME: Final = "bytes-lm"
WIDTHS: Final = {1: 96, 2: 224}
STEPS: Final = 250
CONFIG: Final[dict[str, Any]] = {
    "name": NAME,
    "platform": "pytorch_text",
    "max_batch_size": 16,
    "input": [{"name": "text_input", "data_type": "TYPE_STRING", "dims": [1]}],
    "output": [{"name": "text_output", "data_type": "TYPE_STRING", "dims": [1]}],
    "version_policy": {"all": {}},
}
SEED: Final = 1
BATCH: Final = 32
LENGTH: Final = 64
HELD_OUT: Final = 20_000
"""Bytes at the end of the text that are not trained on."""


@dataclass(frozen=True, slots=True)
class Trained:
    """One version, and its `bits_per_byte` on the held-out end of the text (8 is chance)."""

    version: int
    width: int
    bits_per_byte: float


def main(models: Path, steps: int = STEPS) -> list[Trained]:
    """Trains and writes ``models/bytes-lm``, replacing what is there; about half a minute."""
    import torch

    from backends.reference import bytes_lm

    trained = []
    with new_model(models, CONFIG) as folder:
        for version, width in WIDTHS.items():
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(SEED)
                model = _fit(bytes_lm.Model(width), steps)
            write_version(folder / str(version), model, bytes_lm)
            code = folder / str(version) / "model.py"
            code.write_text(code.read_text().replace("width: int = 128", f"width: int = {width}"))
            trained.append(Trained(version, width, _bits(model)))
    return trained


def ensure(models: Path) -> list[Trained] | None:
    """Trains if ``models`` has no `bytes-lm` yet; None if it had."""
    return None if (models / NAME / "config.json").exists() else main(models)


def _text() -> Any:
    """All topics in alphabetical order, each ended by a zero byte, as INT64."""
    from pydoc_data.topics import topics

    import torch

    joined = b"".join(topics[name].strip().encode() + b"\n\0" for name in sorted(topics))
    return torch.frombuffer(bytearray(joined), dtype=torch.uint8).long()


def _fit(model: Any, steps: int) -> Any:
    """AdamW on random windows; each begins in the state before any byte."""
    import torch

    text = _text()[:-HELD_OUT]
    generator = torch.Generator().manual_seed(SEED)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=8e-3, total_steps=steps)
    window = torch.arange(LENGTH + 1)
    for _ in range(steps):
        starts = torch.randint(len(text) - LENGTH, (BATCH, 1), generator=generator)
        rows = text[starts + window]
        logits, _ = model(rows[:, :-1], model.state(BATCH))
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model.eval()


def _bits(model: Any) -> float:
    import torch

    text = _text()[-HELD_OUT:]
    with torch.inference_mode():
        logits, _ = model(text[None, :-1], model.state(1))
        nats = torch.nn.functional.cross_entropy(logits[0], text[1:])
    return round(float(nats) / math.log(2), 3)


if __name__ == "__main__":
    summary = main(Path(sys.argv[1] if len(sys.argv) > 1 else "models"))
    json.dump([asdict(one) for one in summary], sys.stdout, indent=2)
    sys.stdout.write("\n")
