from __future__ import annotations

from xml.etree import ElementTree

from trimtab.report.figures import inline

DRAWING = """<?xml version="1.0"?><!-- made by x -->
<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" width="1pt" height="1pt"
 viewBox="0 0 900 10" version="1.1"><metadata>who</metadata><defs><style>*{color:red}</style>
<path id="m" d="M 0 0"/></defs><g id="unused" clip-path="url(#m)"><use xlink:href="#m"/></g></svg>"""


def test_only_what_the_page_needs_is_kept() -> None:
    root = ElementTree.fromstring(inline(DRAWING, 'a "b" <c>\x00', 360))
    plain = "{http://www.w3.org/2000/svg}"
    assert [element.tag.removeprefix(plain) for element in root.iter()] == [
        "svg",
        "title",
        "defs",
        "path",
        "g",
        "use",
    ]
    assert root.get("aria-label") == root.findtext(f"{plain}title") == 'a "b" <c>�'
    assert root.get("data-width") == "900"
    assert "width" not in root.attrib


def test_references_follow_the_new_ids() -> None:
    root = ElementTree.fromstring(inline(DRAWING, "", 360))
    ids = [element.attrib["id"] for element in root.iter() if "id" in element.attrib]
    assert len(ids) == 1
    assert ids[0].endswith("-m")
    assert [element.attrib["href"] for element in root.iter() if "href" in element.attrib] == [f"#{ids[0]}"]
    assert [element.attrib["clip-path"] for element in root.iter() if "clip-path" in element.attrib] == [
        f"url(#{ids[0]})"
    ]


def test_another_label_gives_other_ids() -> None:
    assert inline(DRAWING, "a", 360).split('id="')[1] != inline(DRAWING, "b", 360).split('id="')[1]
