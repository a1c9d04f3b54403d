"""What goes with the programs: the chart, manifests, archives for kubectl, the krew manifest, release notes, checksums."""

import gzip
import io
import json
import os
import re
import shutil
import tarfile
import tempfile
from pathlib import Path

from common import ROOT, Failure, output, published, sha256

NAMESPACE = """apiVersion: v1
kind: Namespace
metadata:
  name: keyturn
  labels:
    pod-security.kubernetes.io/enforce: restricted
"""
UNRELEASED = re.compile(r"(?i)no (release|version) is (published|released)|there is no release|\(not released\)|no image and no chart is published")
# In the order of `keyturn crds`, whose output crds.yaml is.
DEFINITIONS = ("externalsecrets", "secretstores", "clustersecretstores")


def chart(version: str, digest: str, helm: Path, out: Path, epoch: int) -> Path:
    """The chart as a package that installs the image with this digest."""
    names = published()
    image = f"{names['IMAGE']}@{digest}"
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "keyturn"
        shutil.copytree(ROOT / "charts/keyturn", folder)
        file = folder / "Chart.yaml"
        text = file.read_text()
        if "\nannotations:\n" not in text or not text.endswith("\n"):
            raise Failure(f"{file} must end with its annotations: the release adds the image to them")
        prerelease = "true" if "-" in version else "false"
        file.write_text(
            text.replace("\nannotations:\n", f"\nhome: {names['SOURCE']}\nsources:\n  - {names['SOURCE']}\nannotations:\n")
            + f"  keyturn.dev/image: {image}\n"
            + f'  artifacthub.io/prerelease: "{prerelease}"\n'
            + f"  artifacthub.io/images: |\n    - name: keyturn\n      image: {image}\n"
            + "      platforms: [linux/amd64, linux/arm64]\n"
        )
        # The package carries the times of the files.
        for path in [folder, *folder.rglob("*")]:
            os.utime(path, (epoch, epoch))
        output(helm, "package", folder, "--destination", out)
    return out / f"keyturn-{version}.tgz"


def manifests(package: Path, helm: Path, out: Path) -> None:
    """What the chart renders without values, for those who install without Helm; and the definitions alone."""
    rendered = output(helm, "template", "keyturn", package, "--namespace", "keyturn")
    (out / "install.yaml").write_text(f"{NAMESPACE}{rendered}")
    definitions = [(ROOT / "deploy/crds" / f"{name}.yaml").read_text() for name in DEFINITIONS]
    (out / "crds.yaml").write_text("".join(f"---\n{text}" for text in definitions))


def archive(version: str, system: str, arch: str, program: bytes, notices: str, out: Path, epoch: int) -> Path:
    """The program as a plugin of kubectl."""
    file = out / f"kubectl-keyturn_{version}_{system}_{arch}.tar.gz"
    files = {
        "LICENSE": (0o644, (ROOT / "LICENSE").read_bytes()),
        "THIRD_PARTY_NOTICES.txt": (0o644, notices.encode()),
        "kubectl-keyturn": (0o755, program),
    }
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, (mode, content) in files.items():
            entry = tarfile.TarInfo(name)
            entry.mtime, entry.mode, entry.size = epoch, mode, len(content)
            tar.addfile(entry, io.BytesIO(content))
    file.write_bytes(gzip.compress(archive.getvalue(), compresslevel=9, mtime=0))
    return file


def krew(version: str, out: Path) -> None:
    """The manifest of the plugin, for the platforms whose archives are there."""
    source = published()["SOURCE"]
    platforms = []
    for file in sorted(out.glob(f"kubectl-keyturn_{version}_*.tar.gz")):
        system, arch = file.name.removesuffix(".tar.gz").split("_")[-2:]
        platforms.append(
            {
                "selector": {"matchLabels": {"os": system, "arch": arch}},
                "uri": f"{source}/releases/download/v{version}/{file.name}",
                "sha256": sha256(file.read_bytes()),
                "bin": "kubectl-keyturn",
                "files": [{"from": name, "to": "."} for name in ("kubectl-keyturn", "LICENSE", "THIRD_PARTY_NOTICES.txt")],
            }
        )
    if not platforms:
        raise Failure(f"{out} holds no archive kubectl-keyturn_{version}_*.tar.gz: the krew manifest needs one")
    manifest = {
        "apiVersion": "krew.googlecontainertools.github.com/v1alpha2",
        "kind": "Plugin",
        "metadata": {"name": "keyturn"},
        "spec": {
            "version": f"v{version}",
            "homepage": source,
            "shortDescription": "Show secrets that are failing, stale or rotating",
            "description": "Lists ExternalSecrets of Keyturn that are unhealthy or busy, with what to do.\n",
            "platforms": platforms,
        },
    }
    # JSON is YAML, and needs no library to write.
    (out / "keyturn.yaml").write_text(json.dumps(manifest, indent=2) + "\n")


def notes(version: str, digest: str | None = None, rust: str | None = None, unreleased: bool = True) -> str:
    """The section of the changelog on this version; before it is released, that on what is unreleased."""
    sections = dict(re.findall(r"(?ms)^## \[(.+?)\][^\n]*\n(.*?)(?=^## |^\[|\Z)", (ROOT / "CHANGELOG.md").read_text()))
    text = sections.get(version) or (sections.get("Unreleased") if unreleased else None)
    if not text or not text.strip():
        raise Failure(f"CHANGELOG.md has no section [{version}]: rename [Unreleased] to it and commit")
    names = published()
    parts = [f"# Keyturn {version}", text.strip()]
    if digest:
        parts.append(
            "## Artifacts\n\n"
            f"- Image: `{names['IMAGE']}@{digest}`, for linux/amd64 and linux/arm64\n"
            f"- Chart: `oci://{names['CHART']}`, version {version}\n"
            f"- Compiled with {rust}\n\n"
            f"How to verify them: {names['SOURCE']}/blob/v{version}/docs/verify.md"
        )
    return "\n\n".join(parts) + "\n"


def check_pages() -> None:
    """Pages must not say of a release that there is none."""
    for page in sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]):
        for number, line in enumerate(page.read_text().splitlines(), 1):
            if UNRELEASED.search(line):
                raise Failure(f"{page.relative_to(ROOT)}:{number} says that nothing is released: correct it, and commit")


def checksums(out: Path) -> None:
    """SHA256SUMS of every file, in the format of sha256sum. The folder of the image is covered by image.digest."""
    files = [path for path in sorted(out.iterdir()) if path.is_file() and not path.name.startswith("SHA256SUMS")]
    lines = [f"{sha256(path.read_bytes())}  {path.name}\n" for path in files]
    (out / "SHA256SUMS").write_text("".join(lines))
