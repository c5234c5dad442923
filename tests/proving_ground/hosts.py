"""Hosts with SSH and Docker for the tests: each has its own address, sshd and Docker engine.

    with fleet(2) as hosts:
        hosts[0].address, hosts[0].port, hosts[0].key_path, hosts[0].known_hosts_path

The hosts share the machine's file system, except that each has a /dev/shm of its own, a HOME
of its own for SSH sessions and an /etc/hosts that names the hosts. They have no route to
anywhere but their own subnet, as hosts without internet access.
"""

import contextlib
import http.client
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from proving_ground.leftovers import cgroup_parent, clear_abandoned, end_processes, take_down
from proving_ground.network import Network, Node, command, open_network, program, state_lock

START_TIMEOUT_S = 60.0


class EngineConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path, timeout: float = 60.0) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class Host(Node):
    """A node with sshd and dockerd. Odd hosts listen on port 22, even ones on 2222."""

    def __init__(self, network: Network, number: int) -> None:
        super().__init__(network, f"host-{number}", number)
        self.port = 22 if number % 2 else 2222
        self.user = "root"
        self.key_path = network.folder / "id_ed25519"
        self.known_hosts_path = network.folder / "known_hosts"
        self.docker_socket = self.folder / "docker.sock"
        self.home = self.folder / "home"
        self.home.mkdir(mode=0o700)
        self._containerd_socket = self.folder / "containerd" / "containerd.sock"
        self._write_configuration()

    @property
    def docker_host(self) -> str:
        """The value of DOCKER_HOST on this host."""
        return f"unix://{self.docker_socket}"

    @property
    def known_hosts_name(self) -> str:
        """The host's name in known_hosts: ports other than 22 are part of it (sshd(8))."""
        return self.address if self.port == 22 else f"[{self.address}]:{self.port}"

    def start_sshd(self) -> None:
        # sshd insists on an absolute path, and needs the folder it drops its privileges into.
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        self.sshd = self.start(program("sshd"), "-D", "-e", "-f", self.folder / "sshd_config")

    def start_containerd(self) -> None:
        """A containerd for this engine alone; dockerd would share one that the system runs."""
        config = self.folder / "containerd.toml"
        self.containerd = self.start(program("containerd"), "--config", config)

    def start_dockerd(self) -> None:
        (self.folder / "docker.pid").unlink(missing_ok=True)
        self.dockerd = self.start(
            program("dockerd"),
            *("--config-file", self.folder / "daemon.json"),
            *("--host", self.docker_host),
            *("--containerd", self._containerd_socket),
            *("--data-root", self.folder / "docker"),
            *("--exec-root", self.folder / "docker-exec"),
            *("--pidfile", self.folder / "docker.pid"),
            *("--cgroup-parent", f"/{cgroup_parent(self.network.folder)}"),
            *("--exec-opt", "native.cgroupdriver=cgroupfs"),
            *("--insecure-registry", self.network.subnet),
            *("--bridge=none", "--iptables=false", "--ip-forward=false"),
        )

    def wait_for_sshd(self) -> None:
        self._wait("sshd", self.sshd, self._sshd_answers)

    def wait_for_containerd(self) -> None:
        self._wait("containerd", self.containerd, self._containerd_socket.exists)

    def wait_for_dockerd(self) -> None:
        self._wait("dockerd", self.dockerd, lambda: self.engine("GET", "/_ping") == b"OK")

    def kill_sshd(self) -> None:
        """Kill sshd; sessions that are open stay open."""
        self.sshd.kill()
        self.sshd.wait()

    def kill_dockerd(self) -> None:
        """Kill the Docker engine as a crash would: its containers go on running."""
        self.dockerd.kill()
        self.dockerd.wait()

    def restart_dockerd(self) -> None:
        self.start_dockerd()
        self.wait_for_dockerd()

    def die(self) -> None:
        """Power off: the cable goes dead and every process of this host ends."""
        self.down()
        end_processes(self.namespace)

    def engine(self, method: str, path: str, body: bytes | None = None) -> bytes:
        """One request to this host's Docker Engine API, straight to its socket."""
        with contextlib.closing(EngineConnection(self.docker_socket)) as connection:
            connection.request(method, path, body)
            response = connection.getresponse()
            answer = response.read()
        if response.status >= 400:
            raise RuntimeError(f"{self.name}: {method} {path}: {answer.decode()}")
        return answer

    def docker(self, *arguments: str) -> str:
        """Run `docker ARGUMENTS` against this host's engine and return its stdout."""
        return command(program("docker"), "--host", self.docker_host, *arguments).strip()

    def remove_containers(self) -> None:
        """Remove every container, running or not."""
        containers = self.docker("ps", "--all", "--quiet").split()
        if containers:
            self.docker("rm", "--force", "--volumes", *containers)

    def _sshd_answers(self) -> bool:
        with socket.create_connection((self.address, self.port), timeout=5) as connection:
            return connection.recv(4) == b"SSH-"

    def _wait(
        self, program: str, process: subprocess.Popen[bytes], ready: Callable[[], bool]
    ) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline and process.poll() is None:
            with contextlib.suppress(OSError, http.client.HTTPException):
                if ready():
                    return
            time.sleep(0.05)
        log = self.log(program).read_text()[-2000:]
        raise RuntimeError(f"{program} of {self.name} did not start:\n{log}")

    def _write_configuration(self) -> None:
        host_key = self.folder / "ssh_host_ed25519_key"
        generate_key(host_key)
        (self.folder / "sshd_config").write_text(_sshd_config(self, host_key))
        (self.folder / "daemon.json").write_text("{}")
        (self.folder / "containerd.toml").write_text(
            f'version = 2\nroot = "{self.folder}/containerd/root"\n'
            f'state = "{self.folder}/containerd/state"\n'
            f'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n'
            f'[grpc]\naddress = "{self._containerd_socket}"\n'
        )
        public_key = host_key.with_suffix(".pub").read_text().split()[:2]
        with self.known_hosts_path.open("a") as known_hosts:
            known_hosts.write(f"{self.known_hosts_name} {' '.join(public_key)}\n")


def _sshd_config(host: Host, host_key: Path) -> str:
    # Without PAM sshd refuses an account whose password field begins with "!", as some images
    # have it for root; with PAM it does not look.
    locked = any(line.startswith("root:!") for line in Path("/etc/shadow").read_text().split("\n"))
    return f"""\
ListenAddress {host.address}:{host.port}
HostKey {host_key}
PidFile none
AuthorizedKeysFile {host.key_path}.pub
StrictModes no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
UsePAM {"yes" if locked else "no"}
PrintMotd no
MaxStartups 100
AllowTcpForwarding yes
AllowStreamLocalForwarding yes
Subsystem sftp internal-sftp
SetEnv DOCKER_HOST={host.docker_host} HOME={host.home}
"""


def generate_key(path: Path) -> None:
    command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", path.name, "-f", path)


class Fleet(list[Host]):
    """The hosts in rank order, and what a client needs to reach them."""

    def __init__(self, network: Network, hosts: list[Host]) -> None:
        super().__init__(hosts)
        self.network = network
        self.key_path = network.folder / "id_ed25519"
        self.known_hosts_path = network.folder / "known_hosts"

    def hostfile(self, slots: int = 1) -> str:
        """A hostfile that names every host, its port and its engine's socket."""
        return "".join(
            f"{h.address} slots={slots} user={h.user} port={h.port} docker={h.docker_host}\n"
            for h in self
        )

    def ssh_config(self) -> str:
        """An OpenSSH client configuration with the key and the known hosts of the fleet."""
        return "".join(
            f"Host {h.name} {h.address}\n  HostName {h.address}\n  Port {h.port}\n"
            f"  User {h.user}\n  IdentityFile {h.key_path}\n  IdentitiesOnly yes\n"
            f"  UserKnownHostsFile {h.known_hosts_path}\n  StrictHostKeyChecking yes\n"
            for h in self
        )


@contextmanager
def fleet(size: int) -> Iterator[Fleet]:
    """Bring up `size` hosts; take everything down again at the end, whatever happened.

    Also clears away what killed runs left behind. Needs root and the packages of setup.sh.
    """
    with state_lock():
        clear_abandoned()
        network = open_network()
    nodes: list[Host] = []
    try:
        generate_key(network.folder / "id_ed25519")
        for number in range(1, size + 1):
            nodes.append(Host(network, number))
        _start(nodes)
        yield Fleet(network, nodes)
    finally:
        for host in nodes:
            # Containers that end by their engine's hand leave nothing behind; the rest of the
            # tear-down does not depend on it.
            with contextlib.suppress(RuntimeError):
                host.remove_containers()
        take_down(network.folder)
        for host in nodes:
            host.reap()


def _start(hosts: list[Host]) -> None:
    for host in hosts:
        host.start_sshd()
        host.start_containerd()
    for host in hosts:
        host.wait_for_containerd()
        host.start_dockerd()
    for host in hosts:
        host.wait_for_sshd()
        host.wait_for_dockerd()
