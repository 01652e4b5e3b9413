"""A transcript that a server really sent, audited without the model, beside the audit of the model itself.

    python benchmarks/leaks/served.py --serve    serves SmolLM2 on port 8765 of this machine, by transformers alone
    python benchmarks/leaks/served.py            asks it, and writes benchmarks/results/leaks/served.json

The server is forty lines of the standard library that answer `POST /v1/chat/completions` with `top_logprobs`. Nothing
but the weights of the lab is in it of this package, so that the transcript has a second opinion on what the audit reads
from the model. The second command needs the readings and cells that `real.py` left in `runs/benchmark-leaks`. Both
audits see the same questions in the same folds: for the first token of the answer they must agree, but for rounding.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import numpy as np
import pandas as pd
import torch
from audits import head, records, rounded, write
from transformers import AutoModelForCausalLM, AutoTokenizer

from trimtab.lab.registry import questions as questions_file
from trimtab.lab.smollm2 import smollm2
from trimtab.numerics.cluster_bootstrap import wilson_of_clusters
from trimtab.read.leaks.assessment import Assessment, assess
from trimtab.read.leaks.levels import Answer, TopLogprobs
from trimtab.read.leaks.model_cells import cells_of
from trimtab.read.leaks.questions import read_questions
from trimtab.read.leaks.readings import facts_of, open_readings
from trimtab.read.leaks.transcript import audit_transcript, read_transcript

RUNS = Path("runs/benchmark-leaks")
GRID, TOP = (1, 2, 5, 10, 20), 20
LEVELS = (TopLogprobs(GRID), Answer())
JOINED = ("attribute", "role", "level", "encoding", "k")
VALUES = ("accuracy", "bits")


def serve(port: int) -> None:
    """One token of a greedy answer for each request, with its top log-probabilities."""
    place = smollm2()
    tokenizer: Any = AutoTokenizer.from_pretrained(place)
    model: Any = AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32).eval()

    def entry(token: int, logprob: float) -> dict[str, Any]:
        text = tokenizer.decode([token])
        return {"token": text, "logprob": logprob, "bytes": list(text.encode())}

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            text = tokenizer.apply_chat_template(
                asked["messages"], add_generation_prompt=True, tokenize=False
            )
            ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
            with torch.no_grad():
                nats = model(ids, logits_to_keep=1).logits[0, -1].double().log_softmax(-1)
            best = nats.topk(asked["top_logprobs"])
            top = [
                entry(token, round(nat, 6))
                for token, nat in zip(*map(torch.Tensor.tolist, best[::-1]), strict=True)
            ]
            message = {"role": "assistant", "content": top[0]["token"]}
            choice = {"index": 0, "message": message, "finish_reason": "length"}
            choice["logprobs"] = {"content": [top[0] | {"top_logprobs": top}]}
            body = {"id": f"chatcmpl-{time.time_ns()}", "object": "chat.completion", "choices": [choice]}
            sent = json.dumps(body).encode()
            self.send_response(200 if self.path == "/v1/chat/completions" else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(sent)))
            self.end_headers()
            self.wfile.write(sent)

        def log_message(self, format: str, *args: Any) -> None:
            """Says nothing of each request."""

    HTTPServer(("127.0.0.1", port), Handler).serve_forever()


def transcript(path: Path, port: int, rows: int | None) -> Path:
    """The responses to all questions, a line each with its labels; lines that are there are not asked again."""
    frame = pd.read_json(questions_file("facts-chat"), lines=True).iloc[:rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    done = len(path.read_text(encoding="utf-8").splitlines()) if path.is_file() else 0
    with path.open("a", encoding="utf-8") as file:
        for number, row in enumerate(frame.to_dict("records")[done:], start=done):
            request = {"messages": row.pop("prompt"), "max_tokens": 1, "temperature": 0}
            request |= {"logprobs": True, "top_logprobs": TOP}
            url = f"http://127.0.0.1:{port}/v1/chat/completions"
            asked = Request(url, json.dumps(request).encode(), {"Content-Type": "application/json"})
            with urlopen(asked) as answer:
                response = {"status_code": answer.status, "body": json.load(answer)}
            line = {"custom_id": f"row-{number}", "request": request, "response": response, **row}
            file.write(json.dumps(line) + "\n")
            file.flush()
            if number % 20 == 0:
                print(f"{time.strftime('%H:%M:%S')} {number} of {len(frame)}", file=sys.stderr, flush=True)
    return path


def compared(path: Path, folder: Path, jobs: int) -> dict[str, Any]:
    """Both audits, and how far what they read and what they found differs."""
    frame = pd.read_json(questions_file("facts-chat"), lines=True)
    questions = read_questions(frame, ["colour"], group="scene", background=["city"])
    readings = open_readings(folder / "readings")
    stamp = str(facts_of(readings.folder)["fingerprint"])
    how = Assessment(store=folder / "cells", stamp=stamp, jobs=jobs, controls=False)
    model = assess(questions, list(cells_of(LEVELS, readings)), how=how).table
    served = audit_transcript(
        path, ["colour"], group="scene", background=["city"], levels=LEVELS, mitigations=(), controls=False, jobs=jobs,
        folder=folder / "served",
    )  # fmt: skip
    both = model.merge(
        served.table, on=list(JOINED), how="outer", suffixes=("_model", "_served"), indicator=True
    )
    for name in VALUES:
        both[f"{name}_difference"] = both[f"{name}_served"] - both[f"{name}_model"]
    columns = [
        *JOINED,
        *(f"{name}_{one}" for name in VALUES for one in ("model", "served", "difference")),
        "n_served",
    ]
    apart = both.loc[both["_merge"] == "both", [f"{name}_difference" for name in VALUES]].abs().max()
    return {
        "cells": int((both["_merge"] == "both").sum()),
        "cells_of_one_alone": int((both["_merge"] != "both").sum()),
        "largest_difference": {name: rounded(float(apart[f"{name}_difference"])) for name in VALUES},
        "readings": agreement(path, readings),
        "table": records(both[columns]),
        "accounting": records(served.accounting),
        "findings": list(served.findings),
    }


def agreement(path: Path, readings: Any) -> dict[str, Any]:
    """Log-probabilities of the transcript beside those that were read from the model, rank by rank."""
    sent = read_transcript(path, ["colour"], group="scene", background=["city"])
    mine, theirs = readings.top(TOP), sent.tops[0]
    apart = np.abs(mine.values.astype(float) - theirs.values)
    ends = (sent.answers[:, 0] == theirs.ids[:, 0]).mean()
    written = Counter((theirs.vocabulary or ())[token] for token in sent.answers[:, 0])
    right = np.asarray(sent.right, dtype=float)
    low, high = wilson_of_clusters(right, np.zeros(len(right), dtype=int), sent.questions.groups, 1)
    return rounded(
        {
            "rows": len(apart),
            "largest_nats": float(np.nanmax(apart)),
            "median_nats": float(np.nanmedian(apart)),
            "answer_is_top": float(ends),
            "written": dict(written.most_common(3)),
            "right": {
                "value": float(right.mean()),
                "low": float(low[0]),
                "high": float(high[0]),
                "n": len(right),
            },
            "distinct_tokens_model": len(np.unique(mine.ids)),
            "distinct_tokens_served": len(np.unique(theirs.ids)),
        }
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--serve", action="store_true", help="be the server")
    parser.add_argument("--port", type=int, default=8765)
    parser.add_argument("--rows", type=int, help="ask the first questions alone, and audit nothing")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=RUNS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.serve:
        serve(given.port)
    path = transcript(given.folder / "served.jsonl", given.port, given.rows)
    if given.rows is None:
        found = compared(path, given.folder / "real", given.jobs)
        told = {"top_logprobs": TOP, "levels": list(map(repr, LEVELS)), "bytes": path.stat().st_size}
        write("served.json", {**head("python benchmarks/leaks/served.py", told), **found})


if __name__ == "__main__":
    main()
