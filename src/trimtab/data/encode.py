"""Token encoding: records as token ids with a loss mask, and as rows on disk, packed or one each."""

from __future__ import annotations

import copy
import hashlib
import json
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from trimtab.data.records import Chat, Completion, Item, Text, excerpt, halved
from trimtab.data.turns import Marked, SkippedError, Span, spell_by_template, spell_plainly
from trimtab.errors import ModelError, explain, refusal

_BATCH_RECORDS = 256
_BATCH_CHARACTERS = 2**20
_PIECE = 2**18
_NEAR = 16
"""Tokens at an end of a text among which its own first or last special token is, white space aside."""


@dataclass(frozen=True, eq=False)
class Encoded:
    """Token ids of a record with its loss mask.

    Attributes:
        ids: (n,) int32.
        loss: (n,) bool.
        is_text: a plain document, which may share a row with others.
        skipped: why the record is left out; it then has no tokens.
        group: that of the record; "" for none.
    """

    ids: NDArray[np.int32]
    loss: NDArray[np.bool_]
    is_text: bool
    skipped: str = ""
    group: str = ""


@dataclass(frozen=True)
class Ends:
    """Special tokens at the ends of a text, each added only where the text does not have it already.

    Attributes:
        tokenizer: whose they are.
    """

    tokenizer: PreTrainedTokenizerBase

    @cached_property
    def lead(self) -> list[int]:
        """The token that the tokenizer itself puts before a text, if any."""
        return _leading(self.tokenizer)

    def before(self, ids: NDArray[Any], text: str) -> list[int]:
        """The tokenizer's first token, unless the text begins with it already (white space aside)."""
        begun = text.lstrip().startswith(str(self.tokenizer.bos_token))
        return [] if begun and set(self.lead) & set(ids[:_NEAR].tolist()) else self.lead

    def after(self, ids: NDArray[Any], text: str) -> list[int]:
        """The end-of-sequence token, unless the text ends with it already (white space aside).

        Raises:
            ModelError: the tokenizer has none.
        """
        eos = _eos_id(self.tokenizer)
        closed = text.rstrip().endswith(str(self.tokenizer.eos_token))
        return [] if closed and eos in ids[-_NEAR:].tolist() else [eos]


def find_tokenizer(model_or_tokenizer: Any) -> PreTrainedTokenizerBase:
    """Tokenizer of an object: the object itself where it is one, else its `.tokenizer`.

    Raises:
        ModelError: there is none.
    """
    inner = getattr(model_or_tokenizer, "tokenizer", None)
    for tokenizer in (model_or_tokenizer, inner):
        if isinstance(tokenizer, PreTrainedTokenizerBase):
            return tokenizer
    hint = "AutoTokenizer.from_pretrained(...) or PreTrainedTokenizerFast(tokenizer_object=...)"
    got = type(model_or_tokenizer if inner is None else inner).__name__
    raise ModelError(explain(got, "a transformers tokenizer, or a model that has one", hint))


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """Sha256 of everything that determines token ids: vocabulary, rules, special tokens, chat template.

    Padding and truncation, which a tokenizer remembers from its last call, have no part in it.
    """
    if tokenizer.is_fast:
        rules = json.loads(tokenizer.backend_tokenizer.to_str())
        rules = {key: rule for key, rule in rules.items() if key not in ("padding", "truncation")}
    else:
        rules = {"class": type(tokenizer).__name__, "vocabulary": tokenizer.get_vocab()}
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    parts = [rules, special, tokenizer.chat_template, _leading(tokenizer)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Padding id: pad, else end of sequence, else 0; the attention mask decides, not the id."""
    return int(next((one for one in (tokenizer.pad_token_id, tokenizer.eos_token_id) if one is not None), 0))


def encode(items: Iterable[Item], tokenizer: PreTrainedTokenizerBase) -> Iterator[Encoded]:
    """Token ids and loss mask of each record, in order.

    A text is its tokens and the end-of-sequence token, all with loss. A completion is the tokens of prompt
    and completion together; those with a character of the completion carry loss, and so does the
    end-of-sequence token after them. A conversation follows the tokenizer's chat template, or the plain format of
    `trimtab.data.turns.spell_plainly`, with loss on the assistant's turns. Where the tokenizer starts
    sequences with a token of its own (as Llama's and Gemma's do), so does every record here but those that a chat
    template writes, which says itself how they begin. Neither token is added where the text has it already.

    A conversation in which the assistant's turns cannot be located for certain is left out: `Encoded.skipped` says
    why.

    Raises:
        ModelError: the tokenizer has no end-of-sequence token and a record needs one.
        DataError: a record with text that cannot be encoded (half of a surrogate pair).
    """
    marker, ends = Marker(tokenizer), Ends(tokenizer)
    for batch in _batches(items):
        if halves := [item for item in batch if halved(item)]:
            got = "half of a surrogate pair"
            raise refusal(f"record {excerpt(halves[0])}", got, "text that UTF-8 can hold", "replacing it")
        texts = _encode_texts([item for item in batch if isinstance(item, Text)], ends)
        others = [item for item in batch if not isinstance(item, Text)]
        dialogues = _encode_dialogues(others, ends, marker)
        for item in batch:
            encoded = next(texts) if isinstance(item, Text) else next(dialogues)
            yield replace(encoded, group=item.group) if item.group else encoded


def _encode_texts(texts: Sequence[Text], ends: Ends) -> Iterator[Encoded]:
    pieces = [list(_pieces(item.text)) for item in texts]
    flat = [piece for parts in pieces for piece in parts]
    encoded = iter(ends.tokenizer(flat, add_special_tokens=False, verbose=False)["input_ids"] if flat else [])
    for one, parts in zip(texts, pieces, strict=True):
        ids = np.concatenate([np.asarray(next(encoded), np.int32) for _ in parts])
        tokens = np.concatenate([ends.before(ids, one.text), ids, ends.after(ids, one.text)]).astype(np.int32)
        yield Encoded(tokens, np.ones(len(tokens), np.bool_), is_text=True)


def _encode_dialogues(items: Sequence[Completion | Chat], ends: Ends, marker: Marker) -> Iterator[Encoded]:
    spelled = [_mark(item, ends.tokenizer) for item in items]
    tokens = iter(marker.ids_and_loss([marked for marked in spelled if isinstance(marked, Marked)]))
    templated = bool(ends.tokenizer.chat_template)
    for item, marked in zip(items, spelled, strict=True):
        if isinstance(marked, str):
            yield Encoded(np.empty(0, np.int32), np.empty(0, np.bool_), is_text=False, skipped=marked)
            continue
        ids, loss = next(tokens)
        chat = isinstance(item, Chat)
        before = [] if chat and templated else ends.before(ids, marked.text)
        after = [] if chat else ends.after(ids, marked.text)
        all_ids = np.concatenate([before, ids, after]).astype(np.int32)
        marks = np.concatenate([[False] * len(before), loss, [bool(loss.any())] * len(after)])
        yield Encoded(all_ids, marks.astype(np.bool_), is_text=False)


def _mark(item: Completion | Chat, tokenizer: PreTrainedTokenizerBase) -> Marked | str:
    """The record as one text with spans; or why it is left out."""
    if isinstance(item, Completion):
        whole = item.prompt + item.completion
        return Marked(whole, ((len(item.prompt), len(whole)),) if item.completion.strip() else ())
    try:
        if tokenizer.chat_template:
            return spell_by_template(item, tokenizer)
        _eos_id(tokenizer)
        return spell_plainly(item, str(tokenizer.eos_token))
    except SkippedError as error:
        return str(error)


def _pieces(text: str) -> Iterator[str]:
    """A long text in pieces that end with a line, so that memory stays bounded; a short one whole.

    No token of the usual tokenizers joins the end of one line with the first letter of the next.
    """
    start = 0
    while len(text) - start > _PIECE:
        end = text.rfind("\n", start, start + _PIECE) + 1
        while end > start and text[end].isspace():
            end = text.rfind("\n", start, end - 1) + 1
        end = end if end > start else start + _PIECE
        yield text[start:end]
        start = end
    yield text[start:]


def _leading(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The token that the tokenizer itself puts before a text, if any."""
    first: list[int] = tokenizer("a", verbose=False)["input_ids"][:1]
    return first if first == [tokenizer.bos_token_id] else []


def _eos_id(tokenizer: PreTrainedTokenizerBase) -> int:
    if tokenizer.eos_token_id is None:
        expected, hint = "one, to end documents with", "tokenizer.eos_token = '<|endoftext|>'"
        raise refusal("tokenizer, end-of-sequence token", "none", expected, hint, error=ModelError)
    return int(tokenizer.eos_token_id)


def _batches(items: Iterable[Item]) -> Iterator[list[Item]]:
    batch, size = list[Item](), 0
    for item in items:
        batch.append(item)
        size += len(item.text) if isinstance(item, Text) else 0
        if len(batch) == _BATCH_RECORDS or size >= _BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


@dataclass(frozen=True)
class Marker:
    """Loss mask from character spans: a token carries loss if one of its characters does.

    So the tokens are those of the whole text, as in pretraining, and a token that straddles the end of a
    prompt is learned. With tokenizers that do not say which characters a token covers, a span begins at the first token
    that differs when the text before it stands alone, and ends with the token that holds its last character.
    """

    tokenizer: PreTrainedTokenizerBase

    def ids_and_loss(self, texts: Sequence[Marked]) -> list[tuple[NDArray[np.int64], NDArray[np.bool_]]]:
        """Per text, (n,) token ids without special tokens around them, and (n,) whether each carries loss."""
        if not self.tokenizer.is_fast:
            return [self._by_beginnings(marked) for marked in texts]
        pairs = zip(self.ids_and_offsets([marked.text for marked in texts]), texts, strict=True)
        return [(ids, _touched(offsets, marked.spans)) for (ids, offsets), marked in pairs]

    def ids_and_offsets(self, texts: Sequence[str]) -> list[tuple[NDArray[np.int64], list[Span]]]:
        """Per text, (n,) token ids without special tokens, and where the characters of each token begin and end.

        Of fast tokenizers only. White space belongs to the token that it is a part of.
        """
        encodings = self._backend.encode_batch(list(texts), add_special_tokens=False)
        return [(np.array(one.ids, np.int64), list(one.offsets)) for one in encodings]

    @cached_property
    def _backend(self) -> Any:
        """A copy with offsets as they are: the post-processor would leave white space out of them."""
        backend = copy.deepcopy(self.tokenizer.backend_tokenizer)
        backend.post_processor = None
        backend.no_padding()
        backend.no_truncation()
        return backend

    def _by_beginnings(self, marked: Marked) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        ids = self._ids(marked.text)
        loss = np.zeros(len(ids), np.bool_)
        for start, end in marked.spans:
            first, _ = _shared(ids, self._ids(marked.text[:start]))
            last, straddles = _shared(ids, self._ids(marked.text[:end]))
            loss[first : last + straddles] = start < end
        return np.array(ids, np.int64), loss

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return ids


def _shared(ids: Sequence[int], beginning: Sequence[int]) -> tuple[int, bool]:
    """Length of the common prefix of the tokens of a text and of its beginning, and whether a token straddles its end.

    >>> _shared([1, 2, 3, 4], [1, 2]), _shared([1, 2, 3, 4], [1, 5])
    ((2, False), (1, True))
    """
    shorter, pairs = min(len(ids), len(beginning)), zip(ids, beginning, strict=False)
    common = next((place for place, (one, other) in enumerate(pairs) if one != other), shorter)
    return common, common < shorter


def _touched(offsets: Sequence[Span], spans: Sequence[Span]) -> NDArray[np.bool_]:
    """Mask of the tokens that cover a character of a span.

    >>> _touched([(0, 2), (2, 5), (5, 6)], [(3, 4)])
    array([False,  True, False])
    """
    starts, ends = np.array(offsets, np.int64).reshape(-1, 2).T
    touched = np.zeros(len(starts), np.bool_)
    for start, end in spans:
        touched |= (starts < end) & (ends > start)
    return touched


Packing = Literal["packed", "padded"]
ARRAYS = {"ids": np.int32, "loss": np.bool_, "offsets": np.int64, "targets": np.int32, "records": np.int64}
"""The files of a split and their types."""
GROUPS = "groups"
"""The file of the group of each row, in splits whose records have groups."""


@dataclass(frozen=True)
class SplitCounts:
    """Counts of a split's records and tokens: kept, cut and left out.

    Attributes:
        records: records read.
        tokens: tokens kept in rows.
        truncated: rows cut at `seq_len`.
        dropped: records without a single predicted token that carries loss, left out.
        left_over: tokens of packed text after the last full row, left out.
        beyond: of those dropped, records whose loss begins after `seq_len`; a longer row would keep them.
        skipped: conversations that the chat template refuses, or in which the assistant's turns are not certain.
        first_skipped: number of the first of them and why; "" without one.
        blank: blank records, left out; not among `records`.
        groups: groups of the records; 0 where they have none.
    """

    records: int
    tokens: int
    truncated: int
    dropped: int
    left_over: int
    beyond: int = 0
    skipped: int = 0
    first_skipped: str = ""
    blank: int = 0
    groups: int = 0


def write_rows(
    folder: Path, split: str, encoded: Iterable[Encoded], seq_len: int, packing: Packing
) -> SplitCounts:
    """Write a split's rows to `folder` as they come, and count.

    Packed texts are joined and cut into rows of exactly `seq_len` tokens; the rest after the last is left
    out; a row counts as that of the record at its middle, and of its group. All other records make a row each, cut at
    `seq_len`. Memory holds one row and one record; with groups, also their names and eight bytes a record.
    """
    records = truncated = dropped = beyond = skipped = 0
    why, numbers, groups = "", dict[str, int](), array("q")
    waiting, owners = np.empty(0, np.int32), np.empty(0, np.int64)
    with RowFiles(folder, split) as files:
        for record in encoded:
            records += 1
            if record.group:
                groups.append(numbers.setdefault(record.group, len(numbers)))
            if record.skipped:
                skipped += 1
                why = why or f"record {records - 1}, {record.skipped}"
            elif packing == "packed" and record.is_text:
                waiting = np.concatenate([waiting, record.ids])
                owners = np.concatenate([owners, np.full(len(record.ids), records - 1)])
                full = len(waiting) // seq_len * seq_len
                if full:
                    rows = waiting[:full].reshape(-1, seq_len)
                    files.add(rows, np.ones_like(rows, np.bool_), owners[seq_len // 2 : full : seq_len])
                    waiting, owners = waiting[full:], owners[full:]
            elif record.loss[1:seq_len].any():
                truncated += len(record.ids) > seq_len
                files.add(record.ids[None, :seq_len], record.loss[None, :seq_len], [records - 1])
            else:
                dropped += 1
                beyond += bool(record.loss[seq_len:].any())
        tokens = files.tokens
    if numbers:
        owners = np.load(array_file(folder, split, "records"))
        np.save(array_file(folder, split, GROUPS), np.asarray(groups, np.int64)[owners])
    counts = SplitCounts(records, tokens, truncated, dropped, len(waiting), beyond, skipped, why)
    return replace(counts, groups=len(numbers))


class RowFiles(ExitStack):
    """The growing arrays of a split: tokens, loss marks, row borders, targets and record of each row."""

    def __init__(self, folder: Path, split: str) -> None:
        super().__init__()
        self.tokens = 0
        files = {part: GrowingArray(array_file(folder, split, part), dtype) for part, dtype in ARRAYS.items()}
        self._arrays = {part: self.enter_context(file) for part, file in files.items()}
        self._arrays["offsets"].append([0])

    def add(
        self, ids: NDArray[np.int32], loss: NDArray[np.bool_], records: Sequence[int] | NDArray[Any]
    ) -> None:
        """Append (R, T) rows, their loss mask, and the record of each."""
        ends = self.tokens + ids.shape[1] * np.arange(1, len(ids) + 1)
        targets = np.count_nonzero(loss[:, 1:], axis=1)
        rows = (ids.ravel(), loss.ravel(), ends, targets, records)
        for growing, values in zip(self._arrays.values(), rows, strict=True):
            growing.append(values)
        self.tokens += ids.size


class GrowingArray(AbstractContextManager["GrowingArray"]):
    """A one-dimensional .npy file written piece by piece; its header learns the length at the end."""

    def __init__(self, path: Path, dtype: Any) -> None:
        self._dtype, self._length, self._file = np.dtype(dtype), 0, path.open("wb")
        self._write_header()

    def __exit__(self, *error: object) -> None:
        self._file.seek(0)
        self._write_header()
        self._file.close()

    def append(self, values: Sequence[int] | NDArray[Any]) -> None:
        """Write more values after those before."""
        more = np.asarray(values, self._dtype)
        self._length += len(more)
        self._file.write(more.tobytes())

    def _write_header(self) -> None:
        # numpy leaves room in the header for the first axis to grow, so that it can be written over.
        header = {"descr": self._dtype.str, "fortran_order": False, "shape": (self._length,)}
        np.lib.format.write_array_header_1_0(self._file, header)


def array_file(folder: Path, split: str, part: str) -> Path:
    """The file of one array of a split."""
    return folder / f"{split}.{part}.npy"
