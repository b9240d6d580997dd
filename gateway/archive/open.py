"""Archives by their address."""

from __future__ import annotations

from gateway.archive.base import Archive
from gateway.errors import MissingExtra


def open_archive(url: str) -> Archive:
    """The archive at ``url``: ``s3://BUCKET/PREFIX``, another URL of pyarrow, or a folder.

    Raises MissingExtra, OSError and ValueError.
    """
    try:
        from gateway.archive.files import ParquetArchive
    except ImportError as error:
        raise MissingExtra(
            "An archive needs pyarrow, which is not installed. Run \"pip install 'turnout[export]'\"."
        ) from error
    return ParquetArchive(url)
