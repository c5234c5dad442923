"""An answer that is an error, in OpenAI's shape."""

from typing import Any

INVALID = "invalid_request_error"


class Refusal(Exception):
    """A request this server does not serve: HTTP `status`, and the fields of OpenAI's error object.

    `param` names the request field; `code` is OpenAI's word for the reason where it has one.
    """

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        status: int = 400,
        kind: str = INVALID,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code
        self.status = status
        self.kind = kind

    def body(self) -> dict[str, Any]:
        error = {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}
        return {"error": error}
