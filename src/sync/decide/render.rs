//! What a Secret should hold: the data that the values make, and what the Secret records of where they come from. Pure.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use zeroize::{Zeroize as _, Zeroizing};

use super::{
    answers::{Answer, EntryValue},
    comparison::Comparison,
    record::{self, Origin},
    references::ReadRequest,
    versions,
};
use crate::{
    api::{ExternalSecret, ObjectKey, SecretArn, TokenKey, arn},
    objects::{Entry, carried},
    sync::{
        plan::{self, Data},
        resolve::{Refusal, fingerprint},
    },
    value,
};

/// The content of a Secret. Its values are wiped when it is dropped.
pub struct Rendered {
    /// The data.
    pub data: Data,
    /// The versions they were made from, as `keyturn.dev/versions` has them.
    pub versions: String,
    /// The record of their source, for `keyturn.dev/source`.
    pub source: String,
    /// The token of the user names in the values, if there are any.
    pub user: Option<String>,
    /// How many members of values had no name and were left out.
    pub dropped_empty_keys: usize,
}

impl Drop for Rendered {
    fn drop(&mut self) {
        for ByteString(bytes) in self.data.values_mut() {
            bytes.zeroize();
        }
    }
}

/// Makes the content of a Secret from the answers to the needs of `comparison`, as the spec of `live` describes it.
pub fn render(
    key: &TokenKey,
    live: &ExternalSecret,
    comparison: &Comparison,
    answers: &[Answer],
) -> Result<Rendered, Refusal> {
    let needs = &comparison.resolved.needs;
    let versions = versions::of(needs, answers)?;
    let built = value::build(&live.spec, |index| match answers.get(index) {
        Some(Answer::Value(value)) => value.fetched(),
        Some(Answer::Gone { .. }) | None => value::Fetched::Gone,
    })
    .map_err(|error| Refusal::new(error.reason(), error.to_string()))?;
    let data = built
        .data
        .into_iter()
        .map(|(name, mut value)| (name, ByteString(std::mem::take(&mut *value))))
        .collect();
    Ok(Rendered {
        data,
        source: source(key, comparison, answers, &versions),
        user: user(key, &comparison.target, answers),
        versions,
        dropped_empty_keys: built.dropped_empty_keys,
    })
}

/// The needs that are gone.
pub fn absent<'a>(needs: &'a [ReadRequest], answers: &'a [Answer]) -> impl Iterator<Item = &'a ReadRequest> {
    let each = needs.iter().zip(answers);
    each.filter(|(_, answer)| answer.is_gone()).map(|(need, _)| need)
}

/// One user name, or several in the order of the entries: enough to see that it changed.
fn user(key: &TokenKey, target: &ObjectKey, answers: &[Answer]) -> Option<String> {
    let mut names = Zeroizing::new(String::new());
    let values = answers.iter().filter_map(Answer::value);
    for name in values.filter_map(EntryValue::username) {
        names.push_str(&name);
        names.push('\0');
    }
    (!names.is_empty()).then(|| key.user(target, &names).to_string())
}

/// What the Secret is to record of where it is made from.
fn source(key: &TokenKey, comparison: &Comparison, answers: &[Answer], versions: &str) -> String {
    let Comparison {
        target,
        resolved,
        inputs,
        ..
    } = comparison;
    let account = resolved.needs.iter().zip(answers).find_map(|(need, answer)| {
        let value = answer.value().filter(|_| !arn::is_arn(&need.key))?;
        SecretArn::parse(&value.arn)
    });
    let origin = Origin {
        key,
        secret: target,
        source: &fingerprint(&resolved.usable.source, ""),
        account: account.as_ref().map_or("", |arn| arn.account),
    };
    let absent = absent(&resolved.needs, answers).map(|need| need.hash.as_str());
    record::text(origin, inputs, versions, absent)
}

/// What a live ExternalSecret says of its Secret besides the data.
#[derive(Debug)]
pub struct Template<'a> {
    object: &'a ObjectKey,
    entry: &'a Entry,
    live: &'a ExternalSecret,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
}

/// The data of a Secret, and where they come from.
#[derive(Clone, Copy)]
pub struct Content<'a> {
    /// The data.
    pub data: &'a Data,
    /// The token of what they were made from besides values.
    pub inputs: &'a str,
    /// The versions they were made from, as JSON.
    pub versions: &'a str,
    /// The record of their source.
    pub source: Option<&'a str>,
    /// The token of the user names.
    pub user: Option<&'a str>,
}

impl Rendered {
    /// The content of the Secret that `comparison` is of.
    pub fn content<'a>(&'a self, comparison: &'a Comparison) -> Content<'a> {
        Content {
            data: &self.data,
            inputs: &comparison.inputs,
            versions: &self.versions,
            source: Some(&self.source),
            user: self.user.as_deref(),
        }
    }
}

impl<'a> Template<'a> {
    /// What `live` says, of which `entry` is; `never_copied` are names and domains of metadata that administrators left out.
    pub fn new(
        object: &'a ObjectKey,
        entry: &'a Entry,
        live: &'a ExternalSecret,
        never_copied: &[String],
    ) -> Self {
        Self {
            object,
            entry,
            live,
            labels: carried(live.metadata.labels.as_ref(), never_copied),
            annotations: carried(live.metadata.annotations.as_ref(), never_copied),
        }
    }

    /// The Secret with this content, as the plan compares it with the live one.
    pub fn desired<'b>(&'b self, content: Content<'b>) -> plan::DesiredSecret<'b> {
        let Content {
            data,
            inputs,
            versions,
            source,
            user,
        } = content;
        plan::DesiredSecret {
            object: self.object,
            uid: &self.entry.uid,
            target: self.entry.target(self.object),
            recorded: plan::Recorded::of(self.live),
            creation: self.entry.spec.creation,
            adopt_existing: self.live.spec.adopt_existing(),
            immutable: self.live.spec.immutable(),
            labels: &self.labels,
            annotations: &self.annotations,
            data,
            inputs,
            versions,
            source,
            user,
            trigger: self.live.spec.trigger_keys(),
            restarts: self.restarts(),
        }
    }

    fn restarts(&self) -> plan::RestartWish {
        if self.entry.trigger().is_some() {
            let policy = self.entry.restart.as_ref().map(|restarts| &restarts.policy);
            plan::RestartWish::Enabled(policy.map_or_else(Default::default, |policy| policy.on_first_write))
        } else if self.entry.disables_restarts() {
            plan::RestartWish::Disabled
        } else {
            plan::RestartWish::Unknown
        }
    }
}
