"""Corpora of real text in distinct domains, made from the running Python installation: nothing to download.

The content follows the versions of Python and of the packages, so a corpus carries a fingerprint and the versions it
was made from.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import sysconfig
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any

from trimtab.errors import DataError, explain, nearest
from trimtab.runs.paths import built_once, cache_home

_NEVER = frozenset({"__pycache__", "site-packages", "dist-packages"})


def stdlib() -> Path:
    """The folder of the standard library."""
    return Path(sysconfig.get_path("stdlib"))


def package_folder(name: str) -> Path | None:
    """The folder of an installed package, located without importing it; None when it is not installed."""
    spec = importlib.util.find_spec(name)
    places = list(spec.submodule_search_locations or []) if spec else []
    return Path(places[0]) if places else None


def files_below(root: Path, ending: str, *, skip: Collection[str] = ()) -> dict[str, Path]:
    """Files whose name ends so, by their path below `root`; folders named in `skip` are not entered."""
    files: dict[str, Path] = {}
    for folder, below, names in os.walk(root):
        below[:] = [name for name in below if name not in skip and name not in _NEVER]
        paths = [Path(folder) / name for name in names if name.endswith(ending)]
        files |= {path.relative_to(root).as_posix(): path for path in paths}
    return files


def package_files(
    packages: Sequence[str], ending: str, keep: Callable[[str], bool] = lambda _key: True
) -> dict[str, Path]:
    """Files of packages whose name ends so, by `package/path`; `keep` chooses by that key."""
    roots = {name: folder for name in packages if (folder := package_folder(name)) is not None}
    below = ((f"{name}/", files_below(root, ending).items()) for name, root in roots.items())
    return {name + key: path for name, files in below for key, path in files if keep(name + key)}


def metadata_files(distributions: Sequence[str]) -> dict[str, Path]:
    """The METADATA file of each distribution that has one, by the distribution's name."""
    files = {
        name: Path(str(file.locate()))
        for name in distributions
        for file in importlib.metadata.distribution(name).files or []
        if file.name == "METADATA"
    }
    return {name: path for name, path in files.items() if path.is_file()}


def version(distribution: str) -> str:
    """The installed version; empty when it is not installed."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""


def requirements(roots: Sequence[str]) -> list[str]:
    """The transitive requirements of installed distributions, themselves included; extras left out.

    Names are normalised ("huggingface-hub") and sorted.
    """
    required: set[str] = set()
    waiting = list(roots)
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in required or not version(name):
            continue
        required.add(name)
        needs = importlib.metadata.requires(name) or []
        plain = (need for need in needs if "extra" not in need.partition(";")[2])
        waiting += [match[0] for need in plain if (match := re.match(r"[\w.-]+", need))]
    return sorted(required)


def whole(text: str) -> list[str]:
    """A file as one document."""
    return [text]


def docstrings(text: str) -> list[str]:
    """The docstrings of a Python file of 200 characters or more, without their indentation.

    >>> docstrings("def f():\\n    '''Too short to be prose.'''")
    []
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in other people's code
        try:
            tree = ast.parse(text)
        except (SyntaxError, ValueError):
            return []
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docs = (ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, kinds))
    return [doc for doc in docs if doc is not None and len(doc) >= 200]


@dataclass(frozen=True)
class Source:
    """The source of a corpus: its files and how they become documents.

    Attributes:
        what: one line for people.
        files: finds the files, by a name that is the same on every machine; none when they are not installed.
        missing: what to say then.
        packages: the distributions whose versions decide the content, beside Python's own.
        documents: the documents in the text of one file.
    """

    what: str
    files: Callable[[], Mapping[str, Path]]
    missing: str
    packages: Callable[[], Sequence[str]] = tuple
    documents: Callable[[str], list[str]] = whole

    def versions(self) -> dict[str, str]:
        """The versions of Python and of each package."""
        return {"python": platform.python_version(), **{name: version(name) for name in self.packages()}}


def find(name: str) -> Mapping[str, Path]:
    """The files of a corpus.

    Raises:
        DataError: there is no such corpus, or this installation lacks its files; names those it has.
    """
    files = source_of(name).files()
    if not files:
        others = f"one of {', '.join(corpora())}"
        raise DataError(f"corpus {name!r}: {explain(SOURCES[name].missing, 'its files', others)}")
    return files


def source_of(name: str) -> Source:
    """The source of a corpus; a DataError when there is no such corpus."""
    if name not in SOURCES:
        raise DataError(f"corpus: {explain(repr(name), f'one of {tuple(SOURCES)}', nearest(name, SOURCES))}")
    return SOURCES[name]


def corpora() -> tuple[str, ...]:
    """The names of the corpora that can be made on this machine: those whose files this installation has."""
    return tuple(name for name, source in SOURCES.items() if source.files())


# Tables, tests and vendored code would be other domains; demos and Python 2 grammars are old dialects.
_NOT_LIBRARY = {"test", "tests", "idle_test", "encodings", "lib2to3", "pydoc_data", "turtledemo", "_bundled"}
_TESTS = {"test", "tests", "testing"}
_DOCUMENTED = ("torch", "scipy", "numpy", "pandas")
_TESTED = ("numpy", "scipy", "pandas")
_STUBBED = ("torch", "numpy", "matplotlib", "pandas", "tokenizers")
# Our direct dependencies. Not "whatever is installed": the corpus would change with every `pip install`.
_ROOTS = (
    *("accelerate", "clarabel", "datasets", "jaxtyping", "jinja2", "joblib", "matplotlib", "pandas", "peft"),
    *("platformdirs", "pyarrow", "pydantic", "pyyaml", "rich", "scipy", "torch", "transformers"),
)


def _is_kept_header(key: str) -> bool:
    """Hand-written headers: thousands of generated ones, all alike, are in ATen/ops."""
    parts = key.split("/")
    return parts[1] == "include" and parts[2] in {"ATen", "c10", "torch"} and parts[3] != "ops"


SOURCES: dict[str, Source] = {
    "python": Source(
        what="Python source of the standard library",
        files=lambda: files_below(stdlib(), ".py", skip=_NOT_LIBRARY),
        missing="no .py files in the standard library's folder",
    ),
    "docstrings": Source(
        what="docstrings of torch, scipy, numpy and pandas: technical English",
        files=lambda: package_files(_DOCUMENTED, ".py", lambda key: not _TESTS.intersection(key.split("/"))),
        missing="no .py files in torch, scipy, numpy or pandas",
        packages=lambda: _DOCUMENTED,
        documents=docstrings,
    ),
    "headers": Source(
        what="C++ headers of torch",
        files=lambda: package_files(("torch",), ".h", _is_kept_header),
        missing="no include folder in torch",
        packages=lambda: ("torch",),
    ),
    "decimals": Source(
        what="decimal arithmetic test cases of the standard library",
        files=lambda: files_below(stdlib() / "test" / "decimaltestdata", ".decTest"),
        missing="no test/decimaltestdata in the standard library (slim images leave it out; Debian has it in "
        "libpython3-testsuite)",
    ),
    "fonts": Source(
        what="Adobe font metrics that come with matplotlib: tables of numbers and glyph names",
        files=lambda: package_files(("matplotlib",), ".afm"),
        missing="no .afm files in matplotlib",
        packages=lambda: ("matplotlib",),
    ),
    "metadata": Source(
        what="METADATA of the packages that trimtab needs: headers as in e-mail, then README prose",
        files=lambda: metadata_files(requirements(_ROOTS)),
        missing="no METADATA files of installed packages",
        packages=lambda: requirements(_ROOTS),
    ),
    "tests": Source(
        what="unit tests of numpy, scipy and pandas",
        files=lambda: package_files(_TESTED, ".py", lambda key: key.rpartition("/")[2].startswith("test_")),
        missing="no tests in numpy, scipy or pandas (some distributions strip them)",
        packages=lambda: _TESTED,
    ),
    "networks": Source(
        what="Python source of the models in transformers",
        files=lambda: package_files(("transformers",), ".py", lambda key: "/modeling_" in key),
        missing="no modeling files in transformers",
        packages=lambda: ("transformers",),
    ),
    "stubs": Source(
        what="type stubs of torch, numpy, matplotlib, pandas and tokenizers",
        files=lambda: package_files(_STUBBED, ".pyi"),
        missing="no .pyi files in torch, numpy, matplotlib, pandas or tokenizers",
        packages=lambda: _STUBBED,
    ),
}
"""Every corpus. Each needs only Python and this package's own dependencies, but for `decimals`."""


SPLITS = ("train", "validation", "test")
RECIPE = 2
"""Raised when the same installation would give other text, so that no cache serves the old one."""

_CAP = 2_000_000
_FILE_CAP = 64_000
_JUDGED = 200_000
_EXCERPT = 1_000
_LONG_LINE = 40
_SHORTEST = 100
_LEAST = 200_000
# Of ten files in the order of their hashes: eight, one and one.
_DEAL = ("train", "validation", "train", "train", "train", "test", "train", "train", "train", "train")


@dataclass(frozen=True)
class CleanFile:
    """A file's documents after cleaning, and its name."""

    key: str
    documents: tuple[str, ...]

    @property
    def size(self) -> int:
        """Bytes of text."""
        return sum(len(document.encode()) for document in self.documents)


def corpus(name: str, cache: Path | None = None) -> Path:
    """A folder with real text of one domain, made on first use (seconds) and kept.

    `train.jsonl`, `validation.jsonl` and `test.jsonl` hold one `{"text": ...}` a line, about 8 : 1 : 1, together
    at most 2 MB. Training has long pieces of some files. The other two, by which something is judged, have short
    excerpts of up to 200 files each, since a verdict over few files says little about the next one. No file of the
    installation is in two splits, no document occurs twice, and no line longer than 40 characters stands in two
    files (licences, boilerplate). `card.json` has versions, sizes, the files of each split and a fingerprint of the
    text.

    Args:
        name: one of `corpora()`.
        cache: where to keep it; None means the cache of this machine.

    Raises:
        DataError: there is no such corpus, or the installation lacks its files; says which it has.
    """
    source = source_of(name)
    made_from = json.dumps([RECIPE, source.versions(), str(stdlib())])
    key = hashlib.sha256(made_from.encode()).hexdigest()[:12]
    folder = (cache_home() if cache is None else cache) / "lab" / "corpora" / f"{name}-{key}"
    return built_once(folder, lambda temporary: _build(name, temporary))


def read_card(folder: Path) -> dict[str, Any]:
    """The card of a corpus or a lab model, from its folder."""
    card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    assert isinstance(card, dict)
    return card


def write_card(folder: Path, card: Mapping[str, Any]) -> None:
    """Write the card of a corpus or a lab model into its folder."""
    (folder / "card.json").write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")


def _build(name: str, folder: Path) -> None:
    source = source_of(name)
    cleaner, texts = Cleaner(source.documents), in_order(find(name))
    files = cleaner.up_to(_CAP, texts)
    size = sum(file.size for file in files)
    if size < _LEAST:
        got = f"{size} bytes of text in {len(files)} files"
        raise DataError(f"corpus {name!r}: {explain(got, f'at least {_LEAST}', f'one of {corpora()}')}")
    dealt = widened(deal(files), cleaner, texts)
    sizes = {}
    for split, its in dealt.items():
        documents = [document for file in its for document in file.documents]
        lines = "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in documents) or "\n"
        (folder / f"{split}.jsonl").write_text(lines, encoding="utf-8", newline="\n")
        bytes_, names = sum(file.size for file in its), [file.key for file in its]
        sizes[split] = {"documents": len(documents), "bytes": bytes_, "files": names}
    about = {"schema": 1, "name": name, "what": source.what, "recipe": RECIPE, "versions": source.versions()}
    write_card(folder, {**about, "fingerprint": fingerprint(folder), "splits": sizes})


def fingerprint(folder: Path) -> str:
    """SHA-256 of the text of the three splits, as hex digits."""
    texts = ((folder / f"{split}.jsonl").read_bytes() for split in SPLITS)
    return hashlib.sha256(b"".join(texts)).hexdigest()


def in_order(files: Mapping[str, Path]) -> Iterator[tuple[str, str]]:
    """Names and texts of files in the order of their names' hashes; what is not UTF-8 is passed over."""
    for key in sorted(files, key=lambda key: hashlib.sha256(key.encode()).hexdigest()):
        try:
            yield key, files[key].read_text(encoding="utf-8")
        except (UnicodeDecodeError, OSError):
            continue


@dataclass
class Cleaner:
    """Takes repeated long lines, duplicate and tiny documents out of one file after another.

    A line of more than 40 characters stays only in the first file that has it. A file gives at most 64 kB.

    Attributes:
        documents: the documents in the text of one file.
        lines, seen: the long lines and the documents of earlier files.
    """

    documents: Callable[[str], list[str]]
    lines: set[str] = field(default_factory=set)
    seen: set[str] = field(default_factory=set)

    def file(self, key: str, text: str, cap: int = _FILE_CAP) -> CleanFile:
        """The next file, at most `cap` bytes of it; perhaps without a document."""
        raw = [document.splitlines() for document in self.documents(text)]
        fresh = [[line.rstrip() for line in document if line.strip() not in self.lines] for document in raw]
        stripped = (line.strip() for document in raw for line in document)
        self.lines.update(line for line in stripped if len(line) > _LONG_LINE)
        distinct = dict.fromkeys("\n".join(document).strip("\n") for document in fresh)
        unseen = [document for document in distinct if document not in self.seen]
        file = CleanFile(key, tuple(_within(min(cap, _FILE_CAP), unseen)))
        self.seen.update(file.documents)
        return file

    def up_to(self, cap: int, files: Iterable[tuple[str, str]]) -> list[CleanFile]:
        """The next files that have documents, until `cap` bytes are there."""
        kept: list[CleanFile] = []
        for key, text in files:
            file = self.file(key, text, cap)
            if file.documents:
                kept.append(file)
                cap -= file.size
            if cap < _SHORTEST:
                break
        return kept


def clean(
    files: Iterable[tuple[str, str]], documents: Callable[[str], list[str]], cap: int = _CAP
) -> list[CleanFile]:
    """The first files, cleaned, until `cap` bytes are there; see `Cleaner`."""
    return Cleaner(documents).up_to(cap, files)


def deal(files: Sequence[CleanFile]) -> dict[str, list[CleanFile]]:
    """Split of whole files: of every ten, eight to train and one each to validation and test."""
    turns = list(zip(files, cycle(_DEAL), strict=False))
    return {split: [file for file, turn in turns if turn == split] for split in SPLITS}


def widened(
    dealt: Mapping[str, Sequence[CleanFile]], cleaner: Cleaner, texts: Iterable[tuple[str, str]]
) -> dict[str, list[CleanFile]]:
    """Splits whose validation and test have excerpts of many files: their own, and by turns those not yet dealt.

    An excerpt has at least 1 kB, or a file's part of 200 kB where files are fewer.
    """
    judged = {split: list(dealt[split]) for split in SPLITS[1:]}
    most = _JUDGED // _EXCERPT
    for key, text in texts:
        fewest = min(judged.values(), key=len)
        if len(fewest) >= most:
            break
        if (file := cleaner.file(key, text)).documents:
            fewest.append(file)
    return {"train": list(dealt["train"])} | {
        split: [part for file in its[:most] if (part := excerpt(file, _JUDGED // len(its[:most]))).documents]
        for split, its in judged.items()
    }


def excerpt(file: CleanFile, most: int) -> CleanFile:
    """At most so many bytes in a row from somewhere in a file, by its name, in whole lines; tiny documents left out."""
    if file.size <= most:
        return file
    start = int(hashlib.sha256(file.key.encode()).hexdigest(), 16) % (file.size - most + 1)
    parts: list[str] = []
    for document in file.documents:
        raw = document.encode()
        text = raw[max(0, start) : max(0, start + most)].decode(errors="ignore")
        text = text.partition("\n")[2] if start > 0 else text
        text = text.rpartition("\n")[0] if start + most < len(raw) else text
        parts += [text] if len(text) >= _SHORTEST else []
        start -= len(raw)
    return CleanFile(file.key, tuple(parts))


def _within(cap: int, documents: Sequence[str]) -> Iterator[str]:
    """Documents up to `cap` bytes in all, the last one cut at a line; tiny ones left out."""
    for document in documents:
        raw = document.encode()
        text = document if len(raw) <= cap else raw[:cap].decode(errors="ignore").rpartition("\n")[0]
        if len(text) >= _SHORTEST:
            yield text
        cap -= len(raw)
        if cap <= 0:
            return
