"""The API answers as OpenAI's does: its shapes, its errors, and streams that joined are the whole answer."""

import json
import math
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import torch

from fathom.adapters import lora
from fathom.generation.generate import generate
from tests.serve.running import Running, running, served, tiny

pytest.importorskip("fastapi")

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
HELLO = [{"role": "user", "content": "Hello"}]


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running(served(adapters=("poet", "clerk"))) as here:
        yield here


@pytest.fixture
def client(server: Running) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=60) as made:
        yield made


def ask(client: httpx.Client, path: str, **values: Any) -> Any:
    start = {"messages": HELLO} if path == CHAT else {"prompt": "Once"}
    answer = client.post(path, json={"model": "tiny", "max_tokens": 8, "seed": 3, **start, **values})
    assert answer.status_code == 200, answer.text
    return answer.json()


def streamed(client: httpx.Client, path: str, **values: Any) -> list[dict[str, Any]]:
    """The events of a stream, the last of which is checked to be [DONE]."""
    start = {"messages": HELLO} if path == CHAT else {"prompt": "Once"}
    body = {"model": "tiny", "max_tokens": 8, "seed": 3, "stream": True, **start, **values}
    answer = client.post(path, json=body)
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/event-stream"), answer.text
    *events, end = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line]
    assert end == "[DONE]"
    return [json.loads(line) for line in events]


def said(events: list[dict[str, Any]], index: int = 0) -> str:
    """The text of one choice of a stream."""
    choices = [choice for event in events for choice in event["choices"] if choice["index"] == index]
    return "".join(choice["delta"].get("content", "") if "delta" in choice else choice["text"] for choice in choices)


def test_a_text_is_what_python_generates(server: Running, client: httpx.Client) -> None:
    for given in ({"temperature": 0}, {"temperature": 0.9, "top_k": 20, "seed": 11}, {"top_p": 0.8, "min_p": 0.01}):
        answer = ask(client, TEXT, n=2, **given)
        options = {"seed": 3, **given, "num_samples": 2, "max_new_tokens": 8, "past_context": "stop"}
        expected = [one.text for one in generate(tiny(), server.engine.tokenizer, "Once", **options)]
        assert [choice["text"] for choice in answer["choices"]] == expected
        assert answer["usage"]["prompt_tokens"] == 4


@pytest.mark.parametrize("path", [CHAT, TEXT])
@pytest.mark.parametrize(
    "values", [{}, {"n": 3}, {"temperature": 0}, {"stop": ["a", "\ufffd\ufffd"]}, {"max_tokens": 1}]
)
def test_a_stream_joined_is_the_whole_answer(client: httpx.Client, path: str, values: dict[str, Any]) -> None:
    whole = ask(client, path, **values)
    events = streamed(client, path, stream_options={"include_usage": True}, **values)
    for choice in whole["choices"]:
        text = choice["message"]["content"] if path == CHAT else choice["text"]
        assert said(events, choice["index"]) == text
        ends = [c["finish_reason"] for e in events for c in e["choices"] if c["index"] == choice["index"]]
        assert ends[-1] == choice["finish_reason"] and set(ends[:-1]) <= {None}
    assert events[-1]["choices"] == [] and all(event["usage"] is None for event in events[:-1])
    counts = ("prompt_tokens", "completion_tokens", "total_tokens")
    assert [events[-1]["usage"][name] for name in counts] == [whole["usage"][name] for name in counts]


def test_counts_ends_and_logprobs_are_those_of_the_tokens(client: httpx.Client) -> None:
    prompt = "A prompt of more than a chunk, so that it is found again. " * 3
    ascii_alone = {str(byte): -100 for byte in range(128, 256)}
    given = {"prompt": prompt, "temperature": 0, "logprobs": 1, "max_tokens": 9, "logit_bias": ascii_alone}
    whole, again = ask(client, TEXT, **given), ask(client, TEXT, **given)
    (choice,), usage = whole["choices"], whole["usage"]
    assert [usage[f"{what}_tokens"] for what in ("prompt", "completion", "total")] == [174, 9, 183]
    assert again["choices"] == whole["choices"] and again["usage"]["prompt_tokens_details"]["cached_tokens"] == 128
    assert choice["finish_reason"] == "length"
    (stopped,) = ask(client, TEXT, **{**given, "stop": [choice["text"][3]]})["choices"]
    assert stopped["finish_reason"] == "stop" and len(stopped["text"]) <= 3
    ids = [*(prompt + choice["text"]).encode()]
    scored = client.post("/v1/score", json={"tokens": ids}).json()["logprobs"][-9:]
    assert choice["logprobs"]["token_logprobs"] == pytest.approx(scored, abs=1e-4)
    shown = 0
    for event in streamed(client, TEXT, **given):
        for part in event["choices"]:
            if part["logprobs"]:
                assert part["logprobs"]["text_offset"] == [shown]
            shown += len(part["text"])
    assert shown == len(choice["text"])


def test_logprobs_have_the_shapes_of_both_routes(client: httpx.Client) -> None:
    chat = ask(client, CHAT, logprobs=True, top_logprobs=3)["choices"][0]["logprobs"]["content"]
    assert len(chat) == 8 or len(chat) < 8
    for entry in chat:
        assert set(entry) == {"token", "logprob", "bytes", "top_logprobs"} and len(entry["top_logprobs"]) == 3
        best = [one["logprob"] for one in entry["top_logprobs"]]
        assert best == sorted(best, reverse=True) and entry["logprob"] <= best[0] + 1e-6
    text = ask(client, TEXT, logprobs=2)["choices"][0]["logprobs"]
    assert {len(values) for values in text.values()} == {len(text["tokens"])}
    joined = [entry for event in streamed(client, CHAT, logprobs=True, top_logprobs=3) for choice in event["choices"]
              for entry in (choice["logprobs"] or {"content": []})["content"]]  # fmt: skip
    assert joined == chat
    greedy = ask(client, CHAT, logprobs=True, top_logprobs=1, temperature=0)["choices"][0]["logprobs"]["content"]
    assert all(entry["logprob"] == entry["top_logprobs"][0]["logprob"] for entry in greedy)


def test_biases_and_penalties_change_what_is_written(client: httpx.Client) -> None:
    only = ask(client, TEXT, logit_bias={str(ord("z")): 100})["choices"][0]["text"]
    assert only == "z" * 8
    never = ask(client, TEXT, temperature=0, logit_bias={str(ord("z")): 100}, presence_penalty=2, frequency_penalty=2)
    assert never["choices"][0]["text"] == "z" * 8  # 100 is more than any penalty
    plain, bent = (ask(client, TEXT, temperature=0, max_tokens=40, frequency_penalty=p)["choices"][0] for p in (0, 2))
    assert plain["text"] != bent["text"]


def test_adapters_are_models(client: httpx.Client) -> None:
    texts = {
        name: ask(client, TEXT, model=name, temperature=0)["choices"][0]["text"] for name in ("tiny", "poet", "clerk")
    }
    assert len(set(texts.values())) == 3
    cards = client.get("/v1/models").json()["data"]
    assert [card["id"] for card in cards] == ["tiny", "poet", "clerk"]
    assert cards[0]["card"]["context_length"] == 512 and cards[0]["card"]["adapters"] == ["poet", "clerk"]
    assert client.get("/v1/models/poet").json()["card"]["base"] == "tiny"
    assert client.get("/v1/models/nobody").status_code == 404


def test_scores_are_the_models_log_probabilities(server: Running, client: httpx.Client) -> None:
    text = "Once upon a time there was a tiny model of bytes. " * 4
    found = client.post("/v1/score", json={"text": text}).json()
    ids = torch.tensor([server.engine.tokenizer.encode(text)])
    with torch.no_grad(), lora.per_row(server.engine.model, [None]):
        logprobs = server.engine.model(ids)[0, :-1].float().log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
    assert found["tokens"] == ids[0].tolist() and found["logprobs"][0] is None
    torch.testing.assert_close(torch.tensor(found["logprobs"][1:]), logprobs, atol=2e-5, rtol=1e-5)
    assert math.isclose(found["total"], sum(found["logprobs"][1:]))
    assert client.post("/v1/score", json={"tokens": [5]}).json()["mean"] is None


def test_tokens_go_there_and_back(client: httpx.Client) -> None:
    text = "wörds\n and 日本"
    found = client.post("/tokenize", json={"text": text}).json()
    assert found["count"] == len(text.encode()) and found["max_model_len"] == 512
    assert client.post("/detokenize", json={"tokens": found["tokens"]}).json() == {"text": text}


def test_several_prompts_are_choices_in_their_order(client: httpx.Client) -> None:
    both = ask(client, TEXT, prompt=["One", "Two"], n=2, temperature=0)["choices"]
    alone = [ask(client, TEXT, prompt=text, temperature=0)["choices"][0]["text"] for text in ("One", "Two")]
    assert [choice["text"] for choice in both] == [alone[0], alone[0], alone[1], alone[1]]
    assert ask(client, TEXT, prompt=[79, 110, 101], temperature=0)["choices"][0]["text"] == alone[0]


@pytest.mark.parametrize(
    "path, values, status, line, param",
    [
        (CHAT, {"temprature": 1}, 400, "did you mean temperature?", "temprature"),
        (CHAT, {"model": "tinny"}, 404, "did you mean tiny?", "model"),
        (CHAT, {"messages": []}, 400, "at least 1 item", "messages"),
        (CHAT, {"messages": [{"role": "user"}]}, 400, "no field 'content'", "messages[0]"),
        (CHAT, {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "image_url", "messages[0]"),
        (
            CHAT,
            {"messages": [{"role": "user", "content": "x" * 600}]},
            400,
            "tokens and the context is 512",
            "messages",
        ),
        (CHAT, {"top_logprobs": 2}, 400, "without logprobs", "top_logprobs"),
        (CHAT, {"temperature": -1}, 400, "greater than or equal to 0", "temperature"),
        (CHAT, {"n": 0}, 400, "greater than or equal to 1", "n"),
        (CHAT, {"n": 1000}, 400, "less than or equal to 16", "n"),
        (CHAT, {"max_tokens": -5}, 400, "greater than or equal to 1", "max_tokens"),
        (CHAT, {"stop": ["x"] * 17}, 400, "stop", None),
        (CHAT, {"logit_bias": {"256": 1}}, 400, "ids from 0 to 255", "logit_bias"),
        (CHAT, {"logit_bias": {"1": 101}}, 400, "less than or equal to 100", None),
        (CHAT, {"grammar": 'root ::= "a" b'}, 400, "'b' not found", "grammar"),
        (CHAT, {"response_format": {"type": "json_schema"}}, 400, "json_schema is missing", None),
        (CHAT, {"response_format": {"type": "json_object"}, "grammar": "start: /a/"}, 400, "one of them", None),
        (TEXT, {"prompt": [999]}, 400, "token 999", "prompt"),
        (TEXT, {"prompt": "x" * 600}, 400, "600 tokens and the context is 512", None),
        (TEXT, {"echo": True}, 400, "unknown field 'echo'", "echo"),
        (TEXT, {"temperature": "1"}, 400, "temperature", "temperature"),
    ],
)
def test_a_wrong_request_is_one_line_in_openais_shape(
    client: httpx.Client, path: str, values: dict[str, Any], status: int, line: str, param: str | None
) -> None:
    start = {"messages": HELLO} if path == CHAT else {"prompt": "Once"}
    answer = client.post(path, json={"model": "tiny", **start, **values})
    error = answer.json()["error"]
    assert answer.status_code == status and line in error["message"] and "\n" not in error["message"], answer.text
    assert set(error) == {"message", "type", "param", "code"} and (param is None or error["param"] == param)


def test_a_text_may_have_to_be_json_too(client: httpx.Client) -> None:
    wanted = {"type": "json_schema", "json_schema": {"schema": {"enum": [["a"], {"b": 1}]}}}
    for choice in ask(client, TEXT, response_format=wanted, max_tokens=60, n=3)["choices"]:
        assert json.loads(choice["text"]) in (["a"], {"b": 1})


def test_fields_that_change_nothing_are_ignored(client: httpx.Client) -> None:
    more = {"user": "me", "metadata": {"a": "b"}, "store": False, "service_tier": "auto", "prompt_cache_key": "k"}
    assert ask(client, CHAT, **more)["choices"] == ask(client, CHAT)["choices"]


def test_without_a_chat_template_chat_is_refused_and_completions_work() -> None:
    with running(served(chat=False)) as here, httpx.Client(base_url=here.url, timeout=60) as client:
        answer = client.post(CHAT, json={"model": "tiny", "messages": HELLO})
        assert answer.status_code == 400 and "no chat template" in answer.json()["error"]["message"]
        assert ask(client, TEXT)["choices"][0]["text"]


def test_metrics_and_the_line_of_a_request_say_what_happened_and_no_word_of_it(
    server: Running, client: httpx.Client
) -> None:
    before = len(server.lines)
    ask(client, TEXT, prompt="a secret")
    assert "secret" not in "".join(server.lines)
    (line,) = server.lines[before:]
    assert line.startswith("/v1/completions tiny: prompt 8 (") and "tokens/s" in line
    text = client.get("/metrics").text
    assert (
        'fathom_requests_total{route="/v1/completions",status="200"}' in text and "fathom_first_token_seconds" in text
    )
    assert "secret" not in text


def test_unknown_routes_are_errors_of_the_same_shape(client: httpx.Client) -> None:
    answer = client.post("/v1/chat/completion", json={})
    assert answer.status_code == 404 and "did you mean /v1/chat/completions" in answer.json()["error"]["message"]
    assert client.get(CHAT).status_code == 405 and "error" in client.get(CHAT).json()
