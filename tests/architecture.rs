//! The law of the house: which room may name which, and which crates.
//!
//! The table is the one in `ARCHITECTURE.md`: its column "may use" is read here, so that text and law cannot differ.
//! Sources are read as tokens, not as syntax: so paths inside macros, which a parser sees as opaque, count as well.

#![expect(
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test may fail wherever it stands, in its helpers too"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

#[path = "architecture/tokens.rs"]
mod tokens;

use tokens::{Lexer, Token};

/// What decides and what is only words: no IO, no runtime, no clock. An entry ends in `/` for a folder.
const PURE: &[&str] = &[
    "api/",
    "value/",
    "objects/",
    "sync/decide/",
    "track/",
    "sync/plan",
    "cli/status/report",
    "cli/status/table",
    "restart/execute/patch",
    "restart/execute/step",
    "restart/execute/tests",
    "restart/judge/",
    "restart/observed/annotations",
    "restart/observed/managed_secrets",
    "restart/observed/model",
    "restart/observed/pods",
    "restart/observed/records",
    "restart/observed/tests",
    "restart/observed/uses",
    "restart/publish/event_detector",
    "restart/publish/report",
    "restart/publish/tests",
    "restart/schedule/candidate",
    "restart/schedule/debounce",
    "restart/schedule/decide",
    "restart/schedule/per_object",
    "restart/schedule/slots",
    "restart/schedule/tests",
    "restart/tests",
    "restart/timing",
    "sync/decide",
    "sync/deletions",
    "sync/rotation",
];

/// Crates and modules that only one room may name: the place, what it owns (`*` ends a prefix).
const OWNED: &[(&str, &[&str])] = &[
    (
        "aws",
        &[
            "aws_sdk_*",
            "aws_smithy_*",
            "aws_config",
            "aws_credential_types",
            "aws_runtime",
            "aws_sigv4",
            "aws_types",
        ],
    ),
    (
        "cluster",
        &[
            "kube::Api",
            "kube::Client",
            "kube::Config",
            "kube::Discovery",
            "kube::api::Api",
            "kube::client",
            "kube::config",
            "kube::discovery",
            "kube::runtime::Controller",
            "kube::runtime::WatchStreamExt",
            "kube::runtime::controller",
            "kube::runtime::events::Recorder",
            "kube::runtime::metadata_watcher",
            "kube::runtime::reflector",
            "kube::runtime::utils",
            "kube::runtime::wait",
            "kube::runtime::watcher",
            "kube_client",
            "kube_runtime",
        ],
    ),
];

/// What pure code may not name besides.
const IMPURE: &[&str] = &[
    "axum",
    "hyper*",
    "kube::runtime",
    "reqwest",
    "tokio*",
    "std::env",
    "std::fs",
    "std::net",
    "std::process",
    "std::thread",
];

/// Rooms by name, with what each may use: a room, or `room::path` for a part of it. A room inside a room is `room/part`.
type Law = BTreeMap<String, Vec<Vec<String>>>;

// The house as it stands.

#[test]
fn every_room_names_only_what_the_table_allows() {
    let law = law();
    let mut broken = Vec::new();
    for file in sources() {
        broken.extend(violations(&law, &inside(&file), &read(&file)));
    }
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
}

#[test]
fn the_table_and_the_folders_name_the_same_rooms() {
    let folders: BTreeSet<String> = fs::read_dir(root().join("src"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
        .collect();
    let (inner, named): (BTreeSet<String>, BTreeSet<String>) =
        law().into_keys().partition(|room| room.contains('/'));
    assert_eq!(folders, named);
    for outer in inner.iter().filter_map(|room| room.split_once('/')) {
        let parts: BTreeSet<String> = parts(outer.0)
            .into_iter()
            .map(|part| format!("{}/{part}", outer.0))
            .collect();
        let named: BTreeSet<String> = inner
            .iter()
            .filter(|room| room.starts_with(&format!("{}/", outer.0)))
            .cloned()
            .collect();
        assert_eq!(parts, named, "the table names all parts of {}", outer.0);
    }
    assert!(folders.len() > 5, "the table was not found");
    let contents: BTreeSet<String> = contents(&read(&root().join("src/lib.rs")))
        .unwrap()
        .into_iter()
        .collect();
    assert_eq!(contents, folders, "lib.rs is the table of contents");
}

#[test]
fn a_room_inside_a_room_uses_only_rooms_above_it_in_the_table() {
    let rows = rows(&read(&root().join("ARCHITECTURE.md")));
    let inner: Vec<&str> = rows.iter().map(|(room, _)| &**room).collect();
    assert!(inner.contains(&"restart/judge"), "the table was not found");
    for (at, (room, uses)) in rows
        .iter()
        .enumerate()
        .filter(|(_, (room, _))| room.contains('/'))
    {
        for path in uses {
            let used = path.join("/");
            assert!(inner[..at].contains(&&*used), "{room} is above {used}");
        }
    }
}

#[test]
fn no_files_of_a_room_with_an_order_use_each_other_in_a_circle() {
    let law = law();
    let mut edges: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let files: BTreeMap<Vec<String>, String> = sources()
        .iter()
        .map(|file| inside(file))
        .filter(|file| part_of(&law, file).is_some())
        .map(|file| (module_of(&file), file))
        .collect();
    for file in files.values() {
        let mut reader = Reader::default();
        let source = read(&root().join("src").join(file));
        reader.read(&Lexer::new(&source).tokens(), &module_of(file));
        for Named { module, path, .. } in &reader.named {
            let Some(ours) = absolute(module, &path.segments).filter(|_| !is_test(module)) else {
                continue;
            };
            let used = (1..=ours.len()).rev().find_map(|end| files.get(&ours[..end]));
            if let Some(used) = used.filter(|used| *used != file) {
                edges.entry(file.clone()).or_default().insert(used.clone());
            }
        }
    }
    assert!(edges.len() > 20, "the imports were not found");
    // A file that uses no file in a circle is outside of any, and so is one that none in a circle uses.
    while let Some(outside) = edges
        .iter()
        .find(|(file, used)| {
            let uses = used.iter().any(|used| edges.contains_key(used));
            let is_used = edges.values().any(|used| used.contains(*file));
            !uses || !is_used
        })
        .map(|(file, _)| file.clone())
    {
        edges.remove(&outside);
    }
    assert!(edges.is_empty(), "these use each other: {edges:#?}");
}

#[test]
fn every_folder_says_what_it_is_for() {
    for file in sources().into_iter().filter(|file| file.ends_with("mod.rs")) {
        assert!(
            read(&file).starts_with("//! "),
            "{} begins without a word",
            file.display()
        );
    }
}

#[test]
fn main_is_a_table_of_contents() {
    assert!(read(&root().join("src/main.rs")).lines().count() < 40);
}

#[test]
fn one_crypto_and_one_http_stack() {
    let lock = read(&root().join("Cargo.lock"));
    let packages: BTreeSet<(&str, &str)> = lock
        .split("[[package]]")
        .filter_map(|package| {
            let value = |key: &str| {
                package
                    .lines()
                    .find_map(|line| line.strip_prefix(key)?.strip_suffix('"'))
            };
            Some((value("name = \"")?, value("version = \"")?))
        })
        .collect();
    assert!(
        packages.iter().any(|(name, _)| *name == "aws-lc-rs"),
        "the lock was not understood"
    );
    for (name, version) in packages {
        let second = [
            "openssl-sys",
            "native-tls",
            "reqwest",
            "serde_yaml",
            "serde_norway",
            "yaml-rust2",
        ];
        assert!(!second.contains(&name), "{name} is a second stack");
        assert!(
            !(name == "hyper" && version.starts_with("0.")),
            "hyper {version} is a second stack"
        );
    }
}

// The law itself: it must be able to fail.

#[test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn what_the_law_forbids_is_found() {
    for (file, source, told) in [
        // Other rooms.
        ("track/mod.rs", "use crate::aws::Client;", "crate::aws::Client"),
        (
            "track/mod.rs",
            "use crate::{api, aws::{Client, read as r}};",
            "crate::aws::read",
        ),
        (
            "track/mod.rs",
            "fn f() { crate::aws::read() }",
            "crate::aws::read",
        ),
        (
            "track/deep/file.rs",
            "fn f() { super::super::super::aws::read() }",
            "crate::aws::read",
        ),
        (
            "track/file.rs",
            "mod tests { use super::super::super::sync::X; }",
            "crate::sync::X",
        ),
        (
            "track/mod.rs",
            "fn f() { self::super::aws::read() }",
            "crate::aws::read",
        ),
        (
            "track/mod.rs",
            "fn f() { log!(\"{}\", crate::r#aws::read()) }",
            "crate::aws::read",
        ),
        (
            "track/mod.rs",
            "macro_rules! m { () => { $crate::aws::read() } }",
            "crate::aws::read",
        ),
        (
            "track/mod.rs",
            "fn f(x: impl Into<crate::aws::Client>) {}",
            "crate::aws::Client",
        ),
        (
            "track/mod.rs",
            "#[serde(with = x)] struct A(<crate::aws::C as T>::B);",
            "crate::aws::C",
        ),
        ("track/mod.rs", "use ::keyturn::aws;", "crate::aws"),
        ("track/mod.rs", "use crate::nowhere::X;", "crate::nowhere::X"),
        ("cluster/mod.rs", "use crate::aws::Client;", "crate::aws::Client"),
        (
            "main.rs",
            "fn main() { keyturn::aws::read() }",
            "crate::aws::read",
        ),
        // Rooms inside a room.
        (
            "sync/one/file.rs",
            "use super::super::two::X;",
            "crate::sync::two::X",
        ),
        ("sync/one.rs", "use super::two::X;", "crate::sync::two::X"),
        (
            "sync/one/file.rs",
            "use crate::sync::Shared;",
            "crate::sync::Shared",
        ),
        (
            "sync/two/file.rs",
            "use super::super::three;",
            "crate::sync::three",
        ),
        // Ways round it.
        ("track/mod.rs", "use crate as all;", "the root of the crate"),
        ("track/mod.rs", "use crate::*;", "the root of the crate"),
        ("track/file.rs", "use super::super::*;", "the root of the crate"),
        ("track/mod.rs", "use keyturn as all;", "the root of the crate"),
        (
            "track/mod.rs",
            "#[path = \"../aws/mod.rs\"] mod x;",
            "out of sight",
        ),
        ("track/mod.rs", "include!(\"../aws/mod.rs\");", "out of sight"),
        // Crates.
        (
            "sync/mod.rs",
            "use aws_sdk_secretsmanager::Client;",
            "aws_sdk_secretsmanager",
        ),
        (
            "cli/run.rs",
            "async fn f() { aws_config::load().await }",
            "aws_config::load",
        ),
        ("sync/apply.rs", "use kube::{Api, ResourceExt};", "kube::Api"),
        ("sync/apply.rs", "use kube::api::{self, Patch};", "kube::api"),
        ("sync/apply.rs", "use kube as k;", "kube"),
        ("sync/apply.rs", "use kube::*;", "kube"),
        (
            "cli/run.rs",
            "fn f() { kube::Client::try_default() }",
            "kube::Client",
        ),
        (
            "cli/run.rs",
            "use kube::runtime::watcher;",
            "kube::runtime::watcher",
        ),
        (
            "cli/run.rs",
            "use kube::runtime::{self, watcher::Config};",
            "kube::runtime",
        ),
        (
            "sync/plan.rs",
            "use kube::runtime::events::EventType;",
            "kube::runtime::events",
        ),
        // Pure code.
        ("value/mod.rs", "use tokio::time::sleep;", "tokio"),
        ("value/mod.rs", "fn f() { tokio::select! {} }", "tokio"),
        ("track/mod.rs", "fn f() { std::time::Instant::now() }", "a clock"),
        (
            "track/mod.rs",
            "use std::time::SystemTime as S; fn f() { S::now() }",
            "a clock",
        ),
        (
            "track/mod.rs",
            "fn f() { opt.unwrap_or_else(Timestamp::now) }",
            "a clock",
        ),
        ("track/mod.rs", "fn f() { <Instant>::now() }", "a clock"),
        ("track/mod.rs", "fn f(i: Instant) { i.elapsed() }", "a clock"),
        ("sync/plan.rs", "fn f() { Instant::now() }", "a clock"),
        ("sync/plan/secret.rs", "fn f() { std::fs::read(p) }", "std::fs"),
    ] {
        let found = violations(&example(), file, source);
        assert!(
            found.iter().any(|line| line.contains(told)),
            "{file}: {source}\nfound {found:?}"
        );
    }
}

#[test]
fn what_the_law_allows_is_left_alone() {
    for (file, source) in [
        (
            "track/mod.rs",
            "use crate::api::{ObjectKey, Selector}; use super::api;",
        ),
        (
            "track/mod.rs",
            "pub(crate) mod x; pub(in crate::track) fn f() { crate::track::x::g() }",
        ),
        (
            "track/file.rs",
            "mod tests { use super::*; use super::super::Other; }",
        ),
        (
            "track/mod.rs",
            "//! Not crate::aws::read.\n// crate::aws\nconst A: &str = \"crate::aws::read\";",
        ),
        (
            "track/mod.rs",
            "fn f(now: Timestamp) -> impl Fn() + use<> { g(now, self.now) }",
        ),
        (
            "track/mod.rs",
            "use aws_lc_rs::hmac; use std::time::{Duration, Instant};",
        ),
        (
            "cluster/mod.rs",
            "use crate::aws::tokens::KubeTokens; use kube::{Api, Client, runtime::watcher};",
        ),
        (
            "sync/apply.rs",
            "use kube::{ResourceExt, api::{Patch, PatchParams}, runtime::events::EventType}; use std::time::Instant;",
        ),
        (
            "sync/mod.rs",
            "fn f() { Instant::now(); tokio::spawn(x); crate::cluster::get() }",
        ),
        ("aws/mod.rs", "use aws_sdk_sts::Client;"),
        (
            "sync/two/file.rs",
            "use crate::sync::one::X; use super::other::Y; use crate::api::Z;",
        ),
        (
            "sync/one/tests/file.rs",
            "use crate::sync::{tests::builder, two::X};",
        ),
        ("sync/one/file.rs", "mod tests { use crate::sync::two::X; }"),
        ("sync/mod.rs", "pub use self::two::X; use super::sync::one::Y;"),
        ("main.rs", "fn main() { keyturn::cli::main() }"),
    ] {
        let found = violations(&example(), file, source);
        assert!(found.is_empty(), "{file}: {source}\nfound {found:?}");
    }
}

#[test]
fn the_table_is_read_from_its_third_column() {
    let table = "| place | what | may use |\n| `src/one/` | uses `two` | `api`, part of `two::three` |\n| `tests/` | a | `b` |";
    let one = vec![vec!["api".to_owned()], vec!["two".to_owned(), "three".to_owned()]];
    assert_eq!(parse_law(table), Law::from([("one".to_owned(), one)]));
    let inner = "| `src/one/two/` | | `one::three` |\n| `src/one/three.rs` | | |";
    assert_eq!(
        rows(inner),
        [
            (
                "one/two".to_owned(),
                vec![vec!["one".to_owned(), "three".to_owned()]]
            ),
            ("one/three".to_owned(), vec![]),
        ]
    );
}

#[test]
fn a_table_of_contents_holds_nothing_else() {
    assert_eq!(
        contents("//! Doc.\n/// The one.\npub mod one;\n\nmod two;").unwrap(),
        ["one", "two"]
    );
    for more in [
        "pub mod one { }",
        "pub use one::X;",
        "mod one { }",
        "pub mod one; fn f() {}",
    ] {
        assert!(contents(more).is_err(), "{more}");
    }
}

#[test]
fn literals_and_comments_hide_nothing_and_add_nothing() {
    let source = r###"
        /* a /* nested */ b::c */ 'x' '\'' '"' b'"' b"\"" "a \" d::e" r"\" r##"f " "# g::h"## c"i" 'static r#type 1.5e3_f64
        end"###;
    let expected: Vec<Token> = [
        Token::Literal,
        Token::Literal,
        Token::Literal,
        Token::Literal,
        Token::Literal,
        Token::Literal,
        Token::Literal,
        Token::Literal,
        Token::Literal,
        Token::Literal,
        Token::Word("type".into(), 2),
        Token::Literal,
        Token::Sign('.'),
        Token::Literal,
        Token::Word("end".into(), 3),
    ]
    .into();
    assert_eq!(Lexer::new(source).tokens(), expected);
}

fn example() -> Law {
    parse_law(
        "| `src/api/` | | |\n| `src/value/` | | `api` |\n| `src/track/` | | `api` |\n| `src/aws/` | | `api` |\n\
         | `src/cluster/` | | `api`, `aws::tokens` |\n| `src/sync/` | | `api`, `track`, `aws`, `cluster` |\n\
         | `src/sync/one/` | | |\n| `src/sync/two/` | | `sync::one` |\n\
         | `src/cli/` | | `api`, `value`, `track`, `aws`, `cluster`, `sync` |",
    )
}

// How it is found.

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn law() -> Law {
    parse_law(&read(&root().join("ARCHITECTURE.md")))
}

fn parse_law(text: &str) -> Law {
    rows(text).into_iter().collect()
}

/// The rooms of the tables, from top to bottom, with what each may use.
fn rows(text: &str) -> Vec<(String, Vec<Vec<String>>)> {
    let mut rows = Vec::new();
    for line in text.lines() {
        let columns: Vec<&str> = line.split('|').map(str::trim).collect();
        let [_, place, _, uses, ..] = columns[..] else {
            continue;
        };
        let Some(room) = place
            .strip_prefix("`src/")
            .and_then(|rest| rest.strip_suffix("/`").or_else(|| rest.strip_suffix(".rs`")))
            .filter(|room| !matches!(*room, "main" | "lib"))
        else {
            continue;
        };
        let quoted = uses.split('`').skip(1).step_by(2);
        let uses = quoted.map(|path| path.split("::").map(Into::into).collect());
        rows.push((room.into(), uses.collect()));
    }
    rows
}

/// The folders and files of a room, but for its `mod.rs` and its tests.
fn parts(room: &str) -> Vec<String> {
    let entries = fs::read_dir(root().join("src").join(room)).unwrap();
    entries
        .map(|entry| {
            entry
                .unwrap()
                .path()
                .file_stem()
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned()
        })
        .filter(|part| !matches!(&**part, "mod" | "tests"))
        .collect()
}

/// The room inside a room that `file` belongs to, with what it may use.
fn part_of<'a>(law: &'a Law, file: &str) -> Option<(&'a str, &'a [Vec<String>])> {
    let is_of = |part: &str| {
        let rest = file.strip_prefix(part);
        part.contains('/') && rest.is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
    };
    law.iter()
        .find(|(part, _)| is_of(part))
        .map(|(part, uses)| (&**part, &**uses))
}

fn module_of(file: &str) -> Vec<String> {
    file.trim_end_matches(".rs")
        .trim_end_matches("/mod")
        .split('/')
        .map(Into::into)
        .collect()
}

/// Tests may name any part of their room.
fn is_test(module: &[String]) -> bool {
    module.iter().any(|part| part == "tests")
}

/// All Rust files under `src`.
fn sources() -> Vec<PathBuf> {
    let mut folders = vec![root().join("src")];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}

/// `sync/plan.rs` for a file under `src`.
fn inside(file: &Path) -> String {
    file.strip_prefix(root().join("src"))
        .unwrap()
        .to_str()
        .unwrap()
        .to_owned()
}

/// The rooms that a `lib.rs` of nothing but modules names.
fn contents(source: &str) -> Result<Vec<String>, String> {
    let code = source
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with("//"));
    code.map(|line| {
        let module = line.strip_prefix("pub ").unwrap_or(line);
        let room = module
            .strip_prefix("mod ")
            .and_then(|rest| rest.strip_suffix(';'))
            .filter(|room| room.chars().all(|c| c.is_ascii_lowercase() || c == '_'));
        room.map(Into::into)
            .ok_or_else(|| format!("lib.rs holds more than rooms: {line}"))
    })
    .collect()
}

/// What `source`, which is `file` under `src`, does against the law.
fn violations(law: &Law, file: &str, source: &str) -> Vec<String> {
    let mut module = module_of(file);
    if file == "main.rs" || file == "lib.rs" {
        module.clear();
    }
    let mut reader = Reader::default();
    reader.read(&Lexer::new(source).tokens(), &module);

    let room = file.split_once('/').map_or("main", |(room, _)| room);
    let pure = PURE.iter().any(|place| file.starts_with(place));
    let mut found = Vec::new();
    for Named { module, path, line } in &reader.named {
        let mut tell = |what: &str| found.push(format!("src/{file}:{line}: {what}"));
        if let Some(ours) = absolute(module, &path.segments) {
            let full = format!("crate::{}", ours.join("::"));
            match ours.first() {
                None if file == "main.rs" && !path.glob && !path.renamed => {}
                None => tell("names the root of the crate, so that the law cannot follow"),
                Some(other) if other == room => {
                    if let Some((part, uses)) = part_of(law, file)
                        && !is_test(module)
                        && !ours.starts_with(&part.split('/').map(Into::into).collect::<Vec<String>>())
                        && !uses.iter().any(|allowed| ours.starts_with(allowed))
                    {
                        tell(&format!("names {full}, which {part} may not use"));
                    }
                }
                Some(other) if !law.contains_key(other) => tell(&format!("names {full}, which is no room")),
                Some(_) if may_use(law, room, &ours) => {}
                Some(_) => tell(&format!("names {full}, which {room} may not use")),
            }
            continue;
        }
        let name = path.segments.join("::");
        for (owner, patterns) in OWNED {
            if *owner != room && patterns.iter().any(|pattern| path.reaches(pattern)) {
                tell(&format!("names {name}, which only {owner} may"));
            }
        }
        if pure && IMPURE.iter().any(|pattern| path.reaches(pattern)) {
            tell(&format!("names {name} in pure code"));
        }
    }
    found.extend(
        reader
            .hidden
            .iter()
            .map(|line| format!("src/{file}:{line}: brings in code out of sight")),
    );
    if pure {
        found.extend(
            reader
                .clocks
                .iter()
                .map(|line| format!("src/{file}:{line}: reads a clock in pure code")),
        );
    }
    found
}

fn may_use(law: &Law, room: &str, path: &[String]) -> bool {
    match law.get(room) {
        Some(allowed) => allowed.iter().any(|allowed| path.starts_with(allowed)),
        // main.rs is the only file outside of the rooms that names one.
        None => path.first().is_some_and(|other| other == "cli"),
    }
}

/// The path from the crate's root, of a path that stays in this crate.
fn absolute(module: &[String], segments: &[String]) -> Option<Vec<String>> {
    let (first, mut rest) = segments.split_first()?;
    let mut at = match first.as_str() {
        "crate" | "keyturn" => Vec::new(),
        "self" => module.to_vec(),
        "super" => module
            .split_last()
            .map(|(_, parent)| parent.to_vec())
            .unwrap_or_default(),
        _ => return None,
    };
    while let Some((first, more)) = rest.split_first().filter(|(first, _)| *first == "super") {
        assert_eq!(first, "super");
        at.pop();
        rest = more;
    }
    at.extend_from_slice(rest);
    Some(at)
}

/// A path as written, imports unfolded.
#[derive(Clone, Debug, Default)]
struct Written {
    segments: Vec<String>,
    import: bool,
    glob: bool,
    renamed: bool,
}

impl Written {
    /// Whether this names what `pattern` says, or imports something through which it could be named in a shorter way.
    fn reaches(&self, pattern: &str) -> bool {
        let pattern: Vec<&str> = pattern.split("::").collect();
        let fits = |(segment, wanted): (&String, &&str)| match wanted.strip_suffix('*') {
            Some(prefix) => segment.starts_with(prefix),
            None => segment == wanted,
        };
        if !self.segments.iter().zip(&pattern).all(fits) {
            return false;
        }
        let through = self.import && (self.glob || self.renamed || self.segments.len() > 1);
        self.segments.len() >= pattern.len() || through
    }
}

struct Named {
    module: Vec<String>,
    path: Written,
    line: usize,
}

/// Collects from tokens what the law is about.
#[derive(Default)]
struct Reader {
    named: Vec<Named>,
    clocks: Vec<usize>,
    hidden: Vec<usize>,
}

impl Reader {
    fn read(&mut self, tokens: &[Token], module: &[String]) {
        let mut at = 0;
        while let Some(token) = tokens.get(at) {
            at = match token {
                Token::Group(open, inner) => {
                    let attribute = *open == '[' && at > 0 && sign(tokens, at - 1, '#');
                    if attribute && inner.first().and_then(word) == Some("path") {
                        self.hidden.push(line_of(inner));
                    }
                    self.read(inner, module);
                    at + 1
                }
                Token::Word(..) => self.word(tokens, at, module),
                Token::Sign(_) | Token::Literal => at + 1,
            }
        }
    }

    /// Reads what begins with the word at `at`; returns where to go on.
    fn word(&mut self, tokens: &[Token], at: usize, module: &[String]) -> usize {
        let Some(Token::Word(text, line)) = tokens.get(at) else {
            return at + 1;
        };
        let next = tokens.get(at + 1);
        match text.as_str() {
            "use" if !sign(tokens, at + 1, '<') => return self.statement(tokens, at + 1, module, *line),
            "extern" if next.and_then(word) == Some("crate") => {
                return self.statement(tokens, at + 2, module, *line);
            }
            "mod" => {
                if let (Some(name), Some(Token::Group('{', body))) = (next.and_then(word), tokens.get(at + 2))
                {
                    let mut inner = module.to_vec();
                    inner.push(name.to_owned());
                    self.read(body, &inner);
                    return at + 3;
                }
                return at + 1;
            }
            // Visibility names no other room: the compiler lets it name ancestors only.
            "pub"
                if matches!(next, Some(Token::Group('(', inner)) if matches!(inner.first().and_then(word),
                Some("crate" | "super" | "self" | "in"))) =>
            {
                return at + 2;
            }
            "include" if sign(tokens, at + 1, '!') => self.hidden.push(*line),
            "elapsed" if at > 0 && sign(tokens, at - 1, '.') => self.clocks.push(*line),
            _ => {}
        }
        let mut segments = vec![text.clone()];
        let mut end = at + 1;
        while double_colon(tokens, end)
            && let Some(segment) = tokens.get(end + 2).and_then(word)
        {
            segments.push(segment.to_owned());
            end += 3;
        }
        let after_colons = at >= 2 && double_colon(tokens, at - 2);
        if segments
            .iter()
            .skip(usize::from(!after_colons))
            .any(|segment| segment == "now")
        {
            self.clocks.push(*line);
        }
        if segments.len() > 1 {
            let path = Written {
                segments,
                ..Written::default()
            };
            self.named.push(Named {
                module: module.to_vec(),
                path,
                line: *line,
            });
        }
        end
    }

    /// An import from `at` to its semicolon.
    fn statement(&mut self, tokens: &[Token], at: usize, module: &[String], line: usize) -> usize {
        let length = tokens[at..]
            .iter()
            .take_while(|token| !matches!(token, Token::Sign(';')))
            .count();
        let import = Written {
            import: true,
            ..Written::default()
        };
        self.import(&tokens[at..at + length], &import, module, line);
        at + length
    }

    /// Unfolds `a::{b, c as d, e::*}` behind `prefix`.
    fn import(&mut self, tree: &[Token], prefix: &Written, module: &[String], line: usize) {
        let mut path = prefix.clone();
        let mut tokens = tree.iter();
        while let Some(token) = tokens.next() {
            match token {
                Token::Word(segment, _) => match segment.as_str() {
                    "as" => path.renamed = tokens.next().and_then(word) != Some("_"),
                    "self" if !path.segments.is_empty() => {}
                    segment => path.segments.push(segment.to_owned()),
                },
                Token::Sign('*') => path.glob = true,
                Token::Group(_, inner) => {
                    for branch in inner.split(|token| matches!(token, Token::Sign(','))) {
                        if !branch.is_empty() {
                            self.import(branch, &path, module, line);
                        }
                    }
                    return;
                }
                Token::Sign(_) | Token::Literal => {}
            }
        }
        self.named.push(Named {
            module: module.to_vec(),
            path,
            line,
        });
    }
}

fn word(token: &Token) -> Option<&str> {
    match token {
        Token::Word(word, _) => Some(word),
        _ => None,
    }
}

fn line_of(tokens: &[Token]) -> usize {
    tokens
        .iter()
        .find_map(|token| {
            if let Token::Word(_, line) = token {
                Some(*line)
            } else {
                None
            }
        })
        .unwrap_or(0)
}

fn sign(tokens: &[Token], at: usize, wanted: char) -> bool {
    tokens.get(at) == Some(&Token::Sign(wanted))
}

fn double_colon(tokens: &[Token], at: usize) -> bool {
    sign(tokens, at, ':') && sign(tokens, at + 1, ':')
}
