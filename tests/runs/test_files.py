"""Files that somebody else wrote: every kind of damage is told with the file's name, and no read waits or grows."""

import json
import os
import zlib

import pytest
from safetensors import SafetensorError

from trimtab.errors import CheckpointError, DataError
from trimtab.runs.atomic import CHECKSUMS, verify_checksums, write_checksums
from trimtab.runs.files import check_regular, depth, parse_json, read_json, read_text, reading


@pytest.mark.parametrize(
    "raised",
    [
        OSError(5, "x"),
        UnicodeError("x"),
        EOFError(),
        zlib.error("x"),
        SafetensorError("x"),
        RecursionError(),
        MemoryError(),
    ],
)
def test_what_libraries_raise_becomes_ours_with_the_file(raised):
    with (
        pytest.raises(CheckpointError, match=r"a\.bin: got .*, expected weights; try again"),
        reading("a.bin", "weights", error=CheckpointError, hint="again"),
    ):
        raise raised


def test_faults_of_the_code_pass():
    with pytest.raises(KeyError), reading("a", "b"):
        raise KeyError("x")


def test_a_pipe_a_folder_a_device_and_nothing_are_refused_before_reading(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path, got in (("pipe", "a pipe"), (".", "a folder"), ("none", "no such file")):
        with pytest.raises(DataError, match=f"got {got}, expected a law"):
            check_regular(tmp_path / path, "a law")
    with pytest.raises(DataError, match="got a device"):
        check_regular("/dev/zero", "a law")


def test_too_large_is_refused_unread(tmp_path):
    (tmp_path / "big").write_bytes(b"")
    os.truncate(tmp_path / "big", 10 * 2**30)
    with pytest.raises(DataError, match="got 10,240 MiB, expected text of at most 64 MiB"):
        read_text(tmp_path / "big", "text")


def test_bytes_that_are_not_utf8_are_told_with_their_line(tmp_path):
    (tmp_path / "a").write_bytes(b"one\ntwo caf\xe9\n")
    with pytest.raises(DataError, match="line 2, byte 11"):
        read_text(tmp_path / "a", "text")
    (tmp_path / "a").write_bytes(b"\xef\xbb\xbfgood")
    assert read_text(tmp_path / "a", "text") == "good"


@pytest.mark.parametrize(
    ("text", "got"),
    [
        ("{", r"not JSON \(Expecting property name enclosed in double quotes, column 2\)"),
        ('{"a": 1,\n "b" 2}', r"line 2, column 6"),
        ("[" * 100_000, "nested deeper than 100"),
        ("[" * 101 + "]" * 101, "nested deeper than 100"),
        ("1" * 5000, "too many digits"),
    ],
)
def test_hostile_json_is_refused(text, got):
    with pytest.raises(DataError, match=got):
        parse_json(text, "a.json", "an object")


def test_json_up_to_the_bound_is_read(tmp_path):
    (tmp_path / "a.json").write_text("[" * 100 + "]" * 100)
    assert depth(read_json(tmp_path / "a.json", "lists")) == 100


def test_checksums_notice_a_bit_a_missing_file_and_damage_of_their_own(tmp_path):
    (tmp_path / "inner").mkdir()
    for name in ("a", "inner/b"):
        (tmp_path / name).write_bytes(b"some bytes")
    write_checksums(tmp_path)
    verify_checksums(tmp_path)
    (tmp_path / "a").write_bytes(b"some bytez")
    verify_checksums(tmp_path, only=["inner/b"])
    with pytest.raises(CheckpointError, match=r"damaged .*a, expected the bytes that were written"):
        verify_checksums(tmp_path)
    (tmp_path / "a").unlink()
    with pytest.raises(CheckpointError, match=r"got no file .*a"):
        verify_checksums(tmp_path)
    (tmp_path / CHECKSUMS).write_text(json.dumps([]))
    with pytest.raises(CheckpointError, match="got list, expected a mapping"):
        verify_checksums(tmp_path)
    (tmp_path / CHECKSUMS).unlink()
    verify_checksums(tmp_path)
