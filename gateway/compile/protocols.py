"""Which requests of known protocols infer: all others ask about the server or the model, and decide nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

_MODEL: Final = r"/models/[^/:]+(/(versions|labels)/[^/:]+)?"
INFERRING: Final[Mapping[str, str]] = {
    "v2": (
        _MODEL + r"/(infer|generate|infer_stream|generate_stream)"
        r"|/inference\.GRPCInferenceService/Model(Stream)?Infer"
    ),
    "tfserving": (
        _MODEL + r":(predict|classify|regress|explain)"
        r"|/tensorflow\.serving\.PredictionService/(Predict|Classify|Regress|MultiInference)"
    ),
    "openai": (
        r"/((chat/)?completions|responses|embeddings|moderations|rerank|score"
        r"|images/(generations|edits|variations)|audio/(speech|transcriptions|translations))"
    ),
    "anthropic": r"/messages",
    "gemini": r":(generateContent|streamGenerateContent|embedContent|batchEmbedContents|predict)",
    "ollama": r"/api/(generate|chat|embed|embeddings)",
    "torchserve": r"/(predictions|explanations)/[^/]+(/[^/]+)?",
    "sagemaker": r"/invocations",
}
"""By protocol: how the paths end to which a POST is an inference."""


def inferring(protocols: Sequence[str], paths: Sequence[str]) -> re.Pattern[bytes] | None:
    """A pattern of the ends of paths that infer; None: every request does.

    Args:
        protocols: Keys of `INFERRING`.
        paths: More ends of paths, as they are.
    """
    ends = [INFERRING[name] for name in protocols] + [re.escape(path) for path in paths]
    return re.compile(rf"(?:{'|'.join(ends)})/?\Z".encode()) if ends else None
