"""The image: an OCI layout of one image for each platform, written byte for byte the same each time.

The base is what a dynamic program needs of Debian: the C library and the certificates of public authorities.
There is no shell and no package manager. The files of `/var/lib/dpkg/status.d` tell scanners what is in it.
"""

import gzip
import hashlib
import io
import json
import tarfile
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from common import ROOT, Platform, output, progress, sha256
from tools import Debian

USER = "65532:65532"
PACKAGES = ("libc6", "ca-certificates")
LIBRARIES = (
    *("libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0", "librt.so.1", "libresolv.so.2"),
    *("libnss_dns.so.2", "libnss_files.so.2"),
)
LOADERS = {"amd64": "lib64/ld-linux-x86-64.so.2", "arm64": "lib/ld-linux-aarch64.so.1"}
ETC = {
    "etc/passwd": "root:x:0:0:root:/root:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/:/sbin/nologin\n",
    "etc/group": "root:x:0:\nnonroot:x:65532:\n",
    "etc/nsswitch.conf": "hosts: files dns\n",
    # Scanners look up known faults by it.
    "etc/os-release": 'ID=debian\nVERSION_ID="12"\nVERSION_CODENAME=bookworm\nPRETTY_NAME="Keyturn on Debian 12"\n',
}

Files = dict[str, tuple[int, bytes]]  # path -> mode, content


def base(platform: Platform, debian: Debian) -> Files:
    """The files of Debian's packages that the program needs."""
    files: Files = {name: (0o644, text.encode()) for name, text in ETC.items()}
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        for package in PACKAGES:
            debian.unpack(package, platform.arch, root)
            fields = output("dpkg-deb", "--field", debian.fetch(package, platform.arch))
            files[f"var/lib/dpkg/status.d/{package}"] = (0o644, fields.encode())
            notice = root / "usr/share/doc" / package / "copyright"
            if notice.exists() and not notice.is_symlink():
                files[f"usr/share/doc/{package}/copyright"] = (0o644, notice.read_bytes())
        for library in LIBRARIES:
            path = f"lib/{platform.libraries}/{library}"
            files[path] = (0o755 if library == "libc.so.6" else 0o644, (root / path).read_bytes())
        loader = LOADERS[platform.arch]
        files[loader] = (0o755, (root / f"lib/{platform.libraries}" / Path(loader).name).read_bytes())
        authorities = sorted((root / "usr/share/ca-certificates/mozilla").glob("*.crt"))
        bundle = b"".join(file.read_bytes().rstrip(b"\n") + b"\n" for file in authorities)
        files["etc/ssl/certs/ca-certificates.crt"] = (0o644, bundle)
    return files


def packages(platform: Platform, debian: Debian) -> list[tuple[str, str, str]]:
    """The name, version and architecture of each package of the base."""
    files = [debian.fetch(package, platform.arch) for package in PACKAGES]
    show = ("dpkg-deb", "--show", "--showformat", "${Package} ${Version} ${Architecture}")
    return [tuple(output(*show, file).split()) for file in files]


def layer(files: Files, epoch: int) -> tuple[bytes, str]:
    """The compressed archive, and the digest of the archive as it is unpacked."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        folders = {str(parent) for name in files for parent in Path(name).parents} - {"."}
        for name in sorted(folders | files.keys()):
            entry = tarfile.TarInfo(name)
            entry.mtime = epoch
            if name in files:
                entry.mode, content = files[name]
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
            else:
                entry.type, entry.mode = tarfile.DIRTYPE, 0o755
                tar.addfile(entry)
    plain = archive.getvalue()
    return gzip.compress(plain, compresslevel=9, mtime=0), f"sha256:{sha256(plain)}"


class Layout:
    """A folder in the format of the OCI image layout."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.blobs = folder / "blobs" / "sha256"
        self.blobs.mkdir(parents=True)
        (folder / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')

    def add(self, media_type: str, content: bytes) -> dict:
        """Writes a blob and returns its descriptor."""
        digest = hashlib.sha256(content).hexdigest()
        (self.blobs / digest).write_bytes(content)
        return {"mediaType": f"application/vnd.oci.image.{media_type}", "digest": f"sha256:{digest}", "size": len(content)}

    def add_json(self, media_type: str, value: dict) -> dict:
        return self.add(media_type, json.dumps(value, separators=(",", ":"), sort_keys=True).encode())

    def add_image(self, platform: Platform, layers: list[Files], labels: dict[str, str], epoch: int) -> dict:
        packed = [layer(files, epoch) for files in layers]
        config = {
            "architecture": platform.arch,
            "os": "linux",
            "created": labels["org.opencontainers.image.created"],
            "config": {
                "User": USER,
                "Entrypoint": ["/keyturn"],
                "WorkingDir": "/",
                "Labels": labels,
            },
            "rootfs": {"type": "layers", "diff_ids": [diff for _, diff in packed]},
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": self.add_json("config.v1+json", config),
            "layers": [self.add("layer.v1.tar+gzip", content) for content, _ in packed],
            "annotations": labels,
        }
        descriptor = self.add_json("manifest.v1+json", manifest)
        size = descriptor["size"] + manifest["config"]["size"] + sum(blob["size"] for blob in manifest["layers"])
        progress(f"image for {platform.arch}: {size / 1e6:.1f} MB compressed")
        return descriptor | {"platform": {"architecture": platform.arch, "os": "linux"}}

    def finish(self, images: list[dict], labels: dict[str, str], version: str) -> str:
        """Writes the index of all platforms and returns its digest: the digest of the image."""
        index = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": images,
            "annotations": labels,
        }
        descriptor = self.add_json("index.v1+json", index)
        named = descriptor | {"annotations": {"org.opencontainers.image.ref.name": version}}
        (self.folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [named]}))
        return descriptor["digest"]


def revision() -> str:
    """The commit, and whether the files differ from it."""
    dirty = output("git", "status", "--porcelain", "--untracked-files=no", cwd=ROOT).strip()
    return output("git", "rev-parse", "HEAD", cwd=ROOT).strip() + ("-dirty" if dirty else "")


def labels(version: str, source: str, epoch: int) -> dict[str, str]:
    names = {
        "title": "keyturn",
        "description": "Keeps Kubernetes Secrets equal to what AWS Secrets Manager says",
        "version": version,
        "revision": revision(),
        "source": source,
        "licenses": "Apache-2.0",
        "created": datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    return {f"org.opencontainers.image.{name}": text for name, text in names.items()}
