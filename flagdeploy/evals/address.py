"""The address of an endpoint; a name and password in it are for the endpoint alone."""

import base64
from collections.abc import Iterator
from urllib.parse import unquote, urlsplit

from flagdeploy.config.secret import Secret


def base_url(url: str) -> str:
    """``http://h:1``, ``.../v1/`` and ``.../v1/chat/completions`` all give ``http://h:1/v1``.

    Without name and password, so that it can be written down.
    """
    base = url.rstrip("/")
    for suffix in ("/chat/completions", "/completions"):
        base = base.removesuffix(suffix)
    base = base if base.endswith("/v1") else base + "/v1"
    scheme, colon, rest = base.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}{colon}{host.rpartition('@')[2]}{slash}{path}"


def authorization(url: str, api_key: Secret | None) -> dict[str, str]:
    """The header that shows who asks: the key, else the name and password in `url`, else none."""
    if api_key:
        return {"Authorization": f"Bearer {api_key.reveal()}"}
    login = _login(url)
    return {"Authorization": f"Basic {base64.b64encode(login.encode()).decode()}"} if login else {}


def secrets(url: str, api_key: Secret | None) -> Iterator[Secret]:
    """What no record may hold, also when an endpoint sends it back."""
    if api_key:
        yield api_key
    if login := _login(url):
        yield Secret(login)
        yield Secret(login.partition(":")[2])


def _login(url: str) -> str:
    there = urlsplit(url)
    if there.username is None:
        return ""
    return f"{unquote(there.username)}:{unquote(there.password or '')}"
