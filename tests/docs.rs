//! What the pages tell users to type and expect: manifests that the API server takes, values that the chart knows,
//! reasons that there are, links that lead somewhere, tests that hold what is promised.

#![expect(
    clippy::unwrap_used,
    reason = "a test may fail wherever it stands, in its helpers too"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    sync::LazyLock,
};

use anyhow::{Context as _, Result};
use keyturn::api::{ConditionType, Reason, WorkloadState};
use regex::Regex;
use testbed::controlplane::{Binaries, ControlPlane};

/// Reasons of fields that come later.
const LATER: [Reason; 3] = [
    Reason::TargetMissing,
    Reason::TooManyMatches,
    Reason::TemplateError,
];

/// Groups of other projects, whose kinds the test's API server does not serve.
const FOREIGN: [&str; 1] = ["argoproj.io/"];

/// Words of workloads that `status.restart.exceptions` never gives.
const NO_EXCEPTIONS: [WorkloadState; 7] = [
    WorkloadState::Looking,
    WorkloadState::Settling,
    WorkloadState::WaitingForWindow,
    WorkloadState::WaitingForWave,
    WorkloadState::WaitingForTurn,
    WorkloadState::Halted,
    WorkloadState::AwaitingApproval,
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The pages, by their path from the root.
fn pages() -> BTreeMap<PathBuf, String> {
    let root = root();
    let mut pages = BTreeMap::new();
    for folder in ["", "docs", "deploy/iam"] {
        for entry in fs::read_dir(root.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "md") {
                let text = fs::read_to_string(&path).unwrap();
                pages.insert(path.strip_prefix(&root).unwrap().to_owned(), text);
            }
        }
    }
    assert!(pages.contains_key(Path::new("README.md")));
    pages
}

/// The fenced blocks of a language.
fn blocks<'a>(text: &'a str, language: &str) -> Vec<&'a str> {
    let fence = format!("\n```{language}\n");
    text.split(&*fence)
        .skip(1)
        .map(|rest| rest.split("\n```").next().unwrap_or_default())
        .collect()
}

/// Other blocks of YAML are values of the chart.
fn is_manifest(block: &str) -> bool {
    block.contains("apiVersion:")
}

/// `make release-test` applies it.
fn is_kustomization(block: &str) -> bool {
    block.starts_with("# kustomization.yaml\n")
}

#[test]
fn the_chart_takes_every_block_of_values() {
    let helm = Binaries::ensure(&|_| {}).unwrap().helm;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("values.yaml");
    let mut seen = 0;
    for (page, text) in pages() {
        for values in blocks(&text, "yaml")
            .into_iter()
            .filter(|block| !is_manifest(block) && !is_kustomization(block))
        {
            fs::write(&file, values).unwrap();
            let rendered = Command::new(&helm)
                .args(["template", "keyturn", "charts/keyturn", "--values"])
                .arg(&file)
                .current_dir(root())
                .output()
                .unwrap();
            let complaint = String::from_utf8_lossy(&rendered.stderr);
            assert!(
                rendered.status.success(),
                "{}: {values}: {complaint}",
                page.display()
            );
            seen += 1;
        }
    }
    assert!(seen >= 1, "{seen} blocks of values");
}

#[tokio::test]
async fn the_api_server_takes_every_manifest() -> Result<()> {
    let plane = ControlPlane::shared().await?;
    plane.define(&root().join("deploy/crds")).await?;
    let namespace = plane.namespace("docs").await?;
    let file = plane.folder().join("docs.yaml");
    let mut seen = 0;
    for (page, text) in pages() {
        for manifest in blocks(&text, "yaml")
            .into_iter()
            .filter(|block| is_manifest(block))
        {
            let foreign = |group: &&str| manifest.contains(&format!("apiVersion: {group}"));
            if FOREIGN.iter().any(foreign) {
                continue;
            }
            let manifest = manifest
                .replace("namespace: shop", &format!("namespace: {namespace}"))
                .replace("namespace: keyturn", &format!("namespace: {namespace}"));
            fs::write(&file, &manifest)?;
            plane
                .kubectl([
                    "create",
                    "--dry-run=server",
                    "--validate=strict",
                    "--filename",
                    &file.display().to_string(),
                ])
                .await
                .with_context(|| format!("{}:\n{manifest}", page.display()))?;
            seen += 1;
        }
    }
    assert!(seen >= 8, "{seen} manifests");
    Ok(())
}

#[test]
fn the_chart_knows_every_value_that_is_set() {
    let flag = Regex::new(r"--set ([^ \\\n`]+)").unwrap();
    let helm = Binaries::ensure(&|_| {}).unwrap().helm;
    let mut seen = 0;
    let mut values: Vec<(PathBuf, String)> = pages().into_iter().collect();
    let commented = fs::read_to_string(root().join("charts/keyturn/values.yaml")).unwrap();
    values.push(("values.yaml".into(), commented));
    for (page, text) in values {
        for set in flag.captures_iter(&text) {
            let rendered = Command::new(&helm)
                .args(["template", "keyturn", "charts/keyturn", "--set", &set[1]])
                .current_dir(root())
                .output()
                .unwrap();
            let complaint = String::from_utf8_lossy(&rendered.stderr);
            assert!(
                rendered.status.success(),
                "{}: {}: {complaint}",
                page.display(),
                &set[1]
            );
            seen += 1;
        }
    }
    assert!(seen >= 4, "{seen} values");
}

/// The words in the first column of the tables of a page.
fn explained(page: &str) -> BTreeSet<String> {
    let row = Regex::new(r"(?m)^\| (`[^|]+`) \|").unwrap();
    let word = Regex::new("`([A-Za-z]+)`").unwrap();
    row.captures_iter(page)
        .flat_map(|row| {
            word.captures_iter(row.get(1).unwrap().as_str())
                .map(|word| word[1].to_owned())
                .collect::<Vec<_>>()
        })
        .collect()
}

/// The reasons that these conditions can give today.
fn given(conditions: &[ConditionType]) -> BTreeSet<String> {
    let seen = |reason: &&Reason| {
        !LATER.contains(reason)
            && conditions
                .iter()
                .any(|condition| reason.status(*condition).is_some())
    };
    Reason::ALL
        .iter()
        .filter(seen)
        .map(|reason| reason.as_str().to_owned())
        .collect()
}

#[test]
fn every_reason_that_can_be_seen_is_explained() {
    let page = fs::read_to_string(root().join("docs/troubleshooting.md")).unwrap();
    assert_eq!(
        explained(&page),
        given(&[ConditionType::Ready, ConditionType::Current])
    );
    let page = fs::read_to_string(root().join("docs/rotation.md")).unwrap();
    let section = |title: &str| {
        let rest = page.split(&format!("\n### {title}\n")).nth(1).unwrap();
        explained(rest.split("\n#").next().unwrap())
    };
    for condition in [ConditionType::RotationHealthy, ConditionType::RestartsComplete] {
        assert_eq!(section(condition.as_str()), given(&[condition]), "{condition}");
    }
    // A target that stands for no workload is listed among the workloads, too.
    let words: BTreeSet<String> = WorkloadState::ALL
        .iter()
        .filter(|word| !NO_EXCEPTIONS.contains(word))
        .map(|word| word.as_str().to_owned())
        .chain([Reason::TargetNotFound.as_str().to_owned()])
        .collect();
    assert_eq!(section("Workloads"), words);
}

#[test]
fn every_link_leads_somewhere() {
    let link = Regex::new(r"\]\(([^)]+)\)").unwrap();
    let title = Regex::new(r"(?m)^#+ (.+)$").unwrap();
    let anchors = |text: &str| -> BTreeSet<String> {
        title
            .captures_iter(text)
            .map(|title| {
                let kept = title[1].to_lowercase();
                kept.chars()
                    .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
                    .map(|c| if c == ' ' { '-' } else { c })
                    .collect()
            })
            .collect()
    };
    for (page, text) in pages() {
        for link in link.captures_iter(&text) {
            let target = &link[1];
            if target.starts_with("https://") {
                continue;
            }
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let path = root().join(page.parent().unwrap()).join(file);
            let path = if file.is_empty() { root().join(&page) } else { path };
            assert!(path.exists(), "{}: {target}", page.display());
            if !anchor.is_empty() {
                let anchors = anchors(&fs::read_to_string(&path).unwrap());
                assert!(anchors.contains(anchor), "{}: {target}", page.display());
            }
        }
    }
}

/// Pages whose promises name the tests that hold them.
const PROMISING: [&str; 6] = [
    "SECURITY.md",
    "SUPPORT.md",
    "docs/api-stability.md",
    "docs/runbooks.md",
    "docs/threat-model.md",
    "docs/track-record.md",
];

/// Titles of the column that names the test of each row.
const TEST_COLUMNS: [&str; 3] = ["test", "test that guards it", "how it is kept"];

/// The tests that a text names, as `file.rs: function, function`.
fn named_tests(text: &str) -> Vec<(String, String)> {
    static NAMED: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"`((?:src|tests)/[\w/-]+\.rs): ([^`]+)`").unwrap());
    let pair = |found: regex::Captures<'_>| {
        let file = found[1].to_owned();
        let functions: Vec<_> = found[2].split(", ").map(ToOwned::to_owned).collect();
        functions
            .into_iter()
            .map(move |function| (file.clone(), function))
    };
    NAMED.captures_iter(text).flat_map(pair).collect()
}

/// The attributes of the test function of this name.
fn attributes(source: &str, name: &str) -> Option<String> {
    let function = format!(
        r"(?m)((?:^ *#\[.+\]\n)+) *(?:async )?fn {}\(",
        regex::escape(name)
    );
    let found = Regex::new(&function).unwrap().captures(source)?;
    let attributes = found[1].to_owned();
    (attributes.contains("#[test]") || attributes.contains("#[tokio::test")).then_some(attributes)
}

#[test]
fn every_test_that_a_page_names_exists() {
    let mut seen = 0;
    for (page, text) in pages() {
        for line in text.lines() {
            for (file, name) in named_tests(line) {
                let at = format!("{}: {file}: {name}", page.display());
                let source = fs::read_to_string(root().join(&file)).unwrap_or_default();
                let attributes = attributes(&source, &name);
                assert!(attributes.is_some(), "{at} is not a test");
                let ignored = attributes.is_some_and(|all| all.contains("#[ignore"));
                assert!(
                    !ignored || line.contains("`make "),
                    "{at} is ignored, so the page has to name the command that runs it"
                );
                seen += 1;
            }
        }
    }
    assert!(seen >= 100, "{seen} tests");
}

#[test]
fn every_promise_names_its_test_or_says_that_there_is_none() {
    let pages = pages();
    for page in PROMISING {
        let text = &pages[Path::new(page)];
        let mut rows = 0;
        let mut is_listed = false;
        let mut before = "";
        for line in text.lines() {
            let cells: Vec<_> = line
                .split(" | ")
                .map(|cell| cell.trim_matches(['|', ' ']))
                .collect();
            let last = cells.last().copied().unwrap_or_default();
            if !line.starts_with('|') {
                is_listed = false;
            } else if line.starts_with("|---") {
                let title = before.trim_matches(['|', ' ']).rsplit(" | ").next();
                is_listed = title.is_some_and(|title| TEST_COLUMNS.contains(&title));
            } else if is_listed {
                let is_none = last.starts_with("none") || last.starts_with("no test");
                assert!(
                    is_none || !named_tests(last).is_empty(),
                    "{page}: name a test, or begin with none: {line}"
                );
                rows += 1;
            }
            before = line;
        }
        let named = named_tests(text).len();
        assert!(rows + named >= 3, "{page}: {rows} rows and {named} tests");
    }
}

#[test]
fn a_test_is_found_by_its_attribute() {
    let source = "/// Text.\n#[tokio::test(flavor = \"x\")]\n#[ignore = \"slow\"]\nasync fn one() {}\nfn two() {}\n    \
                  #[test]\n    fn three(\n";
    assert!(attributes(source, "one").is_some_and(|all| all.contains("#[ignore")));
    assert!(attributes(source, "three").is_some_and(|all| !all.contains("#[ignore")));
    for absent in ["two", "thre", "four"] {
        assert_eq!(attributes(source, absent), None, "{absent}");
    }
    let named =
        named_tests("`tests/chart.rs: a, b` and `src/a/b.rs: c`, `tests/chart.rs` alone, `kubectl: d`");
    let named: Vec<_> = named
        .iter()
        .map(|(file, name)| format!("{file} {name}"))
        .collect();
    assert_eq!(named, ["tests/chart.rs a", "tests/chart.rs b", "src/a/b.rs c"]);
}
