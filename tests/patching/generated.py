"""Git repositories and patch sets made from a seed: renames, modes, binary files, odd names."""

import hashlib
import os
import random
import subprocess
from dataclasses import dataclass
from pathlib import Path

import yaml

Files = dict[str, tuple[str, bytes]]
"""Mode (100644, 100755) and content by name."""

NAMES = [
    "plain.txt", "dir/with space.py", "ünï/cödé.md", 'quo"te', "tab\there", "日本語.txt",
    "back\\slash", "-option", "a b/c d", "crlf.txt", "deep/er/and/deeper", "new\nline",
    os.fsdecode(b"latin-\xe9"), "no_newline", "bin.dat", "run.sh", "b/x", "a/x", "#hash",
]  # fmt: skip

KINDS = ["edit", "edit", "rename", "move and edit", "mode", "add", "delete", "binary"]


def git(folder: Path, *arguments: str, stdin: bytes = b"") -> bytes:
    person = ["-c", "user.name=A", "-c", "user.email=a@example.com", "-c", "core.autocrlf=false"]
    command = ["git", *person, "-C", str(folder), *arguments]
    done = subprocess.run(command, input=stdin, capture_output=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def on_disk(folder: Path) -> Files:
    """What lies in a checkout, git's own files aside."""
    found = {}
    for path in folder.rglob("*"):
        name = str(path.relative_to(folder))
        if path.is_file() and not name.startswith(".git"):
            mode = "100755" if path.stat().st_mode & 0o100 else "100644"
            found[name] = (mode, path.read_bytes())
    return found


def write_set(folder: Path, files: dict[str, bytes], commit: str, **changes: object) -> Path:
    """A patch set's folder with its patch.yaml."""
    listed = []
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
        listed.append({"file": name, "sha256": hashlib.sha256(content).hexdigest()})
    data = {"component": "demo", "repository": "https://example.com/demo", "base": commit}
    text = yaml.safe_dump({**data, "patches": listed, **changes}, sort_keys=False)
    (folder / "patch.yaml").write_text(text)
    return folder


@dataclass(frozen=True)
class Series:
    """A base and what a vendor made of it, commit by commit."""

    states: list[Files]

    @property
    def base(self) -> Files:
        return self.states[0]

    @property
    def patched(self) -> Files:
        return self.states[-1]


def series(seed: int) -> Series:
    rng = random.Random(seed)
    base = {name: _file(rng, name) for name in rng.sample(NAMES, 9)}
    states = [base]
    while len(states) < 2 + seed % 3:
        state = dict(states[-1])
        for _ in range(rng.randint(1, 5)):
            _change(rng, state)
        if state != states[-1]:
            states.append(state)
    return Series(states)


def _file(rng: random.Random, name: str) -> tuple[str, bytes]:
    mode = rng.choice(["100644", "100644", "100755"])
    if rng.random() < 0.25:
        return mode, rng.randbytes(rng.randint(1, 200)) + b"\0"
    end = b"\r\n" if name.startswith("crlf") or rng.random() < 0.2 else b"\n"
    count = rng.choice([0, 1, 30])
    lines = [f"{name!r} ünï {rng.randint(0, 99)}".encode() + end for _ in range(count)]
    content = b"".join(lines)
    return mode, content if rng.random() < 0.8 else content.rstrip()


def _change(rng: random.Random, state: Files) -> None:
    name = rng.choice(sorted(state))
    mode, content = state[name]
    kind = rng.choice(
        ["edit", "edit", "rename", "move and edit", "mode", "add", "delete", "binary"]
    )
    free = [other for other in NAMES if other not in state]
    if kind in ("rename", "move and edit", "add") and not free:
        return
    if kind == "add":
        new = rng.choice(free)
        state[new] = _file(rng, new)
    elif kind == "delete" and len(state) > 3:
        del state[name]
    elif kind == "mode":
        state[name] = ("100755" if mode == "100644" else "100644", content)
    elif kind == "binary":
        state[name] = (mode, rng.randbytes(50) + b"\0" + content[:20])
    elif kind == "edit":
        state[name] = (mode, _edited(rng, content))
    elif kind in ("rename", "move and edit"):
        del state[name]
        edited = content if kind == "rename" else _edited(rng, content)
        state[rng.choice(free)] = (mode, edited)


def _edited(rng: random.Random, content: bytes) -> bytes:
    lines = content.splitlines(keepends=True) or [b""]
    at = rng.randrange(len(lines))
    lines[at] = rng.choice(
        [b"", b"edited\n", b"edited\r\n", lines[at] + b"-- \n", b"diff --git a b\n"]
    )
    return b"".join(lines)


class Repository:
    """A repository with the commits of many series, each on a branch of its own."""

    def __init__(self, folder: Path, seeds: range) -> None:
        self.folder = folder
        folder.mkdir()
        git(folder, "init", "-q", "-b", "main")
        self.series = {seed: series(seed) for seed in seeds}
        stream = b"".join(self._stream(seed) for seed in seeds)
        git(folder, "fast-import", "--quiet", stdin=stream)
        git(folder, "checkout", "-q", "-b", "mine", f"set{seeds[0]}-0")
        (folder / "mine.txt").write_text("work under way\n")
        git(folder, "add", "mine.txt")
        (folder / "untracked.txt").write_text("not added yet\n")
        format = "--format=%(refname:short) %(objectname) %(tree)"
        rows = [row.split() for row in git(folder, "for-each-ref", format).decode().splitlines()]
        self.commits = {name: commit for name, commit, _ in rows}
        self.trees = {name: tree for name, _, tree in rows}

    def _stream(self, seed: int) -> bytes:
        out, states = b"", self.series[seed].states
        for number, state in enumerate(states):
            out += f"commit refs/heads/set{seed}-{number}\n".encode()
            out += b"committer A <a@example.com> 1700000000 +0100\ndata 7\nch\xc3\xa4nge\n"
            out += f"from refs/heads/set{seed}-{number - 1}\n".encode() if number else b""
            out += b"deleteall\n"
            for name, (mode, content) in state.items():
                quoted = "".join(f"\\{byte:03o}" for byte in os.fsencode(name))
                out += f'M {mode} inline "{quoted}"\ndata {len(content)}\n'.encode()
                out += content + b"\n"
        return out

    def base(self, seed: int) -> str:
        return self.commits[f"set{seed}-0"]

    def patches(self, seed: int) -> dict[str, bytes]:
        """One patch for each commit: mails for odd seeds, plain differences for even ones."""
        made = {}
        for number in range(1, len(self.series[seed].states)):
            commit = self.commits[f"set{seed}-{number}"]
            if seed % 2:
                patch = git(self.folder, "format-patch", "--stdout", "--binary", "-M", "-1", commit)
            else:
                patch = git(self.folder, "diff", "--binary", "-M", f"{commit}^", commit)
            made[f"{number:04}.patch"] = patch
        return made

    def snapshot(self) -> dict[str, bytes]:
        """All that is the user's: files, index, references, HEAD, configuration."""
        snapshot = {name: content for name, (_, content) in on_disk(self.folder).items()}
        inside = self.folder / ".git"
        for path in (inside / "HEAD", inside / "index", inside / "config", *inside.rglob("refs/*")):
            if path.is_file():
                snapshot[str(path.relative_to(self.folder))] = path.read_bytes()
        return snapshot
