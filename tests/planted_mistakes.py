"""54 mistakes of daily use, 33 from Python and 21 at the command line: what is done, what is told, and the hint.

Each stands in a folder that `write_world` fills. `mend` takes the hint as it was told, and does the same with it.
"""

from __future__ import annotations

import ast
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import worlds
from trimtab import CAA, Domain, Fit, Steering, Uniform, finetune, load
from trimtab.cli.main import main
from trimtab.runs.folder import RunFolder

FIT = Fit(steps=1, batch_size=2, seq_len=16, eval_sequences=4, probe_sequences=2, eval_points=1)
CONFIG = """\
system: dynamics
model: tiny-llama
train: {maths: maths.jsonl, web: web.jsonl}
targets: [maths]
constraints: {web: 0.02}
mixer: {kind: uniform}
fit: {steps: 1, batch_size: 2, seq_len: 16, eval_sequences: 4, probe_sequences: 2, eval_points: 1}
"""
NUMBER = 200
"""Records of a file."""
BROKEN = 57
"""The line of line57.jsonl that is no JSON."""


@dataclass(frozen=True)
class Planted:
    """A mistake, and what is told about it.

    Attributes:
        what: is done wrong.
        do: does it; a list is an argument line of the command.
        place: file or key that is named; a part of it.
        got: what is said to be there; a part of it.
        expected: what is said to be expected; a part of it.
        hint: what is to be tried, all of it; empty for none.
        mend: does the same with the hint applied; None where a hint cannot be applied by rule.
    """

    what: str
    do: Callable[[], object] | list[str]
    place: str
    got: str
    expected: str
    hint: str = ""
    mend: Callable[[str], object] | None = None


class BegunError(Exception):
    """A run got as far as its first step."""


def write_world(folder: Path) -> None:
    """Write the model, the data and the config that mistakes are made with."""
    worlds.llama().save_pretrained(folder / "tiny-llama")
    worlds.tokenizer().save_pretrained(folder / "tiny-llama")
    lines: dict[str, list[Any]] = {
        "maths": [{"prompt": f"{n} + 1 = ", "completion": str(n + 1)} for n in range(NUMBER)],
        "web": [{"text": text} for text in worlds.texts("web", "train", NUMBER)],
        "chats": [{"messages": chat(n)} for n in range(NUMBER)],
        "questions": [{"question": f"{n} + 2?", "answer": str(n + 2)} for n in range(NUMBER)],
        "sharegpt": [{"conversations": [{"from": "human", "value": f"{n}"}]} for n in range(NUMBER)],
        "alpaca": [
            {"instruction": f"add 3 to {n}", "input": "", "output": str(n + 3)} for n in range(NUMBER)
        ],
        "five": [{"text": text} for text in worlds.texts("facts", "train", 5)],
        "blank": [{"text": " "} for _ in range(30)],
        "empty": [],
        "longprompts": [{"prompt": f"{n} " + "x" * 40, "completion": "y"} for n in range(NUMBER)],
        "copies": [
            {"text": f"{'ab' * (n % 40)} is one of the texts of which each is there twice"}
            for n in range(NUMBER)
        ],
    }
    for name, records in lines.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    texts = [json.dumps({"text": text}) for text in worlds.texts("safety", "train", NUMBER)]
    texts[BROKEN - 1] = texts[BROKEN - 1][:-2]
    (folder / "line57.jsonl").write_text("\n".join(texts) + "\n")
    (folder / "my.yaml").write_text(CONFIG)
    (folder / "twice.yaml").write_text(CONFIG + "model: another\n")
    (folder / "notes").mkdir()
    RunFolder.create_or_open(folder / "other", {"system": "dynamics", "seed": 3}).close()


def chat(number: int) -> list[dict[str, str]]:
    """A conversation whose answer is longer than a sequence."""
    answer = "".join(random.Random(number).choices("abc ", k=60))
    return [{"role": "user", "content": str(number)}, {"role": "assistant", "content": answer}]


def begun(done: int, total: int) -> None:
    """Progress of a run that has begun."""
    raise BegunError


def tune(**changes: Any) -> object:
    """Fine-tune the tiny model up to its first step."""
    mixer = changes.pop("mixer", None) or Uniform(**{"targets": ["maths"], **changes.pop("goals", {})})
    settings: dict[str, Any] = {
        "train": {"maths": "maths.jsonl", "web": "web.jsonl"},
        "fit": FIT,
        "out": "run",
    }
    model = changes.pop("model", None) or worlds.model()
    return finetune(model, mixer=mixer, progress=begun, **{**settings, **changes})


def more(data: Any) -> object:
    """Fine-tune on one domain more."""
    return tune(train={"maths": "maths.jsonl", "web": "web.jsonl", "more": data})


def columns_of(hint: str, file: str) -> object:
    """A domain of a file with the columns that a hint names."""
    return Domain.from_jsonl("more", file, columns=ast.literal_eval(hint.removeprefix("columns="))).contents


def goals(**changes: Any) -> Callable[[], object]:
    """Fine-tune with other targets or constraints."""
    return lambda: tune(goals=changes)


def steered() -> Steering:
    """A steering of the tiny model."""
    sides = (worlds.texts(name, "train", 6) for name in ("web", "code"))
    return CAA().fit(worlds.model(), *sides)


def wider() -> Any:
    """Another tiny model, with weights of its own."""
    return worlds.model(seed=1)


def swapped() -> object:
    """Two domains, each under the name of the other."""
    names = {"maths": "web", "web": "maths"}
    return tune(train={key: Domain.from_path(name, f"{name}.jsonl") for key, name in names.items()})


CHOSEN = "'text', with 'prompt' and 'completion', or with 'messages'"
FROM_PYTHON = (
    Planted(
        "a path with a slip",
        lambda: more("math.jsonl"),
        "domain 'more'",
        "'math.jsonl'",
        "a file that exists",
        "maths.jsonl",
        more,
    ),
    Planted(
        "a path unlike any",
        lambda: more("poems.jsonl"),
        "domain 'more'",
        "'poems.jsonl'",
        "a file that exists",
        "a path relative to the current directory",
    ),
    Planted(
        "from_jsonl with a slip",
        lambda: Domain.from_jsonl("more", "math.jsonl"),
        "domain 'more'",
        "'math.jsonl'",
        "a file that exists",
        "maths.jsonl",
        lambda hint: Domain.from_jsonl("more", hint).contents,
    ),
    Planted(
        "a mixer as text",
        lambda: tune(mixer="uniform"),
        "mixer",
        "'uniform'",
        "a mixer",
        "Uniform(targets=['...'])",
        lambda hint: tune(mixer=eval(hint.replace("...", "maths"), {"Uniform": Uniform})),
    ),
    Planted("an unknown keyword of Fit", lambda: Fit(seqlen=16), "", "seqlen", "unexpected keyword"),  # type: ignore[call-arg]
    Planted("an unknown keyword of finetune", lambda: tune(mixr=1), "", "mixr", "unexpected keyword"),
    Planted(
        "a constraint on no domain",
        goals(constraints={"wep": 0.1}),
        "constraints.wep",
        "'wep'",
        "one of the domains 'maths', 'web'",
        "'web'",
        lambda hint: tune(goals={"constraints": {ast.literal_eval(hint): 0.1}}),
    ),
    Planted(
        "a negative tolerance",
        goals(constraints={"web": -0.1}),
        "constraints.web",
        "-0.1",
        "zero or more, in nats",
    ),
    Planted(
        "a tolerance in per cent",
        goals(constraints={"web": "5%"}),
        "constraints.web",
        "'5%'",
        "zero or more, in nats",
        "a number, such as 0.02",
        lambda hint: tune(goals={"constraints": {"web": float(hint.split()[-1])}}),
    ),
    Planted(
        "a target as constraint",
        goals(constraints={"maths": 0.1}),
        "constraints.maths",
        "a target",
        "a domain that is not a target",
    ),
    Planted(
        "targets as text",
        goals(targets="maths"),
        "targets",
        "the text 'maths'",
        "a list of domains",
        "['maths']",
        lambda hint: tune(goals={"targets": ast.literal_eval(hint)}),
    ),
    Planted(
        "a network without tokenizer",
        lambda: tune(model=worlds.llama()),
        "",
        "without tokenizer",
        "beside a module",
        "load(module, tokenizer=AutoTokenizer.from_pretrained(...))",
        lambda _: tune(model=load(worlds.llama(), tokenizer="tiny-llama")),
    ),
    Planted(
        "a model's folder with a slip",
        lambda: load("./tiny-lama"),
        "",
        "'./tiny-lama'",
        "a model's folder or hub name",
        "tiny-llama",
        load,
    ),
    Planted(
        "a model of the hub, offline",
        lambda: load("someone/far-away"),
        "",
        "someone/far-away",
        "a local folder, or a model that the hub serves",
        "check the name and the network",
    ),
    Planted(
        "a broken line",
        lambda: more("line57.jsonl"),
        "line57.jsonl:57",
        "not JSON",
        "one JSON object per line",
    ),
    Planted(
        "columns of another name",
        lambda: more("questions.jsonl"),
        "questions.jsonl:1",
        "'question', 'answer'",
        CHOSEN,
        "columns={'prompt': 'question', 'completion': 'answer'}",
        lambda hint: columns_of(hint, "questions.jsonl"),
    ),
    Planted("ShareGPT", lambda: more("sharegpt.jsonl"), "sharegpt.jsonl:1", "'conversations'", CHOSEN, "*"),
    Planted(
        "Alpaca",
        lambda: more("alpaca.jsonl"),
        "alpaca.jsonl:1",
        "'instruction', 'input', 'output'",
        CHOSEN,
        "*",
    ),
    Planted(
        "an empty file",
        lambda: more("empty.jsonl"),
        "domain 'more', split 'train'",
        "no record in 90 % of empty.jsonl",
        "at least one",
        "more records, or files of its own for each split",
    ),
    Planted(
        "blank texts",
        lambda: more("blank.jsonl"),
        "domain 'more', split 'train'",
        "blank.jsonl (30 blank records skipped)",
        "at least one",
        "more records, or files of its own for each split",
    ),
    Planted(
        "five records",
        lambda: more("five.jsonl"),
        "domain 'more', split",
        "no record in 5 % of five.jsonl",
        "at least one",
        "more records, or files of its own for each split",
        lambda _: more(Domain.from_jsonl("more", "five.jsonl", validation="web.jsonl", test="maths.jsonl")),
    ),
    Planted(
        "a name in train and evaluate",
        lambda: tune(evaluate={"web": "chats.jsonl"}),
        "evaluate.web",
        "a domain of the same name in `train`",
        "a new name",
        "leaving it out: every training domain is evaluated too",
        lambda _: tune(),
    ),
    Planted(
        "a rate that diverges", lambda: tune(fit=Fit(steps=1, lr=1000.0)), "fit.lr", "1000.0", "at most 100"
    ),
    Planted(
        "a folder with another run",
        lambda: tune(out="other"),
        "",
        "another config: ",
        "that of the run in the folder",
        "another folder, or the same config",
        lambda _: tune(out="new"),
    ),
    Planted(
        "a steering on another model",
        lambda: steered().on(wider()).__enter__(),
        "",
        "a model whose weights",
        "the model it was fitted on",
        "steering.rebased(model), if you mean it",
        lambda _: steered().rebased(wider()),
    ),
    Planted(
        "strength 2",
        lambda: steered().on(worlds.model(), 2.0).__enter__(),
        "strength",
        "2.0",
        "numbers in [0, 1]",
        "a steering times a number, to go beyond",
        lambda _: (steered() * 2.0).on(worlds.model()),
    ),
    Planted(
        "one example", lambda: CAA().fit(worlds.model(), ["a"], ["b"]), "source", "1 example", "at least 2"
    ),
    Planted(
        "a site of another library",
        lambda: CAA(sites=["attn_out"]).fit(worlds.model(), ["a", "b"], ["c", "d"]),
        "site 'attn_out'",
        "a pattern that matches no module",
        "a module",
        "'attention_out' or 'mlp_out' or 'pre_attention_norm'",
        lambda hint: CAA(sites=[ast.literal_eval(hint.partition(" or ")[0])]).fit(
            worlds.model(), ["a", "b"], ["c", "d"]
        ),
    ),
    Planted(
        "prompts longer than a sequence",
        lambda: more("longprompts.jsonl"),
        "domain 'more', split 'train'",
        "without a token that carries loss in the first 16",
        "seq_len=16",
        "a larger seq_len",
        lambda _: tune(
            train={"maths": "maths.jsonl", "more": "longprompts.jsonl"},
            fit=replace(FIT, seq_len=64),
        ),
    ),
)
"""Refused before any work."""
WARNED = (
    Planted(
        "answers longer than a sequence",
        lambda: tune(train={"maths": "maths.jsonl", "more": "chats.jsonl"}, fit=replace(FIT, seq_len=40)),
        "domain 'more'",
        "sequences were cut at 40 tokens",
        "a larger seq_len keeps more",
    ),
    Planted(
        "records that are there twice",
        lambda: more("copies.jsonl"),
        "more",
        "records of more repeat another",
        "train",
    ),
    Planted(
        "a file in two domains",
        lambda: tune(evaluate={"held": "web.jsonl"}),
        "held",
        "evaluation records of held are trained on in web",
        "",
    ),
    Planted(
        "domains that are swapped",
        swapped,
        "'web' as 'maths'",
        "handed over under another name than their own",
        "",
    ),
)
"""Told by a warning before the first step, since somebody may mean it."""


def at(verb: str, *arguments: str) -> list[str]:
    """A verb with the config and overrides."""
    return [verb, "my.yaml", *arguments]


def check(*arguments: str) -> int:
    """The exit code of a check with what a hint says."""
    return main(at("check", *arguments))


AT_THE_COMMAND_LINE = (
    Planted(
        "a verb with a slip",
        ["chek", "my.yaml"],
        "",
        "'chek'",
        "one of ls, cp, check",
        "'check'",
        lambda hint: main([ast.literal_eval(hint), "my.yaml"]),
    ),
    Planted(
        "a recipe with a slip",
        ["cp", "lexicon/quikstart", "new.yaml"],
        "recipe",
        "'lexicon/quikstart'",
        "lexicon/quickstart",
        "'lexicon/quickstart'",
        lambda hint: main(["cp", ast.literal_eval(hint), "new.yaml"]),
    ),
    Planted(
        "a config with a slip",
        ["run", "myy.yaml"],
        "config",
        "'myy.yaml'",
        "a YAML file or a recipe",
        "'my.yaml'",
        lambda hint: main(["check", ast.literal_eval(hint)]),
    ),
    Planted(
        "a key twice",
        ["run", "twice.yaml"],
        "twice.yaml, line 8, column 1",
        "key 'model' given twice",
        "YAML",
    ),
    Planted(
        "an unknown key",
        at("run", "--fit.seqlen", "8"),
        "fit.seqlen",
        "an unknown key",
        "seq_len",
        "'seq_len'",
        lambda hint: check(f"--fit.{ast.literal_eval(hint)}", "12"),
    ),
    Planted(
        "an unknown mixer",
        at("run", "--mixer.kind", "dynamic"),
        "mixer.kind",
        "'dynamic'",
        "'dynamics'",
        "'dynamics'",
        lambda hint: check("--mixer.kind", ast.literal_eval(hint)),
    ),
    Planted(
        "a path with a slip",
        at("run", "--train.web", "wep.jsonl"),
        "train.web",
        "'wep.jsonl'",
        "a file, a glob, a folder",
        "web.jsonl",
        lambda hint: check("--train.web", hint),
    ),
    Planted(
        "a path unlike any",
        at("run", "--train.web", "poems.jsonl"),
        "train.web",
        "'poems.jsonl'",
        "a file, a glob, a folder",
        "a path relative to the current directory",
    ),
    Planted(
        "a constraint on no domain",
        at("run", "--constraints", "{wep: 0.1}"),
        "constraints.wep",
        "'wep'",
        "one of the domains",
        "'web'",
        lambda hint: check("--constraints", f"{{{hint}: 0.1}}"),
    ),
    Planted(
        "a negative tolerance",
        at("run", "--constraints.web", "-0.1"),
        "constraints.web",
        "-0.1",
        "zero or more, in nats",
    ),
    Planted(
        "a tolerance in per cent", at("run", "--constraints.web", "5%"), "constraints.web", "'5%'", "a number"
    ),
    Planted(
        "a target as constraint",
        at("run", "--constraints", "{maths: 0.1}"),
        "constraints.maths",
        "a target",
        "a domain that is not a target",
    ),
    Planted(
        "targets as text",
        at("run", "--targets", "maths"),
        "targets",
        "'maths'",
        "a list",
        "[maths]",
        lambda hint: check("--targets", hint),
    ),
    Planted(
        "a key of peft",
        at("run", "--adapter", "{r: 2, lora_alpha: 4}"),
        "adapter.lora_alpha",
        "an unknown key",
        "alpha",
        "'alpha'",
        lambda hint: check("--adapter", f"{{r: 2, {ast.literal_eval(hint)}: 4}}"),
    ),
    Planted(
        "a type as torch writes it",
        at("run", "--dtype", "torch.bfloat16"),
        "dtype",
        "'torch.bfloat16'",
        "'bfloat16'",
        "'bfloat16'",
        lambda hint: check("--dtype", ast.literal_eval(hint)),
    ),
    Planted(
        "a folder taken for the hub",
        at("run", "--model", "tiny-lama"),
        "model",
        "'tiny-lama'",
        "there is no folder of this name",
        "tiny-llama",
        lambda hint: check("--model", hint),
    ),
    Planted(
        "a broken line",
        at("run", "--train.more", "line57.jsonl"),
        "line57.jsonl:57",
        "not JSON",
        "one JSON object per line",
    ),
    Planted(
        "five records",
        at("run", "--train.more", "five.jsonl"),
        "split",
        "no record in 5 % of five.jsonl",
        "at least one",
        "more records, or files of its own for each split",
    ),
    Planted(
        "prompts longer than a sequence",
        at("run", "--train.more", "longprompts.jsonl"),
        "split 'train'",
        "without a token that carries loss in the first 16",
        "seq_len=16",
        "a larger seq_len",
        lambda _: check("--train.more", "longprompts.jsonl", "--fit.seq_len", "64"),
    ),
    Planted(
        "a folder with another run",
        at("run", "--out", "other"),
        "",
        "another config: ",
        "that of the run in the folder",
        "another folder, or the same config",
        lambda _: check(),
    ),
    Planted(
        "a folder that is no run",
        ["report", "notes"],
        "",
        "no finished run in notes",
        "one",
        "trimtab runs, which lists them",
        lambda _: main(["runs"]),
    ),
)
"""Refused with exit code 2."""
