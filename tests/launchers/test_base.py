from flagdeploy.launchers.base import expand, listening_ports, sign_of_life

TREE = {
    "/": ["dev", "etc"],
    "/dev": ["cambricon_dev0", "cambricon_dev1", "cambricon_dev10", "cambricon_ctl", "tenstorrent"],
    "/dev/tenstorrent": ["0", "1"],
}


def listdir(path: str) -> list[str]:
    if path not in TREE:
        raise NotADirectoryError(path)
    return TREE[path]


def test_patterns_are_expanded_without_a_shell() -> None:
    assert expand("/dev/cambricon_dev[0-9]*", listdir) == [
        "/dev/cambricon_dev0",
        "/dev/cambricon_dev1",
        "/dev/cambricon_dev10",
    ]
    assert expand("/dev/*/1", listdir) == ["/dev/tenstorrent/1"]
    assert expand("/dev/cambricon_ctl", listdir) == ["/dev/cambricon_ctl"]


def test_what_is_not_there_matches_nothing() -> None:
    assert expand("/dev/nvidia*", listdir) == []
    assert expand("/no/such/folder/*", listdir) == []
    assert expand("/dev/$(reboot)", listdir) == []


def test_only_listening_sockets_count() -> None:
    table = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid
   0: 0100007F:1F40 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0
   1: 0100007F:1F41 0100007F:C350 01 00000000:00000000 00:00000000 00000000     0
   2: 00000000000000000000000000000000:0016 00000000000000000000000000000000:0000 0A 00000000:0
"""
    assert listening_ports(table) == {8000, 22}


def test_a_warning_that_repeats_every_minute_is_no_sign_of_life() -> None:
    first = b"x\nINFO 11-22 09:00:00 [shm.py:10] No block found in 60 seconds\n"
    second = b"y\nINFO 11-22 09:01:00 [shm.py:10] No block found in 60 seconds\n"
    assert sign_of_life(first) == sign_of_life(second)


def test_a_progress_bar_is_a_sign_of_life() -> None:
    assert sign_of_life(b"a\rshards:  33% | 1/3") != sign_of_life(b"a\rshards:  66% | 2/3")
    assert sign_of_life(b"") == b""
