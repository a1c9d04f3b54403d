//! Which workloads must follow a Secret, and on what terms. Pure.

use regex::Regex;

use super::model::{Content, Use, Wish, Wishes, Workload, WorkloadKey};
use crate::api::{Discovery, Reloader, RestartPolicy, RestartStrategy, RestartTarget, WorkloadKind};

/// Longer entries of Reloader's lists are read as plain names.
const LONGEST_EXPRESSION: usize = 512;

/// Whether a workload follows a Secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Membership {
    /// It does.
    In(Terms),
    /// It would, but stakater Reloader restarts it.
    LeftToReloader(Terms),
    /// It would, but `keyturn.dev/restart` on it or on its Namespace says neither `true` nor `false`: taken as a no.
    Unreadable(Terms),
    /// It does not.
    Out,
}

/// How a workload follows a Secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Its place in the order.
    pub wave: i32,
    /// How it is restarted.
    pub strategy: RestartStrategy,
    /// Its application reads mounted files again by itself.
    pub hot_reload: bool,
    /// Whether its template names the Secret at all.
    pub uses: bool,
}

/// Whether and how `workload` follows `content`, under the policy of the content's ExternalSecret and what its Namespace says.
pub fn member(
    policy: &RestartPolicy,
    key: &WorkloadKey,
    workload: &Workload,
    namespace: &Wishes,
    content: &Content,
) -> Membership {
    if workload.ending || key.key.namespace != content.object.namespace {
        return Membership::Out;
    }
    let wishes = &workload.wishes;
    let wish = match wishes.restart {
        Wish::Unsaid => namespace.restart,
        said => said,
    };
    let uses = use_of(workload, content).is_some();
    let listed = policy.targets.iter().find(|target| lists(target, key, workload));
    let theirs = uses && policy.reloader != Reloader::Ignore && reloader_restarts(workload, content);
    let candidate = if uses {
        match policy.discovery {
            Discovery::Auto => true,
            Discovery::OptIn => {
                matches!(wish, Wish::Yes | Wish::Unreadable)
                    || (theirs && policy.reloader == Reloader::Honour)
            }
            Discovery::Explicit => listed.is_some(),
        }
    } else {
        // Only a word on the workload itself makes us restart what does not name the Secret.
        listed.is_some() && wishes.restart == Wish::Yes
    };
    if !candidate || wish == Wish::No {
        return Membership::Out;
    }
    let asked = wishes
        .strategy
        .or(namespace.strategy)
        .or_else(|| listed.and_then(|target| target.strategy));
    let terms = Terms {
        wave: listed.and_then(|target| target.wave).unwrap_or_default(),
        strategy: strategy(key.kind, asked),
        hot_reload: wishes.hot_reload || namespace.hot_reload,
        uses,
    };
    if wish == Wish::Unreadable {
        Membership::Unreadable(terms)
    } else if theirs && policy.reloader == Reloader::Defer {
        Membership::LeftToReloader(terms)
    } else {
        Membership::In(terms)
    }
}

/// How the workload uses the Secret, if it does.
pub fn use_of<'a>(workload: &'a Workload, content: &Content) -> Option<&'a Use> {
    workload.uses.iter().find(|found| found.secret == content.secret)
}

fn strategy(kind: WorkloadKind, asked: Option<RestartStrategy>) -> RestartStrategy {
    match (kind, asked) {
        (WorkloadKind::Rollout, None) => RestartStrategy::RestartAt,
        (WorkloadKind::Rollout, Some(asked)) => asked,
        (_, Some(RestartStrategy::Evict)) => RestartStrategy::Evict,
        _ => RestartStrategy::Template,
    }
}

fn lists(target: &RestartTarget, key: &WorkloadKey, workload: &Workload) -> bool {
    let RestartTarget {
        kind, name, selector, ..
    } = target;
    if *kind != key.kind || (name.is_none() && selector.is_none()) {
        return false;
    }
    let named = name.as_deref().is_none_or(|name| *name == *key.key.name);
    named
        && selector.as_ref().is_none_or(|selector| {
            let mut labels = selector.match_labels.iter();
            labels.all(|(label, value)| workload.labels.get(label) == Some(value))
        })
}

/// Whether stakater Reloader restarts the workload, which uses the Secret, when the Secret changes.
fn reloader_restarts(workload: &Workload, content: &Content) -> bool {
    let on_workload = |name: &str| workload.reloader.get(name).map(|value| &**value);
    let on_secret = |name: &str| content.reloader.get(name).map(|value| &**value);
    let names = |list: Option<&str>| list.is_some_and(|list| any_matches(list, &content.secret));
    let ignore = "reloader.stakater.com/ignore";
    if says_yes(on_secret(ignore)) || says_yes(on_workload(ignore)) {
        return false;
    }
    if names(on_workload("secrets.exclude.reloader.stakater.com/reload"))
        || names(on_workload("secret.reloader.stakater.com/exclude"))
    {
        return false;
    }
    names(on_workload("secret.reloader.stakater.com/reload"))
        || (says_yes(on_workload("reloader.stakater.com/search"))
            && says_yes(on_secret("reloader.stakater.com/match")))
        || says_yes(on_workload("secret.reloader.stakater.com/auto"))
        || says_yes(on_workload("reloader.stakater.com/auto"))
}

/// As Go's `strconv.ParseBool` does.
fn says_yes(value: Option<&str>) -> bool {
    value.is_some_and(|value| ["1", "t", "T", "TRUE", "true", "True"].contains(&value))
}

/// Whether an entry of the comma list, read as an anchored expression, matches `name`.
fn any_matches(list: &str, name: &str) -> bool {
    list.split(',').map(str::trim).any(|entry| {
        entry == name
            || (entry.len() <= LONGEST_EXPRESSION
                && Regex::new(&format!("^(?:{entry})$")).is_ok_and(|expression| expression.is_match(name)))
    })
}
