"""How well a shadow's response predicts whether the primary is right: `python -m benchmarks.shadow_covariate`.

The part of the variance of "model A is right" that model B's largest probability explains, on the held-out digits with
noise: what a shadow's response could take off the requests of a verdict if it were a covariate. Prints the table of
docs/benchmarks_statistics.md.
"""

from __future__ import annotations

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier

from backends.reference.digits import held_out, training

COPIES = 20
"""Of each held-out image, each with its own noise."""
NOISES = (0.0, 3.0, 6.0, 9.0)
"""Standard deviations, of pixels from 0 to 16."""


def main() -> None:
    """The table."""
    learned, tested, rng = training(), held_out(), np.random.default_rng(1)
    models = {
        "linear": LogisticRegression(max_iter=2_000),
        "network": MLPClassifier(64, max_iter=500, random_state=1),
    }
    for model in models.values():
        model.fit(learned.pixels / 16, learned.labels)
    labels = np.tile(tested.labels, COPIES)
    print("| noise (σ, of 16) | primary | right | shadow | explained |\n|---|---|---|---|---|")
    for noise in NOISES:
        pixels = np.tile(tested.pixels, (COPIES, 1))
        pixels = np.clip(pixels + rng.normal(0, noise, pixels.shape), 0, 16) / 16
        scores = {name: model.predict_proba(pixels) for name, model in models.items()}
        for primary, shadow in (("linear", "network"), ("network", "linear")):
            right = scores[primary].argmax(axis=1) == labels
            explained = float(np.corrcoef(right, scores[shadow].max(axis=1))[0, 1] ** 2)
            print(f"| {noise:g} | {primary} | {right.mean():.1%} | {shadow} | {explained:.0%} |")


if __name__ == "__main__":
    main()
