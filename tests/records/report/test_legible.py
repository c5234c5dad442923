from hypothesis import given
from hypothesis import strategies as st

from flagdeploy.records.report.legible import HEAD, SAME, TAIL, excerpts, legible


def joined(pieces: list[tuple[str, str]], *kinds: str) -> str:
    return "".join(text for kind, text in pieces if not kinds or kind in kinds)


def test_what_differs_is_marked_word_by_word() -> None:
    left, right = excerpts("1188/18=66\n66+102=168", "1188/18=13\n13+102=115")
    assert left == [
        ("same", "1188/18="),
        ("other", "66"),
        ("same", "\n"),
        ("other", "66"),
        ("same", "+102="),
        ("other", "168"),
    ]
    assert joined(right, "other") == "1313115"


def test_a_word_that_goes_on_differs_as_a_whole() -> None:
    left, right = excerpts("it is 66", "it is 661")
    assert (left[-1], right[-1]) == (("other", "66"), ("other", "661"))


@given(st.text(max_size=60), st.text(max_size=60), st.text(max_size=60))
def test_nothing_of_a_short_answer_is_lost(common: str, a: str, b: str) -> None:
    left, right = excerpts(common + a, common + b)
    assert joined(left) == common + a
    assert joined(right) == common + b
    assert joined(left, "same") == joined(right, "same")


def test_long_answers_are_cut_around_where_they_part_and_at_their_end() -> None:
    a, b = "so " * 10_000 + "yes " * 10_000 + "end", "so " * 10_000 + "no"
    left, right = excerpts(a, b)
    assert [kind for kind, _ in left][0] == "left out"
    assert "[… 29,760 characters left out …]" in joined(left, "left out")
    assert joined(left).endswith("yes end")
    assert joined(right, "other") == "no"
    assert len(joined(left)) < SAME + HEAD + TAIL + 100


def test_hidden_characters_are_shown_and_languages_left_alone() -> None:
    assert legible("a\u202eb\x07\r\n\ud800") == "a⟨U+202E⟩b⟨U+0007⟩⟨U+000D⟩\n\ufffd"
    for text in ("مرحبا", "👩\u200d🚀", "数学\t1", "café"):
        assert legible(text) == text


def test_long_texts_say_how_much_is_left_out() -> None:
    assert legible({"k": "x" * 5000})["k"].count("x") == 2000
    assert "[… 3,000 characters left out …]" in legible(["x" * 5000])[0]
    assert legible({"content": "x" * 5000}) == {"content": "x" * 5000}
