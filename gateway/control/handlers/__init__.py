"""The handlers of the control API, one file per subject."""
