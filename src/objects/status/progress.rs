//! Whether an ExternalSecret that is not ready waits for a person: the conditions that tools such as Flux and Helm wait by.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::Verdict;
use crate::api::{ExternalSecretStatus, Reason, Status};

/// For how long what a person may still be about to apply counts as in progress. Stores, roles, keys and objects are often
/// applied together.
const APPLIED_TOGETHER: Duration = Duration::from_mins(2);

/// How an ExternalSecret comes to be ready. Its condition is there only while it is true.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Progress {
    /// It is ready, or nothing is known.
    #[default]
    Settled,
    /// By itself: `Reconciling`.
    Reconciling,
    /// Once a person acts: `Stalled`.
    Stalled,
}

/// What a status says of it, as a number: 0 for [`Progress::Settled`], -1 for [`Progress::Stalled`], or since when it is
/// [`Progress::Reconciling`], in seconds since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Reported(i64);

impl Reported {
    /// What a status says.
    pub(super) fn of(status: &ExternalSecretStatus) -> Self {
        let found = |progress: Progress| {
            let mut conditions = status.conditions.iter().flatten();
            conditions.find(|condition| {
                Some(&*condition.type_) == progress.type_() && condition.status == Status::True.as_str()
            })
        };
        if found(Progress::Stalled).is_some() {
            return Self(-1);
        }
        let since = found(Progress::Reconciling).map(|found| found.last_transition_time.0.as_second());
        Self(since.unwrap_or_default().max(0))
    }

    /// Whether the status must be written for `progress` alone. What an earlier version wrote has neither condition: it gets
    /// one along with the next change.
    pub(super) fn turns_to(self, progress: Progress) -> bool {
        self.0 > 0 && progress == Progress::Stalled
    }
}

/// How an object with the condition `ready` comes to be ready, given what its status says of the same generation; and after
/// which time that changes, though nothing else does.
pub(super) fn progress(
    now: Timestamp,
    ready: &Verdict,
    reported: Option<Reported>,
) -> (Progress, Option<Duration>) {
    if ready.status == Status::True {
        return (Progress::Settled, None);
    }
    match (remedy(ready.reason), reported) {
        (Remedy::Time, _) => (Progress::Reconciling, None),
        (Remedy::Person, _) | (Remedy::Either, Some(Reported(-1))) => (Progress::Stalled, None),
        (Remedy::Either, reported) => {
            let since = reported.map_or(0, |Reported(since)| since);
            let since = if since > 0 { since } else { now.as_second() };
            let waited = u64::try_from(now.as_second().saturating_sub(since)).unwrap_or_default();
            match APPLIED_TOGETHER.checked_sub(Duration::from_secs(waited)) {
                Some(left) if !left.is_zero() => (Progress::Reconciling, Some(left)),
                _ => (Progress::Stalled, None),
            }
        }
    }
}

impl Progress {
    const ALL: [Self; 2] = [Self::Reconciling, Self::Stalled];

    const fn type_(self) -> Option<&'static str> {
        match self {
            Self::Settled => None,
            Self::Reconciling => Some("Reconciling"),
            Self::Stalled => Some("Stalled"),
        }
    }

    /// The condition, with the reason of `ready`. Since when is kept within a generation.
    pub(super) fn condition(
        self,
        now: Timestamp,
        generation: i64,
        ready: &Verdict,
        before: &ExternalSecretStatus,
    ) -> Option<Condition> {
        let type_ = self.type_()?;
        let message = if self == Self::Stalled {
            "A person must act. The message of the condition Ready says how"
        } else {
            "Keyturn tries again by itself. The message of the condition Ready says why it is not ready yet"
        };
        let was = Self::of_status(before).find(|was| was.type_ == type_);
        let since = was
            .filter(|was| was.status == Status::True.as_str() && was.observed_generation == Some(generation))
            .map(|was| was.last_transition_time.clone());
        Some(Condition {
            type_: type_.to_owned(),
            status: Status::True.as_str().to_owned(),
            reason: ready.reason.as_str().to_owned(),
            message: message.to_owned(),
            observed_generation: Some(generation),
            last_transition_time: since.unwrap_or(Time(now)),
        })
    }

    /// The conditions of this kind that a status has.
    pub(super) fn of_status(status: &ExternalSecretStatus) -> impl Iterator<Item = &Condition> {
        let is_one = |condition: &&Condition| {
            let mut all = Self::ALL.iter();
            all.any(|progress| progress.type_() == Some(&*condition.type_))
        };
        status.conditions.iter().flatten().filter(is_one)
    }
}

/// What makes an object ready that is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Remedy {
    /// Time.
    Time,
    /// A person.
    Person,
    /// Time, if what is missing is about to be applied; or else a person.
    Either,
}

const fn remedy(reason: Reason) -> Remedy {
    match reason {
        Reason::Throttled | Reason::ProviderUnavailable => Remedy::Time,
        Reason::StoreNotFound
        | Reason::StoreNotReady
        | Reason::IdentityError
        | Reason::AccessDenied
        | Reason::KeyAccessDenied
        | Reason::SecretNotFound
        // A secret is often made first and given its value afterwards.
        | Reason::StageNotFound => Remedy::Either,
        _ => Remedy::Person,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn fails(reason: Reason) -> Verdict {
        Verdict::fails(reason, "why")
    }

    #[test]
    fn what_may_be_applied_together_is_in_progress_for_two_minutes() {
        let missing = fails(Reason::StoreNotFound);
        let two = Duration::from_mins(2);
        assert_eq!(
            progress(at(0), &missing, None),
            (Progress::Reconciling, Some(two))
        );
        let since = Reported(at(0).as_second());
        let after = |second, reason| progress(at(second), &fails(reason), Some(since));
        assert_eq!(
            after(119, Reason::AccessDenied),
            (Progress::Reconciling, Some(Duration::from_secs(1)))
        );
        assert_eq!(after(120, Reason::AccessDenied), (Progress::Stalled, None));
        // A clock that went back begins anew.
        assert_eq!(
            after(-60, Reason::AccessDenied),
            (Progress::Reconciling, Some(two))
        );
        // What waited for a person waits on, whatever is missing now.
        let stalled = progress(at(0), &missing, Some(Reported(-1)));
        assert_eq!(stalled, (Progress::Stalled, None));
    }

    #[test]
    fn what_a_person_must_correct_is_stalled_at_once_and_what_passes_never() {
        for (reason, expected) in [
            (Reason::InvalidSpec, Progress::Stalled),
            (Reason::TargetConflict, Progress::Stalled),
            (Reason::PropertyNotFound, Progress::Stalled),
            (Reason::Throttled, Progress::Reconciling),
            (Reason::ProviderUnavailable, Progress::Reconciling),
        ] {
            for reported in [None, Some(Reported(1)), Some(Reported(-1))] {
                assert_eq!(
                    progress(at(0), &fails(reason), reported),
                    (expected, None),
                    "{reason}"
                );
            }
        }
        let ready = Verdict::holds(Reason::Retained, "");
        assert_eq!(
            progress(at(0), &ready, Some(Reported(-1))),
            (Progress::Settled, None)
        );
    }

    #[test]
    fn an_earlier_version_s_status_is_not_written_for_this_alone() {
        for progress in [Progress::Settled, Progress::Reconciling, Progress::Stalled] {
            assert!(!Reported::default().turns_to(progress));
            assert!(!Reported(-1).turns_to(progress));
        }
        assert!(Reported(1).turns_to(Progress::Stalled));
    }
}
