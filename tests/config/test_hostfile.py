import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flagdeploy.config import hostfile
from flagdeploy.config.launch import Host
from flagdeploy.errors import ConfigError


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        hostfile.parse(text, "hosts.txt")
    return [str(problem) for problem in caught.value.problems]


def test_flagscale_file_keeps_its_order():
    text = "# two hosts\n\n192.0.2.7 slots=8 type=gpu\n192.0.2.1 slots=8 type=gpu # second\n"
    assert hostfile.parse(text, "h") == (
        Host("192.0.2.7", 8, "gpu"),
        Host("192.0.2.1", 8, "gpu"),
    )


def test_access_settings_of_one_host():
    text = "n1 slots=4 user=deploy port=2222 docker=unix:///run/user/1000/docker.sock"
    assert hostfile.parse(text, "h") == (
        Host("n1", 4, "", "deploy", 2222, "unix:///run/user/1000/docker.sock"),
    )


def test_bare_host_has_one_slot():
    assert hostfile.parse("node-1.example.org", "h") == (Host("node-1.example.org"),)


def test_ipv6_with_and_without_brackets():
    hosts = hostfile.parse("2001:db8::1 slots=2\n[2001:db8::2] slots=2", "h")
    assert [host.address for host in hosts] == ["2001:db8::1", "2001:db8::2"]


def test_nodeset_keeps_zero_padding():
    hosts = hostfile.parse("n[01-03,7]-ib slots=8", "h")
    assert [host.address for host in hosts] == ["n01-ib", "n02-ib", "n03-ib", "n7-ib"]


def test_carriage_returns_and_byte_order_mark(tmp_path):
    path = tmp_path / "hosts.txt"
    path.write_bytes(b"\xef\xbb\xbfn1 slots=8\r\nn2 slots=8\r\n")
    assert hostfile.read(path) == (Host("n1", 8), Host("n2", 8))


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("h slots=8type=gpu", "`slots=8type=gpu`: put a space before `type=gpu`"),
        ("h slots=0", "`slots=0`: a host has at least one slot"),
        ("h slots=-1", "`slots=-1`: a number is expected"),
        ("h slots=8 slots=4", "`slots=` stands twice"),
        ("h slots = 8", "unexpected `slots`: after the host come slots=, port=, type=, user=, "
         "docker="),
        ("h slots=8 foo=bar", "unexpected `foo=bar`: after the host come slots=, port=, type=, "
         "user=, docker="),
        ("h slots=8 junk", "unexpected `junk`: after the host come slots=, port=, type=, user=, "
         "docker="),
        ("h port=0", "`port=0`: a port lies between 1 and 65535"),
        ("h port=65536", "`port=65536`: a port lies between 1 and 65535"),
        ("h docker=tcp://0.0.0.0:2375", "`docker=tcp://0.0.0.0:2375`: unix:///path/of/the/socket "
         "is expected"),
        ("h user=$(id)", "`user=$(id)`: letters, digits and . _ - is expected"),
        ("-oProxyCommand=id", "`-oProxyCommand=id` is no host name or address"),
        ("h;reboot", "`h;reboot` is no host name or address"),
        ("fe80::1%;reboot", "`fe80::1%;reboot` is no host name or address"),
        ("$(id)", "`$(id)` is no host name or address"),
        ("root@192.0.2.1", "`root@192.0.2.1`: write `192.0.2.1 user=root`"),
        ("h:8", "`h:8`: write `h slots=8`, or `h port=8`"),
        ("n[3-1]", "`n[3-1]`: `3-1` is empty or longer than 4096 hosts"),
        ("n[1-999999999]", "`n[1-999999999]`: `1-999999999` is empty or longer than 4096 hosts"),
        ("n[a-b]", "`n[a-b]`: `a-b` is no number and no range such as 01-04"),
    ],
)  # fmt: skip
def test_refused_lines_name_file_and_line(line, what):
    assert problems(f"# first\n{line}\n") == [f"hosts.txt:2: {what}"]


def test_duplicates_name_the_first_line():
    assert problems("n1\nn2\nN1\n") == ["hosts.txt:3: `N1` stands already in line 1"]
    assert problems("n[1-2]\nn2\n") == ["hosts.txt:2: `n2` stands already in line 1"]


def test_one_address_may_hold_several_machines_by_port():
    hosts = hostfile.parse("192.0.2.1 port=2201\n192.0.2.1 port=2202\n", "h")
    assert [host.port for host in hosts] == [2201, 2202]


def test_types_of_all_or_none():
    assert problems("n1 type=gpu\nn2\n") == [
        "hosts.txt:2: no `type=`, but other lines have one: give all a type or none"
    ]


def test_every_problem_is_reported_at_once():
    assert len(problems("-x\nn1 slots=0\nn1\nn1\n")) == 3


def test_empty_and_missing_files(tmp_path):
    assert problems("# nothing\n") == ["hosts.txt: no host in it"]
    with pytest.raises(ConfigError, match="no such file"):
        hostfile.read(tmp_path / "absent")


hosts = st.builds(
    Host,
    st.from_regex(r"[a-z][a-z0-9-]{0,10}[a-z0-9]", fullmatch=True),
    st.integers(1, 64),
    st.just("gpu"),
    st.none() | st.from_regex(r"[a-z_][a-z0-9_]{0,8}", fullmatch=True),
    st.integers(1, 65535),
    st.none() | st.just("unix:///run/docker.sock"),
)


@given(st.lists(hosts, min_size=1, unique_by=lambda host: host.address))
def test_what_is_written_is_read(inventory):
    lines = []
    for host in inventory:
        line = f"{host.address} slots={host.slots} type={host.type} port={host.port}"
        line += f" user={host.user}" if host.user else ""
        line += f" docker={host.docker}" if host.docker else ""
        lines.append(line)
    assert hostfile.parse("\n".join(lines), "h") == tuple(inventory)


@given(st.text(max_size=60))
def test_no_accepted_name_can_be_an_option_or_shell_text(text):
    try:
        accepted = hostfile.parse(text, "h")
    except ConfigError:
        return
    for host in accepted:
        assert re.fullmatch(r"[A-Za-z0-9:][A-Za-z0-9._:-]*", host.address)
