"""What every test shares: one thread per worker, no network, a private cache, checked shapes."""

from __future__ import annotations

import gc
import os
import random
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import settings
from jaxtyping import install_import_hook

# Shapes are checked where arrays come from our own code; public functions say themselves what is wrong with a shape.
SHAPED = (
    "numerics.cone",
    "train.losses",
    "adapt.session",
)
# beartype looks at one item of a sequence, drawn at random: from its own generator, since tests watch Python's.
with patch.object(random, "getrandbits", random.Random(0).getrandbits):
    import beartype  # noqa: F401
install_import_hook([f"trimtab.{module}" for module in SHAPED], "beartype.beartype")
settings.register_profile("trimtab", deadline=None)
settings.load_profile("trimtab")

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("MPLBACKEND", "Agg")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first, so that no worker is left alone with one of them at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish() -> None:
    """What has been imported and collected stays: a full garbage collection need not walk through it each time."""
    gc.freeze()


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Bytes are named by their argument: a packed file holds its time, and workers must agree on the name of a test."""
    return argname if isinstance(val, bytes) else None


@pytest.fixture(scope="session")
def session_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache of lab models and tokenised data: a folder of this test session, the same for all its workers."""
    own = tmp_path_factory.getbasetemp()
    return (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "trimtab-cache"


@pytest.fixture(autouse=True)
def _private_cache(session_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Point the package at the cache of this test session."""
    monkeypatch.setenv("TRIMTAB_CACHE", str(session_cache))


@pytest.fixture(scope="session", autouse=True)
def _quick_folders() -> Iterator[None]:
    """Run folders without their waits: nobody pulls the plug, and git is asked once about this checkout."""
    from trimtab.runs import environment

    has_changed = environment.has_changed

    @cache
    def once(path: str | None, commit: str, top: Path, git: Path) -> bool | None:
        return has_changed(commit, top, git)

    def asked(commit: str, top: Path, git: Path) -> bool | None:
        ours = top == Path(__file__).parents[1]
        return once(os.environ.get("PATH"), commit, top, git) if ours else has_changed(commit, top, git)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(environment, "has_changed", asked)
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages with empty drawings, for tests of a page's words and tables: drawing takes most of a page's time."""
    monkeypatch.setattr("trimtab.report.page.to_svg", lambda figure: "<svg></svg>")


@pytest.fixture
def small_scenes(session_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scenes by the hundred and models of them trained in seconds, in a cache of their own: to run, not to convince."""
    from trimtab.lab import registry, scene_models, scene_sets
    from trimtab.lab.scene_towers import Schedule

    short = {"tower": Schedule(8), "captioner": Schedule(30, 3e-3), "listener": Schedule(8, 2e-3, 64)}
    small = partial(scene_models.SceneModels, targets=400, held_out=20, **short)
    monkeypatch.setattr(scene_models, "SceneModels", small)
    few = {"training_scenes": 120, "held_out_scenes": 60}
    made = {name: partial(getattr(scene_sets, name), targets=targets) for name, targets in few.items()}
    scenes, unseen = made["training_scenes"], made["held_out_scenes"]
    monkeypatch.setattr(registry, "PICTURES", {"scenes": scenes, "scenes-test": unseen})
    monkeypatch.setattr(registry, "held_out_scenes", unseen)
    monkeypatch.setenv("TRIMTAB_CACHE", str(session_cache / "small-scenes"))


@pytest.fixture
def real_data() -> Path:
    """The folder of real data: $TRIMTAB_DATA, else `shared/data` beside the checkout; skips where there is none."""
    folder = Path(os.environ.get("TRIMTAB_DATA") or Path(__file__).parents[2] / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set TRIMTAB_DATA")
    return folder
