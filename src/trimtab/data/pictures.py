"""Pictures of a data set: their names, their metadata and, one at a time, their pixels."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd
from PIL import Image

from trimtab.data.record_files import lines
from trimtab.data.tables import read_table
from trimtab.errors import DataError, Problem, nearest, placed_problem, refusal
from trimtab.models.pictures import ENDINGS, Picture, read_picture
from trimtab.runs.brief import one_line
from trimtab.runs.files import parse_json
from trimtab.runs.paths import neighbour, path_problem

METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
FILE_NAME = "file_name"
_FOLDER = "a folder of pictures, with sub-folders and metadata.csv or metadata.jsonl where there are any"


@dataclass(frozen=True)
class Pictures:
    """Named pictures with a row of metadata each; files are decoded when they are asked for, every time.

    Attributes:
        sources: a file or an image for each name.
        table: metadata columns, one row a picture in the same order, with the names as index; no columns where there
            is no metadata, missing values where it does not name a picture.
    """

    sources: Mapping[str, Picture]
    table: pd.DataFrame

    def __repr__(self) -> str:
        columns = [str(column) for column in self.table.columns[:4]]
        return one_line("Pictures", f"{len(self)} pictures", *columns)

    @property
    def names(self) -> tuple[str, ...]:
        """The names, in their order."""
        return tuple(self.sources)

    def __len__(self) -> int:
        return len(self.sources)

    def __iter__(self) -> Iterator[str]:
        """The names, in their order."""
        return iter(self.sources)

    def __contains__(self, name: object) -> bool:
        return self._found(name) is not None

    def __getitem__(self, name: object) -> Image.Image:
        """The picture of a name, with or without the ending of its file, in RGB.

        Raises:
            DataError: there is none of this name, or its file cannot be decoded.
        """
        known = self.name_of(name)
        return read_picture(self.sources[known], f"picture {known!r}")

    def images(self, names: Sequence[object]) -> list[Image.Image]:
        """The pictures of several names, in their order; a name may come twice."""
        return [self[name] for name in names]

    def name_of(self, name: object) -> str:
        """The name of this collection for a name that may carry its file's ending, or be a number.

        Raises:
            DataError: there is none; the nearest is named.
        """
        found = self._found(name)
        if found is None:
            hint = nearest(str(name), self.sources) or "print(pictures.names)"
            raise refusal("", f"the picture {name!r}", f"one of {len(self)} names", hint)
        return found

    def select(self, names: Sequence[object]) -> Pictures:
        """The pictures of these names, in this order.

        Raises:
            DataError: a name that is not there, or one twice.
        """
        known = [self.name_of(name) for name in names]
        _refuse_twice(known, "")
        return Pictures({name: self.sources[name] for name in known}, self.table.loc[known])

    def problems(self, where: str = "pictures") -> Iterator[Problem]:
        """Problems of the pictures: every file is decoded once, and what cannot be is named."""
        for name, source in self.sources.items():
            try:
                read_picture(source, "")
            except DataError as error:
                yield placed_problem(f"{where}, picture {name!r}", error)

    def _found(self, name: object) -> str | None:
        text = str(name)
        if text in self.sources:
            return text
        stem, _, ending = text.rpartition(".")
        source = self.sources.get(stem)
        same = isinstance(source, str | Path) and Path(source).suffix.lower() == f".{ending.lower()}"
        return stem if same else None


def read_pictures(
    source: Pictures | str | Path | Mapping[Any, Picture] | Sequence[Picture] | Any, where: str = "pictures"
) -> Pictures:
    """Pictures of a folder in the layout of Hugging Face's `imagefolder`, of a mapping or of a list.

    A folder may have sub-folders, and in each a `metadata.csv`, `metadata.jsonl` or `metadata.parquet` whose column
    `file_name` names files from there on. The name of a file's picture is its path below the folder without the ending,
    and pictures are sorted by name. Those of a list are named by their place, "0", "1" and so on. Nothing is decoded:
    see `Pictures.problems`.

    Args:
        source: a folder; name -> picture; pictures; or `Pictures`, which are returned as they are.
        where: what to call it in errors, such as the key of a config.

    Raises:
        DataError: no folder, one without pictures, two pictures of one name, metadata without `file_name`, that names
            a file which is not there, or one file twice; no picture at all, or something that is none.

    >>> read_pictures({"a": Image.new("RGB", (2, 2)), 7: Image.new("L", (1, 1))}).names
    ('a', '7')
    """
    if isinstance(source, Pictures):
        return source
    if isinstance(source, str | Path):
        return _from_folder(source, where)
    if isinstance(source, Mapping):
        given = {str(name): picture for name, picture in source.items()}
        _refuse_twice([str(name) for name in source], where)
    elif isinstance(source, list | tuple):
        given = {str(place): picture for place, picture in enumerate(source)}
    else:
        expected = "a folder, a mapping of names to pictures, or a list of pictures"
        raise refusal(where, f"a {type(source).__name__}", expected)
    if not given:
        raise refusal(where, "no pictures", "at least one")
    name: str
    picture: Any
    for name, picture in given.items():
        if not isinstance(picture, Image.Image | str | Path):
            got = f"a {type(picture).__name__} as picture {name!r}"
            raise refusal(where, got, "a PIL.Image.Image or the path of a picture")
    return Pictures(given, pd.DataFrame(index=pd.Index(list(given), name="name")))


def _from_folder(source: str | Path, where: str) -> Pictures:
    if (problem := path_problem(where, source, _FOLDER)) is not None:
        raise DataError(str(problem))
    folder = Path(source).expanduser()
    if not folder.is_dir():
        got = f"{str(source)!r}, a file" if folder.exists() else f"{str(source)!r}, which does not exist"
        raise refusal(where, got, _FOLDER, neighbour(folder) if not folder.exists() else f"{folder.parent}")
    there = sorted(path for path in folder.rglob("*") if not _hidden(path.relative_to(folder)))
    files = {_name(path.relative_to(folder)): path for path in there if _is_picture(path)}
    _refuse_twice([_name(path.relative_to(folder)) for path in there if _is_picture(path)], where)
    if not files:
        got = f"the folder {folder} without a picture among its {len(there)} files and folders"
        raise refusal(where, got, f"files that end in {', '.join(ENDINGS)}")
    rows: dict[str, dict[str, Any]] = {}
    for path in there:
        if path.name in METADATA and path.is_file():
            for name, row in _metadata(path, folder, files):
                if name in rows:
                    raise refusal(f"{where}, {path}", f"{name!r} twice", "one row a picture")
                rows[name] = row
    names = sorted(files)
    index = pd.Index(names, name="name")
    if len(rows) == len(names):
        table = pd.DataFrame([rows[name] for name in names], index=index)
    else:
        table = pd.DataFrame.from_dict(rows, orient="index").reindex(index)
        table.index.name = "name"
    return Pictures({name: files[name] for name in names}, table)


def _metadata(path: Path, folder: Path, files: Mapping[str, Path]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows of a metadata file with the names of their pictures."""
    for at, row in _rows(path):
        written = row.pop(FILE_NAME, None)
        if not isinstance(written, str) or not written:
            hint = nearest(FILE_NAME, [str(key) for key in row])
            raise refusal(at, f"no {FILE_NAME!r}", f"a row with {FILE_NAME!r}, the path of a picture", hint)
        inside = PurePosixPath(os.path.normpath(path.parent.relative_to(folder) / written))
        name = _name(inside)
        if name not in files or files[name].name != inside.name:
            got = f"{written!r}, which is not there"
            hint = nearest(str(inside), [str(file.relative_to(folder)) for file in files.values()])
            raise refusal(at, got, f"a picture below {path.parent}", hint)
        yield name, row


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    if path.suffix != ".jsonl":
        for number, cells in enumerate(read_table(path).to_dict("records"), 1):
            yield f"{path}, row {number}", {str(key): value for key, value in cells.items()}
        return
    for at, line in lines(path, "one JSON object per line, in UTF-8"):
        if not line.strip():
            continue
        row = parse_json(line, at, "a JSON object")
        if not isinstance(row, dict):
            raise refusal(at, f"a {type(row).__name__}", "a JSON object")
        yield at, row


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in ENDINGS and not path.is_dir()


def _hidden(inside: Path) -> bool:
    return any(part.startswith(".") for part in inside.parts)


def _name(inside: Path | PurePosixPath) -> str:
    return inside.with_suffix("").as_posix()


def _refuse_twice(names: Sequence[str], where: str) -> None:
    seen = set[str]()
    for name in names:
        if name in seen:
            raise refusal(where, f"two pictures named {name!r}", "one picture a name", "renaming one")
        seen.add(name)
