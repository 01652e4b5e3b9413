"""Every Python snippet of README and docs compiles, and names what is there; those that are quick run as printed."""

from __future__ import annotations

import ast
import contextlib
import importlib
import inspect
import io
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pandas as pd
import pytest

import tiny_listener
import worlds
from site_pages import ROOT, TEXTS, blocks
from trimtab.lab.naming import NamingWorld, chips, colour_names

PLACES = {"README.md": (ROOT / "README.md").read_text(encoding="utf-8"), **TEXTS}
SNIPPETS = {
    f"{page}, {number}": text
    for page, all_of in PLACES.items()
    for number, text in enumerate(blocks(all_of, "python"))
}


def imported(tree: ast.Module) -> Iterator[tuple[str, Any]]:
    """The objects of trimtab that a snippet imports, by the names that it gives them."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "trimtab":
            home = importlib.import_module(node.module or "")
            yield from ((one.asname or one.name, getattr(home, one.name)) for one in node.names)


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_a_snippet_compiles_and_names_what_is_there(snippet: str) -> None:
    """What it imports exists, and calls of that have only keywords that there are."""
    tree = ast.parse(SNIPPETS[snippet])
    known = dict(imported(tree))
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        thing: Any = known.get(call.func.id) if isinstance(call.func, ast.Name) else None
        if isinstance(call.func, ast.Attribute) and isinstance(call.func.value, ast.Name):
            thing = getattr(known.get(call.func.value.id), call.func.attr, None)
        if thing is None:
            continue
        taken = inspect.signature(thing).parameters.values()
        if not any(one.kind is one.VAR_KEYWORD for one in taken):
            assert {word.arg for word in call.keywords} <= {one.name for one in taken}, ast.unparse(call)


class Notebook:
    """Runs the snippets of pages one after another, in one folder and with one set of names."""

    def __init__(self) -> None:
        self.names: dict[str, Any] = {}
        self.printed = ""

    def run(self, page: str, number: int | None = None, **shorter: str) -> None:
        """A page's snippets, or one of them, with parts replaced: `from="to"` by `FROM_n="from -> to"`."""
        all_of = blocks(PLACES[page], "python")
        for text in all_of if number is None else [all_of[number]]:
            for change in shorter.values():
                long, short = change.split(" -> ")
                assert long in text, f"{page} has no {long!r} any more"
                text = text.replace(long, short)
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                exec(compile(text, page, "exec"), self.names)
            self.printed = out.getvalue()


@pytest.fixture
def notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Notebook:
    """A notebook in a folder with the model and the files that pages name."""
    monkeypatch.chdir(tmp_path)
    worlds.saved_model("my-model")
    for name in ("math", "web"):
        lines = [json.dumps({"text": text}) for text in worlds.texts(name, "train", 400)]
        Path(f"{name}.jsonl").write_text("\n".join(lines))
    Path("code").mkdir()
    for number, text in enumerate(worlds.texts("code", "train", 60)):
        Path(f"code/{number}.py").write_text(3 * text)
    return Notebook()


FEW = "steps=200 -> steps=4, eval_sequences=8, probe_sequences=4, test_sequences=8, seq_len=64, eval_points=2"
CHEAP = "seq_len=512 -> seq_len=64, eval_sequences=4, probe_sequences=2, test_sequences=4, eval_points=2"


def test_pages_about_fine_tuning(notebook: Notebook) -> None:
    notebook.run("dynamics.md", few=FEW)
    assert "math" in notebook.printed
    notebook.run("howto/run-folder.md")
    assert len(notebook.names["rows"]) > 4
    notebook.run("howto/save.md", 0)
    notebook.run("howto/save.md", 1)
    notebook.names["model"].save_pretrained("tuned")
    notebook.run("start.md")
    notebook.run("howto/data.md")
    assert len(list(notebook.names["talk"].items("train"))) > 100
    notebook.run("howto/tolerances.md")
    assert f"# {notebook.printed.strip()} records" in PLACES["howto/tolerances.md"]


def test_page_about_comparisons(notebook: Notebook) -> None:
    notebook.run("howto/compare.md")
    assert "No change is shown in web." in notebook.printed
    assert Path("compared.html").is_file()


@pytest.mark.filterwarnings("ignore:.*checkpointing.*:FutureWarning")
def test_pages_about_cards_and_mixers(notebook: Notebook) -> None:
    notebook.run("howto/one-card.md", few=CHEAP, steps="steps=200 -> steps=2")
    assert Path("runs/one-card/model/adapter_config.json").is_file()
    notebook.run("howto/own-mixer.md", few=FEW.replace("steps=4,", "steps=16,"))
    assert set(notebook.names["result"].final["domain"]) == {"math", "web"}


def test_pages_about_steering(notebook: Notebook) -> None:
    sides = {name: worlds.texts(domain, "train", 4) for name, domain in (("rude", "web"), ("polite", "code"))}
    notebook.names |= sides
    notebook.run(
        "steering.md", 0, steps='LinEAS(sites="pre_mlp_norm") -> LinEAS(sites="pre_mlp_norm", steps=2)'
    )
    notebook.run("howto/save.md", 2)
    notebook.run("howto/serving.md")
    assert Path("polite-model/config.json").is_file()
    assert list(gguf.GGUFReader("polite.gguf").tensors)


def test_pages_about_laws(notebook: Notebook) -> None:
    grid = itertools.product((5e4, 2e5, 8e5), (1e4, 1e5, 1e6), (0.0, 0.001, 0.01))
    frame = pd.DataFrame(grid, columns=["params", "tokens", "inject"])
    n, d, p = (frame[name].to_numpy() for name in frame)
    noise = np.exp(0.02 * np.random.default_rng(0).normal(size=len(n)))
    rise = 0.5 * d**0.3 / ((1 + 800 * p) * n) ** 0.4 * noise
    frame.assign(loss_pt0=3.0, loss_pt=3.0 + rise).to_csv("points.csv", index=False)
    notebook.run("forgetting.md", few="n_boot=20 -> n_boot=2")
    assert Path("law.json").is_file()


def test_pages_about_experts(notebook: Notebook) -> None:
    words, negative = (
        ("cat", "dog", "bank", "river"),
        [f"{text} it" for text in worlds.texts("facts", "train", 8)],
    )
    lines = [
        json.dumps(
            {
                "name": word,
                "positive": [f"the {word} {text}" for text in worlds.texts("web", word, 6)],
                "negative": negative,
            }
        )
        for word in words
    ]
    Path("concepts.jsonl").write_text("\n".join(lines))
    pairs = pd.DataFrame(itertools.combinations(words, 2), columns=["word1", "word2"])
    for name in ("ratings.csv", "men.csv"):
        pairs.assign(score=[5, 1, 2, 2, 1, 4]).to_csv(name, index=False)
    raters = pairs.assign(**{f"rater {k}": [5, 1 + k % 2, 2, 3, 1, 4] for k in range(4)})
    raters.to_csv("raters.csv", index=False)
    notebook.run("expertlens.md", few="top=200)) -> top=20))")
    notebook.run("method/expertlens.md")


def test_pages_about_served_responses(notebook: Notebook) -> None:
    rows = [{"prompt": f"{k} is", "city": "ab"[k % 2], "user": k} for k in range(24)]
    Path("questions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    notebook.run("audit.md", 2)
    assert len(Path("served.jsonl").read_text().splitlines()) == 24


def test_pages_about_captions(notebook: Notebook) -> None:
    for name, content in {
        "captions_val_results.json": [{"image_id": k, "caption": f"a {k} cat"} for k in range(3)],
        "captions_val2014.json": {
            "annotations": [{"image_id": k, "caption": f"the {k} cat"} for k in range(3)]
        },
    }.items():
        Path(name).write_text(json.dumps(content))
    notebook.run("caption-scores.md")
    pictures = {f"picture {k}": tiny_listener.noise(k) for k in range(6)}
    frame = pd.DataFrame({"item": list(pictures), "caption": [f"red {k}" for k in range(6)]})
    notebook.names |= {
        "pictures": pictures,
        "listener": tiny_listener.listener(),
        "captions": frame,
        "other": frame.assign(caption="a picture"),
        "choices": pd.concat(
            frame[["item"]].assign(choice=frame["item"], speaker=name) for name in ("people", "captioner")
        ),
    }
    notebook.run("intelligibility.md", few="k=9 -> k=2", group='group="set", -> n_boot=20,')
    assert Path("page.html").is_file()


def test_pages_about_names(notebook: Notebook) -> None:
    frame = colour_names(games=3)
    referent, other = frame["referent"].unique()[:2]
    notebook.names |= {"frame": frame, "features": chips(), "referent": referent, "other": other}
    notebook.run("lexicon.md", 0)
    colours = pd.DataFrame({name: np.arange(8.0) for name in ("h", "s", "L", "a", "b")})
    notebook.names["frame"] = colours
    notebook.run("lexicon.md", 1)
    assert len(notebook.names["features"]) == 1
    names = NamingWorld().sample(photographs=40)
    notebook.names["frame"] = names.assign(is_sport=names["name"].str.len() % 2 == 0)
    notebook.run("naming-bias.md", few='reference="male", -> reference="male", n_boot=50,')
    assert Path("naming.html").is_file()
