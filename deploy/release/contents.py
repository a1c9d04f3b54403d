"""What is in a release: the list of components (SBOM) in both formats, and the licence texts of others.

Shipped is what is linked into the program (`cargo tree --edges normal,no-proc-macro`), the standard library of Rust, and
the base of the image. Tools of the build, macros among them, are not.
"""

import json
import re
import struct
import tomllib
import uuid
import zlib
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

from common import ROOT, Failure, output

CRATES_IO = "registry+https://github.com/rust-lang/crates.io-index"
# Of each package's own notice, in the terms of SPDX.
BASE_LICENSES = {
    "libc6": "LGPL-2.1-or-later",
    "ca-certificates": "MPL-2.0",
}
UNWIND_LICENSE = "Apache-2.0 WITH LLVM-exception"
# The source package where it has another name: faults are known by it.
UPSTREAM = {"libc6": "&upstream=glibc"}
NOTICES = re.compile(r"(?i)^(licen[cs]e|copying|copyright|notice|unlicense)([-._].*)?$")


@dataclass(frozen=True, order=True)
class Component:
    name: str
    version: str
    license: str
    purl: str
    checksum: str | None = None  # SHA-256 of the package that it was made from
    kind: str = "library"


def crates(triple: str) -> list[Component]:
    """The crates in the program for a target, its own included."""
    tree = output(
        *("cargo", "tree", "--locked", "--package", "keyturn", "--edges", "normal,no-proc-macro"),
        *("--target", triple, "--prefix", "none", "--format", "{p}|{l}"),
    )
    lock = tomllib.loads((ROOT / "Cargo.lock").read_text())
    sums = {(package["name"], package["version"]): package.get("checksum") for package in lock["package"]}
    found = set()
    for line in tree.splitlines():
        package, license = line.removesuffix(" (*)").split("|")
        name, version = package.split(" ")[:2]
        version = version.removeprefix("v")
        purl = f"pkg:cargo/{name}@{quote(version, safe='.')}"
        if name != "keyturn" and not sums[name, version]:
            raise Failure(f"{name} {version} is not from crates.io: a release has no other crates")
        kind = "application" if name == "keyturn" else "library"
        found.add(Component(name, version, re.sub(" */ *", " OR ", license), purl, sums[name, version], kind))
    return sorted(found)


def base(packages: list[tuple[str, str, str]], rust: str, zig: str) -> list[Component]:
    """What is in the image besides crates. Zig links its libunwind into the program."""
    of_debian = [
        Component(
            name,
            version,
            BASE_LICENSES[name],
            f"pkg:deb/debian/{name}@{quote(version, safe='.')}?arch={arch}&distro=debian-12" + UPSTREAM.get(name, ""),
        )
        for name, version, arch in packages
    ]
    return [
        *of_debian,
        Component("rust-std", rust, "MIT OR Apache-2.0", f"pkg:generic/rust-std@{rust}"),
        Component("llvm-libunwind", f"zig-{zig}", UNWIND_LICENSE, f"pkg:generic/llvm-libunwind@zig-{zig}"),
    ]


def cyclonedx(root: Component, components: list[Component], epoch: int) -> str:
    def entry(component: Component) -> dict:
        value = {
            "type": component.kind,
            "bom-ref": component.purl,
            "name": component.name,
            "version": component.version,
            "licenses": [{"expression": component.license}],
            "purl": component.purl,
        }
        if component.checksum:
            value["hashes"] = [{"alg": "SHA-256", "content": component.checksum}]
        return value

    return _json(
        {
            "bomFormat": "CycloneDX",
            "specVersion": "1.6",
            "serialNumber": f"urn:uuid:{_uuid(root, components)}",
            "version": 1,
            "metadata": {"timestamp": _time(epoch), "component": entry(root)},
            "components": [entry(component) for component in components],
            "dependencies": [{"ref": root.purl, "dependsOn": sorted(component.purl for component in components)}],
        }
    )


def spdx(root: Component, components: list[Component], epoch: int, source: str) -> str:
    def reference(component: Component) -> str:
        return "SPDXRef-" + re.sub(r"[^A-Za-z0-9.-]", "-", f"{component.name}-{component.version}")

    def entry(component: Component) -> dict:
        value = {
            "SPDXID": reference(component),
            "name": component.name,
            "versionInfo": component.version,
            "downloadLocation": "NOASSERTION",
            "filesAnalyzed": False,
            "licenseConcluded": "NOASSERTION",
            "licenseDeclared": component.license,
            "copyrightText": "NOASSERTION",
            "supplier": "NOASSERTION",
            "externalRefs": [
                {"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": component.purl}
            ],
        }
        if component.checksum:
            value["checksums"] = [{"algorithm": "SHA256", "checksumValue": component.checksum}]
        return value

    def relation(of: str, kind: str, to: str) -> dict:
        return {"spdxElementId": of, "relationshipType": kind, "relatedSpdxElement": to}

    return _json(
        {
            "spdxVersion": "SPDX-2.3",
            "dataLicense": "CC0-1.0",
            "SPDXID": "SPDXRef-DOCUMENT",
            "name": f"{root.name} {root.version}",
            "documentNamespace": f"{source}/spdx/{_uuid(root, components)}",
            "creationInfo": {"created": _time(epoch), "creators": ["Tool: keyturn-release"]},
            "packages": [entry(component) for component in [root, *components]],
            "relationships": [
                relation("SPDXRef-DOCUMENT", "DESCRIBES", reference(root)),
                *(relation(reference(root), "CONTAINS", reference(component)) for component in components),
            ],
        }
    )


def notices(*lists: list[Component]) -> str:
    """The licence texts of all crates: each text once, under the names of those that carry it."""
    components = {crate for crates in lists for crate in crates if crate.checksum}
    metadata = json.loads(output("cargo", "metadata", "--locked", "--format-version", "1"))
    folders = {
        (package["name"], package["version"]): Path(package["manifest_path"]).parent
        for package in metadata["packages"]
        if package["source"] == CRATES_IO
    }
    texts: dict[str, set[str]] = {}
    without = []
    for component in sorted(components):
        folder = folders[component.name, component.version]
        # Sources of others inside of a crate have theirs a folder or two below.
        files = [file for depth in ("*", "*/*", "*/*/*") for file in sorted(folder.glob(depth)) if file.is_file()]
        files = [file for file in files if NOTICES.match(file.name)]
        if not files:
            without.append(component)
        for file in files:
            text = file.read_text(encoding="utf-8", errors="replace").strip()
            texts.setdefault(text, set()).add(f"{component.name} {component.version}")
    parts = [
        "Keyturn contains the software of others. Its licences, as each package declares them:\n\n"
        + "".join(f"{component.name} {component.version}: {component.license}\n" for component in sorted(components))
        + "\nIt also contains the standard library of Rust, Copyright The Rust Project Developers: MIT OR Apache-2.0, and\n"
        f"libunwind of LLVM, as zig has it: {UNWIND_LICENSE}.\n\n"
        "The image has files of Debian 12 besides. Their licences are in /usr/share/doc of the image, and their sources at\n"
        "https://snapshot.debian.org, by the versions in /var/lib/dpkg/status.d.\n"
    ]
    if without:
        names = ", ".join(f"{component.name} {component.version}" for component in without)
        parts.append(f"These packages carry no licence text of their own: {names}.\n")
    for text, names in sorted(texts.items(), key=lambda item: sorted(item[1])):
        parts.append(f"{', '.join(sorted(names))}\n\n{text}\n")
    return f"\n{'=' * 80}\n\n".join(parts)


def auditable(crates: list[Component]) -> bytes:
    """The list of crates as programs carry it in their section `.dep-v0`, for scanners."""
    packages = [
        {"name": crate.name, "version": crate.version, "source": "crates.io" if crate.checksum else "local"}
        | ({} if crate.checksum else {"root": True})
        for crate in sorted(crates)
    ]
    return zlib.compress(json.dumps({"packages": packages}, separators=(",", ":")).encode(), level=9)


def embedded(program: Path) -> set[str]:
    """The crates that a program says are linked into it."""
    listed = json.loads(zlib.decompress(_section(program.read_bytes(), b".dep-v0")))["packages"]
    return {f"{package['name']} {package['version']}" for package in listed}


def _section(elf: bytes, wanted: bytes) -> bytes:
    """A section of a 64-bit ELF file of any architecture."""
    [table] = struct.unpack_from("<Q", elf, 0x28)
    size, count, names = struct.unpack_from("<HHH", elf, 0x3A)
    # Of each section: its name's place, and the place and size of its content.
    sections = [
        (*struct.unpack_from("<I", elf, at), *struct.unpack_from("<QQ", elf, at + 0x18))
        for at in range(table, table + size * count, size)
    ]
    for name, offset, length in sections:
        start = sections[names][1] + name
        if elf[start : elf.index(b"\0", start)] == wanted:
            return elf[offset : offset + length]
    raise Failure(f"the program has no section {wanted.decode()}")


def _json(value: dict) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def _time(epoch: int) -> str:
    return datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _uuid(root: Component, components: list[Component]) -> uuid.UUID:
    """Of the content, so that the same release has the same."""
    return uuid.uuid5(uuid.NAMESPACE_URL, json.dumps([component.purl for component in [root, *components]]))
