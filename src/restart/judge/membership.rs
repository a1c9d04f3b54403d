//! Which workloads must follow a Secret, and on what terms. Pure.

use super::reloader::ReloaderRules;
use crate::{
    api::{
        Discovery, Reloader, RestartPolicy, RestartStrategy, RestartTarget, WorkloadKind, names::annotation,
    },
    restart::observed::model::{AnnotationValue, Annotations, Content, RestartFlag, Workload, WorkloadKey},
};

/// Whether a workload follows a Secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Membership {
    /// It does.
    In(Terms),
    /// It would, but stakater Reloader restarts it.
    LeftToReloader(Terms),
    /// It would, but an annotation of Keyturn on it or on its Namespace cannot be read, or the workload is larger than what
    /// is kept of one. It is not restarted.
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

/// What decides about a workload besides the policy.
pub struct WorkloadView<'a, 'r> {
    pub key: &'a WorkloadKey,
    pub workload: &'a Workload,
    /// The annotations of its Namespace.
    pub namespace: &'a Annotations,
    pub reloading: &'a ReloaderRules<'r>,
}

/// Whether and how a workload follows `content`, under the policy of the content's ExternalSecret.
pub fn member(policy: &RestartPolicy, view: &WorkloadView<'_, '_>, content: &Content) -> Membership {
    let WorkloadView {
        key,
        workload,
        namespace,
        reloading,
    } = *view;
    if workload.ending || key.key.namespace != content.object.namespace {
        return Membership::Out;
    }
    let annotations = &workload.annotations;
    let flag = match annotations.restart {
        RestartFlag::Unset => namespace.restart,
        flag => flag,
    };
    let uses = workload.use_of(&content.secret).is_some() || may_use_any(workload);
    let listed = policy.targets.iter().find(|target| lists(target, key, workload));
    let theirs = uses && policy.reloader != Reloader::Ignore && reloading.restarts(content);
    let candidate = if uses {
        match policy.discovery {
            Discovery::Auto => true,
            Discovery::OptIn => {
                matches!(flag, RestartFlag::Yes | RestartFlag::Unreadable)
                    || (theirs && policy.reloader == Reloader::Honour)
            }
            Discovery::Explicit => listed.is_some(),
        }
    } else {
        // Only an annotation on the workload itself enables restarts for a Secret that it does not reference.
        listed.is_some() && annotations.restart == RestartFlag::Yes
    };
    if !candidate || flag == RestartFlag::No {
        return Membership::Out;
    }
    let asked = annotations
        .strategy
        .or(&namespace.strategy)
        .value()
        .or_else(|| listed.and_then(|target| target.strategy));
    let terms = Terms {
        wave: listed.and_then(|target| target.wave).unwrap_or_default(),
        strategy: strategy(key.kind, workload.controller.plain_canary, asked),
        hot_reload: [annotations, namespace]
            .iter()
            .any(|annotations| annotations.hot_reload == AnnotationValue::Is(true)),
        uses,
    };
    if workload.oversized || unreadable(annotations, namespace).is_some() {
        Membership::Unreadable(terms)
    } else if theirs && policy.reloader == Reloader::Defer {
        Membership::LeftToReloader(terms)
    } else {
        Membership::In(terms)
    }
}

/// Which annotation on the workload, or on its Namespace where that is the one that counts, cannot be read, in a sentence
/// with what to do.
pub fn unreadable(own: &Annotations, namespace: &Annotations) -> Option<String> {
    let flag = match own.restart {
        RestartFlag::Unset => namespace.restart,
        flag => flag,
    };
    if flag == RestartFlag::Unreadable {
        return Some(
            "the annotation keyturn.dev/restart on the workload or its Namespace is neither true nor false, so it is \
             not restarted: correct it"
                .to_owned(),
        );
    }
    let sentence = |annotation: &str, valid: &str, own: bool, text: &str| {
        let on = if own { "the workload" } else { "its Namespace" };
        format!(
            "The annotation {annotation} on {on} is {text:?}, which is not a valid value, so the workload is not \
             restarted. Set it to {valid}, or remove it"
        )
    };
    if let AnnotationValue::Unreadable(text) = own.strategy.or(&namespace.strategy) {
        let is_own = own.strategy != AnnotationValue::Unset;
        let valid = "Template, RestartAt or Evict";
        return Some(sentence(annotation::RESTART_STRATEGY, valid, is_own, text));
    }
    if let AnnotationValue::Unreadable(text) = own.hot_reload.or(&namespace.hot_reload) {
        let is_own = own.hot_reload != AnnotationValue::Unset;
        return Some(sentence(annotation::HOT_RELOAD, "true or false", is_own, text));
    }
    None
}

/// Whether the workload is so large that the Secrets that it uses are unknown.
fn may_use_any(workload: &Workload) -> bool {
    workload.oversized && workload.uses.is_empty()
}

fn strategy(kind: WorkloadKind, plain_canary: bool, asked: Option<RestartStrategy>) -> RestartStrategy {
    match (kind, asked) {
        // A change of the template makes new pods before old ones go; `restartAt` takes the only pod of a Rollout away first.
        (WorkloadKind::Rollout, None) if plain_canary => RestartStrategy::Template,
        (WorkloadKind::Rollout, None) => RestartStrategy::RestartAt,
        (WorkloadKind::Rollout, Some(asked)) => asked,
        (_, Some(RestartStrategy::Evict)) => RestartStrategy::Evict,
        _ => RestartStrategy::Template,
    }
}

/// Whether the entry `target` of `restart.targets` stands for the workload.
pub fn lists(target: &RestartTarget, key: &WorkloadKey, workload: &Workload) -> bool {
    let RestartTarget {
        kind, name, selector, ..
    } = target;
    if *kind != key.kind || (name.is_none() && selector.is_none()) {
        return false;
    }
    let named = name.as_deref().is_none_or(|name| *name == *key.key.name);
    // Its labels may be among what was left out.
    let may_have_any = workload.oversized && workload.labels.is_empty();
    named
        && selector.as_ref().is_none_or(|selector| {
            let mut labels = selector.match_labels.iter();
            labels.all(|(label, value)| {
                workload
                    .labels
                    .get(label.as_str())
                    .is_some_and(|found| **found == **value)
                    || may_have_any
            })
        })
}
