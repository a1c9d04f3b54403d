//! What is in `dist/` after `make release`: it starts as a node would start it, syncs, and is what its papers say.

use std::{
    collections::BTreeSet,
    env, fs,
    net::TcpListener,
    os::unix::fs::PermissionsExt as _,
    panic::AssertUnwindSafe,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use futures::FutureExt as _;
use regex::Regex;
use serde_json::{Value, json};
use testbed::{
    controlplane::{Binaries, Options},
    wait,
};

use crate::{
    harness::{Bed, Place, STORE, empty, entry, same},
    operator::Operator,
};

const VERSION: &str = env!("CARGO_PKG_VERSION");
const USER: &str = "65532:65532";
/// No image may be larger, compressed.
const SIZE: u64 = 30_000_000;

/// Starts the image's program in the unpacked image (`$0`), read-only, as the chart's user, with the files that a node
/// mounts: /proc, /dev, and the tokens and certificates of the test (`$KEYTURN_PLACE`).
const AS_A_NODE: &str = r#"
mkdir -p "$0/proc" "$0/dev" "$0$KEYTURN_PLACE/certs"
cp "$KEYTURN_PLACE/certs/ca.crt" "$0$KEYTURN_PLACE/certs/"
cp -r "$KEYTURN_PLACE/service-accounts" "$0$KEYTURN_PLACE/"
chmod -R a+rX "$0$KEYTURN_PLACE"
mount --rbind "$0" "$0"
mount --rbind /proc "$0/proc"
mount --rbind /dev "$0/dev"
mount -o remount,bind,ro "$0"
cd "$0"
exec chroot --userspec=65532:65532 --groups= . /keyturn "$@"
"#;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn dist() -> PathBuf {
    root().join("dist")
}

/// Runs a command with the programs of the release's tests on the `PATH`; what it prints.
fn output(command: &mut Command) -> Result<String> {
    let tools = env::var("KEYTURN_RELEASE_TOOLS").context("KEYTURN_RELEASE_TOOLS: run make release-test")?;
    let path = format!("{tools}:{}", env::var("PATH").unwrap_or_default());
    let output = command
        .env("PATH", path)
        .env("COSIGN_PASSWORD", "")
        .output()
        .with_context(|| format!("run {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8(output.stdout)?)
}

fn json_of(path: &Path) -> Result<Value> {
    let text = fs::read_to_string(path).with_context(|| format!("read {}: make release", path.display()))?;
    Ok(serde_json::from_str(&text)?)
}

/// A blob of the image.
fn blob(descriptor: &Value) -> Result<PathBuf> {
    let digest = descriptor["digest"]
        .as_str()
        .context("a digest")?
        .replace(':', "/");
    Ok(dist().join("image/blobs").join(digest))
}

/// The manifest of the image for an architecture.
fn manifest(arch: &str) -> Result<Value> {
    let layout = json_of(&dist().join("image/index.json"))?;
    let index = json_of(&blob(&layout["manifests"][0])?)?;
    let images = index["manifests"].as_array().context("an index of images")?;
    let image = images
        .iter()
        .find(|image| image["platform"]["architecture"] == arch);
    json_of(&blob(image.context(arch.to_owned())?)?)
}

/// The files of an image, unpacked.
fn unpack(arch: &str) -> Result<tempfile::TempDir> {
    let folder = tempfile::tempdir()?;
    // The chart's user must find its way in.
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
    for layer in manifest(arch)?["layers"].as_array().context("layers")? {
        let mut tar = Command::new("tar");
        output(tar.arg("-xzf").arg(blob(layer)?).arg("-C").arg(folder.path()))?;
    }
    Ok(folder)
}

/// A program that runs `command` with its own arguments after those given.
fn script(path: &Path, command: &str) -> Result<()> {
    fs::write(path, format!("#!/bin/sh\nset -eu\n{command}\n"))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).context("make it a program")
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Installs the released chart, starts `program` as it says, and syncs one secret.
async fn syncs(program: &Path, check: impl AsyncFnOnce(&Bed, &mut Operator) -> Result<()>) -> Result<()> {
    let place: Place = empty(Options::default(), Ok).await?;
    let bed = Bed::make(&place, "released").await?;
    let chart = dist().join(format!("keyturn-{VERSION}.tgz"));
    let mut operator = Operator::installed_of(&place, &chart).await?;
    operator.change(program, async |_, _| Ok(())).await?;
    operator.set("KEYTURN_PLACE", &place.cluster.folder().display().to_string());
    let outcome = AssertUnwindSafe(async {
        operator.start().await?;
        bed.store(STORE, json!({})).await?;
        bed.secret("app/db", "released")?;
        bed.external_secret("db", json!({"data": [entry("value", "app/db")]}))
            .await?;
        bed.holds("db", &[("value", "released")]).await?;
        bed.synced("db").await?;
        check(&bed, &mut operator).await?;
        operator.terminate().await
    })
    .catch_unwind()
    .await;
    bed.finish(Some(&operator), outcome).await
}

#[tokio::test]
#[ignore = "needs a release in dist/, and root: make release-test"]
async fn the_image_works_read_only_and_as_the_charts_user() -> Result<()> {
    let image = unpack("amd64")?;
    let program = image.path().join("as-a-node");
    let folder = quoted(&image.path().display().to_string());
    let command = quoted(AS_A_NODE);
    script(
        &program,
        &format!("exec unshare --mount /bin/sh -euc {command} {folder} \"$@\""),
    )?;
    syncs(&program, async |bed, operator| {
        let process = format!("/proc/{}", operator.process()?.id());
        let status = fs::read_to_string(format!("{process}/status"))?;
        ensure!(
            status.contains("\nUid:\t65532\t65532\t65532\t65532\n"),
            "{status}"
        );
        let mounts = fs::read_to_string(format!("{process}/mounts"))?;
        let read_only = |line: &str| line.split(' ').nth(1) == Some("/") && line.contains(" ro,");
        ensure!(mounts.lines().any(read_only), "{mounts}");
        // As a Pod of the chart would run.
        let deployment = bed.cluster.kubectl([
            "get",
            "deployment",
            "keyturn",
            "--namespace",
            operator.namespace(),
            "--output=json",
        ]);
        let deployment: Value = serde_json::from_str(&deployment.await?)?;
        let pod = &deployment["spec"]["template"]["spec"];
        ensure!(pod["securityContext"]["runAsUser"] == 65532, "{pod}");
        let container = &pod["containers"][0];
        ensure!(
            container["securityContext"]["readOnlyRootFilesystem"] == true,
            "{container}"
        );
        let digest = fs::read_to_string(dist().join("image.digest"))?;
        let image = container["image"].as_str().unwrap_or_default();
        ensure!(image.ends_with(&format!("@{}", digest.trim())), "{image}");
        Ok(())
    })
    .await
}

#[tokio::test]
#[ignore = "needs a release in dist/: make release-test"]
async fn the_program_for_arm64_prints_its_definitions_and_syncs() -> Result<()> {
    let image = unpack("arm64")?;
    let folder = image.path().display().to_string();
    let program = image.path().join("emulated");
    let emulated = format!("qemu-aarch64-static -L {0} {0}/keyturn", quoted(&folder));
    let tools = env::var("KEYTURN_RELEASE_TOOLS").context("KEYTURN_RELEASE_TOOLS: run make release-test")?;
    script(&program, &format!("exec {tools}/{emulated} \"$@\""))?;
    let version = output(Command::new(&program).arg("--version"))?;
    same("the version", &version.trim(), &&*format!("keyturn {VERSION}"))?;
    let printed = output(Command::new(&program).arg("crds"))?;
    same(
        "the definitions",
        &printed,
        &fs::read_to_string(dist().join("crds.yaml"))?,
    )?;
    syncs(&program, async |_, _| Ok(())).await
}

#[test]
#[ignore = "needs a release in dist/: make release-test"]
fn an_image_is_small_and_has_no_program_but_one() -> Result<()> {
    for arch in ["amd64", "arm64"] {
        let manifest = manifest(arch)?;
        let layers = manifest["layers"].as_array().context("layers")?;
        let size: u64 = layers.iter().filter_map(|layer| layer["size"].as_u64()).sum();
        println!("image for {arch}: {size} bytes compressed");
        ensure!(size <= SIZE, "the image for {arch} has {size} bytes");
        let config = json_of(&blob(&manifest["config"])?)?;
        ensure!(config["config"]["User"] == USER, "{config}");
        ensure!(config["config"]["Entrypoint"] == json!(["/keyturn"]), "{config}");

        let image = unpack(arch)?;
        let mut find = Command::new("find");
        let found = output(find.current_dir(&image).args(["-type", "f", "-perm", "/111"]))?;
        let mut programs: Vec<_> = found.lines().collect();
        programs.sort_unstable();
        let expected = match arch {
            "amd64" => [
                "./keyturn",
                "./lib/x86_64-linux-gnu/libc.so.6",
                "./lib64/ld-linux-x86-64.so.2",
            ],
            _ => [
                "./keyturn",
                "./lib/aarch64-linux-gnu/libc.so.6",
                "./lib/ld-linux-aarch64.so.1",
            ],
        };
        same("programs", &programs, &expected.to_vec())?;
        let certificates = fs::read_to_string(image.path().join("etc/ssl/certs/ca-certificates.crt"))?;
        ensure!(
            certificates.matches("BEGIN CERTIFICATE").count() > 100,
            "few authorities"
        );
    }
    Ok(())
}

#[test]
#[ignore = "needs a release in dist/: make release-test"]
fn the_list_of_contents_is_what_the_program_was_linked_of() -> Result<()> {
    for (arch, cpu) in [("amd64", "x86_64"), ("arm64", "aarch64")] {
        let image = unpack(arch)?;
        let of_python = |arguments: &[&str]| {
            let mut python = Command::new("python3");
            output(
                python
                    .args(["-B", "deploy/release"])
                    .args(arguments)
                    .current_dir(root()),
            )
        };
        // Of which the build says that it is what cargo compiled.
        let program = image.path().join("keyturn").display().to_string();
        let linked: BTreeSet<String> = of_python(&["embedded", &program])?
            .lines()
            .map(str::to_owned)
            .collect();
        let mut tree = Command::new("cargo");
        tree.args([
            "tree",
            "--locked",
            "--package",
            "keyturn",
            "--edges",
            "normal,no-proc-macro",
        ])
        .args([
            "--target",
            &format!("{cpu}-unknown-linux-gnu"),
            "--prefix",
            "none",
            "--format",
            "{p}",
        ])
        .current_dir(root());
        let tree: BTreeSet<String> = output(&mut tree)?
            .lines()
            .filter_map(|line| line.split_once(" v"))
            .map(|(name, rest)| format!("{name} {}", rest.split(' ').next().unwrap_or_default()))
            .collect();

        let file = dist().join(format!("keyturn_{VERSION}_linux_{arch}.cdx.json"));
        let list = json_of(&file)?;
        let listed: BTreeSet<String> = ["metadata"]
            .iter()
            .map(|part| &list[part]["component"])
            .chain(list["components"].as_array().context("components")?)
            .filter(|component| {
                component["purl"]
                    .as_str()
                    .is_some_and(|purl| purl.starts_with("pkg:cargo/"))
            })
            .map(|component| {
                let text = |field: &str| component[field].as_str().unwrap_or_default().to_owned();
                format!("{} {}", text("name"), text("version"))
            })
            .collect();
        same(
            &format!("{arch}: crates of the list and of the tree"),
            &listed,
            &tree,
        )?;
        for absent in ["cel ", "antlr", "nom ", "testbed ", "syn ", "proptest "] {
            ensure!(
                !listed.iter().any(|name| name.starts_with(absent)),
                "{absent} is listed"
            );
        }
        same(
            &format!("{arch}: crates of the list and of the program's own"),
            &listed,
            &linked,
        )?;
    }
    // By the rules of each format.
    let mut validate = Command::new("python3");
    output(
        validate
            .args(["-B", "deploy/release", "validate"])
            .current_dir(root()),
    )
    .map(drop)
}

/// A registry on this machine; it ends with the value.
struct Registry(Child, String);

impl Registry {
    fn start() -> Result<Self> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let tools = env::var("KEYTURN_RELEASE_TOOLS").context("KEYTURN_RELEASE_TOOLS")?;
        let address = format!("127.0.0.1:{port}");
        let child = Command::new(format!("{tools}/crane"))
            .args(["registry", "serve", "--address", &address])
            .stderr(Stdio::null())
            .spawn()
            .context("start the registry")?;
        Ok(Self(child, address))
    }

    async fn ready(&self) -> Result<()> {
        wait::until("the registry", Duration::from_secs(30), async || {
            Ok(std::net::TcpStream::connect(&self.1).ok())
        })
        .await
        .map(drop)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Where a name of `deploy/release.env` is in the registry of a test.
fn pushed(registry: &str, name: &str) -> String {
    let lines = include_str!("../../deploy/release.env").lines();
    let mut values = lines.filter_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    let path = values.next().and_then(|value| value.split_once('/'));
    format!("{registry}/{}", path.unwrap_or_default().1)
}

/// The blocks of a language in a page.
fn blocks(page: &str, language: &str) -> Result<Vec<String>> {
    let block = Regex::new(&format!(r"(?s)\n```{language}\n(.+?\n)```\n"))?;
    Ok(block
        .captures_iter(page)
        .map(|block| block[1].to_owned())
        .collect())
}

#[tokio::test]
#[ignore = "needs a release in dist/: make release-test"]
async fn users_can_verify_it_as_the_page_says() -> Result<()> {
    let page = fs::read_to_string(root().join("docs/verify.md"))?;
    let blocks = blocks(&page, "sh")?;
    let (names, commands) = blocks.split_first().context("commands")?;
    ensure!(
        names.contains("SIGNER="),
        "the first block sets the names: {names}"
    );

    let registry = Registry::start()?;
    registry.ready().await?;
    let folder = tempfile::tempdir()?;
    let files = folder.path().join("files");
    output(Command::new("cp").arg("-r").arg(dist()).arg(&files))?;
    output(
        Command::new("cosign")
            .arg("generate-key-pair")
            .current_dir(&folder),
    )?;
    let mut publish = Command::new("python3");
    publish
        .args([
            "-B",
            "deploy/release",
            "publish",
            VERSION,
            "--registry",
            &registry.1,
            "--out",
        ])
        .arg(&files)
        .arg("--key")
        .arg(folder.path().join("cosign.key"))
        .current_dir(root());
    output(&mut publish)?;

    let user = folder.path().join("user");
    fs::create_dir(&user)?;
    // Unlike crane, Helm takes a registry on this machine for one with TLS.
    let programs = folder.path().join("programs");
    fs::create_dir(&programs)?;
    let helm = env::var("KEYTURN_RELEASE_TOOLS").context("KEYTURN_RELEASE_TOOLS")? + "/helm";
    script(
        &programs.join("helm"),
        &format!("exec {} \"$@\" --plain-http", quoted(&helm)),
    )?;
    let run = |files: &Path, key: &Path| {
        let (files, key) = (files.display(), key.display());
        let (image, chart) = (pushed(&registry.1, "IMAGE"), pushed(&registry.1, "CHART"));
        let names = format!(
            "VERSION={VERSION}\nIMAGE={image}\nCHART={chart}\n\
             FILES=file://{files}\nSIGNER='--key={key} --insecure-ignore-tlog=true'\n"
        );
        let path = quoted(&programs.display().to_string());
        let script = format!("set -x\nPATH={path}:$PATH\n{names}{}", commands.concat());
        output(
            Command::new("bash")
                .args(["-euo", "pipefail", "-c", &script])
                .current_dir(&user),
        )
    };
    let key = folder.path().join("cosign.pub");
    let printed = run(&files, &key)?;
    let digest = fs::read_to_string(dist().join("image.digest"))?;
    for expected in [
        "keyturn\n",
        "etc/ssl/certs/ca-certificates.crt\n",
        "\"User\": \"65532:65532\"",
        "aws-lc-sys ",
        "libc6 2.",
        &format!("@{}\n", digest.trim()),
        "_linux_amd64.tar.gz: OK\n",
        &format!("keyturn {VERSION}\n"),
        &format!("appVersion: {VERSION}\n"),
    ] {
        ensure!(printed.contains(expected), "{expected:?}: {printed}");
    }
    ensure!(!printed.contains("bin/sh"), "a shell: {printed}");

    // And it would not, had another one signed, or had a file been changed.
    let other = tempfile::tempdir()?;
    output(
        Command::new("cosign")
            .arg("generate-key-pair")
            .current_dir(&other),
    )?;
    ensure!(
        run(&files, &other.path().join("cosign.pub")).is_err(),
        "another key verifies"
    );
    let archive = files.join(format!("kubectl-keyturn_{VERSION}_linux_amd64.tar.gz"));
    let mut changed = fs::read(&archive)?;
    changed.push(0);
    fs::write(&archive, changed)?;
    let error = run(&files, &key).err().map(|error| error.to_string());
    let error = error.context("a changed file verifies")?;
    ensure!(error.contains("did NOT match"), "{error}");
    Ok(())
}

#[tokio::test]
#[ignore = "needs a release in dist/: make release-test"]
async fn users_can_install_upgrade_and_uninstall_it_as_the_page_says() -> Result<()> {
    let page = fs::read_to_string(root().join("docs/install.md"))?;
    let found = |language: &str, marker: &str| {
        let mut blocks = blocks(&page, language)?.into_iter();
        let block = blocks.find(|block| block.contains(marker));
        block.with_context(|| format!("docs/install.md has no block with {marker}"))
    };
    let registry = Registry::start()?;
    registry.ready().await?;
    let place: Place = empty(Options::default(), Ok).await?;
    let programs = tokio::task::spawn_blocking(|| Binaries::ensure(&|_| ())).await??;
    let kubectl = quoted(&programs.kubectl.display().to_string());
    let folder = tempfile::tempdir()?;
    let file = |name: &str| folder.path().join(name);
    std::os::unix::fs::symlink(dist(), file("dist"))?;
    let digest = fs::read_to_string(dist().join("image.digest"))?;
    let run = |script: &str| {
        let mut bash = Command::new("bash");
        let script = script.replace("REGISTRY", &registry.1);
        bash.args(["-euo", "pipefail", "-c"])
            .arg(format!("kubectl() {{ {kubectl} \"$@\"; }}\n{script}"))
            .env("KUBECONFIG", place.cluster.kubeconfig())
            .env("HOME", folder.path())
            .current_dir(&folder);
        output(&mut bash)
    };
    let image = || {
        run("kubectl get deployment keyturn --namespace keyturn --output jsonpath='{..containers[0].image}'")
    };

    let package = found("sh", "crane push")?;
    let values = found("yaml", "# values.yaml")? + &found("yaml", "digest: ")?;
    let values = Regex::new("sha256:0+")?.replace(&values, digest.trim());
    fs::write(file("values.yaml"), values.replace("REGISTRY", &registry.1))?;
    let expected = format!("{}/keyturn@{}", registry.1, digest.trim());
    for commands in [found("sh", "helm install")?, found("sh", "helm upgrade")?] {
        run(&format!("{package}{commands}"))?;
        same("the image", &image()?, &expected)?;
    }
    run(&found("sh", "helm uninstall")?)?;
    ensure!(image().is_err(), "the Deployment stays");
    let kept = run("kubectl get crd --output name")?;
    same("definitions that stay", &kept.matches(".keyturn.dev").count(), &3)?;

    fs::copy(dist().join("install.yaml"), file("install.yaml"))?;
    let kustomization = found("yaml", "# kustomization.yaml")?.replace("REGISTRY", &registry.1);
    fs::write(file("kustomization.yaml"), kustomization)?;
    run(&found("sh", "--kustomize .")?)?;
    same("the image", &image()?, &expected)
}
