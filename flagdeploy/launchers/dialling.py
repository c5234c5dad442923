"""HTTP of `requests`, and so of the Docker SDK, over streams that somebody else opens."""

from collections.abc import Callable
from typing import Any, cast

import requests
import urllib3

from flagdeploy.launchers.base import Stream
from flagdeploy.launchers.channel import ChannelStream

Dial = Callable[[], Stream]


class Adapter(requests.adapters.HTTPAdapter):
    """Makes `requests` open its connections with `dial`."""

    def __init__(self, dial: Dial) -> None:
        super().__init__()
        self._pool = _Pool(dial)

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> Any:
        return self._pool

    def close(self) -> None:
        self._pool.close()
        super().close()


class _Pool(urllib3.HTTPConnectionPool):
    def __init__(self, dial: Dial) -> None:
        super().__init__("docker", maxsize=4)
        self._dial = dial

    def _new_conn(self) -> "_HTTP":
        return _HTTP(self._dial)


class _HTTP(urllib3.connection.HTTPConnection):
    def __init__(self, dial: Dial) -> None:
        super().__init__("docker")
        self._dial = dial

    def connect(self) -> None:
        stream = self._dial()
        stream.settimeout(self.timeout)
        self.sock = cast(Any, stream)

    @property
    def is_connected(self) -> bool:
        sock: Any = self.sock
        if isinstance(sock, ChannelStream):
            return not sock.closed
        return super().is_connected
