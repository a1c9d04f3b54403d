"""What all parts of a release share: the names of things, running programs, checksums."""

import hashlib
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "keyturn" / "release-tools"


class Failure(Exception):
    """What failed, why, and what to do; printed without a stack trace."""


@dataclass(frozen=True)
class Platform:
    """One architecture, by the names that each tool has for it."""

    arch: str  # OCI, Go, Debian
    cpu: str  # Rust, qemu

    @property
    def triple(self) -> str:
        return f"{self.cpu}-unknown-linux-gnu"

    @property
    def libraries(self) -> str:
        """The folder of shared libraries in Debian."""
        return f"{self.cpu}-linux-gnu"


PLATFORMS = (Platform("amd64", "x86_64"), Platform("arm64", "aarch64"))

_STARTED = time.monotonic()


def progress(text: str) -> None:
    elapsed = int(time.monotonic() - _STARTED)
    print(f"==> {elapsed // 60:2}:{elapsed % 60:02} {text}", file=sys.stderr, flush=True)


def run(*command: str | Path, cwd: Path = ROOT, env: dict[str, str] | None = None) -> None:
    """Runs a program whose output the caller sees."""
    status = subprocess.run([str(word) for word in command], cwd=cwd, env=env, stdout=sys.stderr).returncode
    if status:
        raise Failure(f"{_words(command)} ended with status {status}; its messages are above")


def output(*command: str | Path, cwd: Path = ROOT, env: dict[str, str] | None = None, shown: bool = False) -> str:
    """Runs a program and returns what it prints; its messages are shown, or else part of the failure."""
    messages = None if shown else subprocess.PIPE
    words = [str(word) for word in command]
    try:
        done = subprocess.run(words, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=messages, text=True)
    except FileNotFoundError as error:
        raise Failure(f"{command[0]} is not installed: install it and run this again") from error
    if done.returncode:
        told = "its messages are above" if shown else done.stderr.strip()
        raise Failure(f"{_words(command)} ended with status {done.returncode}: {told}")
    return done.stdout


def _words(command: tuple[str | Path, ...]) -> str:
    return " ".join(str(word) for word in command)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def published() -> dict[str, str]:
    """The names of deploy/release.env."""
    lines = (ROOT / "deploy" / "release.env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


@cache
def epoch() -> int:
    """The time that everything in a release carries: SOURCE_DATE_EPOCH, or else the commit's."""
    given = os.environ.get("SOURCE_DATE_EPOCH")
    return int(given or output("git", "log", "-1", "--format=%ct"))


def check_version(version: str) -> None:
    """A release has one version: that of the crate and of the chart."""
    if not re.fullmatch(r"\d+\.\d+\.\d+(-[0-9A-Za-z.-]+)?", version):
        raise Failure(f"{version!r} is not a version such as 1.2.3 or 1.2.3-rc.1")
    for file, pattern in (
        ("Cargo.toml", r'(?m)^version = "(.+)"$'),
        ("charts/keyturn/Chart.yaml", r"(?m)^version: (.+)$"),
        ("charts/keyturn/Chart.yaml", r"(?m)^appVersion: (.+)$"),
    ):
        found = re.search(pattern, (ROOT / file).read_text())
        if not found or found[1] != version:
            raise Failure(
                f"{file} has the version {found[1] if found else 'nothing'}, not {version}: "
                f"set it there, run `make generate`, commit, and run this again"
            )
