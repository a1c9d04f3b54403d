//! What the status is to say of each way in which a pass ends.

use std::time::Duration;

use super::{
    memory::{ForeignTarget, RefusedVersions},
    outcome::{NextPass, Refused, TargetConflict},
    pass::Pass,
    timing::{FAR, RECHECK_ADOPTION, RECHECK_CONFLICT},
};
use crate::{
    api::{CreationPolicy, Reason, VersionId},
    objects::status::{Draft, SourceDraft, TargetDraft, Verdict, Written},
    sync::{
        decide::{
            admission::Suspended,
            comparison::{Comparison, is_ours},
            references::ReadRequest,
        },
        resolve::Refusal,
    },
};

/// What the status says where nothing is written.
pub(super) const READ_ONLY: &str = "AWS was read; nothing is written, as target.creationPolicy says";

impl Pass<'_> {
    /// The status of a Secret that is as it should be.
    pub(super) fn draft_synced(&self, comparison: &Comparison) -> Draft {
        let needs = &comparison.resolved.needs;
        let versions = needs
            .iter()
            .enumerate()
            .filter_map(|(index, need)| Some((index, need.recorded.clone()?)));
        let sources = self.sources(comparison, versions);
        let absent = needs
            .iter()
            .filter(|need| need.recorded.is_none())
            .map(|need| &*need.key);
        let (message, target) = match &comparison.secret {
            Some(secret) if self.entry.spec.creation != CreationPolicy::None => {
                let written = Written {
                    content: secret.content.to_string(),
                    rollout: secret.rollout.as_deref().unwrap_or_default().to_owned(),
                    changed_at: secret.changed_at,
                    restart_since: secret.restart_since,
                    key_changes: secret.key_changes(),
                    ..Written::default()
                };
                let name = comparison.target.name.to_string();
                (
                    synced_message(&name, needs.len(), &absent.collect::<Vec<_>>()),
                    Some(TargetDraft { name, written }),
                )
            }
            _ => (READ_ONLY.to_owned(), None),
        };
        Draft {
            target,
            ..self.draft(self.synced(&comparison.target.name, message), sources, needs)
        }
    }

    /// `Ready` of a Secret that is as it should be, unless another controller will change it again.
    pub(super) fn synced(&self, secret: &str, message: String) -> Verdict {
        let now = self.context.clock.now();
        let contest = self.recall().target.contest;
        let contested = contest.and_then(|contest| Some((contest.ends_after(now)?, contest)));
        match contested {
            Some((left, contest)) if self.entry.spec.creation != CreationPolicy::None => {
                // Nothing else shows that it has ended.
                self.context.work.push_after(self.object.clone(), left);
                Verdict::fails(Reason::TargetContested, contest.message(secret))
            }
            _ => Verdict::holds(Reason::Synced, message),
        }
    }

    /// The status of an object whose needs were read.
    pub(super) fn draft(&self, ready: Verdict, sources: Vec<SourceDraft>, needs: &[ReadRequest]) -> Draft {
        Draft {
            generation: Some(self.entry.generation),
            ready: Some(ready),
            current: Some(self.current()),
            sources: Some(sources),
            rotation: self.rotation(needs),
            ..Draft::default()
        }
    }

    /// The sources of these versions, each by the place of its entry in the spec.
    pub(super) fn sources(
        &self,
        comparison: &Comparison,
        versions: impl Iterator<Item = (usize, VersionId)>,
    ) -> Vec<SourceDraft> {
        let mut sources: Vec<SourceDraft> = Vec::new();
        for (index, version) in versions {
            let Some(need) = self.entry.spec.needs.get(index) else {
                continue;
            };
            let source = SourceDraft {
                store: comparison.resolved.label.clone(),
                key: need.key.to_string(),
                stage: need.selector.to_string(),
                version: version.to_string(),
            };
            if !sources.contains(&source) {
                sources.push(source);
            }
        }
        sources
    }

    /// What was reported stays, but the time goes on.
    pub(super) async fn report_current(&self, next: NextPass) -> NextPass {
        if self.latest().status.said.is_silent() {
            return match self.said() {
                // Removed a moment ago, or not in the index yet: the next pass can tell.
                (said, Some(left)) if !said.is_silent() => next.sooner(left),
                _ => next,
            };
        }
        let draft = Draft {
            current: Some(self.current()),
            ..Draft::default()
        };
        self.write_status(draft, None, next).await
    }

    /// Something failed that passes by itself: reported only while there is no Secret yet.
    pub(super) async fn report_transient(&self, refusal: Refusal) -> NextPass {
        let entry = self.latest();
        let has_secret = self
            .secret()
            .is_some_and(|secret| is_ours(self.object, entry, &secret));
        let ready = (!has_secret && entry.status.ready != Some(true)).then(|| {
            Verdict::fails(
                refusal.reason,
                format!("{}; no Secret exists yet", refusal.message),
            )
        });
        if ready.is_none() && entry.status.said.is_silent() {
            return NextPass::AfterBackOff;
        }
        let draft = Draft {
            generation: ready.as_ref().map(|_| entry.generation),
            ready,
            current: Some(self.current()),
            ..Draft::default()
        };
        self.write_status(draft, None, NextPass::AfterBackOff).await
    }

    pub(super) async fn report_suspended(&self, suspended: Suspended) -> NextPass {
        let draft = Draft {
            current: Some(Verdict::fails(Reason::Suspended, suspended.message)),
            ..Draft::default()
        };
        let left = suspended.until.map(|until| {
            let left =
                Duration::try_from(until.duration_since(self.context.view.time.now())).unwrap_or_default();
            left.clamp(Duration::from_secs(1), FAR)
        });
        self.write_status(draft, None, NextPass::after(left)).await
    }

    pub(super) async fn report_refused(&self, Refused { ready, again }: Refused) -> NextPass {
        if ready.reason == Reason::NamespaceNotAllowed {
            self.audit_refusal(ready.reason, &self.object.namespace);
        }
        let current = self.current_of_refused(ready.reason);
        let draft = Draft {
            generation: Some(self.latest().generation),
            ready: Some(ready),
            current: Some(current),
            ..Draft::default()
        };
        let next = self.write_status(draft, self.live(), NextPass::OnChange).await;
        again.map_or(next, |again| next.sooner(again))
    }

    pub(super) async fn report_conflict(&self, conflict: TargetConflict) -> NextPass {
        let TargetConflict {
            conflict,
            observed,
            versions,
        } = conflict;
        let recheck = if conflict.awaits_annotation() {
            RECHECK_ADOPTION
        } else {
            RECHECK_CONFLICT
        };
        let ready = Verdict::fails(conflict.reason(), conflict.to_string());
        let next = self.report_refused(Refused { ready, again: None }).await;
        // Only what was reported need not be reported again.
        if !matches!(next, NextPass::AfterBackOff | NextPass::AtStatusTurn(_)) {
            let revision = self.entry.revision;
            self.remember(|memory| {
                if conflict.is_immutable() {
                    memory.target.refused = Some(Box::new(RefusedVersions { revision, versions }));
                } else {
                    let foreign = observed.map(|observed| ForeignTarget {
                        revision,
                        observed,
                        recheck,
                    });
                    memory.target.conflict = foreign.map(Box::new);
                }
            });
        }
        if conflict.is_immutable() {
            next
        } else {
            next.sooner(recheck)
        }
    }
}

/// `absent` are the keys of the entries that are gone in AWS.
pub(super) fn synced_message(secret: &str, entries: usize, absent: &[&str]) -> String {
    match (entries, absent) {
        (1, []) => format!("Secret {secret} holds the value of 1 entry"),
        (_, []) => format!("Secret {secret} holds the values of {entries} entries"),
        (_, [first, others @ ..]) => {
            let others = match others.len() {
                0 => String::new(),
                more => format!(" (and {more} more)"),
            };
            format!(
                "Secret {secret} holds the values of {} of {entries} entries. {first}{others} does not exist in AWS or is \
                 marked for deletion: correct the key, or remove the entry",
                entries - absent.len()
            )
        }
    }
}
