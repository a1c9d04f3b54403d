"""Pushes a release and signs it. The workflow and the test take the same steps.

The workflow signs without a key, as itself (Sigstore's keyless signing). The test pushes to a registry of its own and signs
with a key that it throws away, without a transparency log.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import tools
from common import PLATFORMS, Failure, output, progress, published, run, sha256

BUNDLE = "SHA256SUMS.sigstore.json"


def publish(version: str, out: Path, registry: str | None, key: Path | None) -> None:
    """Pushes the image and the chart of `out`, and signs both, the lists of contents and the checksums.

    `registry` takes the place of the hosts in deploy/release.env.
    """
    names = published()
    if registry is None:
        if any("example.com" in name for name in names.values()):
            raise Failure("deploy/release.env has placeholders: name the project's own registry there")
        if key:
            raise Failure("a key is for tests: with --key, name the test's registry by --registry")
        running = f"{os.environ.get('GITHUB_SERVER_URL')}/{os.environ.get('GITHUB_REPOSITORY')}"
        if names["SOURCE"] != running:
            raise Failure(f"deploy/release.env names {names['SOURCE']}, and this workflow runs in {running}: users could verify nothing")
        _log_in(names["IMAGE"].split("/", 1)[0])
    else:
        names |= {name: f"{registry}/{names[name].split('/', 1)[1]}" for name in ("IMAGE", "CHART")}
    crane, helm, cosign = tools.go("crane"), tools.helm(), tools.go("cosign")
    # Without a key cosign opens the workflow's identity; with one, nothing outside of this machine is called.
    signing = ["--key", key, "--tlog-upload=false", "--use-signing-config=false"] if key else []
    environment = os.environ | {"COSIGN_PASSWORD": ""}

    def sign(*arguments: str | Path) -> None:
        run(cosign, *arguments, "--yes", *signing, env=environment)

    progress(f"pushing {names['IMAGE']}:{version}")
    digest = (out / "image.digest").read_text().strip()
    there = _published(f"{names['IMAGE']}:{version}")
    if there and there != digest:
        raise Failure(f"{names['IMAGE']}:{version} is published already, as {there}: give the release another version")
    run(crane, "push", out / "image", f"{names['IMAGE']}:{version}")
    pushed = output(crane, "digest", f"{names['IMAGE']}:{version}").strip()
    if pushed != digest:
        raise Failure(f"the registry has {pushed} for {names['IMAGE']}:{version}, and the release {digest}")
    sign("sign", "--recursive", f"{names['IMAGE']}@{digest}")
    for platform in PLATFORMS:
        of = output(crane, "digest", "--platform", f"linux/{platform.arch}", f"{names['IMAGE']}@{digest}").strip()
        contents = out / f"keyturn_{version}_linux_{platform.arch}.cdx.json"
        sign("attest", "--type", "cyclonedx", "--predicate", contents, f"{names['IMAGE']}@{of}")

    progress(f"pushing {names['CHART']}:{version}")
    package = out / f"keyturn-{version}.tgz"
    if _published(f"{names['CHART']}:{version}"):
        manifest = json.loads(output(crane, "manifest", f"{names['CHART']}:{version}"))
        if manifest["layers"][0]["digest"] != f"sha256:{sha256(package.read_bytes())}":
            raise Failure(f"{names['CHART']}:{version} is published already, and differs: give the release another version")
    else:
        folder = names["CHART"].rsplit("/", 1)[0]
        plain = ["--plain-http"] if registry else []
        run(helm, "push", package, f"oci://{folder}", *plain)
    chart = output(crane, "digest", f"{names['CHART']}:{version}").strip()
    sign("sign", f"{names['CHART']}@{chart}")

    progress("signing the checksums")
    sign("sign-blob", "--bundle", out / BUNDLE, out / "SHA256SUMS")


def _published(reference: str) -> str | None:
    """The digest of what a registry has under a tag. A registry that does not answer is found out by the push."""
    try:
        return output(tools.go("crane"), "digest", reference).strip()
    except Failure:
        return None


def _log_in(host: str) -> None:
    for program, words in ((tools.go("crane"), ("auth", "login")), (tools.helm(), ("registry", "login"))):
        command = [program, *words, host, "--username", os.environ["REGISTRY_USER"], "--password-stdin"]
        if subprocess.run(command, input=os.environ["REGISTRY_TOKEN"], text=True, stdout=sys.stderr).returncode:
            raise Failure(f"{host} refuses the user of REGISTRY_USER and REGISTRY_TOKEN; its message is above")
