"""Task page for people: captions of speakers, each with its candidate pictures, as a folder of HTML without a server.

People are listeners of the speaker x listener matrix of Dessi et al. 2022 (arXiv 2210.11512, section 3): they read a
caption and choose its picture. What they are handed (`page/`) has no names, no speakers and no right answers; the key
(`key.json`) stays with whoever asks.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from trimtab.data.captions import speaker_captions
from trimtab.data.pictures import read_pictures
from trimtab.errors import ConfigError, DataError, TrimtabError, explain, refusal
from trimtab.refer.candidates import names_in, random_candidates, read_candidates
from trimtab.runs.atomic import atomic_directory
from trimtab.runs.brief import one_line
from trimtab.runs.files import read_json
from trimtab.seeds import derive, seed_problem

if TYPE_CHECKING:
    from PIL import Image

KEY, PAGE = "key.json", "page"
LETTERS = "bcdfghjklmnpqrstvwxz"
"""Of random names: they make no words, and no spreadsheet takes them for a number or a date."""
ANSWER_COLUMNS = ("task", "listener_id", "place", "of", "trial", "choice", "milliseconds", "check")
TITLE, QUESTION = "Which picture is it?", "Which picture does this describe?"
MOST_SHOWN = 100
"""Pictures that one person can be asked to look at together."""
_LONGEST_SIDE = 1600
"""Pixels; larger pictures are shrunk, as no telephone shows more."""
_LOSSLESS = 512 * 512
"""Pixels of a picture that is written as PNG; larger ones are written as JPEG of quality 92 with full colour."""
_SMALL = 160
"""Pixels of width up to which a picture is small: a third of a telephone's screen."""
_FORMAT = 1


@dataclass(frozen=True)
class Trial:
    """Trial: a caption of a speaker with its candidates, as one person is asked.

    Attributes:
        id: what answers call it.
        item: what the captions file calls it.
        speaker: whose caption it is; people are not told.
        caption: the text.
        target: the name of the right picture; people are not told.
        candidates: ids of the pictures, in the order in which they are shown.
        block: of the trials, each with every item once, by the speakers in turn.
    """

    id: str
    item: str
    speaker: str
    caption: str
    target: str
    candidates: tuple[str, ...]
    block: int


@dataclass(frozen=True)
class Task:
    """Task: all trials in their order, and which picture is which.

    Attributes:
        trials: in the order in which they are asked.
        pictures: id -> name of a picture.
        digests: id -> SHA-256 of a picture's pixels.
        once: whether a person is asked one block, so that nobody sees a candidate set twice.
        title: the page's heading.
        question: what stands above each caption.
        seed: of every order.
    """

    trials: tuple[Trial, ...]
    pictures: Mapping[str, str]
    digests: Mapping[str, str]
    once: bool = False
    title: str = TITLE
    question: str = QUESTION
    seed: int = 0

    def __repr__(self) -> str:
        return one_line(
            "Task", f"{len(self.trials)} captions of {len(self.speakers)} speakers", self.fingerprint
        )

    @property
    def fingerprint(self) -> str:
        """Letters that answers carry, so that they are read with the task they were given to."""
        return letters(json.dumps(asdict(self), sort_keys=True), 12)

    @property
    def speakers(self) -> tuple[str, ...]:
        """The speakers, sorted."""
        return tuple(sorted({trial.speaker for trial in self.trials}))

    @property
    def blocks(self) -> int:
        """Number of blocks."""
        return 1 + max(trial.block for trial in self.trials)


def make_task(
    pictures: Any,
    speakers: Mapping[str, Any],
    *,
    candidates: Any = None,
    candidates_per_item: int = 9,
    once: bool = False,
    title: str = TITLE,
    question: str = QUESTION,
    seed: int = 0,
) -> Task:
    """A task from pictures, the captions of speakers and candidate sets.

    Trials come in as many blocks as there are speakers. A block has each item once, always in the same order, with the
    speakers in turn (a Latin square), so that two captions of one item are a block apart; with `once` a person is asked
    one block by chance. The seed orders items and candidates; ids of pictures and trials follow from it and from all
    contents.

    Args:
        pictures: what `read_pictures` takes.
        speakers: name -> what `speaker_captions` takes. Speakers may describe different items.
        candidates: what `read_candidates` takes; None draws random sets, in which an item is the name of its picture.
        candidates_per_item: pictures in a random set, the right one among them; not looked at where sets are given.
        once: ask each person for each item once, of one speaker.
        title: heading of the page.
        question: what stands above each caption.
        seed: of all orders.

    Raises:
        ConfigError: no speaker, a number out of range, or more pictures in a set than a person can look at.
        DataError: captions, pictures or sets that cannot be read, or captions of items without a set.
    """
    if problem := seed_problem("seed", seed):
        raise ConfigError(str(problem))
    if not speakers:
        raise ConfigError(explain("no speaker", "captions of at least one"))
    told = {name: speaker_captions(source, f"captions of {name}") for name, source in speakers.items()}
    shown = read_pictures(pictures)
    if candidates is None:
        wanted = list(dict.fromkeys(item for frame in told.values() for item in frame["item"]))
        for name, frame in told.items():
            _check_items(name, frame, set(filter(shown.__contains__, wanted)), "the name of a picture")
            names = pd.Series([shown.name_of(item) for item in frame["item"]])
            if names.duplicated().any():
                got = f"two captions of picture {names[names.duplicated()].iloc[0]!r}"
                raise refusal(f"captions of {name}", got, "one caption of each picture")
        if candidates_per_item > len(shown) >= 2:
            got, most = f"sets of {candidates_per_item} from {len(shown)} pictures", f"at most {len(shown)}"
            raise ConfigError(explain(got, most, f"candidates_per_item={len(shown)}"))
        sets = random_candidates(shown, candidates_per_item, seed).set_index("item")
        sets = sets.loc[[shown.name_of(item) for item in wanted]].set_axis(pd.Index(wanted))
    else:
        sets = read_candidates(candidates, shown).set_index("item")
    for name, frame in told.items():
        _check_items(name, frame, set(sets.index), "an item with a candidate set")
    longest = max(map(len, sets["candidates"]))
    if longest > MOST_SHOWN:
        raise ConfigError(explain(f"a set of {longest} pictures", f"at most {MOST_SHOWN} for people"))
    captions = {
        (speaker, item): caption
        for speaker, frame in told.items()
        for item, caption in zip(frame["item"], frame["caption"], strict=True)
    }
    used = sets.loc[list(dict.fromkeys(item for _, item in captions))]
    digests = {name: _pixels(shown[name]) for name in names_in(used.reset_index())}
    return _ordered(captions, used, digests, (once, title, question, seed))


def write_task(task: Task, pictures: Any, folder: Path) -> None:
    """Write a task: `page/` for people and `key.json` for whoever asks.

    Pictures are written anew under random names, without metadata, and shrunk where a side has more than 1,600 pixels.

    Args:
        task: of these pictures.
        pictures: what `read_pictures` takes.
        folder: a new or empty one, or one that holds this very task already.

    Raises:
        ConfigError: the folder holds something else: another task's key is never overwritten.
        DataError: the pictures have changed since the task was made.
    """
    if folder.is_dir() and any(folder.iterdir()) and _other(task, folder):
        got = f"{str(folder)!r}, which holds something else"
        raise ConfigError(explain(got, "a new or empty folder, or one with this very task", "another name"))
    shown = read_pictures(pictures)
    with atomic_directory(folder) as made:
        (made / PAGE / "pictures").mkdir(parents=True)
        files, small = {}, True
        for one in sorted(task.pictures):
            image = shown[task.pictures[one]]
            if _pixels(image) != task.digests[one]:
                raise DataError(explain(f"picture {task.pictures[one]!r}, which has changed", "the task's"))
            ending, content = _for_screens(image)
            small = small and image.width <= _SMALL
            files[one] = f"pictures/{one}.{ending}"
            (made / PAGE / files[one]).write_bytes(content)
        (made / PAGE / "index.html").write_text(
            page_of(task, files, small=small), encoding="utf-8", newline="\n"
        )
        key = {"format": _FORMAT, "fingerprint": task.fingerprint, **asdict(task)}
        (made / KEY).write_text(json.dumps(key, indent=1) + "\n", encoding="utf-8")


def read_task(folder: Path) -> Task:
    """The task whose key lies in a folder.

    Raises:
        DataError: no key, or one that was changed since it was written.
    """
    path, expected = folder / KEY, "the key that trimtab listen wrote"
    if not path.exists():
        inner = folder.parent if (folder.parent / KEY).exists() else ""
        raise refusal(path, "no such file", expected, str(inner))
    key = read_json(path, expected)
    try:
        trials = tuple(Trial(**{**one, "candidates": tuple(one["candidates"])}) for one in key.pop("trials"))
        fingerprint, version = key.pop("fingerprint"), key.pop("format")
        task = Task(trials, **key)
        same = version == _FORMAT and task.fingerprint == fingerprint
    except (AttributeError, KeyError, TypeError):
        same = False
    if not same:
        raise refusal(path, "a key that was changed or damaged", expected, "the same command again")
    return task


def page_of(task: Task, files: Mapping[str, str], *, small: bool = False) -> str:
    """The page as HTML: captions and random names, but no item, speaker or target.

    Args:
        task: what is asked.
        files: id of a picture -> its file, from the page on.
        small: whether all pictures are small, so that more of them stand in a row, enlarged by whole pixels.
    """
    templates = _templates()
    data = {
        "fingerprint": task.fingerprint,
        "once": task.once,
        "blocks": task.blocks,
        "columns": ANSWER_COLUMNS,
        "pictures": dict(files),
        "small": small,
        "trials": [
            {"id": one.id, "caption": one.caption, "candidates": one.candidates, "block": one.block}
            for one in task.trials
        ],
    }
    script = templates.get_template("task.js").render()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return templates.get_template("task.html").render(
        title=task.title,
        question=task.question,
        style=Markup(templates.get_template("task.css").render()),
        script=Markup(script),
        digest=digest,
        data=Markup(_in_html(data)),
    )


def letters(text: str, length: int) -> str:
    """A digest of a text in letters.

    >>> letters("a", 8), letters("b", 8)
    ('zsrclptq', 'hxzxkjxj')
    """
    number = int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest(), "big")
    word = ""
    for _ in range(length):
        number, place = divmod(number, len(LETTERS))
        word += LETTERS[place]
    return word


def _ordered(
    captions: Mapping[tuple[str, str], str],
    sets: pd.DataFrame,
    digests: Mapping[str, str],
    settings: tuple[bool, str, str, int],
) -> Task:
    """Trials in blocks and in an order by the seed, under random names."""
    once, title, question, seed = settings
    content = [sorted((*who, text) for who, text in captions.items()), sets.to_dict("split"), digests, seed]
    secret = letters(json.dumps(content, default=str), 40)
    ids = {name: letters(f"{secret} picture {name}", 10) for name in digests}
    speakers = sorted({speaker for speaker, _ in captions})
    items = sorted(map(str, sets.index))
    turns = np.random.default_rng(derive(seed, "listen", "speakers")).permutation(len(items))
    order = np.random.default_rng(derive(seed, "listen", "items")).permutation(len(items))
    trials = []
    for block in range(len(speakers)):
        for place in order:
            item = items[place]
            speaker = speakers[(int(turns[place]) + block) % len(speakers)]
            if (speaker, item) not in captions:
                continue
            row = sets.loc[item]
            shown = [ids[name] for name in row["candidates"]]
            draws = np.random.default_rng(derive(seed, "listen", "candidates", item, speaker))
            mixed = tuple(shown[k] for k in draws.permutation(len(shown)))
            name = letters(f"{secret} trial {speaker}\x1f{item}", 10)
            trials.append(
                Trial(name, item, speaker, captions[speaker, item], str(row["target"]), mixed, block)
            )
    named = {ids[name]: name for name in sorted(digests)}
    pixels = {ids[name]: digests[name] for name in sorted(digests)}
    return Task(tuple(trials), named, pixels, once, title, question, seed)


def _check_items(speaker: str, frame: pd.DataFrame, known: set[str], expected: str) -> None:
    missing = [item for item in frame["item"] if item not in known]
    if missing:
        more = f" (and {len(missing) - 1} more of {len(frame)} items)" if len(missing) > 1 else ""
        raise refusal(f"captions of {speaker}", f"item {missing[0]!r}{more}", expected, "candidates=FILE")


def _other(task: Task, folder: Path) -> bool:
    """Whether a folder holds anything but this task."""
    try:
        return {one.name for one in folder.iterdir()} != {KEY, PAGE} or read_task(folder) != task
    except TrimtabError:
        return True


def _pixels(image: Image.Image) -> str:
    return hashlib.sha256(f"{image.size} ".encode() + image.tobytes()).hexdigest()


def _for_screens(image: Image.Image) -> tuple[str, bytes]:
    """The ending and content of a picture for a browser, without metadata."""
    clean = image.copy()
    clean.info = {}
    clean.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
    content = io.BytesIO()
    if clean.width * clean.height <= _LOSSLESS:
        clean.save(content, "PNG")
        return "png", content.getvalue()
    clean.save(content, "JPEG", quality=92, subsampling=0)
    return "jpg", content.getvalue()


def _in_html(data: Any) -> str:
    """JSON in ASCII that ends no element of HTML and begins none."""
    text = json.dumps(data, ensure_ascii=True, separators=(",", ":"))
    for letter in "<>&":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return text


@cache
def _templates() -> Environment:
    loader = PackageLoader("trimtab.refer.intelligibility")
    return Environment(loader=loader, autoescape=lambda name: name == "task.html", undefined=StrictUndefined)
