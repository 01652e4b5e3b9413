"""Responses of a local model, written as a server would send them: chat completions with top log-probabilities."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from transformers import PreTrainedTokenizerBase

from trimtab.errors import CheckpointError, ConfigProblems, Problem, explain
from trimtab.job import Progress
from trimtab.models.answers import answer_rows, answer_states
from trimtab.models.batches import TokenRow
from trimtab.models.families import Handle
from trimtab.models.language import ends_of
from trimtab.models.load import Model, load
from trimtab.models.readout import picture_tokens
from trimtab.models.sites import network_fingerprint
from trimtab.models.tokenizer import predicted
from trimtab.read.leaks.questions import Questions, read_questions
from trimtab.runs.atomic import full_disk_is_clear
from trimtab.runs.paths import as_path

DECIMALS = 6
"""Places of the log-probabilities that are written, in nats."""
_SPELLED = "\ufffd"
"""What decoders write for a part of a character."""


def serve_transcript(
    model: str | Path | Model,
    questions: str | Path | pd.DataFrame | Questions,
    path: str | Path,
    attributes: Sequence[str] = (),
    *,
    group: str | None = None,
    background: Sequence[str] = (),
    top: int = 20,
    max_new_tokens: int = 4,
    batch_size: int = 16,
    progress: Progress | None = None,
) -> Path:
    """Transcript of a model's greedy answers: a line of JSON each, with request, response and labels.

    The response has the form of chat completions (`logprobs: true`, `top_logprobs: top`, temperature 0), so that
    `audit_transcript` reads it: attributes and the group as columns of the same names, with `mentioned`, `question` and
    `answer` where they are known. Without a name the column of groups is `group`. Tokens are texts where a text is one
    token's alone, else `token_id:` and a number, as vLLM writes them. An end token is written like any other and ends
    the answer. Tokens of pictures are neither said nor served; log-probabilities are those of the whole vocabulary.

    Finished lines stand in `path` with `.part` behind it until all are written; a call that was killed goes on there.

    Args:
        model: as for `trimtab.read.leaks.audit.audit`, like questions, attributes, group and background.
        path: a new file, or one that the same call wrote, which is left as it is.
        top: log-probabilities of each answer token, at most the vocabulary.
        max_new_tokens: answer tokens.
        batch_size: prompts at a time.
        progress: called with the prompts done and in all.

    Returns:
        The path.

    Raises:
        ConfigProblems: numbers out of range.
        CheckpointError: the path holds something else.
        DataError: questions that cannot be used.
        ModelError: a model that cannot be read, or a prompt with its answer beyond the model's limit.
    """
    handle = model if isinstance(model, Model) else load(str(model))
    if not isinstance(questions, Questions):
        questions = read_questions(questions, attributes, group=group, background=background)
    serving = _Serving.of(handle, questions, group or "group", top, max_new_tokens)
    path = as_path(path, "path", "a new file")
    part = path.with_name(f"{path.name}.part")
    if path.exists():
        serving.check(path, whole=True)
        return path
    done = serving.check(part) if part.exists() else 0
    path.parent.mkdir(parents=True, exist_ok=True)
    with full_disk_is_clear(path), part.open("a", encoding="utf-8", newline="\n") as file:
        for start in range(done, len(questions), batch_size):
            rows = range(start, min(start + batch_size, len(questions)))
            for row, entries in zip(rows, serving.answers(handle, rows), strict=True):
                file.write(json.dumps(serving.line(row, entries), ensure_ascii=False, allow_nan=False) + "\n")
            file.flush()
            if progress is not None:
                progress(rows.stop, len(questions))
        os.fsync(file.fileno())
    part.replace(path)
    return path


@dataclass(frozen=True)
class _Serving:
    """What is served, and how.

    Attributes:
        questions: prompts with their labels.
        group: name of the column of groups.
        rows: tokens of each prompt.
        names: text of each token of the vocabulary.
        ends: tokens that end an answer.
        pictures: tokens that stand for a picture, which are never said.
        top: log-probabilities of each answer token.
        length: answer tokens, at most.
        model: name of the model.
        fingerprint: of all that decides what is written.
    """

    questions: Questions
    group: str
    rows: Sequence[Sequence[int]]
    names: Sequence[str]
    ends: Sequence[int]
    pictures: Sequence[int]
    top: int
    length: int
    model: str
    fingerprint: str

    @classmethod
    def of(cls, model: Handle, questions: Questions, group: str, top: int, length: int) -> _Serving:
        tokenizer = model.need_tokenizer()
        size = predicted(model.module) or len(tokenizer)
        pictures = [token for token in picture_tokens(model.module) if token < size]
        problems, words = [], size - len(pictures)
        if not 1 <= top <= words:
            problems.append(Problem("top", str(top), f"1 to {words}, the tokens of the model"))
        if length < 1:
            problems.append(Problem("max_new_tokens", str(length), "at least 1"))
        taken, names = {"custom_id", "request", "response"}, set(map(str, questions.attributes))
        clashes = [("attributes", name) for name in sorted(names & {*taken, group})]
        clashes += [("group", group)] if group in {*taken, "mentioned"} else []
        expected = "a name that no line has already"
        problems += [Problem(where, repr(name), expected, "another name") for where, name in clashes]
        if problems:
            raise ConfigProblems(problems)
        rows = answer_rows(model, questions.prompts)
        facts = [network_fingerprint(model.module), questions.fingerprint, rows, top, length]
        facts += [group, questions.attributes.values.tolist(), questions.groups.tolist()]
        facts += [pictures] if pictures else []
        digest = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12]
        texts, ends = token_names(tokenizer, size), ends_of(model.module, tokenizer)
        name = Path(str(getattr(model, "name", "model"))).name
        return cls(questions, group, rows, texts, ends, pictures, top, length, name, f"trimtab-{digest}")

    def check(self, path: Path, *, whole: bool = False) -> int:
        """Number of finished lines of a file that the same call began; a line that was cut off is cut away.

        Raises:
            CheckpointError: another call wrote it, or it is not whole.
        """
        raw = path.read_bytes()
        kept = raw[: raw.rfind(b"\n") + 1]
        lines = kept.splitlines()
        mark = json.dumps(self.fingerprint).encode()
        if any(mark not in line for line in lines) or (whole and len(lines) != len(self.questions)):
            expected = "a new file, or the transcript of the same model, questions and settings"
            raise CheckpointError(f"{path}: {explain('another transcript', expected, 'another path')}")
        if len(kept) < len(raw):
            os.truncate(path, len(kept))
        return len(lines)

    def answers(self, model: Handle, rows: range) -> list[list[dict[str, Any]]]:
        """Entries of the answer tokens of some prompts, one token at a time for all that have not ended."""
        said: dict[int, list[int]] = {row: [] for row in rows}
        entries: dict[int, list[dict[str, Any]]] = {row: [] for row in rows}
        for _ in range(self.length):
            live = [row for row in rows if not said[row] or said[row][-1] not in self.ends]
            if not live:
                break
            given = [TokenRow([*self.rows[row], *said[row]]) for row in live]
            images = self.questions.images
            seen = None if images is None else [images[row] for row in live]
            for row, logits in zip(live, _logits(model, given, seen), strict=True):
                nats = logits - np.logaddexp.reduce(logits)
                words = nats.copy()
                words[self.pictures] = -np.inf
                order = np.argsort(-words, kind="stable")[: self.top]
                said[row].append(int(order[0]))
                top = [self._entry(int(token), nats) for token in order]
                entries[row].append(top[0] | {"top_logprobs": top})
        return list(entries.values())

    def _entry(self, token: int, nats: np.ndarray) -> dict[str, Any]:
        name = self.names[token]
        return {"token": name, "logprob": round(float(nats[token]), DECIMALS), "bytes": list(name.encode())}

    def line(self, row: int, entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """One line of the file."""
        ended = len(entries) < self.length or entries[-1]["token"] in {self.names[end] for end in self.ends}
        message = {"role": "assistant", "content": "".join(str(one["token"]) for one in entries)}
        choice = {
            "index": 0,
            "message": message,
            "logprobs": {"content": list(entries)},
            "finish_reason": "stop" if ended else "length",
        }
        body = {"id": f"chatcmpl-{row}", "object": "chat.completion", "created": 0, "model": self.model}
        body |= {"choices": [choice], "system_fingerprint": self.fingerprint}
        request = {"model": self.model, "messages": _messages(self.questions, row), "max_tokens": self.length}
        request |= {"temperature": 0, "logprobs": True, "top_logprobs": self.top}
        response = {"status_code": 200, "body": body}
        return {
            "custom_id": f"row-{row}",
            "request": request,
            "response": response,
            **_columns(self.questions, self.group, row),
        }


def token_names(tokenizer: PreTrainedTokenizerBase, size: int) -> list[str]:
    """Text of each token where it is that token's alone and has whole characters, else `token_id:` and its number.

    Args:
        tokenizer: only read.
        size: of the model's output; it may be larger than the tokenizer's vocabulary.
    """
    texts = [str(tokenizer.decode([token])) for token in range(min(size, len(tokenizer)))]
    times = Counter(texts)
    plain = [text and times[text] == 1 and _SPELLED not in text for text in texts]
    named = [
        text if alone else f"token_id:{token}"
        for token, (text, alone) in enumerate(zip(texts, plain, strict=True))
    ]
    return [*named, *(f"token_id:{token}" for token in range(len(texts), size))]


def _logits(model: Handle, rows: list[TokenRow], images: Any) -> Iterator[np.ndarray]:
    for states in answer_states(model, rows, images, batch_size=len(rows), hidden=False):
        yield from states.logits.double().numpy()


def _messages(questions: Questions, row: int) -> Any:
    """The prompt as messages; a picture stands first, by its path."""
    prompt = questions.prompts[row]
    if not isinstance(prompt, str):
        given: Any = prompt
        return given.get("messages", given) if isinstance(given, Mapping) else given
    if questions.images is None:
        return [{"role": "user", "content": prompt}]
    picture = {"type": "image_url", "image_url": {"url": str(questions.images[row])}}
    return [{"role": "user", "content": [picture, {"type": "text", "text": prompt}]}]


def _columns(questions: Questions, group: str, row: int) -> dict[str, Any]:
    """Labels of a row, with what is known of it: the columns that an audit of a transcript reads."""
    attributes, roles = questions.attributes.iloc[row], questions.roles.iloc[row]
    columns: dict[str, Any] = {
        str(name): None if pd.isna(label) else label for name, label in attributes.items()
    }
    columns["mentioned"] = [str(name) for name, role in roles.items() if role == "mentioned"]
    columns[group] = int(questions.groups[row])
    for name, texts in (("question", questions.known), ("answer", questions.answers)):
        if texts is not None:
            columns[name] = texts[row]
    return columns
