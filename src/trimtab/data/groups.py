"""Groups of records: those of one article, play, template or author, which are not independent of one another.

A record names its group in `GROUP`, a text or a number; 7, 7.0 and "7" are one group. Records of a group stay in one
split of a pool, and standard errors are clustered over groups (`trimtab.train.losses.SequenceLosses`).
"""

from __future__ import annotations

import hashlib

from trimtab.errors import DataError, refusal
from trimtab.models.chat import is_missing

GROUP = "group"
"""The key of a record's group."""
FILE = "file"
"""The only column of text files: `columns={"group": "file"}` makes a group of each file."""

_BEGINNING = 8192


def group_text(value: object, where: str) -> str:
    """Text of a record's group, one for all ways to write a number; "" without a value.

    Raises:
        DataError: a list, a mapping or another value that is no label; `where` is its place.

    >>> group_text(7.0, "line 1"), group_text(" Hamlet ", "line 2"), group_text(None, "line 3")
    ('7', 'Hamlet', '')
    """
    if (isinstance(value, str) and not value) or is_missing(value):
        return ""
    from trimtab.data.tables import label_text  # imports pandas: only where there are groups

    try:
        return label_text(value)
    except DataError as error:
        hint = f"columns={{...}} without {GROUP!r}, which leaves it unread"
        got = f"a {type(value).__name__} {value!r:.60}"
        raise refusal(where, got, "a text or a number, the record's group", hint) from error


def file_group(text: str) -> str:
    """Group of a text file's records: a digest of its first 8192 characters, so that its path has no part in it."""
    return hashlib.sha256(text[:_BEGINNING].encode(errors="surrogatepass")).hexdigest()


def group_digest(group: str) -> bytes:
    """Sha256 of a group, 32 bytes."""
    return hashlib.sha256(group.encode()).digest()
