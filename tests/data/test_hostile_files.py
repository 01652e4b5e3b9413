"""Hostile files as domains: each is read, or refused by an error of ours that names the file or the domain; none hangs.

A bounded, seeded sample: each line below alone and among good ones, damaged files of each kind, paths of all sorts.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from transformers import PreTrainedTokenizerFast

from trimtab.data.domains import Domain
from trimtab.data.encode import encode
from trimtab.data.splits import Part
from trimtab.errors import TrimtabError

GOOD = [json.dumps({"text": f"w{n % 40} w{n % 7} number {n}"}) for n in range(12)]
DEEP = "[" * 990 + "]" * 990
LINES = [
    '{"text": "a"',
    '{"text": "a"} {"text": "b"}',
    "{'text': 'a'}",
    '{"text": NaN}',
    '{"text": Infinity}',
    "NaN",
    "5",
    "null",
    '["a"]',
    '"a bare text"',
    "{}",
    '{"text": null}',
    '{"text": 5}',
    '{"text": ["a"]}',
    '{"text": {"a": 1}}',
    '{"txt": "a"}',
    '{"prompt": "a"}',
    '{"completion": "a"}',
    '{"prompt": "a", "completion": null}',
    '{"prompt": "a", "completion": ""}',
    '{"text": "a", "prompt": "b", "completion": "c"}',
    '{"messages": []}',
    '{"messages": "hi"}',
    '{"messages": "[1]"}',
    '{"messages": [null]}',
    '{"messages": [{"role": "user"}]}',
    '{"messages": [{"role": "wizard", "content": "x"}, {"role": "assistant", "content": "y"}]}',
    '{"messages": [{"role": "\\ud800", "content": "x"}, {"role": "assistant", "content": "\\ud800"}]}',
    '{"text": "a\\u0000b"}',
    '{"text": "a\0b"}',
    '{"text": "a\tb"}',
    '{"text": "a \\ud800 b"}',
    '{"text": "\\udc00\\ud800", "\\ud800": "x"}',
    '{"prompt": "\\ud800", "completion": "\\udc00"}',
    '{"text": "a", "text": "b"}',
    '{"text": "a", "n": ' + "9" * 5000 + "}",
    '{"text": "a", "x": ' + DEEP + "}",
    '{"text": ' + DEEP + "}",
    "[" * 100_000,
    '{"messages": [{"role": "assistant", "content": "a", "x": ' + '{"a":' * 480 + "1" + "}" * 481 + "]}",
    '{"text": "one\u2028two\u0085three"}',
    '\ufeff{"text": "a b"}',
    '{"text": "\uffff\ufffe\U0010ffff \u202e\u200b"}',
    '{"text": "   "}',
    '{"text": ""}',
    '{"text": "<eos> <bos>"}',
    json.dumps({"text": "a b", **{f"k{n}": n for n in range(5000)}}),
    '{"text": "\\xff"}',
    '{"text": "a\\',
]
BYTES = [b'{"text": "caf\xe9"}', '{"text": "a"}'.encode("utf-16"), b'{"text": "\xed\xa0\x80"}', b"\xff\xfe"]


def told(source: str | Path, tokenizer: PreTrainedTokenizerFast) -> str:
    """What came of a file: "read", or the message of an error of ours; whatever else is raised is a fault."""
    try:
        domain = Domain.from_path("d", source)
        domain = Domain("d", train=domain.train.pool) if isinstance(domain.train, Part) else domain
        for split in domain.splits:
            for _ in encode(domain.items(split), tokenizer):
                pass
        assert all(isinstance(sentence, str) for sentence in domain.unread)
        _ = domain.contents
    except TrimtabError as error:
        message = str(error)
        assert ": got " in message or ", 'text': got" in message
        assert ", expected " in message
        assert len(message) < 2000
        message.encode()
        return message
    return "read"


def files(seed: int) -> Iterator[tuple[str, bytes]]:
    """Hostile files of every kind; those made by chance are decided by the seed."""
    for line in [*(line.encode("utf-8", "surrogatepass") for line in LINES), *BYTES]:
        yield "a.jsonl", line + b"\n"
        yield "a.jsonl", b"\n".join([*(one.encode() for one in GOOD), line])
        yield "a.json", b"[" + line + b"]"
    good = "\n".join(GOOD)
    table = "id,text\n" + "".join(f'{n},"words, {n}"\n' for n in range(12))
    for name, text in (("a.jsonl", good), ("a.csv", table), ("a.txt", good)):
        for encoding in ("utf-16", "utf-16-le", "utf-32", "utf-8-sig"):
            yield name, text.encode(encoding)
        yield name, text.replace("\n", "\r").encode()
        yield name, b""
        yield name, b"\0" * 4096
        yield name, b"\xef\xbb\xbf"
        yield name, gzip.compress(text.encode())
        yield f"{name}.gz", gzip.compress(text.encode())
        yield f"{name}.gz", gzip.compress(text.encode())[:40]
        yield f"{name}.gz", text.encode()
    rng = random.Random(seed)
    buffer = io.BytesIO()
    pq.write_table(pa.table({"text": [f"w{n} words number {n}" for n in range(60)], "n": range(60)}), buffer)
    for name, whole in (
        ("a.parquet", buffer.getvalue()),
        ("a.csv", table.encode()),
        ("a.jsonl", good.encode()),
    ):
        for _ in range(20):
            yield name, whole[: rng.randrange(len(whole))]
            flipped = bytearray(whole)
            for _ in range(rng.choice((1, 1, 4, 16))):
                flipped[rng.randrange(len(flipped))] ^= 1 << rng.randrange(8)
            yield name, bytes(flipped)
    for footer in (b"\xff\xff\xff\x7f", b"\0\0\0\0"):
        yield "a.parquet", buffer.getvalue()[:-8] + footer + b"PAR1"


def test_every_file_is_read_or_refused_by_name(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    path = tmp_path / "a"
    outcomes = []
    for name, content in files(seed=7):
        path = tmp_path / name
        path.write_bytes(content)
        outcome = told(path, tokenizer)
        assert outcome == "read" or name in outcome or "domain 'd'" in outcome
        assert path.read_bytes() == content
        outcomes.append(outcome)
    assert len(outcomes) > 300
    assert 40 < outcomes.count("read") < len(outcomes)


def _loop(path: Path) -> None:
    path.symlink_to(path.name)


@pytest.mark.parametrize(
    "make",
    [
        os.mkfifo,
        _loop,
        lambda path: path.symlink_to("nowhere.jsonl"),
        lambda path: path.symlink_to("/dev/zero"),
        lambda path: path.symlink_to("/"),
        lambda path: path.mkdir(),
        lambda path: (path.mkdir(), os.mkfifo(path / "train.jsonl")),
        lambda path: (path.mkdir(), (path / "train").symlink_to(".")),
        lambda path: (path.mkdir(), (path / "train.jsonl").touch(), (path / "test.jsonl").write_text("{")),
        lambda path: (path.mkdir(), (path / "dataset_dict.json").write_text("[" * 9)),
    ],
)
def test_what_is_no_plain_file_is_refused(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, make: Callable[[Path], object]
) -> None:
    make(tmp_path / "a.jsonl")
    outcome = told(tmp_path / "a.jsonl", tokenizer)
    assert "domain 'd'" in outcome or "a.jsonl" in outcome


ODD_PATHS = [
    "/dev/null",
    "/proc/self/mem",
    "*.nothing",
    "[a-.jsonl",
    " ",
    "",
    "a\0b.jsonl",
    "x" * 5000,
    "g.pkl",
    "hf:",
]


@pytest.mark.parametrize(
    "path", [*ODD_PATHS, "a\ud800.jsonl", "~nosuchuser/a", "https://example.com/a.jsonl"]
)
def test_what_is_no_path_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tokenizer: PreTrainedTokenizerFast, path: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "g.pkl").write_bytes(b"\x80\x04.")
    assert told(path, tokenizer) != "read"
