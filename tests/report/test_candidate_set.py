"""A candidate set is one drawing: every picture in its place, who chose it in words, and nothing from outside."""

from __future__ import annotations

from xml.etree import ElementTree

from trimtab.report.candidate_set import WIDTH, Candidate, candidate_set

SVG = "{http://www.w3.org/2000/svg}"
PNG = "data:image/png;base64,AAAA"


def drawn(target: Candidate, *others: Candidate) -> ElementTree.Element:
    return ElementTree.fromstring(candidate_set(target, others, caption="said").svg)


def texts(root: ElementTree.Element) -> list[str]:
    return [one.text or "" for one in root.iter(f"{SVG}text")]


def test_the_target_is_large_and_framed_and_the_chosen_have_dashes() -> None:
    others = [Candidate(f"d{k}", PNG, ["before ●"] if k == 1 else []) for k in range(5)]
    root = drawn(Candidate("t", PNG, ["after ●"], "t, the target; chosen"), *others)
    target, *rest = root.iter(f"{SVG}image")
    assert {float(one.get("width", 0)) for one in rest} == {62.0}
    assert float(target.get("width", 0)) == 132.0
    assert len({(one.get("x"), one.get("y")) for one in rest}) == 5
    groups = root.findall(f"{SVG}g")
    frames = [(one.get("stroke-width"), one.get("stroke-dasharray")) for one in root.iter(f"{SVG}rect")]
    assert frames == [("3", None), ("0.6", None), ("2", "4 3"), *[("0.6", None)] * 3]
    assert texts(root) == ["target", "after ●", "before ●"]
    assert groups[0].findtext(f"{SVG}title") == "t, the target; chosen"
    assert groups[2].findtext(f"{SVG}title") == "d1"
    wide, high = map(float, root.get("viewBox", "").split()[2:])
    assert wide == WIDTH == 358
    for one in [target, *rest]:
        x, y, side = (float(one.get(name, 0)) for name in ("x", "y", "width"))
        assert x + side <= wide
        assert y + side <= high


def test_lines_under_a_picture_touch_no_other_row() -> None:
    others = [Candidate(f"d{k}", PNG, ["one", "two", "three"]) for k in range(4)]
    root = drawn(Candidate("t", PNG), *others)
    last = list(root.iter(f"{SVG}image"))[-1]
    below = max(
        float(one.get("y", 0))
        for one in root.iter(f"{SVG}text")
        if float(one.get("y", 0)) < float(last.get("y", 0))
    )
    assert below + 4 <= float(last.get("y", 0))


def test_what_is_no_picture_is_its_name_and_hostile_names_are_harmless() -> None:
    strange = (
        "",
        "https://elsewhere/a.png",
        "data:image/svg+xml;base64,AAAA",
        'data:image/png;base64,A" onload="x',
        "data:image/png;base64,AA AA",
    )
    others = [Candidate(f"<b>{k}", uri) for k, uri in enumerate(strange)]
    root = drawn(Candidate("</svg><script>\u202e", "", ["<i>"]), *others)
    assert not list(root.iter(f"{SVG}image"))
    assert "<b>0" in texts(root)
    svg = candidate_set(Candidate("</svg><script>\u202e", "", ["<i>"]), others).svg
    assert not [bad for bad in ("<script", "\u202e", "<b>", "<i>", "elsewhere") if bad in svg]
