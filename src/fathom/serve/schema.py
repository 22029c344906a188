"""Requests and answers of the API as Pydantic models: what the routes check, and what /openapi.json says."""

from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

MOST_CHARACTERS = 1_000_000  # of a text
MOST_TOKENS = 1 << 20  # that a request may ask for; the context ends it before

Text = Annotated[str, Field(max_length=MOST_CHARACTERS)]
Ids = Annotated[list[Annotated[int, Field(ge=0, lt=2**32)]], Field(min_length=1, max_length=MOST_TOKENS)]
Stop = Annotated[str, Field(min_length=1, max_length=500)]
Tokens = Annotated[int, Field(ge=1, le=MOST_TOKENS)]
Name = Annotated[str, Field(max_length=200)]


class Asked(BaseModel):
    """A request: other fields than these are refused."""

    model_config = ConfigDict(extra="forbid", strict=True)


class StreamOptions(Asked):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None  # ignored: nothing is padded


class Generation(Asked):
    """What both routes that generate take."""

    model: Name
    n: Annotated[int, Field(ge=1, le=16)] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=16)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**62)] | None = None
    temperature: Annotated[float, Field(ge=0, le=5)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=1, lt=2**32)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    max_tokens: Tokens | None = None
    logit_bias: Annotated[dict[str, Annotated[float, Field(ge=-100, le=100)]], Field(max_length=1024)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=100)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    response_format: "ResponseFormat | None" = None
    grammar: Annotated[str, Field(min_length=1, max_length=1 << 18)] | None = None
    user: Any = None  # these change nothing here, and are ignored
    metadata: Any = None
    store: Any = None
    service_tier: Any = None
    safety_identifier: Any = None
    prompt_cache_key: Any = None
    prompt_cache_retention: Any = None

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def count(self) -> int:
        """How many continuations are asked for."""
        return self.n or 1

    @property
    def usage_wanted(self) -> bool:
        """Whether a stream ends with how many tokens there were."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)


class Function(Asked):
    name: Annotated[str, Field(pattern=r"^[\w.-]{1,64}$")]
    description: Text | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Asked):
    type: Literal["function"]
    function: Function


class Called(Asked):
    name: Name


class ToolChoice(Asked):
    type: Literal["function"]
    function: Called


class JsonSchema(Asked):
    name: Name | None = None
    description: Text | None = None
    schema_: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None


class ResponseFormat(Asked):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class Chat(Generation):
    """POST /v1/chat/completions."""

    messages: Annotated[list[dict[str, Any]], Field(min_length=1, max_length=10_000)]
    max_completion_tokens: Tokens | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    tools: Annotated[list[Tool], Field(max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | ToolChoice | None = None
    parallel_tool_calls: bool | None = None


class Complete(Generation):
    """POST /v1/completions."""

    prompt: (
        Text
        | Ids
        | Annotated[list[Text], Field(min_length=1, max_length=64)]
        | Annotated[list[Ids], Field(min_length=1, max_length=64)]
    )
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None

    @property
    def prompts(self) -> list[str | list[int]]:
        """Each text, or list of ids, that is continued."""
        given: Any = self.prompt
        return [given] if isinstance(given, str) or isinstance(given[0], int) else list(given)

    @property
    def count(self) -> int:
        return super().count * len(self.prompts)


class Tokenize(Asked):
    """POST /tokenize: a text, as a prompt is read, or without what its format puts before every text."""

    text: Text
    add_special: bool = True
    model: Name | None = None


class Detokenize(Asked):
    """POST /detokenize."""

    tokens: Ids
    model: Name | None = None


class Score(Asked):
    """POST /v1/score: the log-probabilities of a text that is given, or of ids."""

    model: Name | None = None
    text: Text | None = None
    tokens: Ids | None = None


class Told(BaseModel):
    """A part of an answer."""


class Problem(Told):
    message: str
    type: str
    param: str | None
    code: str | None


class Problems(Told):
    """What every answer that is not 200 says."""

    error: Problem


class Usage(Told):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: dict[str, int]


class Answer(Told):
    id: str
    object: Literal["text_completion", "chat.completion"]
    created: int
    model: str
    choices: list[dict[str, Any]]
    usage: Usage


class Card(Told):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    card: dict[str, Any]


class Cards(Told):
    object: Literal["list"]
    data: list[Card]


class Tokenized(Told):
    tokens: list[int]
    pieces: list[str]
    count: int
    max_model_len: int


class Detokenized(Told):
    text: str


class Scored(Told):
    """logprobs: ln of the probability of each token after those before it; None for the first."""

    model: str
    tokens: list[int]
    pieces: list[str]
    logprobs: list[float | None]
    total: float
    mean: float | None


class Health(Told):
    status: str


def names(model: type[BaseModel]) -> Iterable[str]:
    """The fields of a request as they are spelled."""
    return [field.alias or name for name, field in model.model_fields.items()]
