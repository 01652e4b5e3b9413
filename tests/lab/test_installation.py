from __future__ import annotations

import json
from pathlib import Path

import numpy

from trimtab.lab.corpora import (
    files_below,
    metadata_files,
    package_files,
    package_folder,
    requirements,
    stdlib,
    version,
)


def test_standard_library_is_the_one_that_runs_us():
    assert (stdlib() / "json" / "__init__.py").samefile(json.__file__)


def test_package_folder_is_where_the_package_imports_from():
    folder = package_folder("numpy")
    assert folder is not None
    assert folder.samefile(Path(numpy.__file__).parent)
    assert package_folder("no_such_package") is None


def test_files_below_skips_folders_and_other_endings(tmp_path):
    for name in ("a.py", "a.txt", "in/b.py", "tests/c.py", "in/tests/d.py", "__pycache__/e.py", "tests.py"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.touch()
    found = files_below(tmp_path, ".py", skip={"tests"})
    assert set(found) == {"a.py", "in/b.py", "tests.py"}
    assert found["in/b.py"] == tmp_path / "in/b.py"


def test_missing_folder_has_no_files(tmp_path):
    assert files_below(tmp_path / "nowhere", ".py") == {}


def test_package_files_are_named_by_package():
    found = package_files(("numpy", "no_such_package"), ".py", lambda key: key.endswith("/version.py"))
    assert found["numpy/version.py"].samefile(Path(numpy.__file__).parent / "version.py")
    assert all(key.endswith("/version.py") for key in found)


def test_requirements_follow_the_tree_without_extras():
    found = requirements(["Jinja2", "no-such-package"])
    assert found == ["jinja2", "markupsafe"]  # babel is an extra of jinja2


def test_metadata_names_its_own_package():
    text = metadata_files(["numpy"])["numpy"].read_text(encoding="utf-8")
    assert "\nName: numpy\n" in text
    assert f"\nVersion: {version('numpy')}\n" in text


def test_version_of_nothing_is_empty():
    assert version("no-such-package") == ""
