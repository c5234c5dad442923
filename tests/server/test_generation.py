"""What the sampling fields promise, over HTTP."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from server.running_server import RunningServer
from server.tiny_checkpoint import CONTEXT

GREEDY = {"temperature": 0, "max_tokens": 24}


def text_of(answer: Any) -> str:
    return answer["choices"][0]["text"]


def prompts(count: int) -> list[str]:
    """Of different lengths, so that rows of the batch differ in padding."""
    return [f"Question {i}: " + "what is it? " * (i % 5) + f"{i * i} =" for i in range(count)]


def test_four_forms_of_a_prompt(server: RunningServer) -> None:
    ids = server.post("/tokenize", prompt="one")["tokens"]
    alone = text_of(server.complete("one", **GREEDY))
    assert text_of(server.complete(ids, **GREEDY)) == alone
    for both in (["one", "two"], [ids, server.post("/tokenize", prompt="two")["tokens"]]):
        choices = server.complete(both, **GREEDY)["choices"]
        assert [choice["index"] for choice in choices] == [0, 1]
        assert choices[0]["text"] == alone != choices[1]["text"]


def test_n_counts_within_each_prompt(server: RunningServer) -> None:
    answer = server.complete(["one", "two"], n=2, seed=5, max_tokens=12, return_token_ids=True)
    choices = answer["choices"]
    assert [choice["index"] for choice in choices] == [0, 1, 2, 3]
    for choice, prompt in zip(choices, ("one", "one", "two", "two"), strict=True):
        assert choice["prompt_token_ids"] == server.post("/tokenize", prompt=prompt)["tokens"]
    assert choices[0]["token_ids"] != choices[1]["token_ids"]
    assert answer["usage"] == {"prompt_tokens": 8, "completion_tokens": 48, "total_tokens": 56}


def test_results_do_not_depend_on_what_else_runs(server: RunningServer) -> None:
    fields: dict[str, Any] = {"max_tokens": 40, "logprobs": 2, "return_token_ids": True}
    fields |= {"seed": 11, "ignore_eos": True, "return_tokens_as_token_ids": True}
    temperatures = [0.0, 0.8]

    def ask(job: tuple[int, str]) -> Any:
        index, prompt = job
        answer = server.complete(prompt, temperature=temperatures[index % 2], **fields)
        return answer["choices"][0]

    jobs = list(enumerate(prompts(16)))
    alone = [ask(job) for job in jobs]
    with ThreadPoolExecutor(16) as pool:
        together = list(pool.map(ask, jobs))
    for one, other in zip(alone, together, strict=True):
        assert one["token_ids"] == other["token_ids"]
        values = other["logprobs"]["token_logprobs"]
        assert one["logprobs"]["token_logprobs"] == pytest.approx(values, abs=1e-4)


def test_more_requests_than_rows_all_finish(server: RunningServer) -> None:
    with ThreadPoolExecutor(40) as pool:
        answers = list(pool.map(lambda p: server.complete(p, **GREEDY), prompts(40)))
    assert all(answer["usage"]["completion_tokens"] == 24 for answer in answers)
    assert server.metric("num_requests_running") == server.metric("num_requests_waiting") == 0


def test_a_stop_string_may_cross_tokens(server: RunningServer) -> None:
    full = text_of(server.complete("stop test", **GREEDY))
    stop = full[9:13]
    fields = {**GREEDY, "stop": ["\x00never", stop]}
    choice = server.complete("stop test", **fields)["choices"][0]
    assert choice["text"] == full[: full.index(stop)]
    assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", stop)
    events = list(server.stream("/v1/completions", prompt="stop test", **fields))
    assert "".join(map(text_of, events)) == choice["text"]
    included = server.complete("stop test", **fields, include_stop_str_in_output=True)
    assert text_of(included) == full[: full.index(stop) + len(stop)]


def test_text_held_back_for_a_stop_string_is_not_lost(server: RunningServer) -> None:
    full = text_of(server.complete("stop test", **GREEDY))
    fields = {**GREEDY, "stop": full[-3:] + "\x00"}
    assert text_of(server.complete("stop test", **fields)) == full


def test_stop_token_ids(server: RunningServer) -> None:
    full = server.complete("ids", **GREEDY, return_token_ids=True)["choices"][0]["token_ids"]
    stop = full[6]
    fields = {**GREEDY, "stop_token_ids": [stop], "return_token_ids": True}
    choice = server.complete("ids", **fields)["choices"][0]
    assert choice["token_ids"] == full[: full.index(stop) + 1]
    assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", stop)
    later = server.complete("ids", **fields, min_tokens=20)["choices"][0]["token_ids"]
    assert len(later) >= 20 and stop not in later[:20]


def test_a_seed_repeats_and_top_k_1_is_greedy(server: RunningServer) -> None:
    fields = {"max_tokens": 16, "temperature": 0.8}
    first = text_of(server.complete("seed", seed=3, **fields))
    assert text_of(server.complete("seed", seed=3, **fields)) == first
    assert text_of(server.complete("seed", seed=4, **fields)) != first
    greedy = text_of(server.complete("seed", temperature=0, max_tokens=16))
    assert text_of(server.complete("seed", seed=3, top_k=1, **fields)) == greedy
    assert text_of(server.complete("seed", seed=3, top_p=0.0, **fields)) == greedy


def test_a_chat_without_max_tokens_fills_the_context(server: RunningServer) -> None:
    answer = server.chat("x" * 440, temperature=0, ignore_eos=True)
    assert answer["usage"]["total_tokens"] == CONTEXT
    assert answer["choices"][0]["finish_reason"] == "length"


def test_thoughts_are_split_off(server: RunningServer) -> None:
    message = server.chat("think", **GREEDY)["choices"][0]["message"]
    assert message["content"] is None and len(message["reasoning_content"]) > 5
    off = {"chat_template_kwargs": {"thinking": False}}
    message = server.chat("think", **GREEDY, **off)["choices"][0]["message"]
    assert message["reasoning_content"] is None and len(message["content"]) > 5


def test_continuing_a_message(server: RunningServer) -> None:
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b</think>c"}]
    fields = {"messages": messages, "continue_final_message": True, **GREEDY}
    answer = server.post("/v1/chat/completions", **fields, return_token_ids=True)
    prompt = server.post("/detokenize", tokens=answer["prompt_token_ids"])["prompt"]
    assert prompt == "<bos>[user]a[assistant]b</think>c"
    assert answer["choices"][0]["message"]["reasoning_content"] is None


@pytest.mark.parametrize("extra", [{}, {"n": 3, "seed": 2, "temperature": 0.9}])
def test_a_streamed_completion_is_the_whole_one_in_parts(
    server: RunningServer, extra: dict[str, Any]
) -> None:
    fields = {**GREEDY, "logprobs": 2, "return_token_ids": True, "echo": True, **extra}
    whole = server.complete(["naïve café", "two"], **fields)
    events = list(
        server.stream(
            "/v1/completions",
            prompt=["naïve café", "two"],
            stream_options={"include_usage": True},
            **fields,
        )
    )
    assert events[-1]["choices"] == [] and events[-1]["usage"] == whole["usage"]
    assert len({event["id"] for event in events}) == 1
    for choice in whole["choices"]:
        parts = [
            e["choices"][0] for e in events[:-1] if e["choices"][0]["index"] == choice["index"]
        ]
        assert "".join(part["text"] for part in parts) == choice["text"]
        assert sum((part["token_ids"] for part in parts), []) == choice["token_ids"]
        assert parts[0]["prompt_token_ids"] == choice["prompt_token_ids"]
        assert [p["finish_reason"] for p in parts] == [None] * (len(parts) - 1) + ["length"]
        for key, values in choice["logprobs"].items():
            streamed = sum((part["logprobs"][key] for part in parts), [])
            if key == "token_logprobs":
                assert streamed[1:] == pytest.approx(values[1:], abs=1e-4)
            elif key != "top_logprobs":
                assert streamed == values


def test_a_streamed_chat_is_the_whole_one_in_parts(server: RunningServer) -> None:
    fields = {"messages": [{"role": "user", "content": "stream"}], **GREEDY, "logprobs": True}
    whole = server.post("/v1/chat/completions", **fields)["choices"][0]
    first, *rest = server.stream("/v1/chat/completions", **fields)
    assert first["object"] == "chat.completion.chunk"
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    deltas = [event["choices"][0] for event in rest]
    assert (
        "".join(choice["delta"].get("reasoning_content", "") for choice in deltas)
        == whole["message"]["reasoning_content"]
    )
    assert deltas[-1]["finish_reason"] == whole["finish_reason"] == "length"
    tokens = [entry["token"] for choice in deltas for entry in choice["logprobs"]["content"]]
    assert tokens == [entry["token"] for entry in whole["logprobs"]["content"]]
