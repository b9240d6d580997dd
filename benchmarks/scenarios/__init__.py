"""One module for each question; each has ``run(options) -> Result``."""
