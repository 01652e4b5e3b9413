"""Caption scores of the peers, one part at a time: JSON on stdin, JSON on stdout. `scores.py` starts it.

    python -m venv peers; peers/bin/pip install pycocoevalcap aac-metrics nltk     (and Java, for the first one)

It is run by the peers' own interpreter, so that none of them becomes a dependency of ours.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

METEOR = ("-l", "en", "-m", "exact stem", "-w", "1.0 0.6", "-p", ".85 .2 .6 .5")


def package() -> Path:
    import pycocoevalcap

    return Path(pycocoevalcap.__path__[0])


def versions(_: Any) -> dict[str, str]:
    told = {name: version(name) for name in ("pycocoevalcap", "aac-metrics", "nltk", "numpy", "torch")}
    java = subprocess.run(["java", "-version"], capture_output=True, text=True, check=True).stderr
    return {**told, "java": java.splitlines()[0], "python": sys.version.split()[0]}


def tokens(texts: list[str]) -> list[list[str]]:
    """Stanford's tokens of each text, punctuation left out, as pycocoevalcap makes them."""
    from pycocoevalcap.tokenizer.ptbtokenizer import PUNCTUATIONS

    jar = package() / "tokenizer" / "stanford-corenlp-3.4.1.jar"
    command = [
        "java",
        "-cp",
        str(jar),
        "edu.stanford.nlp.process.PTBTokenizer",
        "-preserveLines",
        "-lowerCase",
    ]
    lines = "\n".join(" ".join(text.split()) for text in texts) + "\n"
    out = subprocess.run(command, input=lines, capture_output=True, text=True, check=True).stdout
    return [
        [token for token in line.split() if token not in PUNCTUATIONS]
        for line in out.split("\n")[: len(texts)]
    ]


def coco(given: dict[str, Any]) -> dict[str, Any]:
    """BLEU, ROUGE-L and CIDEr of COCO's package, of captions that are tokenised already, with CPU seconds."""
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    candidates = {k: [" ".join(one)] for k, one in enumerate(given["candidates"])}
    references = {k: [" ".join(one) for one in several] for k, several in enumerate(given["references"])}
    told = {}
    for name, scorer in (("bleu", Bleu(4)), ("rouge", Rouge()), ("cider", Cider())):
        if name in given["parts"]:
            start = time.process_time()
            value, each = scorer.compute_score(references, candidates)
            seconds = time.process_time() - start
            told[name] = {"value": value, "cpu_seconds": seconds}
            told[name] |= {"each": [float(one) for one in each]} if name != "bleu" else {}
    return told


def aac(given: dict[str, Any]) -> dict[str, Any]:
    """CIDEr-D of aac-metrics, of captions that are tokenised already, with CPU seconds."""
    import torch
    from aac_metrics.functional import cider_d

    torch.set_num_threads(1)
    candidates = [" ".join(one) for one in given["candidates"]]
    references = [[" ".join(one) for one in several] for several in given["references"]]
    start = time.process_time()
    corpus, each = cider_d(candidates, references)
    seconds = time.process_time() - start
    return {"value": float(corpus["cider_d"]), "each": each["cider_d"].tolist(), "cpu_seconds": seconds}


def meteor(given: dict[str, Any]) -> dict[str, Any]:
    """METEOR 1.5 with exact and stem matches and no weights of function words, by its own program."""
    jar = package() / "meteor" / "meteor-1.5.jar"
    references = given["references"]
    (count,) = {len(each) for each in references}
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = Path(folder) / "candidates", Path(folder) / "references"
        ours.write_text("".join(" ".join(one) + "\n" for one in given["candidates"]))
        theirs.write_text("".join(" ".join(one) + "\n" for each in references for one in each))
        command = ["java", "-Xmx2G", "-jar", str(jar), str(ours), str(theirs), "-r", str(count), *METEOR]
        out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    each = [float(one) for one in re.findall(r"^Segment \d+ score:\s+(\S+)", out, re.MULTILINE)]
    return {"each": each, "value": float(re.findall(r"^Final score:\s+(\S+)", out, re.MULTILINE)[0])}


def stems(words: list[str]) -> list[str]:
    from nltk.stem.snowball import EnglishStemmer

    stemmer = EnglishStemmer()
    return [stemmer.stem(word) for word in words]


def main() -> None:
    part = {one.__name__: one for one in (versions, tokens, coco, aac, meteor, stems)}[sys.argv[1]]
    with contextlib.redirect_stdout(io.StringIO()):
        told = part(json.load(sys.stdin))
    print(json.dumps(told))


if __name__ == "__main__":
    main()
