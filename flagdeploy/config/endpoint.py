"""Where a deployment listens and where it is reached."""

from collections.abc import Sequence

from flagdeploy.config.launch import Host
from flagdeploy.config.schema import Deployment

_EVERYWHERE = ("0.0.0.0", "::")


def bind_address(deployment: Deployment, hosts: Sequence[Host]) -> str:
    """`endpoint.host`, by default rank 0's own address, or the loopback for `local`."""
    if deployment.endpoint.host:
        return deployment.endpoint.host
    return "127.0.0.1" if deployment.launcher == "local" else hosts[0].address


def address(deployment: Deployment, hosts: Sequence[Host]) -> str:
    """The address that clients use."""
    bound = bind_address(deployment, hosts)
    if bound not in _EVERYWHERE:
        return bound
    return "127.0.0.1" if deployment.launcher == "local" else hosts[0].address


def url(deployment: Deployment, hosts: Sequence[Host]) -> str:
    """Base URL of the endpoint, e.g. ``http://192.0.2.1:8000``."""
    host = address(deployment, hosts)
    host = f"[{host}]" if ":" in host else host
    return f"http://{host}:{deployment.endpoint.port}"
