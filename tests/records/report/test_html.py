"""The page: whole, self-contained, readable without sight, and never the model's own."""

import re
from html.parser import HTMLParser
from typing import Any

import pytest

from flagdeploy.records.report import render
from records.report.sample import RESULT, real

VOID = {"meta", "br"}


class Page(HTMLParser):
    """Every element with its attributes, and the text outside of style sheets."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def page() -> Page:
    return Page(render(real(), "html"))


def test_nothing_is_fetched_and_nothing_is_run(page: Page) -> None:
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "link", "img", "iframe", "object", "base", "form", "use"}
    links = {attributes["href"] for attributes in page.all("a")}
    targets = {"#" + (a["id"] or "") for _, a in page.elements if "id" in a}
    assert links
    assert links <= targets
    attributes = {name for _, attributes in page.elements for name in attributes}
    assert not [name for name in attributes if name.startswith("on")]
    assert not attributes & {"src", "srcset", "style"}
    policy = next(a["content"] for a in page.all("meta") if "http-equiv" in a)
    assert policy == "default-src 'none'; style-src 'unsafe-inline'"
    assert "url(" not in render(real(), "html")


def test_the_verdict_comes_first(page: Page) -> None:
    words = page.text.split("flagdeploy compare", 1)[1]
    assert re.search(
        r"FAIL\s+tiny_deepseek_r1 is not the same model as h200: it answers worse than is", words
    )
    assert "64.80% of 1000 questions right, 86.70% at the baseline: 21.90 points less" in words


def test_every_test_is_there_with_what_it_rests_on(page: Page) -> None:
    text = " ".join(page.text.split())
    for test in real()["tests"]:
        assert test["name"] in text
        assert test["sentence"][1:] in text
    noise = text[text.index("teacher-forced logit noise (required)") :]
    assert noise.startswith(
        "teacher-forced logit noise (required) DIFFERENT 3.22 nat 2.47 to 4.25 90% interval "
        "0.125 nat 3,770 in 64 groups < 0.0001"
    )
    assert "About 70 sequences would decide it (power 80%)." in text
    assert "T. Tango, Statistics in Medicine 17, 891 (1998)." in text


def test_it_can_be_read_without_seeing_it(page: Page) -> None:
    assert page.all("html") == [{"lang": "en"}]
    headings = [tag for tag, _ in page.elements if re.fullmatch(r"h\d", tag)]
    assert headings[0] == "h1"
    assert headings.count("h1") == 1
    pairs = zip(headings, headings[1:], strict=False)
    assert all(int(b[1]) <= int(a[1]) + 1 for a, b in pairs)
    pictures = [a for a in page.all("svg") if a.get("role") == "img"]
    assert len(pictures) == 4 + 5 + 3
    assert all(a["aria-label"] for a in pictures)
    assert len(page.all("caption")) == len(page.all("table"))
    assert all(a.get("scope") for a in page.all("th") if a)


def test_verdicts_differ_by_shape_and_word_not_by_colour_alone() -> None:
    shapes = {}
    for verdict in ("PASS", "FAIL", "DIFFERENT", "INCONCLUSIVE"):
        shown = render({**RESULT, "verdict": verdict}, "html")
        word = shown[shown.index('<p class="word">') :].partition("</p>")[0]
        assert word.endswith(verdict)
        shapes[verdict] = word.removesuffix(verdict)
    assert len(set(shapes.values())) == 4


def luminance(colour: str) -> float:
    """Relative luminance of #rrggbb (WCAG 2.2)."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def contrast(a: str, b: str) -> float:
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


def test_every_letter_stands_out_in_the_light_in_the_dark_and_on_paper() -> None:
    style = render(RESULT, "html").partition("<style>")[2].partition("</style>")[0]
    palettes = [dict(re.findall(r"--([\w-]+): (#\w{6});", part)) for part in style.split(":root")]
    shown = [palette for palette in palettes if palette]
    assert len(shown) == 3
    for palette in shown:
        for tone in ("ink", "soft", "pass", "fail", "different", "inconclusive", "info", "mine"):
            for ground in ("paper", "wash"):
                assert contrast(palette[tone], palette[ground]) >= 4.5, (tone, ground)
        assert contrast(palette["mark-ink"], palette["mark"]) >= 4.5


def test_a_fail_without_worse_answers_claims_none() -> None:
    result = real()
    result["tests"] = [{**result["tests"][0], "verdict": "FAIL"}]
    assert "tiny_deepseek_r1 is not the same model as h200.</h1>" in render(result, "html")


HOSTILE = (
    "</script><img src=x onerror=alert(1)>\x00\x1b[31m \u202eevil \ud800 {{ 7 * 7 }} <!-- &lt;"
)


def hostile() -> dict[str, Any]:
    result = real()
    result["candidate"]["name"] = HOSTILE
    result["candidate"]["deployment"][HOSTILE] = HOSTILE
    result["tests"][0] |= {"name": HOSTILE, "sentence": HOSTILE}
    result["tests"][6]["name"] = f"accuracy, {HOSTILE}"
    for key in ("task", "question", "gold", "item"):
        result["flips"][0][key] = HOSTILE
    result["flips"][0]["candidate"] |= {"content": HOSTILE, "prediction": HOSTILE}
    result["flips"][1]["baseline"]["content"] = "so " * 300_000 + HOSTILE
    result["flips"][1]["candidate"]["content"] = "so " * 300_000 + "A" * 1_000_000
    return result


def test_whatever_a_model_wrote_stays_text_and_bounded(page: Page) -> None:
    shown = render(hostile(), "html")
    attacked = Page(shown)
    assert {tag for tag, _ in attacked.elements} == {tag for tag, _ in page.elements}
    assert {n for _, a in attacked.elements for n in a} == {n for _, a in page.elements for n in a}
    visible = "</script><img src=x onerror=alert(1)>⟨U+0000⟩⟨U+001B⟩[31m ⟨U+202E⟩evil \ufffd"
    assert attacked.text.count(f"{visible} {{{{ 7 * 7 }}}} <!-- &lt;") >= 10
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\ud800-\udfff]", shown)
    assert len(shown) < 2 * len(render(real(), "html"))
    assert "characters left out" in shown


@pytest.mark.parametrize("form", ["text", "markdown", "junit", "card"])
def test_the_other_forms_too(form: str) -> None:
    shown = render(hostile(), form)
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\ud800-\udfff]", shown)
    assert len(shown) < 50_000


def test_an_old_result_without_figures_and_floors_still_makes_a_page() -> None:
    page = Page(render(RESULT, "html"))
    assert "Distributions" not in page.text
    assert "here" in page.text


def test_the_page_names_the_bytes_of_its_result(page: Page) -> None:
    import hashlib

    stored = (render(real(), "json") + "\n").encode()
    assert hashlib.sha256(stored).hexdigest() in page.text
