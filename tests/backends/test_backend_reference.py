"""The three versions of the reference model are as good and as bad as they are said to be."""

from __future__ import annotations

import httpx
import numpy as np
import pytest

from backends.reference.digits import held_out, training
from backends.train import Summary, ensure
from tests.support.processes import ModelServerProcess

RANGES = {1: (0.95, 0.965), 2: (0.98, 0.995), 3: (0.44, 0.53)}


def test_split_is_fixed_and_disjoint() -> None:
    known, unseen = training(), held_out()
    assert known.pixels.shape == (1000, 64)
    assert unseen.pixels.shape == (797, 64)
    assert unseen.pixels.dtype == np.float32
    assert (unseen.pixels.min(), unseen.pixels.max()) == (0, 16)
    assert unseen.labels[:8].tolist() == FIRST_LABELS
    assert np.bincount(np.concatenate([known.labels, unseen.labels])).tolist() == [
        178, 182, 177, 183, 181, 182, 181, 179, 174, 180,
    ]  # fmt: skip


FIRST_LABELS = [9, 0, 0, 5, 3, 2, 4, 5]


@pytest.mark.parametrize("version", [1, 2, 3])
def test_served_accuracy(server: ModelServerProcess, trained: Summary, version: int) -> None:
    data = held_out()
    right = 0
    with httpx.Client(base_url=server.url) as client:
        for start in range(0, len(data.labels), 100):
            pixels, labels = data.pixels[start : start + 100], data.labels[start : start + 100]
            tensor = {
                "name": "pixels",
                "datatype": "FP32",
                "shape": list(pixels.shape),
                "data": pixels.tolist(),
            }
            answer = client.post(f"/v2/models/digits/versions/{version}/infer", json={"inputs": [tensor]})
            assert answer.status_code == 200, answer.text
            scores, label = answer.json()["outputs"]
            assert (scores["name"], label["name"]) == ("scores", "label")
            rows = np.reshape(scores["data"], scores["shape"])
            np.testing.assert_allclose(rows.sum(axis=1), 1.0, atol=1e-5)
            assert rows.argmax(axis=1).tolist() == label["data"]
            right += int((np.array(label["data"]) == labels).sum())
    low, high = RANGES[version]
    assert low <= right / len(data.labels) <= high
    assert right / len(data.labels) == pytest.approx(trained.versions[version - 1].accuracy, abs=0.004)


def test_ensure_trains_only_once(trained: Summary) -> None:
    assert ensure(trained.folder.parent) is None


def test_training_leaves_nothing_else_behind(trained: Summary) -> None:
    assert [path.name for path in trained.folder.parent.iterdir()] == ["digits"]
