"""Text in parts is the text of the whole: tokens, stop strings and thoughts."""

from hypothesis import given
from hypothesis import strategies as st

from flagdeploy.server.reasoning import ReasoningSplitter, starts_answering
from flagdeploy.server.text import Detokenizer, StopStrings


class Bytes:
    """A byte-level tokenizer: token b is byte b; 256 is a special token."""

    def decode(self, ids: list[int], *, skip_special_tokens: bool) -> str:
        special = b"" if skip_special_tokens else b"<s>"
        return b"".join(bytes([i]) if i < 256 else special for i in ids).decode(errors="replace")


class Words:
    """Like SentencePiece: every token is a word with its space, which a first word loses."""

    def decode(self, ids: list[int], *, skip_special_tokens: bool) -> str:
        return "".join(f" w{i}" for i in ids).removeprefix(" ")


def parts_of(text: str, cuts: list[int]) -> list[str]:
    edges = [0, *sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
    return [text[a:b] for a, b in zip(edges, edges[1:], strict=False)]


@given(st.text(), st.text())
def test_tokens_of_any_text_give_it_back(prompt: str, text: str) -> None:
    detokenizer = Detokenizer(Bytes(), list(prompt.encode()))
    parts = [detokenizer.push(byte) for byte in text.encode()]
    assert "".join(parts) + detokenizer.flush() == text


@given(st.text(min_size=1))
def test_a_part_is_never_half_a_character(text: str) -> None:
    detokenizer = Detokenizer(Bytes(), [])
    for letter in text.replace("\ufffd", "?"):
        *inside, last = [detokenizer.push(byte) for byte in letter.encode()]
        assert (set(inside) <= {""}) and last == letter


@given(st.binary())
def test_invalid_bytes_come_out_as_the_whole_would(data: bytes) -> None:
    detokenizer = Detokenizer(Bytes(), [])
    parts = [detokenizer.push(byte) for byte in data]
    assert "".join(parts) + detokenizer.flush() == data.decode(errors="replace")


def test_a_character_begun_in_the_prompt_is_completed() -> None:
    detokenizer = Detokenizer(Bytes(), list("aé".encode())[:-1])
    assert detokenizer.push("é".encode()[1]) == "é"


def test_special_tokens_are_skipped_or_spelt_out() -> None:
    assert Detokenizer(Bytes(), []).push(256) == ""
    assert Detokenizer(Bytes(), [], skip_special_tokens=False).push(256) == "<s>"


def test_a_first_word_keeps_its_space() -> None:
    assert Detokenizer(Words(), [1, 2]).push(3) == " w3"


@given(
    st.text("ab", max_size=30), st.lists(st.integers(0, 99)), st.lists(st.text("ab", min_size=1))
)
def test_stop_strings_are_found_however_the_text_is_cut(
    text: str, cuts: list[int], stops: list[str]
) -> None:
    matcher, seen, found = StopStrings(stops), "", None
    for part in parts_of(text, cuts):
        new, found = matcher.push(part)
        seen += new
        if found is not None:
            break
    else:
        seen += matcher.flush()
    hits = [text.find(stop) for stop in stops if stop in text]
    assert (found is not None) == bool(hits)
    if found is None:
        assert seen == text
    else:  # cut as late as the part that completed a stop string
        assert text.startswith(seen + found)


def test_a_stop_string_may_be_included_or_not_armed() -> None:
    assert StopStrings(["b"]).push("abc") == ("a", "b")
    assert StopStrings(["b"], include=True).push("abc") == ("ab", "b")
    assert StopStrings(["b"]).push("abc", armed=False) == ("abc", None)


def split(text: str, cuts: list[int], *, answering: bool = False) -> tuple[str, str]:
    splitter = ReasoningSplitter(answering=answering)
    pairs = [splitter.push(part) for part in parts_of(text, cuts)]
    pairs.append((splitter.flush(), ""))
    return "".join(a for a, _ in pairs), "".join(b for _, b in pairs)


@given(
    st.text(st.sampled_from("<think>/a")),
    st.text(st.sampled_from("<think>/a")),
    st.booleans(),
    st.lists(st.integers(0, 99)),
)
def test_thoughts_and_answer_however_the_text_is_cut(
    thoughts: str, answer: str, opened: bool, cuts: list[int]
) -> None:
    thoughts = thoughts.replace("</think>", "").removeprefix("<think>")
    opening = "<think>" if opened or thoughts.startswith("<think>") else ""
    assert split(f"{opening}{thoughts}</think>{answer}", cuts) == (thoughts, answer) or (
        "</think>" in f"{thoughts}</think>"[:-1]
    )
    assert split(answer, cuts, answering=True) == ("", answer)


def test_thoughts_that_never_end_are_all_thoughts() -> None:
    assert split("<think>one </thi", [3, 9, 12]) == ("one </thi", "")
    assert split("one", []) == ("one", "")


def test_a_prompt_may_have_closed_the_thoughts_already() -> None:
    assert not starts_answering("[user]a[assistant]<think>\n", continued=False)
    assert starts_answering("[user]a[assistant]<think>\n</think>\n", continued=False)
    history = "[assistant]<think>x</think>b[user]c[assistant]"
    assert not starts_answering(history, continued=False)
    assert starts_answering("[assistant]<think>x</think>b", continued=True)
    assert not starts_answering("[assistant]<think>x", continued=True)
