"""Hostile variants of what is read from outside, and the one question about them: is each told, and soon?

`json_texts` spoils a JSON value leaf by leaf, `files` a file byte by byte and as something that is no file, `spoilt`
every file of a folder in turn; `outcome` calls a reader on one of them and lets only two answers pass, a message of
our own that says what was got and what was expected, or a value.
"""

from __future__ import annotations

import copy
import json
import math
import os
import random
import resource
import shutil
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trimtab.errors import TrimtabError

MEMORY = 4 * 2**30
"""Bytes that a reader may ask for beyond what the process has, before it is told that there are none."""

Put = Callable[[Path], None]
"""Writes one hostile variant at a path, in place of what is there."""


class Raw(str):
    """Text that stands in JSON or YAML as it is, unquoted."""


LEAVES: dict[str, Any] = {
    "null": None,
    "true": True,
    "empty text": "",
    "blank": " ",
    "long text": "x" * 5000,
    "control characters": "a\x00\x1b[31m\nb",
    "half a character": "a\ud800b",
    "a path": "../../../../etc/passwd",
    "a user that is not there": "~nosuchuser/x",
    "a device": "/dev/zero",
    "zero": 0,
    "below zero": -1,
    "a fraction": 1.5,
    "over 64 bits": 2**64,
    "huge whole number": 10**30,
    "too many digits": Raw("9" * 4301),
    "huge": 1e308,
    "below any": -1e308,
    "beyond floats": Raw("1e999"),
    "nan": math.nan,
    "infinity": math.inf,
    "no list": [],
    "no mapping": {},
    "a list of a list": [[]],
    "a list of null": [None],
    "a list of nan": [math.nan],
    "a mapping": {"a": 1},
    "half a character as key": {"\ud800": 1},
    "nested 60 deep": Raw("[" * 60 + "]" * 60),
    "nested 5000 deep": Raw("[" * 5000 + "]" * 5000),
}
"""What may stand where something else was meant."""


def json_texts(
    value: Any, *, write: Callable[[Any], str] | None = None, each: int = 6, seed: int = 0
) -> Iterator[tuple[str, str]]:
    """Named hostile variants of a JSON value, as text.

    Every leaf, list and mapping is replaced by `each` of `LEAVES` (drawn, so that all of them occur), every key is
    left out once, one key more and the same key twice are tried, lists are doubled and cut, and the whole text is
    emptied, cut and wrapped.

    Args:
        value: a good one, of mappings, lists and single values.
        write: how a value becomes text; JSON if not given. It must write `Raw` as it is, as `flow` does.
        each: variants for every place.
        seed: of what is drawn.

    >>> [name for name, _ in json_texts({"a": 1}, each=1)][2:5]
    ['a left out', 'a twice', 'a key beside a']
    """
    write = write or flow
    draw = random.Random(seed)
    for at in places(value):
        where = ".".join(map(str, at)) or "all of it"
        for name in draw.sample(sorted(LEAVES), min(each, len(LEAVES))):
            yield f"{where} is {name}", write(put(value, at, LEAVES[name]))
        found = get(value, at)
        if at and isinstance(get(value, at[:-1]), Mapping):
            yield f"{where} left out", write(without(value, at))
            yield f"{where} twice", _twice(write, value, at)
            yield f"a key beside {where}", write(put(value, (*at[:-1], f"{at[-1]}x"), found))
        if isinstance(found, list) and found:
            yield f"{where} doubled", write(put(value, at, [*found, *found]))
            yield f"{where} cut", write(put(value, at, found[:-1]))
    text = write(value)
    yield "empty", ""
    yield "blank", "\n \n"
    yield "cut", text[: len(text) // 2]
    yield "all but the end", text[:-1]
    yield "more after the end", f"{text}]"
    yield "in a list", f"[{text}]"


def files(good: bytes, *, bits: int = 8, seed: int = 0) -> Iterator[tuple[str, Put]]:
    """Named hostile variants of a file: emptied, cut, bits flipped, in another encoding, or no regular file.

    Args:
        good: what the file holds.
        bits: how many places have a bit flipped, spread over the file and drawn.
        seed: of what is drawn.
    """
    draw = random.Random(seed)
    half = len(good) // 2
    contents = {
        "empty": b"",
        "one byte": good[:1],
        "cut in half": good[:half],
        "cut by one byte": good[:-1],
        "doubled": good + good,
        "zeros": bytes(min(len(good), 1 << 16)),
        "a zero in it": good[:half] + b"\x00" + good[half:],
        "a wrong byte in it": good[:half] + b"\xff" + good[half:],
        "half a character in it": good[:half] + b"\xed\xa0\x80" + good[half:],
        "with a byte order mark": b"\xef\xbb\xbf" + good,
        "random bytes": draw.randbytes(600),
        "a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        "a page of a proxy": b"<!DOCTYPE html><html><body>403 Forbidden</body></html>",
        "a pickle": b"\x80\x04\x95\x05\x00\x00\x00\x00\x00\x00\x00\x8c\x01x\x94.",
        "gzip": b"\x1f\x8b\x08\x00\x00\x00\x00\x00",
        "deep lists": b"[" * 100_000,
        "two lines of nothing": b"\n\n",
    }
    text = good.decode("utf-8", "replace")
    for name in ("utf-16", "utf-16-le", "utf-32"):
        contents[name] = text.encode(name)
    contents["Latin-1"] = (text + "\n# caf\xe9").encode("latin-1", "replace")
    for number in range(bits):
        at = min(
            len(good) - 1, number * len(good) // max(bits, 1) + draw.randrange(max(1, len(good) // bits))
        )
        flipped = bytearray(good)
        if flipped:
            flipped[at] ^= 1 << draw.randrange(8)
            contents[f"bit of byte {at}"] = bytes(flipped)
    for name, content in contents.items():
        yield name, _writer(content)
    yield from NO_FILES.items()


def _writer(content: bytes) -> Put:
    def write(path: Path) -> None:
        remove(path)
        path.write_bytes(content)

    return write


def _pipe(path: Path) -> None:
    remove(path)
    os.mkfifo(path)


def _folder(path: Path) -> None:
    remove(path)
    path.mkdir()


def _link(target: str) -> Put:
    def link(path: Path) -> None:
        remove(path)
        path.symlink_to(target.replace("ITSELF", path.name))

    return link


NO_FILES: dict[str, Put] = {
    "not there": lambda path: remove(path),
    "a pipe": _pipe,
    "a folder": _folder,
    "a link to itself": _link("ITSELF"),
    "a link to nothing": _link("nowhere-at-all"),
    "a link to a device": _link("/dev/zero"),
    "a link to a folder": _link("."),
}
"""What is no regular file; none of them may be waited for."""


def spoilt(
    good: Path, scratch: Path, *, names: Sequence[str] | None = None, bits: int = 4, seed: int = 0
) -> Iterator[tuple[str, Path]]:
    """Copies of a folder with one of its files spoilt, each removed when the next is asked for.

    Args:
        good: the folder.
        scratch: where the copies go.
        names: relative paths of the files to spoil; all of them if not given.
        bits: see `files`.
        seed: of what is drawn.
    """
    chosen = names or [
        path.relative_to(good).as_posix() for path in sorted(good.rglob("*")) if path.is_file()
    ]
    copied = scratch / "spoilt"
    for name in chosen:
        content = (good / name).read_bytes()
        variants: Iterable[tuple[str, Put]] = files(content, bits=bits, seed=seed)
        if name.endswith(".json"):
            variants = [*variants, *_json_puts(content, seed)]
        for what, write in variants:
            remove(copied)
            shutil.copytree(good, copied, symlinks=True)
            write(copied / name)
            yield f"{name}: {what}", copied
    remove(copied)


def _json_puts(content: bytes, seed: int) -> Iterator[tuple[str, Put]]:
    for name, text in json_texts(json.loads(content), each=3, seed=seed):
        yield name, _writer(text.encode("utf-8", "surrogatepass"))


def outcome(call: Callable[[], Any], *, seconds: float = 20, also: Sequence[str] = ()) -> str:
    """What became of a reader: the message of our own error, or "accepted".

    Args:
        call: reads a hostile input.
        seconds: it may take; only enforced in the main thread.
        also: words one of which does in place of "got" and "expected".

    Raises:
        AssertionError: an exception that is not ours, a message that does not say what was got and expected, or one
            that cannot be printed, or no end.
    """
    try:
        with limit(seconds):
            call()
    except TrimtabError as error:
        message = str(error)
        message.encode("utf-8")  # or no terminal could show it
        clear = "got " in message and "expected " in message
        assert clear or any(word in message for word in also), f"vague: {message[:300]}"
        return message
    except _TooLongError as error:
        raise AssertionError(f"no end after {seconds} s") from error
    except Exception as error:
        raise AssertionError(f"raw {type(error).__name__}: {str(error)[:300]}") from error
    return "accepted"


class _TooLongError(BaseException):
    """Not caught by anything that is tried."""


@contextmanager
def limit(seconds: float) -> Iterator[None]:
    """Break off what takes longer, such as a pipe that is waited for, or 4 GiB more memory; in the main thread only."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def late(number: int, frame: object) -> None:
        raise _TooLongError

    before = signal.signal(signal.SIGALRM, late)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + MEMORY, hard))
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def flow(value: Any) -> str:
    """A value as JSON that YAML reads as well, `Raw` as it is; nan and infinity as Python's JSON has them."""
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(key)}: {flow(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(flow, value)) + "]"
    return json.dumps(value)


def yaml_flow(value: Any) -> str:
    """The same with nan and infinity as YAML has them."""
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return ".nan" if math.isnan(value) else ".inf" if value > 0 else "-.inf"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(key)}: {yaml_flow(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(yaml_flow, value)) + "]"
    return json.dumps(value)


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The place of everything in a value, the whole first: keys and numbers.

    >>> list(places({"a": [1]}))
    [(), ('a',), ('a', 0)]
    """
    yield at
    inner = (
        value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    )
    for key, each in inner:
        yield from places(each, (*at, key))


def get(value: Any, at: Sequence[Any]) -> Any:
    """What stands at a place."""
    for key in at:
        value = value[key]
    return value


def put(value: Any, at: Sequence[Any], new: Any) -> Any:
    """A copy with `new` at a place."""
    if not at:
        return new
    changed = copy.deepcopy(value)
    get(changed, at[:-1])[at[-1]] = new
    return changed


def without(value: Any, at: Sequence[Any]) -> Any:
    """A copy that lacks what stands at a place."""
    changed = copy.deepcopy(value)
    del get(changed, at[:-1])[at[-1]]
    return changed


def _twice(write: Callable[[Any], str], value: Any, at: Sequence[Any]) -> str:
    """The text with the key at a place given a second time."""
    inner = get(value, at[:-1])
    pairs = [f"{json.dumps(key)}: {write(each)}" for key, each in [*inner.items(), (at[-1], inner[at[-1]])]]
    return write(put(value, at[:-1], Raw("{" + ", ".join(pairs) + "}")))


def remove(path: Path) -> None:
    """Remove a file, folder, pipe or link, if there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
