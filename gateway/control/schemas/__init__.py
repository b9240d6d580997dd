"""The request and response models of the control API."""
