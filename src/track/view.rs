//! The version that one selector of a secret shows, and when another one is believed.

use std::{num::NonZeroI64, sync::Arc, time::Duration};

use crate::{
    api::{Selector, VersionId, remote::AWSPENDING},
    track::{Call, Now, Stages, failure::Trouble},
};

/// A version that was left this recently may be shown again by a stale replica.
const MEMORY: Duration = Duration::from_mins(10);
/// A suspect version is believed if Describe shows it again after at least this.
const CONFIRM: Duration = Duration::from_mins(1);
/// Versions left that are kept in mind. AWS allows one new version per ten minutes sustained.
const LEFT: usize = 8;

/// What one selector of a remote secret shows.
#[derive(Debug)]
pub(super) struct View {
    pub(super) selector: Selector,
    accepted: Option<VersionId>,
    /// When the accepted version was made, if an answer has said so.
    created: Option<NonZeroI64>,
    doubt: Option<Box<Doubt>>,
    /// What it fails with, if it does.
    pub(super) trouble: Option<Box<Trouble>>,
}

/// What speaks against believing an answer at once.
#[derive(Debug, Default)]
struct Doubt {
    left: Vec<(VersionId, Now)>,
    /// Versions that Secrets hold and no answer of this process has explained.
    recorded: Vec<VersionId>,
    suspect: Option<Suspect>,
}

#[derive(Debug)]
struct Suspect {
    version: VersionId,
    /// When Describe first showed it.
    described: Option<Now>,
}

/// Where an answer comes from.
#[derive(Clone, Copy, Debug)]
pub(super) enum Evidence<'a> {
    /// A sweep, which may lag and so only marks due.
    Listed,
    /// A value's answer.
    Read {
        created: Option<i64>,
        /// Whether it stands in for Describe, which is denied.
        confirms: bool,
    },
    /// Describe, with all labels.
    Described(&'a Stages),
}

/// What follows from an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It shows what stands.
    Same,
    /// The first version known, none being recorded.
    First,
    /// Another version is accepted than some Secret may hold.
    Moved,
    /// Nothing is accepted before Describe has spoken.
    Doubtful,
}

impl View {
    pub(super) fn new(selector: Selector) -> Self {
        Self {
            selector,
            accepted: None,
            created: None,
            doubt: None,
            trouble: None,
        }
    }

    /// Describe shows no version with this label.
    pub(super) fn is_missing(&self) -> bool {
        let trouble = self.trouble.as_deref();
        trouble.is_some_and(|trouble| trouble.call == Call::Describe)
    }

    pub(super) fn accepted(&self) -> Option<&VersionId> {
        self.accepted.as_ref()
    }

    pub(super) fn suspect(&self) -> Option<&VersionId> {
        self.doubt
            .as_ref()?
            .suspect
            .as_ref()
            .map(|suspect| &suspect.version)
    }

    /// Whether neither an answer nor a Secret has told a version.
    pub(super) fn is_blank(&self) -> bool {
        self.accepted.is_none() && self.doubt.as_ref().is_none_or(|doubt| doubt.recorded.is_empty())
    }

    /// A Secret holds this version.
    pub(super) fn record(&mut self, now: Now, version: VersionId) -> Recorded {
        if let Selector::Version(wanted) = &self.selector {
            if *wanted == version {
                self.accepted = Some(version);
            }
            return Recorded::Agrees;
        }
        if self.accepted.as_ref() == Some(&version) {
            return Recorded::Agrees;
        }
        let doubt = self.doubt.get_or_insert_default();
        if self.accepted.is_some()
            && doubt
                .left
                .iter()
                .any(|(left, at)| *left == version && now < *at + MEMORY)
        {
            return Recorded::Behind;
        }
        if !doubt.recorded.contains(&version) {
            // One is the rule, by the hundred thousand after a start.
            doubt.recorded.reserve_exact(1);
            doubt.recorded.push(version);
        }
        if self.accepted.is_some() || doubt.recorded.len() > 1 {
            Recorded::Disputed
        } else {
            Recorded::Agrees
        }
    }

    /// Takes over what another view of the same secret and selector knew. Gives whether that is news to those who
    /// want one of them.
    pub(super) fn join(&mut self, now: Now, other: Self) -> bool {
        let news = self.is_blank() != other.is_blank() || self.trouble.is_some() != other.trouble.is_some();
        if self.is_blank() {
            *self = other;
            return news;
        }
        let recorded = other.doubt.map(|doubt| doubt.recorded).unwrap_or_default();
        for version in other.accepted.into_iter().chain(recorded) {
            self.record(now, version);
        }
        news
    }

    /// When Describe has to be asked for the sake of this view; in the past if at once.
    pub(super) fn due(&self) -> Option<Now> {
        let suspect = self.doubt.as_ref()?.suspect.as_ref()?;
        Some(suspect.described.map_or(Now::ZERO, |at| at + CONFIRM))
    }

    /// Takes the version that an answer shows.
    pub(super) fn see(&mut self, now: Now, version: &VersionId, evidence: Evidence<'_>) -> Verdict {
        if matches!(self.selector, Selector::Version(_)) {
            let first = self.accepted.replace(version.clone()).is_none();
            return if first { Verdict::First } else { Verdict::Same };
        }
        if matches!(evidence, Evidence::Listed) {
            if self.suspect().is_some() {
                return Verdict::Same;
            }
            let recorded = self.doubt.as_ref().map_or(&[][..], |doubt| &doubt.recorded);
            let agrees = self.accepted.as_ref().or_else(|| recorded.first()) == Some(version)
                && recorded.iter().all(|recorded| recorded == version)
                && !self.is_missing();
            if !agrees {
                return Verdict::Doubtful;
            }
        } else if self.is_doubtful(now, version, evidence) && !self.is_confirmed(now, version, evidence) {
            self.suspect_now(now, version, evidence);
            return Verdict::Doubtful;
        }
        self.accept(now, version, evidence)
    }

    fn is_doubtful(&self, now: Now, version: &VersionId, evidence: Evidence<'_>) -> bool {
        let older = match (evidence, self.created) {
            (
                Evidence::Read {
                    created: Some(shown), ..
                },
                Some(accepted),
            ) => self.accepted.as_ref() != Some(version) && shown < accepted.get(),
            _ => false,
        };
        let Some(doubt) = &self.doubt else { return older };
        let back = self.accepted.as_ref() != Some(version)
            && doubt
                .left
                .iter()
                .any(|(left, at)| left == version && now < *at + MEMORY);
        let unexplained = doubt
            .recorded
            .iter()
            .any(|recorded| recorded != version && !explains(evidence, recorded));
        // Once suspected, only Describe clears a version, so that a batch cannot undo what it doubted.
        let pending = self.suspect() == Some(version) && !matches!(evidence, Evidence::Described(_));
        older || back || unexplained || pending
    }

    fn is_confirmed(&self, now: Now, version: &VersionId, evidence: Evidence<'_>) -> bool {
        let fresh = matches!(
            evidence,
            Evidence::Described(_) | Evidence::Read { confirms: true, .. }
        );
        let suspect = self.doubt.as_ref().and_then(|doubt| doubt.suspect.as_ref());
        fresh
            && suspect.is_some_and(|suspect| {
                suspect.version == *version && suspect.described.is_some_and(|at| now >= at + CONFIRM)
            })
    }

    fn suspect_now(&mut self, now: Now, version: &VersionId, evidence: Evidence<'_>) {
        let fresh = matches!(
            evidence,
            Evidence::Described(_) | Evidence::Read { confirms: true, .. }
        );
        let doubt = self.doubt.get_or_insert_default();
        match &mut doubt.suspect {
            Some(suspect) if suspect.version == *version => {
                suspect.described = suspect.described.or_else(|| fresh.then_some(now));
            }
            suspect => {
                *suspect = Some(Suspect {
                    version: version.clone(),
                    described: fresh.then_some(now),
                });
            }
        }
    }

    fn accept(&mut self, now: Now, version: &VersionId, evidence: Evidence<'_>) -> Verdict {
        if let Evidence::Read { created, .. } = evidence {
            self.created = created.and_then(NonZeroI64::new);
        } else if self.accepted.as_ref() != Some(version) {
            self.created = None;
        }
        let blank = self.is_blank();
        let before = if self.accepted.as_ref() == Some(version) {
            None
        } else {
            self.accepted.replace(version.clone())
        };
        let recorded = self
            .doubt
            .as_mut()
            .map(|doubt| std::mem::take(&mut doubt.recorded))
            .unwrap_or_default();
        let mut gone: Vec<_> = recorded
            .into_iter()
            .filter(|recorded| recorded != version)
            .collect();
        gone.extend(before);
        // Who has asked while another version was suspected was told to wait.
        let moved = !gone.is_empty() || self.suspect().is_some();
        if moved || self.doubt.is_some() {
            let doubt = self.doubt.get_or_insert_default();
            doubt.suspect = None;
            doubt
                .left
                .retain(|(left, at)| left != version && now < *at + MEMORY);
            doubt.left.extend(gone.into_iter().map(|left| (left, now)));
            let surplus = doubt.left.len().saturating_sub(LEFT);
            doubt.left.drain(..surplus);
            if doubt.left.is_empty() {
                self.doubt = None;
            }
        }
        match (moved, blank) {
            (true, _) => Verdict::Moved,
            (false, true) => Verdict::First,
            (false, false) => Verdict::Same,
        }
    }
}

/// How a version that a Secret holds stands to what is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Recorded {
    /// It is the same, or the only one known.
    Agrees,
    /// This process has moved on from it.
    Behind,
    /// Nothing explains it: Describe has to.
    Disputed,
}

/// Whether the answer shows the recorded version as one that was current before, rather than one that the answering
/// replica does not know yet.
fn explains(evidence: Evidence<'_>, recorded: &VersionId) -> bool {
    let Evidence::Described(stages) = evidence else {
        return false;
    };
    stages
        .get(recorded)
        .is_some_and(|labels| labels.iter().any(|label| &**label != AWSPENDING))
}

/// The version that carries the label.
pub(super) fn at_stage<'a>(stages: &'a Stages, stage: &str) -> Option<&'a VersionId> {
    let carries = |labels: &Vec<Arc<str>>| labels.iter().any(|label| &**label == stage);
    stages
        .iter()
        .find_map(|(version, labels)| carries(labels).then_some(version))
}
