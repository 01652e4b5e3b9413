"""Four domains of real text as records with groups, and splits that share no group.

| domain | record | group |
|---|---|---|
| math | a word problem with its worked answer (GSM8K) | none |
| wikitext | a paragraph of WikiText-2, detokenised, without the sentences that hold `<unk>` | article |
| bias_qa | a BBQ item with its answer | template |
| shakespeare | a speech of tiny Shakespeare | passage of about 5 kB |

The archive's own train and test files of wikitext and bias_qa leave too few groups to judge by: 18 articles and a dozen
templates. So both files are pooled and whole groups are dealt. Tiny Shakespeare names no play, so a group is a passage.
Validation is the first half of its text and test the second, so that no more than one play is in both. Passages of one
play are not independent of each other, hence its intervals are too narrow.
"""

from __future__ import annotations

import gzip
import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from trimtab import Domain

TARGET = "math"
TRAINED = ("wikitext", "bias_qa")
"""Constraints that can be trained on."""
WATCHED = ("shakespeare",)
"""Constraints to evaluate only."""
FILES = {"math": "math_word_problems"} | {name: name for name in (*TRAINED, *WATCHED)}
"""Domain -> the beginning of its two files."""
PASSAGE = 5000
"""Characters of a passage, about."""
SHORTEST = 150
"""Characters of a paragraph, at least: below, little is left of it without the sentences that hold `<unk>`."""
FEW = 3
"""Records that a group has at least to be evaluated on; smaller ones are trained on."""
HELD_OUT = 400
"""Problems of the train file that are kept for validation."""
EVALUATED = {"wikitext": 33, "bias_qa": 31}
"""Groups of validation, and as many of test; what is left is trained on."""
MOST = {"wikitext": {"validation": 5, "test": 8}, "bias_qa": {"validation": 4, "test": 6}}
"""Records of a group in an evaluation split, at most, so that what is read is nearly the whole split and all groups."""
LEAST_RECORDS = 100
"""Records that each evaluation split has at least."""

Grouped = Mapping[str, Sequence[str]]
"""Texts by group, in order."""
Splits = dict[str, list[dict[str, str]]]


def read(data: Path, name: str) -> tuple[str, str]:
    """The train file and the test file of a domain."""
    train, test = (data / "text" / f"{FILES[name]}_{part}.txt.gz" for part in ("train", "test"))
    return tuple(gzip.decompress(path.read_bytes()).decode() for path in (train, test))  # type: ignore[return-value]


def problems(text: str) -> list[str]:
    """Word problems with their answers; an answer may hold a blank line.

    >>> problems("Question: a?\\nAnswer: 1\\n\\n2\\n#### 2\\n\\nQuestion: b?\\nAnswer: #### 3\\n\\n")
    ['Question: a?\\nAnswer: 1\\n\\n2\\n#### 2', 'Question: b?\\nAnswer: #### 3']
    """
    return [one.strip() for one in re.split(r"\n\n(?=Question: )", text) if one.strip()]


def articles(text: str) -> dict[str, list[str]]:
    """Paragraphs by article, which is named by its number: titles repeat, since some are `<unk>`."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if re.fullmatch(r" = [^=].* = ?", line):
            found[f"article {len(found)}"] = []
        elif found and line.strip() and not line.startswith(" ="):
            paragraph = prose(line)
            if len(paragraph) >= SHORTEST:
                found[f"article {len(found) - 1}"].append(paragraph)
    return {name: paragraphs for name, paragraphs in found.items() if paragraphs}


def prose(line: str) -> str:
    """A line of WikiText as prose: without sentences that hold `<unk>`, its words joined as one writes them.

    >>> prose(' It weighs 0 @.@ 7 kg , or ( so ) " more " . An <unk> is not . The dog \\'s well @-@ fed . ')
    'It weighs 0.7 kg, or (so) "more". The dog\\'s well-fed.'
    """
    whole = " ".join(one for one in re.split(r"(?<= [.!?]) ", line.strip()) if "<unk>" not in one)
    whole = re.sub(r" @([-.,])@ ", r"\1", whole)
    whole = re.sub(r'" ([^"]*?) "', r'"\1"', whole)
    whole = re.sub(r" ([,.;:!?)\]%]|n't\b|'(?:s|re|ve|ll|d|m)\b)", r"\1", whole)
    return re.sub(r"([(\[$£]) ", r"\1", whole)


def templates(text: str) -> dict[str, list[str]]:
    """Items by template: the least groups in which items of the same question, or of the same context, are together.

    A template asks the same two questions or so about every pair of people, and says the same of a pair with either.
    """
    items = [one for one in text.split("\n\n") if one.strip()]
    leaders = dict[str, str]()

    def leader(part: str) -> str:
        while leaders.setdefault(part, part) != part:
            leaders[part] = part = leaders[leaders[part]]
        return part

    parts = []
    for item in items:
        context, question, *_ = item.splitlines()
        leaders[leader(question)] = leader(context)
        parts.append(question)
    names = dict[str, str]()
    found: dict[str, list[str]] = {}
    for item, question in zip(items, parts, strict=True):
        name = names.setdefault(leader(question), f"template {len(names)}")
        found.setdefault(name, []).append(item)
    return found


def passages(text: str, size: int = PASSAGE) -> dict[str, list[str]]:
    """Speeches by passage: a new one begins with the first speech after so many characters.

    Speeches that occur before, such as "Ay, my lord.", and names without a speech are left out.
    """
    found: dict[str, list[str]] = {}
    seen, room = set[str](), 0
    for block in text.split("\n\n"):
        speech = block.strip()
        if room <= 0:
            room = size
            found[f"passage {len(found)}"] = []
        room -= len(block)
        if "\n" in speech and speech not in seen:
            found[f"passage {len(found) - 1}"].append(speech)
            seen.add(speech)
    return {name: speeches for name, speeches in found.items() if speeches}


def dealt(groups: Grouped, evaluated: int, most: Mapping[str, int]) -> Splits:
    """Whole groups for validation and test, so many each, and the rest for training.

    Which they are is drawn by a digest of the groups' names, of those with at least `FEW` texts. Of a group that is
    evaluated, at most so many texts are taken, at even distances.
    """
    order = sorted(groups, key=lambda name: hashlib.sha256(name.encode()).digest())
    large = [name for name in order if len(groups[name]) >= FEW]
    parts = {"validation": large[:evaluated], "test": large[evaluated : 2 * evaluated]}
    held_out = {*parts["validation"], *parts["test"]}
    parts["train"] = [name for name in order if name not in held_out]
    return {split: records(groups, names, most.get(split)) for split, names in parts.items()}


def halves(groups: Grouped) -> Splits:
    """The first half of the groups for validation, the second for test."""
    names = list(groups)
    middle = len(names) // 2
    return {"validation": records(groups, names[:middle]), "test": records(groups, names[middle:])}


def records(groups: Grouped, names: Sequence[str], most: int | None = None) -> list[dict[str, str]]:
    """The texts of these groups in the order of the whole, each with its group; at most so many of a group."""
    found = []
    for name in (one for one in groups if one in set(names)):
        texts = groups[name]
        places = range(len(texts))
        if most is not None and len(texts) > most:
            places = np.linspace(0, len(texts) - 1, most).round().astype(int).tolist()
        found += [{"text": texts[place], "group": name} for place in places]
    return found


def solved(train: str, test: str) -> dict[str, list[str]]:
    """Word problems of the two files; those of validation are drawn from the first by a digest of their text."""
    order = sorted(problems(train), key=lambda one: hashlib.sha256(one.encode()).digest())
    return {"train": order[HELD_OUT:], "validation": order[:HELD_OUT], "test": problems(test)}


def domains(data: Path) -> tuple[dict[str, Domain], dict[str, Domain]]:
    """Domains to train on, and domains to evaluate only.

    Args:
        data: the folder that holds `text/`.
    """
    texts = {name: read(data, name) for name in FILES}
    pooled = {name: "\n\n".join(texts[name]) for name in (*TRAINED, *WATCHED)}
    groups = {"wikitext": articles(pooled["wikitext"]), "bias_qa": templates(pooled["bias_qa"])}
    splits = {name: dealt(groups[name], EVALUATED[name], MOST[name]) for name in TRAINED}
    train = {TARGET: Domain(TARGET, **solved(*texts[TARGET]))}
    train |= {name: Domain(name, **splits[name]) for name in TRAINED}
    watched = {name: Domain(name, **halves(passages(pooled[name]))) for name in WATCHED}
    return {name: one.without_overlap() for name, one in train.items()}, watched


def counted(every: Mapping[str, Domain]) -> dict[str, dict[str, dict[str, int]]]:
    """Records and groups of each domain and split; 0 groups where records have none.

    Raises:
        ValueError: an evaluation split with too few records, or with a group of another split.
    """
    found: dict[str, dict[str, dict[str, int]]] = {}
    for name, domain in every.items():
        contents = domain.contents
        found[name] = {
            split: {"records": one.records, "groups": len(one.groups)} for split, one in contents.items()
        }
        for split, one in contents.items():
            if split != "train" and one.records < LEAST_RECORDS:
                raise ValueError(
                    f"{name}, {split}: got {one.records} records, expected at least {LEAST_RECORDS}"
                )
        hashes = [set(one.groups.tolist()) for one in contents.values()]
        if len(set().union(*hashes)) < sum(map(len, hashes)):
            raise ValueError(f"{name}: got a group in two splits, expected groups of one split each")
    return found
