"""The bundled model server: PyTorch models over the Open Inference Protocol v2.

It knows nothing of the gateway; HTTP is the contract between them. A model's own code needs two
names from here: `InvalidInput`, raised for input that the model can't use, and nothing else.
"""

from __future__ import annotations

from backends.errors import InvalidInput

__all__ = ["InvalidInput"]
