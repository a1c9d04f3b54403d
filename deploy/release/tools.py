"""The tools of a release, each pinned, fetched or built once into a cache outside of the repository.

Nothing is installed on the machine: Python packages go into a virtual environment, Debian packages are unpacked.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

from common import CACHE, ROOT, Failure, output, progress, run, sha256

CARGO_DENY = "0.20.2"
ZIZMOR = "zizmor==1.32.0"
# Both judge a list of contents by the rules of its format.
SBOM_LIBRARIES = ("cyclonedx-python-lib[json-validation]==11.12.0", "spdx-tools==0.8.5")
GO_TOOLS = {
    "crane": "github.com/google/go-containerregistry/cmd/crane@v0.22.1",
    "cosign": "github.com/sigstore/cosign/v3/cmd/cosign@v3.1.3",
    "actionlint": "github.com/rhysd/actionlint/cmd/actionlint@v1.7.12",
    "validate-krew-manifest": "sigs.k8s.io/krew/cmd/validate-krew-manifest@v0.4.3",
}
# Packages of data, which apt doesn't find under the name of an architecture.
SAME_FOR_ALL = ("ca-certificates",)


def python(name: str, *arguments: str) -> Path:
    """The folder of programs of a virtual environment that `pip install ARGUMENTS` fills."""
    pinned = [Path(argument).read_text() if Path(argument).is_file() else argument for argument in arguments]
    folder = CACHE / f"{name}-{sha256(repr(pinned).encode())[:16]}"
    if not (folder / "complete").exists():
        progress(f"installing {name} with pip")
        shutil.rmtree(folder, ignore_errors=True)
        run(sys.executable, "-m", "venv", folder)
        run(folder / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check", *arguments)
        (folder / "complete").touch()
    return folder / "bin"


def zig() -> Path:
    """The folder with cargo-zigbuild, which finds zig in the same environment."""
    return python("zig", "--require-hashes", "--requirement", str(ROOT / "deploy/release/requirements.txt"))


def zig_version() -> str:
    return output(zig() / "python-zig", "version").strip()


def cargo(name: str, version: str) -> Path:
    """The folder with a program of crates.io."""
    folder = CACHE / f"{name}-{version}"
    if not (folder / "bin" / name).exists():
        progress(f"building {name}")
        run("cargo", "install", "--locked", "--quiet", f"{name}@{version}", "--root", folder)
    return folder / "bin"


def go(name: str) -> Path:
    """A program of GO_TOOLS."""
    module = GO_TOOLS[name]
    folder = CACHE / f"{name}-{module.rsplit('@', 1)[1]}"
    if not (folder / name).exists():
        progress(f"building {name}")
        run("go", "install", "-trimpath", module, env=os.environ | {"GOBIN": str(folder), "CGO_ENABLED": "0", "GOFLAGS": ""})
    return folder / name


def helm() -> Path:
    """KEYTURN_HELM, or else Helm as the tests pin it."""
    if given := os.environ.get("KEYTURN_HELM"):
        return Path(given)
    module = ROOT / "tests/testbed/controlplane/helm"
    folder = CACHE / f"helm-{sha256((module / 'go.sum').read_bytes())[:16]}"
    if not (folder / "helm").exists():
        progress("building helm")
        flags = ("-trimpath", "-buildvcs=false", "-ldflags", "-s -w")
        env = os.environ | {"CGO_ENABLED": "0", "GOWORK": "off"}
        run("go", "build", *flags, "-o", f"{folder}/", "tool", cwd=module, env=env)
    return folder / "helm"


class Debian:
    """Debian packages of both architectures, by an apt of our own that changes nothing on the machine."""

    def __init__(self) -> None:
        self.folder = CACHE / "apt"
        if not shutil.which("apt-get"):
            raise Failure("apt-get is not installed: the image is made of packages of Debian 12, so build it there")
        if "VERSION_CODENAME=bookworm" not in Path("/etc/os-release").read_text():
            raise Failure("this is not Debian 12, of whose packages the image is made: build in a container of it")
        for part in ("lists/partial", "archives/partial", "packages"):
            (self.folder / part).mkdir(parents=True, exist_ok=True)
        (self.folder / "status").touch()
        settings = {
            "APT::Architecture": "amd64",
            "APT::Sandbox::User": "",
            "Dir::State": self.folder,
            "Dir::State::status": self.folder / "status",
            "Dir::Cache": self.folder,
        }
        lines = [f'{name} "{value}";' for name, value in settings.items()]
        lines.append('APT::Architectures { "amd64"; "arm64"; };')
        config = self.folder / "apt.conf"
        config.write_text("\n".join(lines) + "\n")
        self.env = os.environ | {"APT_CONFIG": str(config)}
        progress("reading Debian's lists of packages")
        update = subprocess.run(["apt-get", "update", "--quiet=2"], env=self.env, stdout=sys.stderr, stderr=subprocess.PIPE, text=True)
        # A source of the machine that has no arm64 is none of ours. With old lists the image would get old libraries.
        failed = [line for line in update.stderr.splitlines() if "bookworm" in line and line.startswith(("E:", "W:"))]
        if failed:
            raise Failure("apt can't read the lists of Debian 12: " + " ".join(failed))

    @cache
    def fetch(self, package: str, arch: str) -> Path:
        """The newest version of a package of Debian 12, which is what an image must have."""
        name = package if package in SAME_FOR_ALL else f"{package}:{arch}"
        uri = output("apt-get", "download", "--print-uris", name, env=self.env).split()
        if len(uri) < 2:
            raise Failure(f"apt finds no package {package} for {arch}: its sources must name Debian 12 and its updates")
        file = self.folder / "packages" / uri[1]
        kind, _, expected = uri[3].lower().partition(":")
        is_whole = file.exists() and hashlib.new(kind, file.read_bytes()).hexdigest() == expected
        if not is_whole:
            file.unlink(missing_ok=True)
            run("apt-get", "download", "--quiet=2", name, cwd=file.parent, env=self.env)
        return file

    def unpack(self, package: str, arch: str, folder: Path) -> None:
        run("dpkg-deb", "--extract", self.fetch(package, arch), folder)

    def rust(self) -> Path:
        """The folder of a Rust that compiles for arm64, where rustup can't fetch the standard library for it."""
        compiler = self.fetch("rustc-web", "amd64")
        folder = CACHE / compiler.stem.replace("%", "-")
        if not (folder / "complete").exists():
            progress("unpacking Debian's Rust for arm64")
            shutil.rmtree(folder, ignore_errors=True)
            # Their names have the version of Rust and of LLVM.
            [library] = self.needs("libstd-rust-web-dev", "libstd-rust-web-[0-9]")
            for package in ("rustc-web", "libstd-rust-web-dev", library, *self.needs(library, "libllvm[0-9]")):
                self.unpack(package, "amd64", folder)
            self.unpack("libstd-rust-web-dev", "arm64", folder)
            (folder / "complete").touch()
        return folder

    def needs(self, package: str, pattern: str) -> list[str]:
        """The packages that one depends on, of those whose names begin as the pattern says."""
        depends = output("dpkg-deb", "--field", self.fetch(package, "amd64"), "Depends")
        names = (dependency.split()[0] for dependency in depends.split(","))
        return [name for name in names if re.match(pattern, name)]

    def qemu(self) -> Path:
        """The folder of programs that run those of another architecture."""
        folder = CACHE / "qemu"
        if not (folder / "complete").exists():
            self.unpack("qemu-user-static", "amd64", folder)
            (folder / "complete").touch()
        return folder / "usr" / "bin"


def for_users() -> Path:
    """A folder with the programs that users verify a release with."""
    return _linked(go("crane"), go("cosign"), helm())


def for_tests() -> Path:
    """The same, with the program that runs programs for arm64."""
    for_users()
    return _linked(Debian().qemu() / "qemu-aarch64-static")


def _linked(*programs: Path) -> Path:
    folder = CACHE / "bin"
    folder.mkdir(parents=True, exist_ok=True)
    for program in programs:
        link = folder / program.name
        link.unlink(missing_ok=True)
        link.symlink_to(program)
    return folder
