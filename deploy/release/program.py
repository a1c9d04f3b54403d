"""The program, compiled so that the same commit in the same environment gives the same bytes."""

import json
import os
from pathlib import Path

import tools
from common import ROOT, Failure, Platform, epoch, output, progress, run
from contents import Component, auditable

# The oldest C library that the program runs on: that of RHEL 8 and of Debian 10.
GLIBC = "2.28"
TARGET = Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target" / "published")


def compiler(platform: Platform, debian: tools.Debian, pinned: bool) -> dict[str, str]:
    """The variables that choose rustc: the pinned one if it compiles for the platform, else Debian's."""
    sysroot = Path(output("rustc", "--print", "sysroot").strip())
    if (sysroot / "lib" / "rustlib" / platform.triple).exists():
        return {}
    if pinned:
        raise Failure(f"the pinned Rust can't compile for {platform.arch}: run `rustup target add {platform.triple}`")
    rust = debian.rust() / "usr"
    return {"RUSTC": str(rust / "bin" / "rustc"), "LD_LIBRARY_PATH": str(rust / "lib" / "x86_64-linux-gnu")}


def rust_version(compiler: dict[str, str]) -> str:
    """Such as 1.95.0."""
    return output(compiler.get("RUSTC", "rustc"), "--version", env=os.environ | compiler).split()[1]


def compile(platform: Platform, compiler: dict[str, str], crates: list[Component]) -> Path:
    """The stripped program, with the list of its crates inside.

    Fails if other crates were linked than those of the list.
    """
    progress(f"compiling for {platform.arch} with Rust {rust_version(compiler)}: 10 to 20 minutes on 2 cores")
    home = Path(os.environ.get("CARGO_HOME") or Path.home() / ".cargo")
    # No folder of this machine may be in the program. The last prefix that fits counts.
    folders = {home: "/cargo", ROOT: "/keyturn", TARGET: "/target"}
    environment = (
        os.environ
        | compiler
        | {
            "PATH": os.pathsep.join([str(tools.zig()), os.environ["PATH"]]),
            "RUSTFLAGS": " ".join(f"--remap-path-prefix={folder}={name}" for folder, name in folders.items()),
            "CFLAGS": " ".join(f"-ffile-prefix-map={folder}={folders[folder]}" for folder in (home, TARGET)),
            "SOURCE_DATE_EPOCH": str(epoch()),
        }
    )
    if platform.arch == "arm64":
        # jemalloc fixes the size of pages when it is compiled; kernels for arm64 have up to 64 KiB.
        environment["JEMALLOC_SYS_WITH_LG_PAGE"] = "16"
    # `--package` and not `--workspace`: the testbed turns on features of dependencies that must not ship.
    messages = output(
        *("cargo-zigbuild", "rustc", "--locked", "--release", "--package", "keyturn", "--bin", "keyturn"),
        *("--target", f"{platform.triple}.{GLIBC}", "--target-dir", TARGET),
        *("--message-format=json-render-diagnostics", "--", f"-Clink-arg={_listing(platform, crates)}"),
        env=environment,
        shown=True,
    )
    linked = _linked(messages, platform)
    listed = {(crate.name, crate.version) for crate in crates if crate.checksum}
    if linked != listed:
        raise Failure(f"the list of contents for {platform.arch} and what was linked differ in {sorted(linked ^ listed)}")
    return TARGET / platform.triple / "release" / "keyturn"


def _listing(platform: Platform, crates: list[Component]) -> Path:
    """An object file that puts the list of crates into the program, where scanners look for it.

    In the format of cargo-auditable, which itself lists what the testbed depends on, too.
    """
    # Named from the root, where the linker runs: names of folders change the program.
    folder = Path("target/contents")
    (ROOT / folder).mkdir(parents=True, exist_ok=True)
    packed, source, linked = (folder / f"{platform.arch}.{kind}" for kind in ("zlib", "s", "o"))
    (ROOT / packed).write_bytes(auditable(crates))
    (ROOT / source).write_text(f'.section .dep-v0,"",%progbits\n.incbin "{packed}"\n')
    run(tools.zig() / "python-zig", "cc", "-target", f"{platform.cpu}-linux-gnu", "-c", source, "-o", linked)
    return linked


def _linked(messages: str, platform: Platform) -> set[tuple[str, str]]:
    """The crates of others that cargo compiled for the platform, and not for the build itself."""
    linked = set()
    for line in messages.splitlines():
        message = json.loads(line)
        files = message.get("filenames", [])
        if any(file.startswith(f"{TARGET / platform.triple}/") for file in files):
            source, _, package = message["package_id"].partition("#")
            if source.startswith("registry+"):
                linked.add(tuple(package.split("@")))
    return linked
