//! Reading what an ExternalSecret needs: the right version of each secret, or why it cannot be had.

use std::{collections::HashSet, sync::Arc};

use futures::{StreamExt as _, stream::FuturesUnordered};

use super::{Context, Resolved, Stop, Wanted};
use crate::{
    api::{DeletionPolicy, ObjectKey, Reason, Selector, VersionId},
    aws::{self, Ask, RemoteValue, Urgency},
    sync::{driver, entry::Entry, queue::Class, resolve::Refusal},
    track::Known,
};

/// Bytes of all values that one object may have in memory: what it writes may be an eighth of it.
const MOST: usize = 8 << 20;

/// One entry's answer from AWS.
pub(super) enum Answer {
    Value(Arc<RemoteValue>),
    /// Proven by `DescribeSecret`.
    Gone {
        deleted: bool,
    },
}

impl Context {
    /// Reads every need, and stops at the first in the spec's order that cannot be had.
    #[expect(
        clippy::too_many_arguments,
        reason = "the facts of one pass, used nowhere else"
    )]
    pub(super) async fn read(
        &self,
        object: &ObjectKey,
        entry: &Entry,
        resolved: &Resolved,
        needs: &[Wanted],
        class: Class,
        fresh: bool,
        pinned: bool,
    ) -> Result<Vec<Answer>, Stop> {
        let ask = Ask {
            asker: object,
            urgency: match class {
                Class::Urgent => Urgency::Fresh,
                Class::Periodic => Urgency::Periodic,
            },
            // Others have their values already and wait for a place to write.
            patient: !fresh && self.slots.secrets.is_crowded(),
        };
        let mut reads: FuturesUnordered<_> = needs
            .iter()
            .enumerate()
            .map(async |(place, need)| (place, self.read_one(need, ask, fresh, pinned).await))
            .collect();
        let mut all: Vec<_> = needs.iter().map(|_| None).collect();
        let (mut seen, mut bytes) = (HashSet::new(), 0);
        while let Some((place, answer)) = reads.next().await {
            // Entries that read one secret share its value.
            if let Ok(Answer::Value(value)) = &answer
                && seen.insert(Arc::as_ptr(value).addr())
            {
                bytes += value.payload().len();
            }
            if bytes > MOST {
                return Err(Refusal::new(
                    Reason::TooLarge,
                    format!(
                        "the values of the {} entries are larger than the {MOST} bytes that one ExternalSecret may read: \
                         split it",
                        needs.len()
                    ),
                )
                .into());
            }
            if let Some(all) = all.get_mut(place) {
                *all = Some(answer);
            }
        }
        let mut answers = Vec::with_capacity(needs.len());
        for (answer, need) in all.into_iter().flatten().zip(needs) {
            match answer? {
                Answer::Gone { deleted } if entry.deletion == DeletionPolicy::Retain => {
                    return Err(gone(need, deleted).into());
                }
                Answer::Value(value) => {
                    self.admit(object, entry, resolved, &value)?;
                    answers.push(Answer::Value(value));
                }
                gone @ Answer::Gone { .. } => answers.push(gone),
            }
        }
        Ok(answers)
    }

    async fn read_one(&self, need: &Wanted, ask: Ask<'_>, fresh: bool, pinned: bool) -> Result<Answer, Stop> {
        let Wanted {
            source,
            key,
            selector,
            recorded,
            ..
        } = need;
        // A drifted Secret that is not to be refreshed gets back what it held, if AWS still has it.
        if pinned
            && let Some(version) = recorded
            && let Ok(value) = self
                .reader
                .read(*source, key, &Selector::Version(version.clone()), ask)
                .await
        {
            return Ok(Answer::Value(value));
        }
        if let Known::Gone { deleted } = self.tracking.ask(|tracker| tracker.known(*source, key, selector)) {
            // Described as gone: reading it again would only be denied again. The tracker wakes us when it is back.
            if !fresh {
                return Ok(Answer::Gone { deleted });
            }
        }
        let read = if fresh {
            self.reader.read_fresh(*source, key, selector, ask).await
        } else {
            self.reader.read(*source, key, selector, ask).await
        };
        let value = match read {
            Ok(value) => value,
            Err(error) => return self.unread(need, &error).await,
        };
        match self.tracking.saw(*source, key, selector, &value) {
            // What stands is another version than was read: a stale replica answered, or a newer version came between.
            Known::Held {
                accepted: Some(stands),
                ..
            }
            | Known::Version(stands)
                if stands != value.version =>
            {
                self.pinned(need, ask, &stands).await
            }
            Known::Held { accepted: None, .. } => match recorded {
                Some(recorded) => self.pinned(need, ask, recorded).await,
                None => Err(Stop::Waiting),
            },
            _ => Ok(Answer::Value(value)),
        }
    }

    async fn pinned(&self, need: &Wanted, ask: Ask<'_>, version: &VersionId) -> Result<Answer, Stop> {
        let selector = Selector::Version(version.clone());
        let read = self.reader.read(need.source, &need.key, &selector, ask).await;
        read.map(Answer::Value).map_err(|error| match error.class() {
            // A version that stands may be unknown to a replica of AWS for a while.
            aws::Class::NotFound | aws::Class::StageNotFound => {
                Stop::Transient(Refusal::new(error.reason(), error.to_string()))
            }
            _ => Stop::of(&error),
        })
    }

    /// What a failed read means. "Not found" is believed only once `DescribeSecret` says so too.
    async fn unread(&self, need: &Wanted, error: &aws::Error) -> Result<Answer, Stop> {
        let Wanted {
            source,
            key,
            selector,
            ..
        } = need;
        let refusal = Refusal::new(error.reason(), error.to_string());
        if error.class().is_transient() {
            self.tracking.failed(*source, key, selector, error);
            return Err(Stop::Transient(refusal));
        }
        if !matches!(
            error.class(),
            aws::Class::NotFound | aws::Class::MarkedForDeletion
        ) {
            self.tracking.failed(*source, key, selector, error);
            return Err(refusal.into());
        }
        let observation = driver::look(&self.aws, *source, key).await;
        let known = self.tracking.tell(|tracker, now| {
            tracker.observe(now, observation);
            tracker.known(*source, key, selector)
        });
        if let Known::Gone { deleted } = known {
            return Ok(Answer::Gone { deleted });
        }
        self.tracking.failed(*source, key, selector, error);
        Err(refusal.into())
    }

    /// The name in AWS's answer is checked again: what was asked for and what came must both be allowed.
    fn admit(
        &self,
        object: &ObjectKey,
        entry: &Entry,
        resolved: &Resolved,
        value: &RemoteValue,
    ) -> Result<(), Stop> {
        if resolved
            .allowed
            .allows_answer(&value.name, &value.arn, resolved.home())
        {
            return Ok(());
        }
        self.audit_refusal(object, entry, &value.arn);
        Err(Refusal::new(
            Reason::KeyNotAllowed,
            format!(
                "{} does not allow what AWS answered: ask the store's administrator",
                resolved.label
            ),
        )
        .into())
    }
}

fn gone(need: &Wanted, deleted: bool) -> Refusal {
    let key = &need.key;
    if deleted {
        Refusal::new(
            Reason::MarkedForDeletion,
            format!(
                "secret {key} is marked for deletion in AWS (InvalidRequestException); the Secret is kept. Restore it with \
                 `aws secretsmanager restore-secret`, or remove the entry, or set target.deletionPolicy"
            ),
        )
    } else {
        Refusal::new(
            Reason::SecretNotFound,
            format!(
                "secret {key} does not exist in AWS (ResourceNotFoundException, confirmed by DescribeSecret); a Secret made \
                 before is kept. Create it, mend the key or the store's region, or set target.deletionPolicy"
            ),
        )
    }
}
