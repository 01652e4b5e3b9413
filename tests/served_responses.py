"""Responses as servers send them, written by hand, whose log-probabilities give a label away or do not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

WORDS = (" No", " Yes", "No", " not", " the", " It", " I", "\u00e9", " \u732b", " a")
CITIES = ("Cairo", "Lima", "Oslo")


def entry(
    token: str, nats: float, top: dict[str, float] | None = None, *, with_bytes: bool = True
) -> dict[str, Any]:
    """A token of `logprobs.content`, or of `top_logprobs` where it has none of its own."""
    one = {"token": token, "logprob": nats, "bytes": list(token.encode()) if with_bytes else None}
    if top is None:
        return one
    listed = [entry(name, value, with_bytes=with_bytes) for name, value in top.items()]
    return one | {"top_logprobs": listed}


def choice(*tokens: dict[str, Any], index: int = 0) -> dict[str, Any]:
    """A choice of chat completions with the log-probabilities of its tokens."""
    text = "".join(str(one.get("token")) for one in tokens)
    message = {"role": "assistant", "content": text}
    return {
        "index": index,
        "message": message,
        "finish_reason": "length",
        "logprobs": {"content": list(tokens), "refusal": None},
    }


def response(*choices: dict[str, Any], id: str = "chatcmpl-1") -> dict[str, Any]:
    """A chat-completions object."""
    return {"id": id, "object": "chat.completion", "created": 0, "model": "m", "choices": list(choices)}


def batch(custom_id: str, body: dict[str, Any] | None, **beside: Any) -> dict[str, Any]:
    """A line of a batch's output."""
    told = None if body is None else {"status_code": 200, "request_id": "r", "body": body}
    return {"id": f"batch_req_{custom_id}", "custom_id": custom_id, "response": told, "error": None, **beside}


def write(path: Path, lines: list[Any]) -> Path:
    """Lines of JSON; texts go in as they are."""
    texts = [one if isinstance(one, str) else json.dumps(one, ensure_ascii=False) for one in lines]
    path.write_text("\n".join(texts) + "\n", encoding="utf-8")
    return path


def leaky(n: int = 150, *, leak: float = 2.0, k: int = 5, seed: int = 0) -> list[dict[str, Any]]:
    """Responses of which the log-probability of " the" says which city the prompt names; all answer " No"."""
    draw = np.random.default_rng(seed)
    lines = []
    for row in range(n):
        city = row % 3
        logits = draw.normal(0, 0.3, len(WORDS)) + np.linspace(4, 0, len(WORDS))
        logits[0] += 4
        logits[4] += leak * city
        nats = logits - np.log(np.exp(logits).sum())
        top = {WORDS[place]: float(nats[place]) for place in np.argsort(-nats)[:k]}
        answer = next(iter(top))
        system = {"role": "system", "content": f"Anna lives in {CITIES[city]}."}
        user = {"role": "user", "content": "Is there a ball?" if row % 2 else "Is there a box?"}
        body = response(choice(entry(answer, top[answer], top)), id=f"chatcmpl-{row}")
        request = {"messages": [system, user]}
        lines.append(batch(f"row-{row}", body, request=request, city=CITIES[city], user=f"u{row // 3}"))
    return lines
