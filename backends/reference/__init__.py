"""The reference model `digits`: its data, its networks, its training."""
