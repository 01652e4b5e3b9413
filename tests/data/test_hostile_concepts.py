"""Concept files as nobody should write them: each is read, or refused in our own words with the file and the line."""

from __future__ import annotations

import gzip
import json
import os
import random
import warnings

import pytest

from trimtab import ConceptSet
from trimtab.data.concept import Concept, is_wordnet, sentences_of
from trimtab.errors import DataError

GOOD = {"name": "dog", "positive": ["a dog ran", "the dog sat"], "negative": ["it rained", "a cow ate"]}
CAT = {"name": "cat", "positive": ["a cat ran", "the cat sat"], "negative": ["it rained", "a cow ate"]}
WORDNET = {
    "definition": "a small dog that lives in houses",
    "examples": ["the dog sat on the old mat"],
    "pos": "n",
}


def line(**changes):
    return json.dumps(CAT | changes).encode("utf-8", "surrogatepass")


def raw(**changes):
    return json.dumps(CAT | changes, ensure_ascii=False).encode("utf-8", "surrogatepass")


DEEP = b'{"name": "cat", "positive": ' + b"[" * 9000 + b"]" * 9000 + b"}"
READ = {
    "U+2028 inside": raw(positive=["a\u2028cat ran", "the cat sat"]),
    "U+2029 inside": raw(positive=["a\u2029cat ran"]),
    "U+0085 inside": raw(negative=["it\u0085rained"]),
    "U+001C escaped": line(positive=["a\x1ccat ran"]),
    "vertical tab escaped": line(positive=["a\x0bcat"]),
    "carriage return at the end": line() + b"\r",
    "spaces around": b"  \t" + line() + b"  ",
    "no word": line(word=None),
    "another word": line(name="felis", word="cat"),
    "a sense": line(name="cat%1:05:00::"),
    "other keys": line(note={"a": [1]}, year=3),
    "a word of signs": line(name="c++", word="cat"),
    "an emoji": raw(positive=["a 🐈 cat ran"]),
    "a pair of surrogates": b'{"name": "cat", "positive": ["\\ud83d\\ude00 cat"], "negative": ["b"]}',
    "a name like a column": line(name="concept", word="cat"),
    "a name with a line feed": line(name="c\nat", word="cat"),
    "NUL in a text": line(positive=["a\0cat", "cat"]),
    "numbers beyond all bounds elsewhere": b'{"name": "cat", "positive": ["cat"], "negative": ["b"], "x": 1e999}',
}
REFUSED = {
    "half a character": (line(positive=["a cat \ud800"]), ":2, cat: got half a character .* in positive example 0"),
    "half a character in a negative": (line(negative=["b", "\udfff"]), "in negative example 1"),
    "half a character in the name": (line(name="c\udc00"), ":2: got half a character in the name"),
    "bytes of half a character": (raw(positive=["a cat \ud800"]), ":2: got bytes that are not UTF-8"),
    "latin-1": (b'{"name": "caf\xe9"}', ":2: got bytes that are not UTF-8"),
    "a word that is a number": (line(word=5), ":2, cat: got the word 5"),
    "a word that is a list": (line(word=["cat"]), ":2, cat: got the word"),
    "a word that is true": (line(word=True), ":2, cat: got the word True"),
    "a blank word": (line(word=" "), "cat: got the word ' '"),
    "an empty word": (line(word=""), "cat: got the word ''"),
    "an empty name": (line(name=""), ":2: got the name ''"),
    "a blank name": (line(name=" \t"), ":2: got the name"),
    "a name of a bar": (line(name="_"), "_: got the word '', expected a word that texts mention"),
    "a name of bars": (line(name="__"), "__: got the word ''"),
    "no name": (b'{"positive": ["a"], "negative": ["b"]}', ":2: got no name"),
    "another key for the name": (b'{"nam": "cat"}', ":2: got no name, .* try renaming 'nam' to 'name'"),
    "a name that is a number": (line(name=5), ":2: got no name"),
    "a name that is null": (line(name=None), ":2: got no name"),
    "a name that is a list": (line(name=["cat"]), ":2: got no name"),
    "no positive list": (b'{"name": "cat", "negative": ["b"]}', "cat: got no positive example"),
    "another key for positive": (b'{"name": "cat", "positives": ["a"], "negative": ["b"]}', "try renaming 'positives'"),
    "an empty list": (line(positive=[]), "cat: got no positive example"),
    "an empty negative list": (line(negative=[]), "cat: got no negative example"),
    "a list of null": (line(positive=[None]), "positive that is no list of texts"),
    "a list of numbers": (line(negative=[1.5]), "negative that is no list of texts"),
    "a list of lists": (line(positive=[["a"]]), "positive that is no list of texts"),
    "a text for a list": (line(positive="a cat"), "positive that is no list of texts"),
    "a mapping for a list": (line(positive={"a": 1}), "positive that is no list of texts"),
    "null for a list": (line(positive=None), "positive that is no list of texts"),
    "true for a list": (line(negative=True), "negative that is no list of texts"),
    "a blank text": (line(positive=["a cat", "  "]), "cat: got 1 blank positive examples"),
    "an empty text": (line(negative=["", "b"]), "cat: got 1 blank negative examples"),
    "an example twice": (line(positive=["a cat", "a  cat"]), "cat: got 1 positive examples twice"),
    "an example on both sides": (line(negative=["a cat ran"]), "both positive and negative"),
    "the examples of another": (line(positive=GOOD["positive"]), "cat: got the positive examples of dog"),
    "the name of another": (line(name="dog"), "dog: got two concepts of this name"),
    "a key twice": (b'{"name": "cat", "positive": ["a"], "positive": ["b"], "negative": ["c"]}', "'positive' twice"),
    "the name twice": (b'{"name": "cat", "name": "cow", "positive": ["a"], "negative": ["c"]}', "the key 'name' twice"),
    "deep": (DEEP, ":2: got values nested deeper than 100"),
    "deep elsewhere": (b'{"name": "cat", "x": ' + b'{"a":' * 150 + b"1" + b"}" * 151, "nested deeper than 100"),
    "4,500 digits": (b'{"name": "cat", "x": ' + b"9" * 4500 + b"}", ":2: got a number with too many digits"),
    "a list": (b"[1, 2]", ":2: got a list"),
    "a text": (b'"cat"', ":2: got a str"),
    "a number": (b"7", ":2: got a int"),
    "null": (b"null", ":2: got a NoneType"),
    "cut short": (line()[:-9], ":2: got text that is not JSON"),
    "two on a line": (line() + line(name="cow"), ":2: got text that is not JSON"),
    "a comma after": (line() + b",", ":2: got text that is not JSON"),
    "prose": (b"cats are small", ":2: got text that is not JSON"),
    "Python": (b"{'name': 'cat'}", ":2: got text that is not JSON"),
    "a raw vertical tab": (raw(positive=["a"]).replace(b'"a"', b'"a\x0bcat"'), ":2: got text that is not JSON"),
    "a raw NUL": (raw(positive=["a"]).replace(b'"a"', b'"a\0cat"'), ":2: got text that is not JSON"),
    "a byte order mark within": (b"\xef\xbb\xbf" + line(), ":2: got text that is not JSON"),
}  # fmt: skip
FILES = {
    "UTF-16": ((json.dumps(CAT) + "\n").encode("utf-16"), "c.jsonl: got UTF-16 text"),
    "UTF-32": ((json.dumps(CAT) + "\n").encode("utf-32"), "c.jsonl: got UTF-32 text"),
    "nothing": (b"", "got no concept, expected at least one"),
    "a byte order mark alone": (b"\xef\xbb\xbf", "got no concept"),
    "line feeds": (b"\n\n \n\r\n", "got no concept"),
    "NULs": (b"\0" * 300, ":1: got text that is not JSON"),
    "a JSON list": (json.dumps([CAT, GOOD]).encode(), ":1: got a list"),
    "indented JSON": (json.dumps(CAT, indent=1).encode(), ":1: got text that is not JSON"),
    "gzip without the name": (gzip.compress(line()), "c.jsonl: got a gzip file"),
    "old line ends": (line() + b"\r" + line(name="cow"), ":1: got text that is not JSON"),
}


def read(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of words that are missing from their sentences
        return ConceptSet.from_jsonl(path)


def written(folder, *lines, name="c.jsonl"):
    (folder / name).write_bytes(b"\n".join(lines))
    return folder / name


@pytest.mark.parametrize("case", READ)
def test_odd_lines_that_are_right_are_read(case, tmp_path):
    found = read(written(tmp_path, json.dumps(GOOD).encode(), READ[case], b""))
    row = json.loads(READ[case].strip())
    assert found.names == ["dog", row["name"]]
    assert list(found.concepts[1].positive) == row["positive"]
    assert read(found.save_jsonl(tmp_path / "again.jsonl")) == found


@pytest.mark.parametrize("case", REFUSED)
def test_lines_that_are_wrong_are_refused_in_our_own_words(case, tmp_path):
    content, match = REFUSED[case]
    with pytest.raises(DataError, match=match):
        read(written(tmp_path, json.dumps(GOOD).encode(), content, b""))


@pytest.mark.parametrize("case", FILES)
def test_files_that_are_wrong_are_refused_in_our_own_words(case, tmp_path):
    content, match = FILES[case]
    with pytest.raises(DataError, match=match):
        read(written(tmp_path, content))


@pytest.mark.parametrize("kind", ["a pipe", "a folder", "a device or socket", "no such file"])
def test_what_is_no_file_is_refused_at_once(kind, tmp_path):
    path = tmp_path / "c.jsonl"
    if kind == "a pipe":
        os.mkfifo(path)
    elif kind == "a folder":
        path.mkdir()
    elif kind == "a device or socket":
        path.symlink_to("/dev/zero")
    assert not is_wordnet(path)
    with pytest.raises(DataError, match=f"c.jsonl: got {kind}, expected a file of JSON lines"):
        read(path)
    with pytest.raises(DataError, match=f"c.jsonl: got {kind}, expected a file of WordNet sentences"):
        sentences_of(path, ["cat"])


def test_a_file_may_be_packed_and_a_damaged_pack_is_refused(tmp_path):
    packed = gzip.compress(b"\n".join([line(), json.dumps(GOOD).encode()]))
    assert read(written(tmp_path, packed, name="c.jsonl.gz")).names == ["cat", "dog"]
    for name, content in {
        "cut": packed[:40],
        "none": line(),
        "bits": packed[:20] + b"\xff\xff" + packed[22:],
    }.items():
        with pytest.raises(
            DataError, match=rf"{name}\.jsonl\.gz.* got (a file that cannot be read|bytes that are not UTF-8)"
        ):
            read(written(tmp_path, content, name=f"{name}.jsonl.gz"))


def test_damage_at_random_never_escapes(tmp_path):
    """Bytes of a right file flipped, cut, doubled and put in: read, or a DataError that names the file or a concept."""
    rng, right = random.Random(0), b"\n".join([line(), json.dumps(GOOD).encode(), raw(name="ça", word="cat")])
    told = []
    for number in range(150):
        content = bytearray(right)
        for _ in range(rng.choice((1, 1, 3, 9))):
            at = rng.randrange(len(content))
            way = rng.randrange(4)
            if way == 0:
                content[at] ^= 1 << rng.randrange(8)
            elif way == 1:
                del content[at : at + rng.randrange(1, 30)]
            elif way == 2:
                content[at:at] = content[at : at + rng.randrange(1, 30)]
            else:
                content[at:at] = rng.choice(
                    (b"\0", b"\\ud800", b"\xff", b"\n", b"[[", b'"', b"null", b"\xe2\x80\xa8")
                )
        try:
            read(written(tmp_path, bytes(content), name=f"{number}.jsonl"))
        except DataError as error:
            told.append(str(error))
    assert 50 < len(told) < 150
    assert all(".jsonl" in one and "got " in one and "expected " in one for one in told)


# The same for what WordNet's files hold


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"definition": 5}, ":2: got another line, expected an object with definition, a text"),
        ({"definition": None}, ":2: got another line"),
        ({"examples": "the dog sat on the mat"}, ":2: got another line, .* a list of texts"),
        ({"examples": None}, ":2: got another line"),
        ({"examples": [1]}, ":2: got another line"),
        ({"examples": {"a": "b"}}, ":2: got another line"),
        ({"definition": "a dog \ud800 in five words"}, ":2: got half a character"),
    ],
)
def test_entries_of_wordnet_that_are_wrong_are_refused(changes, match, tmp_path):
    entries = [json.dumps(WORDNET).encode(), json.dumps(WORDNET | changes).encode()]
    path = written(tmp_path, *entries, name="w.jsonl")
    assert is_wordnet(path)
    with pytest.raises(DataError, match=match):
        sentences_of(path, ["dog"])


@pytest.mark.parametrize("content", [b"[]", b"\xff\xfe", DEEP, b"", b"7", b'{"definition": 5'])
def test_other_files_are_none_of_wordnets(content, tmp_path):
    path = written(tmp_path, content, name="w.jsonl")
    assert not is_wordnet(path)
    if content:
        with pytest.raises(DataError, match=r"w\.jsonl(:1)?: got"):
            sentences_of(path, ["dog"])
    (tmp_path / "w.jsonl.gz").write_bytes(gzip.compress(b"\n".join([json.dumps(WORDNET).encode()] * 9))[:-9])
    with pytest.raises(DataError, match=r"w\.jsonl\.gz: got a file that cannot be read"):
        sentences_of(tmp_path / "w.jsonl.gz", ["dog"])


def test_words_of_wordnet_in_any_case_and_any_letters(tmp_path):
    entries = [
        WORDNET,
        {"definition": "a dog in a Café\u2028with naïve jack-o-lanterns", "examples": [], "pos": ["n"]},
    ]
    path = written(
        tmp_path, *(json.dumps(entry, ensure_ascii=False).encode() for entry in entries), name="w.jsonl"
    )
    found = sentences_of(path, ["Dog", "DOG", "café", "naïve", "na", "hot dog"])
    assert {word: len(texts) for word, texts in found.items()} == {
        "Dog": 3, "DOG": 3, "café": 1, "naïve": 1, "na": 0, "hot dog": 0
    }  # fmt: skip


# And for what comes from Python


@pytest.mark.parametrize(
    ("concepts", "match"),
    [
        ([Concept("cat", "a cat", ("b",))], "cat: got a str of positive examples, expected a list or tuple"),
        ([Concept("cat", ("a cat",), "b")], "cat: got a str of negative examples"),
        ([Concept(5, ("a",), ("b",))], "got the name 5, expected a text"),
        ([Concept(["cat"], ("a",), ("b",)), Concept(["cat"], ("a",), ("b",))], "got the name"),
        ([Concept("", ("a",), ("b",))], "got the name ''"),
        ([Concept("cat", ("a",), ("b",), 5)], "cat: got the word 5"),
        ([Concept("cat", ("a \udc80",), ("b",))], "cat: got 1 positive examples with half a character"),
        ([Concept("cat", ("a", " "), ("b",))], "cat: got 1 blank positive examples"),
    ],
)
def test_concepts_of_python_that_are_wrong_are_refused(concepts, match):
    with pytest.raises(DataError, match=match):
        ConceptSet(tuple(concepts))


def test_a_text_is_no_list_of_its_letters():
    with pytest.raises(DataError, match="cat: got a single text, expected a list of texts"):
        ConceptSet.one_against_rest({"cat": "a cat sat", "dog": ["a dog ran"]})
    with pytest.raises(DataError, match="cat: got a single text"):
        ConceptSet.from_sentences(
            {"cat": "a cat sat there", "dog": "a dog ran there"}, positives=4, negatives=4
        )
    with pytest.raises(DataError, match="words: got a single text"):
        ConceptSet.from_templates("cat", ["A {} sat."])
    with pytest.raises(DataError, match="_: got the word ''"):
        ConceptSet.one_against_rest({"_": ["a cat sat"], "dog": ["a dog ran"]})
