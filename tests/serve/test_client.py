"""Clients that exist: the official `openai` package, curl, Open WebUI by its recorded calls, and `fathom chat`."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from fathom.serve.guard import Keys
from fathom.serve.served import open_served
from fathom.serve.shelf import Place
from tests.serve.running import KEY, Running, running, served

openai = pytest.importorskip("openai")
jsonschema = pytest.importorskip("jsonschema")
pytest.importorskip("llguidance")

HELLO: Any = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather at a place.",
        "parameters": {"type": "object", "properties": {"place": {"enum": ["Oslo", "Rome"]}}, "required": ["place"],
                       "additionalProperties": False},
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running(served(adapters=("poet",), context=2048), keys=Keys([KEY])) as here:
        yield here


@pytest.fixture
def client(server: Running) -> Iterator[Any]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0, timeout=60) as made:
        yield made


def chat(client: Any, **given: Any) -> Any:
    return client.chat.completions.create(**{"model": "tiny", "messages": HELLO, "max_tokens": 8, "seed": 1, **given})


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"temperature": 0},
        {"temperature": 0.7, "top_p": 0.9},
        {"n": 2},
        {"stop": "a"},
        {"stop": ["a", "b"]},
        {"max_completion_tokens": 5},
        {"presence_penalty": 1.0, "frequency_penalty": -1.0},
        {"logit_bias": {"65": 50}},
        {"logprobs": True, "top_logprobs": 5},
        {"user": "me", "metadata": {"k": "v"}, "store": False},
        {"model": "poet"},
        {"extra_body": {"top_k": 5, "min_p": 0.1, "repetition_penalty": 1.1}},
        {"response_format": {"type": "text"}},
        {"tools": [WEATHER], "tool_choice": "none"},
        {"tools": [WEATHER], "tool_choice": "auto"},
        {"tools": [WEATHER], "tool_choice": "required", "max_tokens": 400, "parallel_tool_calls": False},
    ],
)
def test_chat_and_its_stream_say_the_same(client: Any, given: dict[str, Any]) -> None:
    whole, text, calls, finish, usage = chat(client, **given), list[str](), list[str](), None, None
    for chunk in chat(client, **given, stream=True, stream_options={"include_usage": True}):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            if choice.index == 0:
                text.append(choice.delta.content or "")
                calls += [call.function.arguments for call in choice.delta.tool_calls or ()]
                finish = choice.finish_reason or finish
    first = whole.choices[0]
    assert "".join(text) == (first.message.content or "") and finish == first.finish_reason
    assert "".join(calls) == "".join(call.function.arguments for call in first.message.tool_calls or ())
    assert usage.completion_tokens == whole.usage.completion_tokens > 0
    assert len(whole.choices) == given.get("n", 1)


def test_completions(client: Any) -> None:
    asked = {"model": "tiny", "prompt": "Once", "max_tokens": 6, "seed": 1}
    for given in ({}, {"prompt": ["One", "Two"]}, {"prompt": [1, 2, 3]}, {"logprobs": 3}, {"n": 2, "temperature": 0}):
        whole = client.completions.create(**{**asked, **given})
        texts = [""] * len(whole.choices)
        for chunk in client.completions.create(**{**asked, **given}, stream=True):
            for choice in chunk.choices:
                texts[choice.index] += choice.text
        assert texts == [choice.text for choice in whole.choices]


def test_models(client: Any) -> None:
    assert [model.id for model in client.models.list()] == ["tiny", "poet"]
    assert client.models.retrieve("poet").owned_by == "fathom"


def test_json_is_what_its_schema_says(client: Any) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA, "strict": True}}
    for seed in range(5):
        answer = chat(client, response_format=wanted, seed=seed, max_tokens=300).choices[0]
        assert answer.finish_reason == "stop"
        jsonschema.validate(json.loads(answer.message.content), SCHEMA)
    answer = chat(client, response_format={"type": "json_object"}, max_tokens=1500, seed=4).choices[0]
    assert answer.message.content.lstrip().startswith("{")
    if answer.finish_reason == "stop":
        assert isinstance(json.loads(answer.message.content), dict)
    only = chat(client, extra_body={"grammar": 'root ::= "yes" | "no"'})
    assert only.choices[0].message.content in ("yes", "no") and only.choices[0].finish_reason == "stop"


def test_a_tool_that_must_be_called_is_called_and_its_answer_is_read(client: Any) -> None:
    named = {"type": "function", "function": {"name": "weather"}}
    answer = chat(client, tools=[WEATHER], tool_choice=named, max_tokens=400).choices[0]
    (call,) = answer.message.tool_calls
    assert answer.finish_reason == "tool_calls" and call.function.name == "weather"
    assert json.loads(call.function.arguments)["place"] in ("Oslo", "Rome")
    more = [
        *HELLO,
        answer.message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.id, "content": "Rain"},
    ]
    assert chat(client, messages=more, tools=[WEATHER]).choices[0].message.content is not None


@pytest.mark.parametrize(
    "given, kind, line",
    [
        ({"model": "nobody"}, "NotFoundError", "no model is called"),
        ({"messages": [{"role": "user", "content": "x" * 3000}]}, "BadRequestError", "tokens and the context is 2,048"),
        ({"temperature": -1}, "BadRequestError", "temperature"),
        ({"extra_body": {"top_kk": 1}}, "BadRequestError", "did you mean top_k"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "wrong"}}}},
         "BadRequestError", "response_format cannot be compiled"),
        ({"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "other"}}},
         "BadRequestError", "'other', which is not among tools"),
    ],
)  # fmt: skip
def test_errors_are_those_of_the_package(client: Any, given: dict[str, Any], kind: str, line: str) -> None:
    with pytest.raises(getattr(openai, kind), match=line):
        chat(client, **given)


def test_a_wrong_key_is_an_authentication_error(server: Running) -> None:
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="wrong", max_retries=0)
    with client, pytest.raises(openai.AuthenticationError):
        client.models.list()


def test_curl(server: Running) -> None:
    if shutil.which("curl") is None:
        pytest.skip("no curl")
    body = json.dumps({"model": "tiny", "prompt": "Once", "max_tokens": 3, "stream": True})
    call = ["curl", "-sS", "-N", "--noproxy", "*", f"{server.url}/v1/completions", "-d", body]
    call += ["-H", "Content-Type: application/json", "-H", f"Authorization: Bearer {KEY}"]
    answer = subprocess.run(call, capture_output=True, text=True, timeout=60, check=True).stdout
    assert answer.endswith("data: [DONE]\n\n") and answer.startswith("data: {")


def test_the_calls_of_open_webui(server: Running) -> None:
    """What it sends when a server is added, a model is chosen, a question is asked, and a title is made."""
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    with httpx.Client(base_url=f"{server.url}/v1", headers=headers, timeout=60) as client:
        listed = client.get("/models").json()
        assert listed["object"] == "list" and all(
            {"id", "object", "owned_by"} <= set(model) for model in listed["data"]
        )
        question = {
            "stream": True,
            "model": "tiny",
            "messages": [{"role": "user", "content": "Hi"}],
            "max_tokens": 5,
            "temperature": 0.8,
            "stream_options": {"include_usage": True},
        }
        with client.stream("POST", "/chat/completions", json=question) as answer:
            lines = [line for line in answer.iter_lines() if line]
        assert answer.headers["content-type"].startswith("text/event-stream") and lines[-1] == "data: [DONE]"
        title = {"model": "tiny", "messages": [{"role": "user", "content": "### Task: a title"}], "stream": False,
                 "max_completion_tokens": 5}  # fmt: skip
        assert client.post("/chat/completions", json=title).json()["choices"][0]["message"]["role"] == "assistant"


def test_fathom_chat_talks_to_a_server(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    from fathom.errors import FathomError
    from fathom.running.remote import KEY as NAME
    from fathom.running.remote import Remote

    with pytest.raises(FathomError, match="401, the key is missing"):
        Remote(server.url)
    monkeypatch.setenv(NAME, KEY)
    talk = Remote(server.url + "/v1/", given={"max_new_tokens": 6, "seed": 1, "temperature": 0.0})
    assert talk.name == "tiny"
    pieces = list(talk.say("Hello"))
    sent = {
        "model": "tiny",
        "messages": [{"role": "user", "content": "Hello"}],
        "max_tokens": 6,
        "temperature": 0,
        "seed": 1,
    }
    headers = {"Authorization": f"Bearer {KEY}"}
    direct = httpx.post(f"{server.url}/v1/chat/completions", json=sent, headers=headers, timeout=60).json()["choices"][
        0
    ]
    assert "".join(piece.text for piece in pieces) == direct["message"]["content"]
    assert [message.role for message in talk.messages] == ["user", "assistant"]
    with pytest.raises(FathomError, match="did you mean"):
        Remote(server.url, "tinyy").say("Hello")
    with pytest.raises(FathomError, match="does not answer"):
        Remote("http://127.0.0.1:1")


def test_real_weights_tell_the_story_that_python_tells(shared_data: Path | None) -> None:
    if shared_data is None or not (shared_data / "stories260K").exists():
        pytest.skip("no stories260K")
    model = open_served(Place(str(shared_data / "stories260K" / "stories260K.bin")), "stories", {}, 2048)
    assert model is not None
    with running(model) as here, openai.OpenAI(base_url=f"{here.url}/v1", api_key="none") as client:
        text = client.completions.create(model="stories", prompt="Once upon a time", max_tokens=20, temperature=0)
        assert text.choices[0].text.startswith(", there was a little girl named Lily.")
        wanted = {"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA}}
        answer = client.chat.completions.create(model="stories", messages=HELLO, response_format=wanted, max_tokens=200)
        jsonschema.validate(json.loads(answer.choices[0].message.content or ""), SCHEMA)
