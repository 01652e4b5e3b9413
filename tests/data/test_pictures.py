"""Named pictures of folders, mappings and lists, with their metadata."""

from __future__ import annotations

import gc
import json

import pandas as pd
import pytest
from PIL import Image

from trimtab.data.pictures import Pictures, read_pictures
from trimtab.errors import DataError


def save(path, colour="red"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (2, 2), colour).save(path)


@pytest.fixture
def folder(tmp_path):
    save(tmp_path / "b.png", "red")
    save(tmp_path / "A.PNG", "green")
    save(tmp_path / "deep" / "er" / "c.x.jpg", "blue")
    save(tmp_path / ".hidden" / "d.png")
    (tmp_path / "notes.txt").write_text("no picture")
    return tmp_path


def test_names_are_paths_without_endings(folder):
    pictures = read_pictures(folder)
    assert pictures.names == tuple(pictures) == ("A", "b", "deep/er/c.x")
    assert len(pictures) == len(pictures.table) == 3
    assert list(pictures.table.columns) == []
    assert pictures["b"].getpixel((0, 0)) == (255, 0, 0)
    assert pictures["b.png"].getpixel((0, 0)) == (255, 0, 0)
    assert pictures["deep/er/c.x.jpg"].mode == "RGB"
    assert [one.getpixel((0, 0)) for one in pictures.images(["b", "A", "b"])][1:] == [
        (0, 128, 0),
        (255, 0, 0),
    ]
    assert "A.png" in pictures
    assert "A.jpg" not in pictures
    assert "deep/er/c" not in pictures
    assert pictures.name_of("A.PNG") == "A"
    assert list(pictures.problems()) == []
    assert repr(pictures) == "Pictures(3 pictures)"


def rows_of(pictures):
    return {name: dict(row.dropna()) for name, row in pictures.table.iterrows()}


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_metadata_stands_beside_its_pictures(folder, kind):
    frame = pd.DataFrame(
        {"file_name": ["b.png", "A.PNG", "deep/er/c.x.jpg"], "shape": ["cube", "ball", "cone"]}
    )
    frame["count"] = [3, 1, 2]
    path = folder / f"metadata.{kind}"
    if kind == "csv":
        frame.to_csv(path, index=False)
    elif kind == "jsonl":
        path.write_text("\n".join(json.dumps(row) for row in frame.to_dict("records")) + "\n\n")
    else:
        frame.to_parquet(path)
    pictures = read_pictures(folder)
    assert list(pictures.table.columns) == ["shape", "count"]
    assert pictures.table.index.tolist() == list(pictures.names)
    assert pictures.table["shape"].tolist() == ["ball", "cube", "cone"]
    assert pictures.table["count"].tolist() == [1, 3, 2]
    picked = pictures.select(["deep/er/c.x", "b"])
    assert picked.names == ("deep/er/c.x", "b")
    assert picked.table["count"].tolist() == [2, 3]
    assert repr(pictures) == "Pictures(3 pictures, shape, count)"


def test_metadata_of_a_sub_folder_and_of_some_pictures(folder):
    (folder / "deep" / "metadata.csv").write_text("file_name,shape\ner/c.x.jpg,cone\n")
    pictures = read_pictures(folder)
    assert rows_of(pictures) == {"A": {}, "b": {}, "deep/er/c.x": {"shape": "cone"}}


def test_columns_of_json_keep_lists_and_mappings(folder):
    scene = {"objects": [{"shape": "cube"}]}
    row = {"file_name": "b.png", "scene": scene}
    (folder / "metadata.jsonl").write_text(json.dumps(row))
    assert read_pictures(folder).table.loc["b", "scene"] == scene


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (
            "file_name,shape\nb.png,cube\nd.png,ball\n",
            r"metadata.csv, row 2: got 'd.png', which is not there.*'b.png'",
        ),
        ("file_name,shape\n../b.png,cube\n", r"row 1: got '../b.png', which is not there"),
        ("file_name,shape\nb.jpg,cube\n", r"got 'b.jpg', which is not there, .*try 'b.png'"),
        ("file_name,shape\nb,cube\n", r"got 'b', which is not there"),
        ("filename,shape\nb.png,cube\n", r"row 1: got no 'file_name', expected .*try 'filename'"),
        ("file_name,shape\nb.png,cube\nb.png,ball\n", r"metadata.csv: got 'b' twice"),
    ],
)
def test_metadata_that_does_not_fit_is_refused(folder, metadata, message):
    (folder / "metadata.csv").write_text(metadata)
    with pytest.raises(DataError, match=message):
        read_pictures(folder, "pictures")


def test_folders_that_are_none_are_refused(folder, tmp_path):
    for source, message in {
        folder / "nothing": "pictures: got .*nothing', which does not exist",
        folder / "b.png": r"b.png', a file, expected a folder of pictures",
        folder / ".hidden" / "..": "",
    }.items():
        if message:
            with pytest.raises(DataError, match=message):
                read_pictures(source)
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "a.txt").touch()
    with pytest.raises(DataError, match=r"without a picture among its 1 files and folders.*\.png"):
        read_pictures(empty)
    save(folder / "b.jpg")
    with pytest.raises(DataError, match="got two pictures named 'b', expected one picture a name"):
        read_pictures(folder)
    with pytest.raises(DataError, match="no such user"):
        read_pictures("~nosuchuser/x")


def test_mappings_and_lists(tmp_path):
    save(tmp_path / "a.png")
    image = Image.new("L", (3, 1))
    pictures = read_pictures({"x": tmp_path / "a.png", 7: image})
    assert pictures.names == ("x", "7")
    assert pictures[7].size == (3, 1)
    assert "x.png" in pictures
    assert read_pictures([image, str(tmp_path / "a.png")]).names == ("0", "1")
    assert read_pictures(pictures) is pictures
    assert read_pictures(str(tmp_path)).names == ("a",)
    for source, message in (
        ([], "clips: got no pictures"),
        ({}, "clips: got no pictures"),
        (3, "clips: got a int, expected a folder"),
        ([image, 3], "clips: got a int as picture '1'"),
        ({7: image, "7": image}, "clips: got two pictures named '7'"),
    ):
        with pytest.raises(DataError, match=message):
            read_pictures(source, "clips")


def test_unknown_names_and_names_twice_are_refused(folder):
    pictures = read_pictures(folder)
    with pytest.raises(
        DataError, match=r"got the picture 'deep/er/cx', expected one of 3 names; try 'deep/er/c.x'"
    ):
        pictures["deep/er/cx"]
    with pytest.raises(DataError, match="got two pictures named 'b'"):
        pictures.select(["b", "b.png"])


def test_problems_name_every_file_that_cannot_be_decoded(folder):
    (folder / "b.png").write_bytes(b"")
    (folder / "A.PNG").write_text("no picture")
    pictures = read_pictures(folder)
    found = [str(problem) for problem in pictures.problems("job.pictures")]
    assert len(found) == 2
    assert found[0].startswith(
        f"job.pictures, picture 'A', {folder / 'A.PNG'}: got a file that is no such picture"
    )
    assert found[1].startswith(f"job.pictures, picture 'b', {folder / 'b.png'}: got an empty file (0 bytes)")
    with pytest.raises(DataError, match=r"picture 'b', .*empty file"):
        pictures["b"]
    assert isinstance(pictures, Pictures)


@pytest.mark.filterwarnings("ignore")  # datasets leaves files open
def test_a_folder_of_hugging_face_datasets_says_the_same(folder):
    """The layout is that of `imagefolder`: their reader finds the same pictures with the same metadata."""
    from datasets import load_dataset

    (folder / "deep" / "er" / "c.x.jpg").unlink()
    (folder / "A.PNG").rename(folder / "a.png")
    (folder / "metadata.csv").write_text("file_name,shape\nb.png,cube\na.png,ball\n")
    theirs = load_dataset(
        "imagefolder", data_dir=str(folder), split="train", cache_dir=str(folder / ".cache")
    )
    ours = read_pictures(folder)
    assert sorted(theirs["shape"]) == sorted(ours.table["shape"])
    gc.collect()
    by_shape = {row["shape"]: row["image"].convert("RGB").getpixel((0, 0)) for row in theirs}
    assert by_shape == {ours.table.loc[name, "shape"]: ours[name].getpixel((0, 0)) for name in ours}
