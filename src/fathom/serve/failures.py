"""What went wrong with a request, in OpenAI's shape: {"error": {"message", "type", "param", "code"}}."""

import json
from typing import Any

from fathom.errors import FathomError

TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
RETRY = 1  # seconds after which one who was refused for now may ask again


class Failure(FathomError):
    """An answer that is an error. param: the field that is wrong; code: a word for programs."""

    def __init__(self, message: str, status: int = 400, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.param, self.code = status, param, code

    def body(self) -> dict[str, Any]:
        kind = TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}

    def encoded(self) -> bytes:
        return json.dumps(self.body()).encode()

    @property
    def headers(self) -> dict[str, str]:
        """Those that the status asks for."""
        if self.status == 401:
            return {"WWW-Authenticate": "Bearer"}
        return {"Retry-After": str(RETRY)} if self.status in (429, 503) else {}


class Busy(Failure):
    """As many wait as may."""

    def __init__(self, most: int) -> None:
        super().__init__(f"{most} requests are being answered or wait; ask again in a moment", 429, code="overloaded")


class Stopping(Failure):
    """The server is about to end."""

    def __init__(self) -> None:
        super().__init__("the server is stopping; ask again once it is back", 503, code="stopping")


class Fault(Failure):
    """A mistake of ours, or of the model's numbers, in the middle of an answer."""

    def __init__(self, error: Exception) -> None:
        said = str(error) if isinstance(error, FathomError) else f"{type(error).__name__} in the engine"
        super().__init__(f"this answer failed: {said}", 500, code="engine_error")


def of(error: FathomError) -> Failure:
    """A mistake in a request."""
    return error if isinstance(error, Failure) else Failure(str(error))
