"""Makes the artifacts of a release; `make release VERSION=x.y.z` calls it. Needs Python 3.11 and no packages."""

import argparse
import os
import shutil
import sys
from pathlib import Path

import contents
import image
import papers
import program
import publishing
import tools
from common import PLATFORMS, ROOT, Failure, check_version, epoch, progress, published, run


def build(arguments: argparse.Namespace) -> None:
    version, out = arguments.version, arguments.out
    check_version(version)
    if arguments.published:
        papers.check_pages()
    papers.notes(version, unreleased=not arguments.published)
    if out.exists():
        shutil.rmtree(out)
    out.mkdir(parents=True)
    debian = tools.Debian()
    source, time = published()["SOURCE"], epoch()
    labels = image.labels(version, source, time)

    compilers = {platform: program.compiler(platform, debian, arguments.published) for platform in PLATFORMS}
    crates = {platform: contents.crates(platform.triple) for platform in PLATFORMS}
    programs = {platform: program.compile(platform, compilers[platform], crates[platform]) for platform in PLATFORMS}
    progress("collecting licences and contents")
    notices = contents.notices(*crates.values())
    (out / "THIRD_PARTY_NOTICES.txt").write_text(notices)
    layout = image.Layout(out / "image")
    images = []
    for platform in PLATFORMS:
        binary = programs[platform].read_bytes()
        rust = program.rust_version(compilers[platform])
        papers.archive(version, "linux", platform.arch, binary, notices, out, time)
        [root] = [crate for crate in crates[platform] if crate.name == "keyturn"]
        others = [crate for crate in crates[platform] if crate != root]
        others += contents.base(image.packages(platform, debian), rust, tools.zig_version())
        name = f"keyturn_{version}_linux_{platform.arch}"
        (out / f"{name}.cdx.json").write_text(contents.cyclonedx(root, others, time))
        (out / f"{name}.spdx.json").write_text(contents.spdx(root, others, time, source))
        own = {
            "keyturn": (0o755, binary),
            "usr/share/doc/keyturn/LICENSE": (0o644, (ROOT / "LICENSE").read_bytes()),
            "usr/share/doc/keyturn/THIRD_PARTY_NOTICES.txt": (0o644, notices.encode()),
        }
        images.append(layout.add_image(platform, [image.base(platform, debian), own], labels, time))
    digest = layout.finish(images, labels, version)
    (out / "image.digest").write_text(digest + "\n")

    for archive in sorted(arguments.more.glob("*.tar.gz")) if arguments.more else []:
        shutil.copy(archive, out)
    progress("the chart and the manifests")
    rusts = ", ".join(f"Rust {program.rust_version(compilers[platform])} ({platform.arch})" for platform in PLATFORMS)
    (out / "RELEASE_NOTES.md").write_text(papers.notes(version, digest, rusts, not arguments.published))
    documents(version, digest, out)
    progress(f"{out}: image {published()['IMAGE']}@{digest}")


def macos(version: str, out: Path) -> None:
    """Archives of the plugin for macOS, on a Mac: its linker is not to be had elsewhere."""
    check_version(version)
    out.mkdir(parents=True, exist_ok=True)
    for arch, cpu in (("amd64", "x86_64"), ("arm64", "aarch64")):
        triple = f"{cpu}-apple-darwin"
        run("cargo", "build", "--locked", "--release", "--package", "keyturn", "--bin", "keyturn", "--target", triple)
        binary = (ROOT / "target" / triple / "release" / "keyturn").read_bytes()
        papers.archive(version, "darwin", arch, binary, contents.notices(contents.crates(triple)), out, epoch())


def documents(version: str, digest: str, out: Path) -> None:
    """What needs no compiler, from the digest and the archives."""
    helm = tools.helm()
    package = papers.chart(version, digest, helm, out, epoch())
    papers.manifests(package, helm, out)
    papers.krew(version, out)
    papers.checksums(out)


def deny(advisories: bool) -> None:
    checks = ["bans", "licenses", "sources", *(["advisories"] if advisories else [])]
    path = os.pathsep.join([str(tools.cargo("cargo-deny", tools.CARGO_DENY)), os.environ["PATH"]])
    run("cargo", "deny", "--locked", "check", *checks, env=os.environ | {"PATH": path})
    if not advisories:
        progress("WARNING: advisories were NOT checked: their database is fetched by the workflow `nightly` only")


def validate(out: Path) -> None:
    """The lists of contents and the krew manifest, by the rules of their formats."""
    sbom = tools.python("sbom", *tools.SBOM_LIBRARIES)
    judge = (
        "import sys; from cyclonedx.schema import SchemaVersion; from cyclonedx.validation.json import JsonStrictValidator; "
        "sys.exit(str(JsonStrictValidator(SchemaVersion.V1_6).validate_str(open(sys.argv[1]).read()) or '') or 0)"
    )
    for file in sorted(out.glob("*.cdx.json")):
        run(sbom / "python", "-c", judge, file)
    for file in sorted(out.glob("*.spdx.json")):
        run(sbom / "pyspdxtools", "--infile", file)
    run(tools.go("validate-krew-manifest"), "-skip-install", "-manifest", out / "keyturn.yaml")


def workflows() -> None:
    run(tools.go("actionlint"), "-color")
    run(tools.python("zizmor", tools.ZIZMOR) / "zizmor", "--offline", "--persona", "pedantic", ".github/workflows")


def main() -> None:
    parser = argparse.ArgumentParser(prog="release", description=__doc__)
    commands = parser.add_subparsers(required=True)

    def command(name: str, run) -> argparse.ArgumentParser:
        made = commands.add_parser(name)
        made.set_defaults(run=run)
        return made

    def of_version(name: str, run) -> argparse.ArgumentParser:
        made = command(name, run)
        made.add_argument("version")
        made.add_argument("--out", type=lambda text: Path(text).resolve(), default=ROOT / "dist")
        return made

    made = of_version("build", build)
    made.add_argument("--published", action="store_true", help="only with the pinned Rust and a section of the changelog")
    made.add_argument("--more", type=Path, help="a folder of archives for other systems")
    of_version("macos", lambda given: macos(given.version, given.out))
    made = of_version("documents", lambda given: documents(given.version, given.digest, given.out))
    made.add_argument("--digest", required=True)
    made = of_version("publish", lambda given: publishing.publish(given.version, given.out, given.registry, given.key))
    made.add_argument("--registry", help="push here instead of to the hosts of deploy/release.env")
    made.add_argument("--key", type=lambda text: Path(text).resolve(), help="sign with this key instead of as the workflow")
    of_version("notes", lambda given: print(papers.notes(given.version), end=""))
    made = command("deny", lambda given: deny(given.advisories))
    made.add_argument("--advisories", action="store_true", help="also those, by the database that cargo-deny fetches")
    made = command("validate", lambda given: validate(given.out))
    made.add_argument("--out", type=Path, default=ROOT / "dist")
    made = command("embedded", lambda given: print(*sorted(contents.embedded(given.program)), sep="\n"))
    made.add_argument("program", type=Path, help="prints the crates that it says it was linked of")
    command("workflows", lambda _: workflows())
    made = command("tools", lambda given: print(tools.for_users() if given.users else tools.for_tests()))
    made.add_argument("--users", action="store_true", help="only those that users verify a release with")
    arguments = parser.parse_args()
    try:
        arguments.run(arguments)
    except Failure as failure:
        sys.exit(f"release: {failure}")


if __name__ == "__main__":
    main()
