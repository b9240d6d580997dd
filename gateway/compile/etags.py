"""Entity tags of configuration texts."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from gateway.config.faults import ConfigError, Fault
from gateway.state.base import MAX_REVISION_TEXTS, Revision, RevisionEntry


def etag(text: str) -> str:
    """The strong entity tag of a configuration text, quotes included, as it stands in an ETag field."""
    return f'"{hashlib.sha256(text.encode()).hexdigest()[:32]}"'


def whole(revision: Revision, text: str | None = None) -> Revision:
    """``revision``, with the file's ``text`` if its own is damaged and was the same. Raises ConfigError if damaged."""
    if revision.etag == etag(revision.document):
        return revision
    if text is not None and revision.etag == etag(text):
        return revision.with_text(text)
    message = (
        f"the text of revision {revision.revision} in the store is damaged (it does not have the tag {revision.etag}); "
        "see that the disk of the store is sound, and put a configuration in force with PUT /-/config or the file"
    )
    raise ConfigError("the store", [Fault(0, 0, "", message)])


def with_lost(newest: Sequence[RevisionEntry], page: list[Revision]) -> list[Revision]:
    """``page``, and before it, without a text, the ``newest`` if that is newer: a Redis can lose a text alone."""
    lost = [entry.with_text("") for entry in newest if not page or page[0].revision < entry.revision]
    return [*lost, *page]


def no_revision(number: int) -> str:
    """The message for a revision that is not in the store."""
    return (
        f"The text of revision {number} is not in the store, which keeps those of the newest {MAX_REVISION_TEXTS} "
        "revisions; see GET /-/config/history."
    )


def older_copy(file: str, text: str, newest: RevisionEntry, history: Sequence[RevisionEntry]) -> str:
    """The message that the ``text`` of a file is an older copy, and how to return to it."""
    known = of_text(text, history)
    return (
        f"{file} has the text of revision {known.revision if known is not None else 0}; revision {newest.revision} (by "
        f"{newest.author}, {newest.origin or 'origin unknown'}) is newer and stays in force. To return to the file's "
        "text, change it (a comment is enough) or restore that revision (POST /-/config/restore)"
    )


def matches(if_match: str, current: str) -> bool:
    """Whether an If-Match field (``*`` or a list of entity tags) names ``current``. Weak tags never do."""
    tags = [tag.strip() for tag in if_match.split(",")]
    return tags == ["*"] or current in tags


def of_text(text: str, history: Sequence[RevisionEntry]) -> RevisionEntry | None:
    """The newest revision with this text."""
    tag = etag(text)
    return next((revision for revision in history if revision.etag == tag), None)


def edited(text: str, history: Sequence[RevisionEntry], file: tuple[str, str]) -> bool:
    """Whether the text of ``file`` (author and origin) is new, or an earlier one that this very file has left since."""
    known = of_text(text, history)
    if known is None:
        return True
    own = next((r for r in history if (r.author, r.origin) == file), None)
    return own is not None and own.etag != known.etag and own.revision > known.revision
