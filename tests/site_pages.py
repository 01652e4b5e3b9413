"""The pages of docs/, read as text: what is prose, what is code, where links and headings are."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = {path.relative_to(DOCS).as_posix(): path for path in sorted(DOCS.rglob("*.md"))}
TEXTS = {name: path.read_text(encoding="utf-8") for name, path in PAGES.items()}
_BLOCK = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```", re.DOTALL | re.MULTILINE)


def blocks(text: str, kind: str) -> list[str]:
    """The code blocks of one kind; the empty kind is that of commands."""
    return [body for _, named, body in _BLOCK.findall(text) if named == kind]


def without_code(text: str) -> str:
    """The text without code blocks and comments."""
    return re.sub(r"<!--.*?-->", " ", _BLOCK.sub("", text), flags=re.DOTALL)


def prose(text: str) -> str:
    """What is read as words: no code blocks, no addresses."""
    return re.sub(r"\]\([^)\s]*\)", "] ", without_code(text))


def links(text: str) -> list[str]:
    """The targets of all links and pictures."""
    plain = re.sub(r"`[^`\n]*`", " ", without_code(text))
    return re.findall(r"\]\(([^)\s]+)\)", plain)


def anchors(text: str) -> set[str]:
    """The anchors of headings, as Python-Markdown makes them."""
    found: set[str] = set()
    for heading in re.findall(r"^#{1,6} +(.+?) *#*$", without_code(text), re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        word = unicodedata.normalize("NFKD", plain).encode("ascii", "ignore").decode()
        slug = base = re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", word).strip().lower())
        number = 0
        while slug in found:
            number += 1
            slug = f"{base}_{number}"
        found.add(slug)
    return found


def table_rows(text: str) -> list[str]:
    """The rows of all tables, without heads and rules."""
    lines = without_code(text).split("\n")
    rule = re.compile(r"^\|[\s:|-]+\|?$")
    heads = {place - 1 for place, line in enumerate(lines) if rule.match(line)}
    return [
        line.strip()
        for place, line in enumerate(lines)
        if line.startswith("|") and place not in heads and not rule.match(line)
    ]


def sentences(text: str) -> list[str]:
    """The sentences of paragraphs and list items; tables and headings are left out."""
    lines = [line for line in prose(text).split("\n") if not re.match(r"\s*\||#|    ", line)]
    whole = re.sub(r"^\s*(?:[-*]|\d+\.) ", "\n", "\n".join(lines), flags=re.MULTILINE)
    parts = [
        part for para in re.split(r"\n\s*\n|\n(?=\n)", whole) for part in re.split(r"(?<=[.?!:])\s+", para)
    ]
    return [" ".join(part.split()) for part in parts if part.strip()]
