//! Whether stakater Reloader restarts a workload when a Secret changes, by its annotations. Pure.

use std::{cell::OnceCell, collections::BTreeMap};

use regex::bytes::{Regex, RegexBuilder};

use crate::restart::observed::model::{Content, Workload};

/// The most expressions of one list that are read, and the longest of them: what is beyond matches nothing. People write
/// these, so they must not cost us more than a moment.
const EXPRESSIONS: usize = 16;
const LONGEST_EXPRESSION: usize = 256;
/// The most memory of one expression, in bytes.
const EXPRESSION_SIZE: usize = 64 << 10;

type AnnotationMap = BTreeMap<Box<str>, Box<str>>;

/// Reloader's annotations on one workload. Its lists are read once, however many Secrets are asked for.
pub struct ReloaderRules<'a> {
    annotations: &'a AnnotationMap,
    included: OnceCell<Names<'a>>,
    excluded: OnceCell<Names<'a>>,
}

impl<'a> ReloaderRules<'a> {
    /// Those of `workload`.
    pub fn new(workload: &'a Workload) -> Self {
        Self {
            annotations: &workload.reloader,
            included: OnceCell::new(),
            excluded: OnceCell::new(),
        }
    }

    /// Whether Reloader restarts the workload, which uses the Secret, when the Secret changes.
    pub fn restarts(&self, content: &Content) -> bool {
        let ignore = "reloader.stakater.com/ignore";
        let on_secret = |name| says_yes(&content.reloader, name);
        let on_workload = |name| says_yes(self.annotations, name);
        if on_secret(ignore) || on_workload(ignore) {
            return false;
        }
        let excluded = self.excluded.get_or_init(|| {
            self.names(&[
                "secrets.exclude.reloader.stakater.com/reload",
                "secret.reloader.stakater.com/exclude",
            ])
        });
        if excluded.has(&content.secret) {
            return false;
        }
        on_workload("secret.reloader.stakater.com/auto")
            || on_workload("reloader.stakater.com/auto")
            || (on_workload("reloader.stakater.com/search") && on_secret("reloader.stakater.com/match"))
            || self
                .included
                .get_or_init(|| self.names(&["secret.reloader.stakater.com/reload"]))
                .has(&content.secret)
    }

    fn names(&self, annotations: &[&str]) -> Names<'a> {
        let lists = annotations.iter().filter_map(|name| self.annotations.get(*name));
        Names::read(lists.flat_map(|list| list.split(',')))
    }
}

/// As Go's `strconv.ParseBool` does.
fn says_yes(annotations: &AnnotationMap, name: &str) -> bool {
    let value = annotations.get(name).map(|value| &**value);
    matches!(value, Some("1" | "t" | "T" | "TRUE" | "true" | "True"))
}

/// Names, and expressions that match whole ones.
struct Names<'a> {
    plain: Vec<&'a str>,
    expressions: Vec<Regex>,
}

impl<'a> Names<'a> {
    fn read(entries: impl Iterator<Item = &'a str>) -> Self {
        let entries = entries.map(str::trim).filter(|entry| !entry.is_empty());
        let mut plain: Vec<&str> = entries.collect();
        // A hyphen means something within brackets only.
        let is_expression = |entry: &&&str| {
            let rest = entry.replace('-', "");
            regex::escape(&rest) != rest
        };
        let expressions = plain
            .iter()
            .filter(is_expression)
            .filter(|entry| entry.len() <= LONGEST_EXPRESSION)
            .take(EXPRESSIONS)
            .filter_map(|entry| {
                // Names are ASCII, and classes of all letters of the world are large.
                RegexBuilder::new(&format!("^(?:{entry})$"))
                    .unicode(false)
                    .size_limit(EXPRESSION_SIZE)
                    .dfa_size_limit(EXPRESSION_SIZE)
                    .nest_limit(16)
                    .build()
                    .ok()
            })
            .collect();
        plain.sort_unstable();
        Self { plain, expressions }
    }

    fn has(&self, name: &str) -> bool {
        self.plain.binary_search(&name).is_ok()
            || self
                .expressions
                .iter()
                .any(|expression| expression.is_match(name.as_bytes()))
    }
}
