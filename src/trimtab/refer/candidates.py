"""Candidate sets: the pictures among which a listener looks for the one that a caption is about.

Random sets ask whether a caption tells a picture from the rest of the world, hard sets (neighbours of the target in the
space of an encoder) whether it tells what matters: Dessi et al. 2022 (arXiv 2210.11512) and 2023 (arXiv 2304.01662).
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float

from trimtab.data.pictures import Pictures, read_pictures
from trimtab.data.record_files import lines
from trimtab.data.tables import check_columns, check_known, label_text, read_table, show
from trimtab.errors import ConfigError, DataError, Problem, explain, nearest, placed_problem, refusal
from trimtab.models.encoders import TwoTower, two_tower
from trimtab.runs.files import check_regular, parse_json, read_json
from trimtab.runs.paths import as_path
from trimtab.seeds import derive, seed_problem

if TYPE_CHECKING:
    from PIL import Image

COLUMNS = ("item", "candidates", "target")
SET_LIMIT = 100_000
"""Pictures that one candidate set may have."""
ALIKE = 12
"""Decimals of cosines (in float64) that are compared; those that agree in all of them are ties."""
_AT_ONCE = 256
_ROW = '{"item": name, "candidates": [names], "target": name}'

Vectors = Float[np.ndarray, "pictures d"]


def random_candidates(pictures: Any, n: int = 100, seed: int = 0) -> pd.DataFrame:
    """Candidate sets of each picture and n - 1 others, drawn without replacement.

    A picture never stands in a set with a copy of itself, nor with two copies of another: pictures with the same pixels
    count as one. A set depends on the seed, on its target and on which pictures there are, not on their order.

    Args:
        pictures: what `read_pictures` takes.
        n: pictures in a set, the target among them; at least 2.
        seed: of the draws and of the order within each set.

    Returns:
        A frame of item, candidates (a list of n names in an order by chance) and target, a row per picture.

    Raises:
        ConfigError: n below 2 or above the number of different pictures, or a seed that cannot be used.
        DataError: a picture that cannot be read.
    """
    _check_whole("n", n, 2)
    _check_seed(seed)
    shown = read_pictures(pictures)
    groups, _ = _looked_at(shown, None)
    _check_size(n, len(set(groups.values())), "n", n)
    shown_once = _one_of_each(groups, seed)
    rows = []
    for name in shown.names:
        draws = np.random.default_rng(derive(seed, "random candidates", name))
        others = [other for group, other in shown_once.items() if group != groups[name]]
        rows.append(_row(name, [others[place] for place in draws.permutation(len(others))[: n - 1]], draws))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def hard_candidates(pictures: Any, encoder: Any, k: int = 9, seed: int = 0) -> pd.DataFrame:
    """Candidate sets of each picture and its k nearest neighbours by the cosine of an encoder's embeddings.

    Pictures with the same pixels count as one, so that no set holds a picture twice under two names. Neighbours at
    the same cosine (to `ALIKE` decimals) are drawn by the seed. The target is the centre of its set: a caption that
    says what is common to all of them can be worse than chance.

    Args:
        pictures: what `read_pictures` takes.
        encoder: a `TwoTower` or what `two_tower` makes one of, a `Listener`, or embeddings (pictures, d) in the order
            of the pictures' names, of any length above 0.
        k: neighbours in a set, beside the target; at least 1 and below the number of different pictures.
        seed: of ties and of the order within each set.

    Returns:
        A frame of item, candidates (a list of k + 1 names in an order by chance) and target, a row per picture.

    Raises:
        ConfigError: k below 1 or too large, or a seed that cannot be used.
        DataError: a picture that cannot be read, or embeddings of another number, zero or not finite.
    """
    _check_whole("k", k, 1)
    _check_seed(seed)
    shown = read_pictures(pictures)
    _check_size(k + 1, len(shown), "k", k)
    groups, vectors = _looked_at(shown, encoder)
    _check_size(k + 1, len(set(groups.values())), "k", k)
    shown_once = _one_of_each(groups, seed)
    places = {name: place for place, name in enumerate(shown.names)}
    columns = vectors[[places[name] for name in shown_once.values()]].T
    names, kinds = np.array(list(shown_once.values()), dtype=object), list(shown_once)
    own = {group: column for column, group in enumerate(kinds)}
    rows = []
    for start in range(0, len(shown), _AT_ONCE):
        some = shown.names[start : start + _AT_ONCE]
        cosines = np.round(vectors[[places[name] for name in some]] @ columns, ALIKE)
        for name, near in zip(some, cosines, strict=True):
            near[own[groups[name]]] = -np.inf
            draws = np.random.default_rng(derive(seed, "hard candidates", name))
            rows.append(_row(name, [names[column] for column in _nearest(near, k, draws)], draws))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def read_candidates(source: Any, pictures: Any = None, where: str = "candidates") -> pd.DataFrame:
    """Candidate sets that are given, checked.

    Args:
        source: a frame, or a CSV, TSV, Parquet, JSON or JSONL file with item, candidates and target; `candidates` is a
            list of names, the same as JSON text, or a text of names with " | " between them. Further columns are kept.
        pictures: what names may stand for: what `read_pictures` takes; None checks no names. A name may have the
            ending of its file.
        where: what to call the table in messages.

    Returns:
        A frame of item, candidates (lists of names as the pictures have them) and target, then further columns.

    Raises:
        DataError: a column or value is missing, an item twice, a target that is not among its candidates, a name twice
            in a set, fewer than two candidates, or a name that no picture has; the row is named, and how many more
            there are.

    >>> frame = pd.DataFrame({"item": ["a"], "candidates": ['["a", "b"]'], "target": ["a"]})
    >>> read_candidates(frame).candidates[0]
    ['a', 'b']
    """
    if isinstance(source, str | Path):
        where = str(source) if where == "candidates" else where
        frame = read_rows(as_path(source, where, "a table of candidates"), "a table of candidates", _ROW)
    else:
        frame = source
    try:
        if not len(frame):
            raise DataError(explain("no rows", "at least one candidate set"))
        check_columns(frame, COLUMNS)
        for column in COLUMNS:
            check_known(frame, column)
    except DataError as error:
        raise DataError(f"{where}: {error}") from error
    known = None if pictures is None else read_pictures(pictures)
    columns: dict[str, list[Any]] = {name: [] for name in COLUMNS}
    problems: list[Problem] = []
    seen: set[str] = set()
    for number, values in enumerate(zip(*(frame[name] for name in COLUMNS), strict=True)):
        try:
            row = _given(values, known)
            if row[0] in seen:
                raise DataError(explain(f"item {show(row[0])} again", "one candidate set per item"))
        except DataError as error:
            problems.append(placed_problem(f"{where}, row {number}", error))
            continue
        seen.add(row[0])
        for name, value in zip(COLUMNS, row, strict=True):
            columns[name].append(value)
    if problems:
        more = f"\n(and {len(problems) - 1} more of {len(frame)} rows)" if len(problems) > 1 else ""
        raise DataError(f"{problems[0]}{more}")
    further = frame.drop(columns=list(COLUMNS)).reset_index(drop=True)
    return pd.concat([pd.DataFrame(columns), further], axis=1)


def names_in(candidates: pd.DataFrame) -> list[str]:
    """Names of the pictures in any set, each once, in their order."""
    return list(dict.fromkeys(name for names in candidates["candidates"] for name in names))


def _row(target: str, others: Sequence[str], draws: np.random.Generator) -> tuple[str, list[str], str]:
    """A set in an order by chance, so that the place of the target tells nothing."""
    names = [target, *others]
    return target, [names[place] for place in draws.permutation(len(names))], target


def _nearest(near: np.ndarray, k: int, draws: np.random.Generator) -> np.ndarray:
    """Columns of the k largest values, ties drawn; the columns stand in the order of their names."""
    least = np.partition(near, -k)[-k]
    within = np.flatnonzero(near >= least)
    by_value = np.lexsort((draws.random(len(within)), -near[within]))
    chosen: np.ndarray = within[by_value[:k]]
    return chosen


def _looked_at(shown: Pictures, encoder: Any) -> tuple[dict[str, str], Vectors]:
    """The digest of each picture's pixels, and unit embeddings in float64, in one pass over the pictures.

    Without an encoder there are no embeddings.
    """
    given = _vectors(encoder, len(shown))
    tower = None if encoder is None or given is not None else _tower(encoder)
    digests: dict[str, str] = {}
    parts: list[np.ndarray] = []
    for start in range(0, len(shown), _AT_ONCE):
        some = shown.names[start : start + _AT_ONCE]
        images = shown.images(some)
        digests |= dict(zip(some, map(_digest, images), strict=True))
        if tower is not None:
            parts.append(tower.pictures(images).double().cpu().numpy())
    if given is None:
        given = np.concatenate(parts) if parts else np.zeros((len(shown), 0))
    return digests, _unit(given) if encoder is not None else given


def _tower(encoder: Any) -> TwoTower:
    """The two towers of an encoder or of the listener that has them."""
    inner = getattr(encoder, "encoder", encoder)
    return inner if isinstance(inner, TwoTower) else two_tower(encoder)


def _vectors(encoder: Any, n: int) -> Vectors | None:
    """Embeddings that are given, checked; None for an encoder."""
    if isinstance(encoder, torch.Tensor):
        encoder = encoder.detach().cpu().double().numpy()
    if not isinstance(encoder, np.ndarray):
        return None
    if encoder.ndim != 2 or len(encoder) != n or encoder.dtype.kind not in "fiu":
        got = f"embeddings of shape {encoder.shape} and type {encoder.dtype}"
        raise DataError(explain(got, f"numbers of shape ({n}, d), a row per picture"))
    vectors: Vectors = encoder.astype(np.float64)
    return vectors


def _unit(vectors: Vectors) -> Vectors:
    with np.errstate(over="ignore", invalid="ignore"):
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    wrong = ~np.isfinite(lengths[:, 0]) | (lengths[:, 0] == 0)
    if wrong.any():
        length, row = lengths[wrong][0, 0], int(wrong.argmax())
        got = f"an embedding of length {length:g} (row {row}, {int(wrong.sum())} such rows)"
        raise DataError(explain(got, "finite embeddings that are not zero"))
    unit: Vectors = vectors / lengths
    return unit


def _digest(image: Image.Image) -> str:
    return hashlib.sha256(f"{image.mode} {image.size} ".encode() + image.tobytes()).hexdigest()


def _one_of_each(groups: Mapping[str, str], seed: int) -> dict[str, str]:
    """Group of identical pictures -> the one shown for it as a distractor, in the order of their names."""
    members: dict[str, list[str]] = {}
    for name in sorted(groups):
        members.setdefault(groups[name], []).append(name)
    chosen = {
        group: names[derive(seed, "one of identical pictures", *names) % len(names)]
        for group, names in members.items()
    }
    return dict(sorted(chosen.items(), key=lambda pair: pair[1]))


def _check_whole(name: str, value: object, least: int) -> None:
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < least:
        raise ConfigError(explain(f"{name}={value!r:.60}", f"a whole number, at least {least}"))


def _check_seed(seed: int) -> None:
    problem = seed_problem("seed", seed)
    if problem is not None:
        raise ConfigError(str(problem))


def _check_size(size: int, pictures: int, name: str, value: int) -> None:
    if pictures < 2:
        raise ConfigError(explain(f"{pictures} different pictures", "at least 2"))
    if size > pictures:
        most = pictures - (size - value)
        got = f"{name}={value} of {pictures} different pictures"
        raise ConfigError(explain(got, f"sets of at most {pictures}", f"{name}={most}"))


def read_rows(path: Path, what: str, row: str) -> pd.DataFrame:
    """A table that may hold lists: CSV, TSV or Parquet, or rows of JSON.

    Args:
        path: a file; .csv.gz, .tsv.gz and .jsonl.gz too.
        what: what to call it in messages.
        row: what to call one of its rows.

    Raises:
        DataError: another format, a damaged file, or a row that is no object.
    """
    expected = f"{what}, as CSV, TSV, Parquet, JSON or JSONL"
    kind = path.name.lower().removesuffix(".gz")
    if kind.endswith(".json"):
        rows: Any = read_json(check_regular(path, expected), f"a JSON array of {row}")
        if not isinstance(rows, list):
            raise refusal(path, f"a {type(rows).__name__}", f"a JSON array of {row}")
    elif kind.endswith(".jsonl"):
        found = lines(check_regular(path, expected), f"a {row} per line")
        rows = [parse_json(line, where, f"a line {row}") for where, line in found if line.strip()]
    else:
        return read_table(path)
    for number, one in enumerate(rows):
        if not isinstance(one, dict):
            raise refusal(f"{path}, row {number}", f"a {type(one).__name__}", row)
    return pd.DataFrame(rows, columns=list(dict.fromkeys(key for one in rows for key in one)))


def _given(row: Sequence[Hashable], known: Pictures | None) -> tuple[str, list[str], str]:
    """The item, candidates and target of a row, as texts, checked."""
    item, target = label_text(row[0]), _name(row[2], known)
    names = [_name(name, known) for name in _listed(row[1])]
    if len(names) < 2:
        raise DataError(explain(f"{len(names)} candidates of item {show(item)}", "at least two"))
    if len(names) > SET_LIMIT:
        raise DataError(explain(f"{len(names)} candidates of item {show(item)}", f"at most {SET_LIMIT:,}"))
    if len(set(names)) < len(names):
        twice = next(name for place, name in enumerate(names) if name in names[:place])
        raise DataError(
            explain(f"{show(twice)} twice among the candidates of item {show(item)}", "each once")
        )
    if target not in names:
        hint = nearest(target[:60], names[:1000])
        raise DataError(explain(f"target {show(target)} of item {show(item)}", "one of its candidates", hint))
    return item, names, target


def _listed(value: Any) -> Iterator[Any]:
    """Names in a cell: a list, JSON text of one, or names with " | " between them."""
    if isinstance(value, str):
        text = value.strip()
        if not text.startswith("["):
            return iter([name for name in (part.strip() for part in text.split(" | ")) if name])
        value = parse_json(text, "candidates", "a list of names")
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if not isinstance(value, list | tuple):
        raise DataError(
            explain(f"candidates {show(value)}", 'a list of names, or names with " | " between them')
        )
    return iter(value)


def _name(value: Any, known: Pictures | None) -> str:
    """The name of a picture as the pictures have it."""
    name = label_text(value)
    if not name:
        raise DataError(explain("a candidate without a name", "a name"))
    return name if known is None else known.name_of(name)
