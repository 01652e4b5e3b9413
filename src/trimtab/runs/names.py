"""File names made from any text."""

from __future__ import annotations

import hashlib
import re

_PLAIN = re.compile(r"[A-Za-z0-9_=+][A-Za-z0-9_=+.,-]*")
_LOOKS_CHANGED = re.compile(r".*-[0-9a-f]{12}")
_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)
_LONGEST = 80


def safe_name(text: str) -> str:
    """One path component for `text`: it cannot leave its folder, and different texts stay different.

    Short plain names stay as they are; every other text is cleaned and gets a hash of the original.
    A plain name that looks like one with a hash gets a hash too, so that nobody can forge a collision.

    >>> safe_name("dynamics-light")
    'dynamics-light'
    >>> safe_name("../x")
    'x-d6b96a97d147'
    """
    if _is_plain(text):
        return text
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]
    cleaned = re.sub(r"[^A-Za-z0-9_=+.,-]+", "_", text).lstrip("._-")[: _LONGEST - 20].rstrip("._-")
    return f"{cleaned or 'name'}-{digest}" if not _RESERVED.fullmatch(cleaned) else f"name-{digest}"


def _is_plain(text: str) -> bool:
    return (
        len(text) <= _LONGEST
        and _PLAIN.fullmatch(text) is not None
        and not text.endswith(".")
        and not _RESERVED.fullmatch(text)
        and not _LOOKS_CHANGED.fullmatch(text)
    )
