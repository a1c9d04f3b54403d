//! What goes with a release and needs no compiler: the packaged chart, manifests, the krew manifest, notes, `docs/verify.md`.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result, bail};
use keyturn::api::{crds, to_yaml};
use regex::Regex;
use serde_json::{Value, json};
use testbed::controlplane::Binaries;

use super::{helm, objects, root};

const VERSION: &str = env!("CARGO_PKG_VERSION");
const DIGEST: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

/// What `python3 deploy/release` prints, or an error with what it complains of.
fn release(arguments: &[&str]) -> Result<String> {
    let output = Command::new("python3")
        .args(["-B", "deploy/release"])
        .args(arguments)
        .current_dir(root())
        .env("KEYTURN_HELM", Binaries::ensure(&|_| {})?.helm)
        .output()
        .context("run python3, which makes releases: install it")?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// A value of `deploy/release.env`.
fn published(name: &str) -> String {
    let values = include_str!("../../deploy/release.env")
        .lines()
        .filter_map(|line| line.split_once('='));
    let mut found = values.filter(|(known, _)| *known == name);
    found.next().unwrap_or_default().1.to_owned()
}

/// A release of archives that hold nothing.
fn documents(out: &Path) -> Result<()> {
    for platform in ["linux_amd64", "linux_arm64"] {
        let archive = format!("kubectl-keyturn_{VERSION}_{platform}.tar.gz");
        fs::write(out.join(archive), platform)?;
    }
    let folder = out.display().to_string();
    release(&["documents", VERSION, "--digest", DIGEST, "--out", &folder]).map(drop)
}

#[test]
fn a_released_chart_installs_its_image_by_digest() {
    let out = tempfile::tempdir().unwrap();
    documents(out.path()).unwrap();
    let package = out
        .path()
        .join(format!("keyturn-{VERSION}.tgz"))
        .display()
        .to_string();
    let image = |values: &[&str]| -> String {
        let mut arguments = vec!["template", "keyturn", &package];
        arguments.extend(values.iter().flat_map(|value| ["--set", value]));
        let objects = objects(&helm(&arguments).unwrap()).unwrap();
        let pod = &objects[&("Deployment".into(), "keyturn".into())]["spec"]["template"]["spec"];
        pod["containers"][0]["image"].as_str().unwrap().to_owned()
    };
    let repository = published("IMAGE");
    assert_eq!(image(&[]), format!("{repository}@{DIGEST}"));
    // What an upgrade with --reuse-values brings from a chart that is not from a release.
    assert_eq!(image(&["image.repository=keyturn"]), format!("keyturn:{VERSION}"));
    let mirror = format!("mirror/keyturn:{VERSION}");
    assert_eq!(image(&["image.repository=mirror/keyturn"]), mirror);
    assert_eq!(image(&["image.tag=edge"]), format!("{repository}:edge"));
    let other = "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";
    let by_other = format!("{repository}@{other}");
    assert_eq!(image(&[&format!("image.digest={other}")]), by_other);

    let shown: Value = serde_saphyr::from_str(&helm(&["show", "chart", &package]).unwrap()).unwrap();
    assert_eq!(
        (&shown["version"], &shown["appVersion"]),
        (&json!(VERSION), &json!(VERSION))
    );
    let annotations = &shown["annotations"];
    assert_eq!(
        annotations["keyturn.dev/image"],
        json!(format!("{repository}@{DIGEST}"))
    );
    let images: Value =
        serde_saphyr::from_str(annotations["artifacthub.io/images"].as_str().unwrap()).unwrap();
    assert_eq!(images[0]["image"], annotations["keyturn.dev/image"]);
}

#[test]
fn manifests_of_a_release_are_the_charts() {
    let out = tempfile::tempdir().unwrap();
    documents(out.path()).unwrap();
    let of = |file: &str| objects(&fs::read_to_string(out.path().join(file)).unwrap()).unwrap();
    let install = of("install.yaml");
    assert!(install.contains_key(&("Namespace".into(), "keyturn".into())));
    let container =
        &install[&("Deployment".into(), "keyturn".into())]["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(
        container["image"],
        json!(format!("{}@{DIGEST}", published("IMAGE")))
    );
    let definitions = crds()
        .into_iter()
        .map(|crd| format!("---\n{}", to_yaml(&crd).unwrap()));
    let written = fs::read_to_string(out.path().join("crds.yaml")).unwrap();
    assert!(written == definitions.collect::<String>(), "{written}");
    assert!(
        of("crds.yaml")
            .keys()
            .all(|definition| install.contains_key(definition))
    );
}

#[test]
fn the_krew_manifest_names_each_archive_with_its_sum() {
    let out = tempfile::tempdir().unwrap();
    documents(out.path()).unwrap();
    let manifest = fs::read_to_string(out.path().join("keyturn.yaml")).unwrap();
    let manifest: Value = serde_saphyr::from_str(&manifest).unwrap();
    assert_eq!(
        manifest["apiVersion"],
        "krew.googlecontainertools.github.com/v1alpha2"
    );
    assert_eq!(
        (&manifest["kind"], &manifest["metadata"]["name"]),
        (&json!("Plugin"), &json!("keyturn"))
    );
    assert_eq!(manifest["spec"]["version"], json!(format!("v{VERSION}")));
    for field in ["homepage", "shortDescription", "description"] {
        assert!(
            manifest["spec"][field]
                .as_str()
                .is_some_and(|text| !text.is_empty()),
            "{field}"
        );
    }
    // The index of krew takes no longer one.
    assert!(manifest["spec"]["shortDescription"].as_str().unwrap().len() <= 50);
    let sums = fs::read_to_string(out.path().join("SHA256SUMS")).unwrap();
    let platforms = manifest["spec"]["platforms"].as_array().unwrap();
    assert_eq!(platforms.len(), 2);
    for (platform, arch) in platforms.iter().zip(["amd64", "arm64"]) {
        assert_eq!(
            platform["selector"]["matchLabels"],
            json!({"os": "linux", "arch": arch})
        );
        let file = format!("kubectl-keyturn_{VERSION}_linux_{arch}.tar.gz");
        let uri = format!("{}/releases/download/v{VERSION}/{file}", published("SOURCE"));
        assert_eq!(platform["uri"], json!(uri));
        let line = format!("{}  {file}\n", platform["sha256"].as_str().unwrap());
        assert!(sums.contains(&line), "{line}: {sums}");
    }
}

#[test]
fn notes_are_the_section_of_the_changelog() {
    let notes = release(&["notes", VERSION]).unwrap();
    assert!(
        notes.starts_with(&format!("# Keyturn {VERSION}\n\n### ")),
        "{notes}"
    );
    assert!(!notes.contains("\n## "), "{notes}");
}

#[test]
fn a_release_has_the_version_of_the_crate() {
    let error = release(&["build", "99.0.0"]).unwrap_err().to_string();
    assert!(error.contains("Cargo.toml has the version"), "{error}");
    let error = release(&["build", "new"]).unwrap_err().to_string();
    assert!(error.contains("is not a version"), "{error}");
}

#[test]
fn nothing_is_published_under_placeholder_names() {
    assert!(
        published("IMAGE").contains("example.com"),
        "this would publish: give the test placeholders of its own, now that the names are real"
    );
    let error = release(&["publish", VERSION]).unwrap_err().to_string();
    assert!(error.contains("has placeholders"), "{error}");
    let error = release(&["build", VERSION, "--published"])
        .unwrap_err()
        .to_string();
    assert!(error.contains("says that nothing is released"), "{error}");
}

#[test]
fn pages_name_what_is_published_in_commands_of_bash() {
    let install = fs::read_to_string(root().join("docs/install.md")).unwrap();
    assert!(install.contains(&format!("\n  - name: {}\n", published("IMAGE"))));
    let version = Regex::new(r"(?:VERSION=|keyturn[:-])(\d+\.\d+\.\d+)").unwrap();
    for (page, commands) in [
        ("docs/install.md", &install),
        (
            "docs/verify.md",
            &fs::read_to_string(root().join("docs/verify.md")).unwrap(),
        ),
        (
            "README.md",
            &fs::read_to_string(root().join("README.md")).unwrap(),
        ),
    ] {
        for named in version.captures_iter(commands) {
            assert_eq!(&named[1], VERSION, "{page}: {}", &named[0]);
        }
    }
    let page = fs::read_to_string(root().join("docs/verify.md")).unwrap();
    for name in ["SOURCE", "IMAGE", "CHART"] {
        let line = format!("\n{name}={}\n", published(name));
        assert!(page.contains(&line), "{line}");
    }
    let block = Regex::new(r"(?s)\n```sh\n(.+?\n)```\n").unwrap();
    let mut seen = 0;
    for block in block.captures_iter(&page) {
        let parsed = Command::new("bash")
            .args(["-n", "-c", &block[1]])
            .output()
            .unwrap();
        let complaint = String::from_utf8_lossy(&parsed.stderr);
        assert!(parsed.status.success(), "{}: {complaint}", &block[1]);
        seen += 1;
    }
    assert!(seen >= 7, "{seen} blocks");
}
