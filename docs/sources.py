"""Hooks of the site: pages of results are found, and files of the repository that pages link to become part of it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"(\[[^\]]*\])\(((?:\.\./)+[^)\s#]+)\)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """List the pages of a pattern in the navigation, by their headings."""
    docs = ROOT / "docs"
    for part in config.nav or []:
        for title, pattern in part.items():
            if isinstance(pattern, str) and "*" in pattern:
                heads = {
                    path: path.read_text(encoding="utf-8").partition("\n")[0] for path in docs.glob(pattern)
                }
                names = {path: head.removeprefix(f"# {title}: ") for path, head in heads.items()}
                part[title] = [
                    {name[:1].upper() + name[1:]: path.relative_to(docs).as_posix()}
                    for path, name in sorted(names.items())
                ]
    return config


def linked(page: File) -> dict[str, Path]:
    """The files outside `docs/` that a page links to, by the link."""
    here = Path(page.abs_src_path or "")
    links = {link: (here.parent / link).resolve() for _, link in LINK.findall(page.content_string)}
    return {link: path for link, path in links.items() if path.exists() and ROOT / "docs" not in path.parents}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add them below `source/`."""
    paths = {path for page in files.documentation_pages() for path in linked(page).values() if path.is_file()}
    for path in sorted(paths):
        name = f"source/{path.relative_to(ROOT).as_posix()}"
        files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, *, page: Page, **_: Any) -> str:
    """Point the links there; a link to a folder stays as its text."""
    file = page.file
    outside, up = linked(file), "../" * file.src_uri.count("/")

    def there(match: re.Match[str]) -> str:
        path = outside.get(match[2])
        if path is None:
            return match[0]
        name = path.relative_to(ROOT).as_posix()
        return f"{match[1]}({up}source/{name})" if path.is_file() else f"{match[1][1:-1]} (`{name}`)"

    return LINK.sub(there, markdown)
