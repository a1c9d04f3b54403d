"""Pushes a release and signs it. The workflow and the test take the same steps.

The workflow signs without a key, as itself (Sigstore's keyless signing). The test pushes to a registry of its own and signs
with a key that it throws away, without a transparency log.
"""

import os
from pathlib import Path

import tools
from common import PLATFORMS, Failure, output, progress, published, run

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
    folder = names["CHART"].rsplit("/", 1)[0]
    plain = ["--plain-http"] if registry else []
    run(helm, "push", out / f"keyturn-{version}.tgz", f"oci://{folder}", *plain)
    chart = output(crane, "digest", f"{names['CHART']}:{version}").strip()
    sign("sign", f"{names['CHART']}@{chart}")

    progress("signing the checksums")
    sign("sign-blob", "--bundle", out / BUNDLE, out / "SHA256SUMS")
