"""Rows, batches and the cache; what the rows hold is checked against the text itself."""

from __future__ import annotations

import json
import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from trimtab.data import tokens
from trimtab.data.domains import Domain
from trimtab.data.encode import GrowingArray, RowFiles
from trimtab.data.tokens import NO_LOSS, TokenDomain, TokenSplit, tokenise
from trimtab.errors import CheckpointError, ConfigError, DataError, ModelError
from trimtab.runs.atomic import write_checksums

TEXTS = [f"the cat {number} sat on the mat, and {'x' * number}\n" for number in range(40)]
PAIRS = [{"prompt": f"{number} + 1 =", "completion": f" {number + 1}"} for number in range(20)]


def joined(split: TokenSplit, tokenizer) -> str:
    return tokenizer.decode(split.batch(range(len(split))).input_ids.ravel())


def rows(split: TokenSplit, tokenizer) -> list[str]:
    return [tokenizer.decode(split.ids[start:stop]) for start, stop in map(split._span, range(len(split)))]


def test_a_packed_row_counts_as_that_of_the_record_at_its_middle(tokenizer):
    texts = ["the cat sat " * 9, "a dog", "the dog sat on the mat " * 7]
    split = tokenise(Domain("cats", train=texts), tokenizer, seq_len=16).splits["train"]
    ends = np.cumsum([len(tokenizer(text, add_special_tokens=False)["input_ids"]) + 1 for text in texts])
    middles = 16 * np.arange(len(split)) + 8
    np.testing.assert_array_equal(split.records, (middles[:, None] >= ends).sum(1))
    assert set(split.records) >= {0, 2}


def test_a_padded_row_is_of_its_own_record(tokenizer):
    texts = ["the cat", "the dog", "the mat"]
    split = tokenise(Domain("cats", train=texts), tokenizer, seq_len=16, packing="padded").splits["train"]
    np.testing.assert_array_equal(split.records, [0, 1, 2])


def test_packed_rows_are_the_joined_text(tokenizer):
    domain = Domain("cats", train=TEXTS, validation=["the dog sat " * 20])
    split = tokenise(domain, tokenizer, seq_len=16).splits["train"]
    whole = "<eos>".join([*TEXTS, ""])
    ids = tokenizer(whole, add_special_tokens=False)["input_ids"]
    full = len(ids) // 16
    np.testing.assert_array_equal(split.batch(range(full)).input_ids.ravel(), ids[: 16 * full])
    assert len(split) == full
    assert split.counts.left_over == len(ids) - 16 * full > 0
    assert split.counts.tokens == 16 * full
    assert split.counts.records == 40
    batch = split.batch([3, 0])
    assert torch.equal(batch.labels, batch.input_ids)
    assert batch.attention_mask.all()
    assert split.target_tokens([0, 1]).tolist() == [15, 15]
    assert split.mean_target_tokens == 15


def test_packing_does_not_depend_on_how_documents_fall(tokenizer):
    short = tokenise(Domain("a", train=["ab", "c" * 300, "d"]), tokenizer, seq_len=7).splits["train"]
    assert (
        joined(short, tokenizer) == ("ab<eos>" + "c" * 300 + "<eos>d<eos>")[: len(joined(short, tokenizer))]
    )


def test_padded_batches_hide_the_padding(make_tokenizer):
    tokenizer = make_tokenizer(pad_token="<pad>")
    split = tokenise(Domain("a", train=TEXTS), tokenizer, seq_len=64, packing="padded").splits["train"]
    assert rows(split, tokenizer) == [f"{text}<eos>" for text in TEXTS]
    batch = split.batch([2, 30])
    assert batch.input_ids.shape == batch.attention_mask.shape == batch.labels.shape
    assert {values.dtype for values in (batch.input_ids, batch.attention_mask, batch.labels)} == {torch.int64}
    lengths = batch.attention_mask.sum(dim=1).tolist()
    assert lengths[0] < lengths[1] == batch.input_ids.shape[1]
    padding = batch.attention_mask == 0
    assert (batch.input_ids[padding] == tokenizer.pad_token_id).all()
    assert (batch.labels[padding] == NO_LOSS).all()
    assert torch.equal(batch.labels[~padding], batch.input_ids[~padding])
    assert not batch.attention_mask[0, lengths[0] :].any()


def test_only_the_completion_has_labels(tokenizer):
    split = tokenise(Domain("sums", train=PAIRS), tokenizer, seq_len=32).splits["train"]
    assert len(split) == 20
    batch = split.batch([4])
    learned = batch.labels[0] != NO_LOSS
    assert tokenizer.decode(batch.labels[0][learned]) == " 5<eos>"
    assert tokenizer.decode(batch.input_ids[0]) == "4 + 1 = 5<eos>"
    assert (batch.attention_mask == 1).all()


@pytest.mark.filterwarnings("ignore:domain .* were cut at")
def test_target_tokens_are_what_a_model_averages_over(tokenizer):
    domain = Domain("mixed", train=[*PAIRS, {"prompt": "", "completion": "the cat"}, *TEXTS])
    split = tokenise(domain, tokenizer, seq_len=24, packing="padded").splits["train"]
    batch = split.batch(range(len(split)))
    shifted = batch.labels[:, 1:]
    logits = torch.zeros(*shifted.shape, len(tokenizer))
    losses = cross_entropy(logits.transpose(1, 2), shifted, reduction="none", ignore_index=NO_LOSS)
    targets = split.target_tokens(range(len(split)))
    assert targets.dtype == np.int64
    np.testing.assert_array_equal(targets, (losses > 0).sum(dim=1))
    assert split.mean_target_tokens == pytest.approx(targets.mean())


TOLD = (
    r"domain 'a': 2 of 4 train records dropped, without a token that carries loss in the first 12; a larger seq_len "
    r"keeps 1 of them; 2 of 2 train sequences were cut at 12 tokens$"
)


def test_rows_are_cut_at_seq_len_and_counted(tokenizer):
    long_prompt = {"prompt": "the cat sat on the mat " * 20, "completion": " ok"}
    cut_completion = {"prompt": "the", "completion": " cat sat on the mat" * 20}
    records = [long_prompt, cut_completion, {"prompt": "the", "completion": ""}, "the dog sat too " * 20]
    domain = Domain("a", train=records)
    with pytest.warns(UserWarning, match=TOLD):
        split = tokenise(domain, tokenizer, seq_len=12, packing="padded").splits["train"]
    assert len(split) == 2
    assert split.batch([0, 1]).input_ids.shape == (2, 12)
    assert (split.counts.records, split.counts.truncated, split.counts.dropped) == (4, 2, 2)
    assert (split.counts.tokens, split.counts.beyond) == (24, 1)
    assert min(split.target_tokens([0, 1])) > 0


PICKY = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}{{ messages[-1].content }}"


def talks(good: int, bad: int) -> list[dict[str, object]]:
    systems = [{"role": "system", "content": "s"}]
    return [
        {"messages": systems * (k < bad) + [{"role": "assistant", "content": f"the cat {k}"}]}
        for k in range(good + bad)
    ]


def test_conversations_that_the_template_refuses_are_counted_and_the_first_is_named(make_tokenizer, tmp_path):
    tokenizer = make_tokenizer(template=PICKY)
    domain = Domain("a", train=talks(6, 2), test=["the cat"])
    told = r"2 of 8 train records left out, .* \(the first: train record 0, messages 's / the cat 0': got no system"
    for _ in range(2):
        with pytest.warns(UserWarning, match=told):
            made = tokenise(domain, tokenizer, seq_len=16, packing="padded", cache=tmp_path)
        assert made.splits["train"].counts.skipped == 2
        assert made.splits["train"].records.tolist() == [2, 3, 4, 5, 6, 7]


def test_more_than_half_of_a_split_left_out_is_refused(make_tokenizer, tmp_path):
    match = r"domain 'a', split 'train': got 5 of 8 records left out, the first: record 0, .*, expected at most half"
    with pytest.raises(DataError, match=match):
        tokenise(Domain("a", train=talks(3, 5)), make_tokenizer(template=PICKY), seq_len=16, cache=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("records", "hint"),
    [
        ([{"prompt": "the cat sat on the mat " * 9, "completion": " ok"}], "try a larger seq_len$"),
        (["the cat"], "try a smaller seq_len, or more data$"),
        ([{"prompt": "a", "completion": ""}], "try more data$"),
    ],
)
def test_the_hint_fits_the_reason(tokenizer, records, hint):
    with pytest.raises(DataError, match=hint):
        tokenise(Domain("a", train=records), tokenizer, seq_len=32)


def test_texts_and_pairs_share_a_split(tokenizer):
    mixed = [record for pair in zip(TEXTS, PAIRS, strict=False) for record in pair]
    split = tokenise(Domain("mixed", train=mixed), tokenizer, seq_len=16).splits["train"]
    found = rows(split, tokenizer)
    packed = [row for row in found if "+ 1 =" not in row]
    assert len(found) - len(packed) == 20
    assert "".join(packed) == "<eos>".join([*TEXTS[:20], ""])[: len("".join(packed))]


def test_batches_follow_the_indices_and_refuse_others(tokenizer):
    split = tokenise(Domain("a", train=PAIRS), tokenizer, seq_len=16).splits["train"]
    twice = split.batch(np.array([3, 3, 1]))
    assert torch.equal(twice.input_ids[0], twice.input_ids[1])
    assert split.batch([]).input_ids.shape == (0, 0)
    assert split.target_tokens([]).shape == (0,)
    for index in (-1, 20):
        with pytest.raises(IndexError, match=rf"got row {index}, expected 0 to 19"):
            split.batch([index])
    moved = twice.to("cpu")
    assert torch.equal(moved.labels, twice.labels)
    assert repr(split).startswith("TokenSplit(20 rows, ")


@pytest.mark.parametrize(
    ("records", "match"),
    [
        (
            ["the cat"],
            r"got 1 records without a sequence \(\d+ tokens of text\), expected enough .*=64; try a smaller seq_len",
        ),
        (
            ["the cat", "a dog"],
            r"got 2 records without a sequence .*; try packing: padded, a smaller seq_len",
        ),
        ([{"prompt": "a", "completion": ""}], r"\(1 without a token that carries loss in the first 64\)"),
    ],
)
def test_too_few_tokens_for_one_row_are_refused(tokenizer, tmp_path, records, match):
    with pytest.raises(DataError, match=match):
        tokenise(Domain("a", train=records), tokenizer, seq_len=64, cache=tmp_path)
    assert not list(tmp_path.iterdir())


def test_impossible_settings_are_refused(tokenizer):
    domain = Domain("a", train=TEXTS)
    with pytest.raises(
        ConfigError, match="seq_len: got 1, expected at least 2 tokens, one of them predicted"
    ):
        tokenise(domain, tokenizer, seq_len=1)
    with pytest.raises(ConfigError, match="packing: got 'loose', expected 'packed' or 'padded'"):
        tokenise(domain, tokenizer, seq_len=8, packing="loose")
    with pytest.raises(ModelError, match="got str, expected a transformers tokenizer"):
        tokenise(domain, "gpt2", seq_len=8)


def test_the_same_entry_serves_the_same_content(make_tokenizer, tmp_path, monkeypatch):
    tokenizer = make_tokenizer()
    first = tokenise(Domain("one", train=TEXTS), tokenizer, seq_len=16, cache=tmp_path)
    monkeypatch.setattr(tokens, "write_rows", None)
    second = tokenise(Domain("../../two<b>\x00", train=TEXTS), make_tokenizer(), seq_len=16, cache=tmp_path)
    assert second.name == "../../two<b>\x00"
    assert first.fingerprint == second.fingerprint
    assert [path.name for path in tmp_path.iterdir()] == [first.fingerprint]
    assert same_rows(first, second)


def same_rows(first: TokenDomain, second: TokenDomain) -> bool:
    return first.splits.keys() == second.splits.keys() and all(
        np.array_equal(getattr(split, part), getattr(second.splits[name], part))
        for name, split in first.splits.items()
        for part in ("ids", "loss", "offsets", "targets", "records")
    )


@pytest.mark.filterwarnings("ignore:domain .* were cut at")
def test_what_changes_the_rows_changes_the_entry(make_tokenizer, tmp_path):
    tokenizer, texts = make_tokenizer(), Domain("a", train=TEXTS)
    entries = [
        tokenise(texts, tokenizer, seq_len=16, cache=tmp_path),
        tokenise(texts, tokenizer, seq_len=17, cache=tmp_path),
        tokenise(texts, tokenizer, seq_len=16, packing="padded", cache=tmp_path),
        tokenise(texts, make_tokenizer(with_bos=True), seq_len=16, cache=tmp_path),
        tokenise(Domain("a", train=TEXTS[1:]), tokenizer, seq_len=16, cache=tmp_path),
        tokenise(Domain("a", test=TEXTS), tokenizer, seq_len=16, cache=tmp_path),
    ]
    assert len({entry.fingerprint for entry in entries}) == 6 == len(list(tmp_path.iterdir()))


def test_the_cache_is_where_the_environment_says(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setenv("TRIMTAB_CACHE", str(tmp_path / "here"))
    made = tokenise(Domain("a", train=TEXTS), tokenizer, seq_len=16)
    assert (tmp_path / "here" / "tokens" / made.fingerprint / "card.json").is_file()
    assert isinstance(made.splits["train"].ids, np.memmap)


DAMAGES = {
    "truncated": lambda entry: os.truncate(entry / "train.ids.npy", 200),
    "no array": lambda entry: (entry / "train.loss.npy").unlink(),
    "no card": lambda entry: (entry / "card.json").unlink(),
    "half a card": lambda entry: (entry / "card.json").write_text('{"splits": {'),
    "other card": lambda entry: (entry / "card.json").write_text("[]"),
    "no checksums": lambda entry: (entry / "checksums.json").unlink(),
    "checksums of nothing": lambda entry: (entry / "checksums.json").write_text("{}"),
    "other checksums": lambda entry: (entry / "checksums.json").write_text("[" * 5000),
    "no header": lambda entry: (entry / "train.ids.npy").write_bytes(
        bytes((entry / "train.ids.npy").stat().st_size)
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_entry_is_built_again(tokenizer, tmp_path, damage):
    domain = Domain("a", train=TEXTS)
    first = tokenise(domain, tokenizer, seq_len=16, cache=tmp_path)
    entry = tmp_path / first.fingerprint
    kept = np.array(first.splits["train"].ids)
    DAMAGES[damage](entry)
    with pytest.warns(UserWarning, match=r"token cache: .*got .*; the entry is built again"):
        again = tokenise(domain, tokenizer, seq_len=16, cache=tmp_path)
    np.testing.assert_array_equal(again.splits["train"].ids, kept)
    assert [path.name for path in tmp_path.iterdir()] == [first.fingerprint]


def test_a_file_in_the_place_of_an_entry_is_replaced(tokenizer, tmp_path):
    domain = Domain("a", train=TEXTS)
    made = tokenise(domain, tokenizer, seq_len=16, cache=tmp_path / "one")
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / made.fingerprint).write_text("not a folder")
    with pytest.warns(UserWarning, match="token cache: got no file"):
        assert same_rows(made, tokenise(domain, tokenizer, seq_len=16, cache=tmp_path / "two"))


def test_every_flipped_bit_of_an_entry_is_noticed(tokenizer, tmp_path):
    domain = Domain("a", train=[*TEXTS[:9], *PAIRS[:5]], test=TEXTS[9:20])
    first = tokenise(domain, tokenizer, seq_len=16, cache=tmp_path)
    draw = np.random.default_rng(0)
    kept = {path.name: path.read_bytes() for path in sorted((tmp_path / first.fingerprint).iterdir())}
    assert len(kept) == 12
    for name, raw in kept.items():
        for place in draw.integers(8 * len(raw), size=5).tolist():
            file = tmp_path / first.fingerprint / name
            changed = bytearray(raw)
            changed[place // 8] ^= 1 << place % 8
            file.write_bytes(changed)
            with pytest.raises(CheckpointError, match=r"got .*, expected"):
                tokens._open(file.parent)
        file.write_bytes(raw)
    assert tokens._open(file.parent) is not None


ARRAY_DAMAGES = {
    "offsets that do not increase": ("offsets", lambda values: values[::-1]),
    "another type": ("ids", lambda values: values.astype(np.float64)),
    "another shape": ("loss", lambda values: values[:, None]),
    "too few": ("targets", lambda values: values[:-1]),
    "none": ("offsets", lambda values: values[:0]),
}


@pytest.mark.parametrize("damage", ARRAY_DAMAGES)
def test_arrays_that_do_not_fit_together_are_noticed_also_under_right_checksums(tokenizer, tmp_path, damage):
    domain = Domain("a", train=TEXTS[:20])
    entry = tmp_path / tokenise(domain, tokenizer, seq_len=16, cache=tmp_path).fingerprint
    part, change = ARRAY_DAMAGES[damage]
    np.save(entry / f"train.{part}.npy", change(np.load(entry / f"train.{part}.npy")))
    write_checksums(entry)
    with pytest.warns(UserWarning, match="the entry is built again"):
        split = tokenise(domain, tokenizer, seq_len=16, cache=tmp_path).splits["train"]
    assert split.batch(range(len(split))).input_ids.shape == (len(split), 16)


def test_a_cache_that_keeps_nothing_is_an_error(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(tokens, "_open", lambda *_: None)
    with pytest.raises(DataError, match="got a damaged entry again and again, expected a cache that keeps"):
        tokenise(Domain("a", train=TEXTS), tokenizer, seq_len=16, cache=tmp_path)


def test_text_that_changes_while_it_is_read_is_refused(tokenizer, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(json.dumps({"text": text}) for text in TEXTS))
    domain = Domain("a", train=Domain.from_jsonl("a", path, validation=path, test=path).train)
    assert domain.fingerprint
    path.write_text('{"text": "something else, but long enough for a row"}')
    match = "domain 'a', split 'train': got records that changed while they were read"
    with pytest.raises(DataError, match=match):
        tokenise(domain, tokenizer, seq_len=8, cache=tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def _tokenise_at(barrier, folder: str, tokenizer, done) -> None:
    barrier.wait(60)
    made = tokenise(Domain("a", train=TEXTS), tokenizer, seq_len=16, cache=Path(folder))
    done.put(int(made.splits["train"].ids.sum()))


def test_two_processes_that_build_the_same_entry(tokenizer, tmp_path):
    expected = int(tokenise(Domain("a", train=TEXTS), tokenizer, seq_len=16).splits["train"].ids.sum())
    context = multiprocessing.get_context("fork")
    barrier, done = context.Barrier(3), context.Queue()
    workers = [
        context.Process(target=_tokenise_at, args=(barrier, str(tmp_path), tokenizer, done)) for _ in range(3)
    ]
    for worker in workers:
        worker.start()
    assert [done.get(timeout=60) for _ in workers] == [expected] * 3
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    assert len(list(tmp_path.iterdir())) == 1


def test_an_entry_that_another_process_finished_meanwhile_is_taken(tokenizer, tmp_path, monkeypatch):
    domain = Domain("a", train=TEXTS)
    build = tokens._build
    built = []

    def slow_build(folder, *rest):
        build(folder, *rest)
        if not built:
            built.append(True)
            tokenise(domain, tokenizer, seq_len=16, cache=tmp_path)

    monkeypatch.setattr(tokens, "_build", slow_build)
    made = tokenise(domain, tokenizer, seq_len=16, cache=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [made.fingerprint]
    assert len(made.splits["train"])


@pytest.mark.filterwarnings("ignore:domain .* were cut at")
def test_records_are_read_a_batch_at_a_time_and_rows_written_at_once(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr("trimtab.data.encode._BATCH_RECORDS", 4)
    read: list[int] = []
    ahead: list[int] = []

    class Many:
        def __iter__(self):
            read.clear()
            for number in range(200):
                read.append(number)
                yield f"the cat {number} sat on the mat"

    def watched(self, *row):
        ahead.append(len(read) - len(ahead))
        add(self, *row)

    add = RowFiles.add
    monkeypatch.setattr(RowFiles, "add", watched)
    tokenise(Domain("many", train=Many()), tokenizer, seq_len=8, packing="padded", cache=tmp_path)
    assert len(ahead) == 200
    assert max(ahead) == 4


def test_a_growing_array_is_an_ordinary_npy_file(tmp_path):
    with GrowingArray(tmp_path / "a.npy", np.int32) as array:
        for start in range(0, 12000, 1000):
            array.append(np.arange(start, start + 1000))
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), np.arange(12000))
    assert np.load(tmp_path / "a.npy", mmap_mode="r").dtype == np.int32
