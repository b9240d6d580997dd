"""Entity tags of configuration texts."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from gateway.state.base import MAX_REVISION_TEXTS, RevisionEntry


def etag(text: str) -> str:
    """The strong entity tag of a configuration text, quotes included, as it stands in an ETag field."""
    return f'"{hashlib.sha256(text.encode()).hexdigest()[:32]}"'


def no_revision(number: int) -> str:
    """The message for a revision that is not in the store."""
    return (
        f"The text of revision {number} is not in the store, which keeps those of the newest {MAX_REVISION_TEXTS} "
        "revisions; see GET /-/config/history."
    )


def matches(if_match: str, current: str) -> bool:
    """Whether an If-Match field (``*`` or a list of entity tags) names ``current``. Weak tags never do."""
    tags = [tag.strip() for tag in if_match.split(",")]
    return tags == ["*"] or current in tags


def of_text(text: str, history: Sequence[RevisionEntry]) -> RevisionEntry | None:
    """The newest revision with this text."""
    tag = etag(text)
    return next((revision for revision in history if revision.etag == tag), None)
