"""Running PyTorch models: the only part of the server that imports torch, off the event loop."""
