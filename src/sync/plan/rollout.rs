//! What a Secret says of its content, and since when: what restarts follow from.

use std::{collections::BTreeSet, sync::Arc};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;

use super::{Data, DesiredSecret, Recorded, RestartWish, Times, belongs::annotation_of, whole};
use crate::{
    api::{
        FirstWrite, KeyChange, KeyChanges, ObjectKey,
        names::{self, annotation},
        token::{self, TokenKey},
    },
    objects::status::Written,
};

/// What an existing Secret is to say of itself.
pub(super) fn stamps(
    key: &TokenKey,
    times: Times,
    wanted: &DesiredSecret<'_>,
    live: &Secret,
    adopting: bool,
) -> Written {
    let type_ = live.type_.as_deref().unwrap_or(names::OPAQUE);
    let mut written = tokens(key, wanted, type_);
    let said = time_of(live, annotation::CHANGED_AT);
    let nothing = Data::new();
    let same = same(
        wanted.trigger,
        live.data.as_ref().unwrap_or(&nothing),
        wanted.data,
    );
    let recorded = recorded(wanted);
    written.changed_at = if adopting {
        // What was said of another's content, or of ours before it was another's, is no measure for those that use it.
        if same { said } else { Some(times.change) }
    } else if changed(wanted, live, &written, same) {
        written.key_changes = key_changes(times, wanted, live, &written);
        Some(times.change)
    } else {
        // Drift, another scope of the tokens, or nothing at all. What was taken off by hand is remembered by the status.
        let is_same = |recorded: &Recorded<'_>| recorded.is_of(&written);
        let changed_at = said.or_else(|| recorded.filter(is_same)?.changed_at);
        written.key_changes = former_key_changes(wanted, live);
        // Of what never changed no pod has a token.
        if let Some(former) = former(wanted, live, &written).filter(|_| changed_at.is_some()) {
            written.keep(former, annotation_of(live, annotation::SCOPE));
        }
        changed_at
    }
    .map(whole);
    written.restart_since = since(times.now, wanted, time_of(live, annotation::RESTART_SINCE));
    written
}

/// What a Secret that is made is to say of itself.
pub(super) fn stamps_of_new(key: &TokenKey, times: Times, wanted: &DesiredSecret<'_>) -> Written {
    let mut written = tokens(key, wanted, names::OPAQUE);
    let recorded = recorded(wanted).filter(|recorded| recorded.rollout.is_some());
    if let Some(recorded) = recorded {
        // A Secret made again is no change for those that hold what it held before.
        let same = recorded.is_of(&written);
        written.changed_at = if same {
            recorded.changed_at
        } else {
            Some(times.change)
        }
        .map(whole);
        let rollout = recorded.rollout.filter(|rollout| token::is_text(rollout));
        if let Some(rollout) = rollout.filter(|_| same && written.changed_at.is_some()) {
            written.keep(rollout.to_owned(), None);
            written.key_changes = recorded.key_changes().map(Arc::new);
        }
    }
    written.restart_since = since(times.now, wanted, None);
    if recorded.is_none() && wanted.restarts == RestartWish::Enabled(FirstWrite::Restart) {
        // Pods that are older cannot hold it.
        written.changed_at = Some(whole(times.change));
    }
    written
}

/// The rollout token of the last change, if it was made in another scope than counts now. Pods that were restarted for that
/// change carry it. A new token would make them look as if they held older data.
fn former(wanted: &DesiredSecret<'_>, live: &Secret, written: &Written) -> Option<String> {
    let said = |name| annotation_of(live, name).map(String::as_str);
    let rescoped = said(annotation::RESCOPED).and_then(token::rescoped).is_some();
    let scope = said(annotation::SCOPE)?;
    if !rescoped && scope == written.scope {
        return None;
    }
    // The status knows better what we wrote than a Secret that people may have edited.
    recorded(wanted)
        .filter(|recorded| recorded.content == Some(&written.content))
        .and_then(|recorded| recorded.rollout)
        .or_else(|| said(annotation::ROLLOUT))
        .filter(|rollout| token::is_text(rollout))
        .map(str::to_owned)
}

impl Written {
    /// Keeps the rollout token `former`, which was made in `scope` if that is known, and notes the tokens that count now.
    fn keep(&mut self, former: String, scope: Option<&String>) {
        if former == self.rollout {
            return;
        }
        self.rescoped = Some(format!("{} {}", self.scope, self.rollout));
        self.rollout = former;
        if let Some(scope) = scope {
            self.scope.clone_from(scope);
        }
    }
}

impl Recorded<'_> {
    fn key_changes(&self) -> Option<KeyChanges> {
        KeyChanges::new(self.key_changes?.to_vec(), self.rollout?, self.changed_at)
    }

    /// Whether it tells of just this content.
    fn is_of(&self, written: &Written) -> bool {
        self.rollout == Some(&written.rollout) || self.content == Some(&written.content)
    }
}

/// Which keys changed when, as an existing Secret says, or else the status of it.
fn former_key_changes(wanted: &DesiredSecret<'_>, live: &Secret) -> Option<Arc<KeyChanges>> {
    let said = |name| annotation_of(live, name).map(String::as_str);
    let changed_at = time_of(live, annotation::CHANGED_AT);
    said(annotation::KEY_CHANGES)
        .and_then(|text| KeyChanges::parse(text, said(annotation::ROLLOUT)?, changed_at))
        .or_else(|| recorded(wanted)?.key_changes())
        .map(Arc::new)
}

/// Which keys changed when, after the change that is made now. None where the change counts for all keys: where the keys are
/// chosen by the spec, all changed, or the data were already there, so that nobody knows which of them changed.
fn key_changes(
    times: Times,
    wanted: &DesiredSecret<'_>,
    live: &Secret,
    written: &Written,
) -> Option<Arc<KeyChanges>> {
    if !wanted.trigger.is_empty() {
        return None;
    }
    let nothing = Data::new();
    let held = live.data.as_ref().unwrap_or(&nothing);
    let keys: BTreeSet<&String> = held.keys().chain(wanted.data.keys()).collect();
    let differs = |key: &&&String| held.get(**key) != wanted.data.get(**key);
    let changed: Vec<String> = keys.iter().filter(differs).map(|key| (**key).clone()).collect();
    if changed.is_empty() || changed.len() == keys.len() {
        return None;
    }
    let said = annotation_of(live, annotation::ROLLOUT).map(String::as_str);
    let rollout = said.or_else(|| recorded(wanted)?.rollout)?;
    let before = KeyChange::new(
        Vec::new(),
        rollout,
        time_of(live, annotation::CHANGED_AT).or_else(|| recorded(wanted)?.changed_at),
    );
    let change = KeyChange::new(changed, &written.rollout, Some(whole(times.change)));
    let former = former_key_changes(wanted, live).map(Arc::unwrap_or_clone);
    let all = KeyChanges::after(former, before, change);
    all.text().map(|_| Arc::new(all))
}

fn tokens(key: &TokenKey, wanted: &DesiredSecret<'_>, type_: &str) -> Written {
    let secret = ObjectKey::new(wanted.object.namespace.clone(), wanted.target);
    Written {
        content: key.content(&secret, type_, wanted.data).into(),
        rollout: key.rollout(&secret, wanted.data, wanted.trigger).into(),
        scope: key.scope(&secret, wanted.trigger).into(),
        ..Written::default()
    }
}

/// Whether those that use the Secret have reason to be restarted, now. `same`: the data that count are there already.
fn changed(wanted: &DesiredSecret<'_>, live: &Secret, written: &Written, same: bool) -> bool {
    let recorded = recorded(wanted);
    let said = |name| annotation_of(live, name).map(String::as_str);
    let content = said(annotation::CONTENT).or_else(|| recorded?.content);
    let (scope, rollout) = match said(annotation::RESCOPED).and_then(token::rescoped) {
        Some((scope, rollout)) => (Some(scope), Some(rollout)),
        None => (
            said(annotation::SCOPE),
            said(annotation::ROLLOUT).or_else(|| recorded?.rollout),
        ),
    };
    let is_comparable = scope.is_none_or(|scope| scope == written.scope);
    // As we wrote it last: what differs since is drift.
    if content == Some(&written.content) || (is_comparable && rollout == Some(&written.rollout)) {
        return false;
    }
    if !same {
        return true;
    }
    // The data are right, the token is not: another key of the tokens or other keys of the Secret made it, or somebody
    // wrote the new value by hand before us.
    annotation_of(live, annotation::ROLLOUT).is_some() && scope == Some(&written.scope)
}

/// Since when restarts are wanted: as the Secret says, or else the status, or else from now on. While they are wanted that
/// does not move, so that a Secret made again forgets no restart that is still to be done. Where they are disabled it is
/// forgotten: once they are enabled again, no change from before then asks for a restart.
fn since(now: Timestamp, wanted: &DesiredSecret<'_>, said: Option<Timestamp>) -> Option<Timestamp> {
    if wanted.restarts == RestartWish::Disabled {
        return None;
    }
    said.or_else(|| recorded(wanted)?.restart_since)
        .or_else(|| matches!(wanted.restarts, RestartWish::Enabled(_)).then_some(now))
        .map(whole)
}

/// Whether two contents are the same as far as restarts are concerned.
fn same(trigger: &[String], one: &Data, other: &Data) -> bool {
    if trigger.is_empty() {
        return one == other;
    }
    trigger.iter().all(|key| one.get(key) == other.get(key))
}

/// What the status records of this very target.
fn recorded<'a>(wanted: &DesiredSecret<'a>) -> Option<Recorded<'a>> {
    wanted.recorded.filter(|recorded| recorded.name == wanted.target)
}

fn time_of(live: &Secret, name: &str) -> Option<Timestamp> {
    annotation_of(live, name).and_then(|at| at.parse().ok())
}
