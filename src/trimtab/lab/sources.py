"""The kinds of real text that come with Python and this package's dependencies: a table."""

from __future__ import annotations

import ast
import platform
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from trimtab.errors import DataError, explain, nearest
from trimtab.lab.installation import files_below, metadata_files, package_files, requirements, stdlib, version


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
    found = (ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, kinds))
    return [doc for doc in found if doc is not None and len(doc) >= 200]


@dataclass(frozen=True)
class Source:
    """Where one kind of text comes from.

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
    files = known(name).files()
    if not files:
        others = f"one of {', '.join(available())}"
        raise DataError(f"corpus {name!r}: {explain(SOURCES[name].missing, 'its files', others)}")
    return files


def known(name: str) -> Source:
    """The source of a corpus; a DataError when there is no such corpus."""
    if name not in SOURCES:
        raise DataError(f"corpus: {explain(repr(name), f'one of {tuple(SOURCES)}', nearest(name, SOURCES))}")
    return SOURCES[name]


def available() -> tuple[str, ...]:
    """The names of the corpora whose files this installation has."""
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


def _no_test(key: str) -> bool:
    return not _TESTS.intersection(key.split("/"))


def _is_test(key: str) -> bool:
    return key.rpartition("/")[2].startswith("test_")


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
        files=lambda: package_files(_DOCUMENTED, ".py", _no_test),
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
        files=lambda: package_files(_TESTED, ".py", _is_test),
        missing="no tests in numpy, scipy or pandas (some distributions strip them)",
        packages=lambda: _TESTED,
    ),
    "stubs": Source(
        what="type stubs of torch, numpy, matplotlib, pandas and tokenizers",
        files=lambda: package_files(_STUBBED, ".pyi"),
        missing="no .pyi files in torch, numpy, matplotlib, pandas or tokenizers",
        packages=lambda: _STUBBED,
    ),
}
"""Every corpus. Each needs only Python and this package's own dependencies, but for `decimals`."""
