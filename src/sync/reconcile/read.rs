//! Reading what an ExternalSecret needs: the right version of each secret, or why it cannot be had.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures::{StreamExt as _, stream::FuturesUnordered};

use super::{
    Context, Stop,
    budget::{Allowance, MOST},
    write::BEHIND,
};
use crate::{
    api::{AllowedKeys, DeletionPolicy, ExternalSecret, ObjectKey, Reason, Selector, VersionId},
    aws::{self, Ask, RemoteValue, Urgency},
    sync::{
        decide::{
            answers::{Answer, EntryValue},
            references::{ReadRequest, Resolved},
        },
        driver,
        entry::Entry,
        queue::Class,
        resolve::Refusal,
        slice::TimeSlice,
    },
    track::{Freshness, Known, Tracker},
};

/// An object that reads more secrets than this has each value reduced to the wanted properties as it arrives. That takes
/// one more read of its spec, which is not kept: it may be large.
const WHOLE: usize = 8;

/// The answers for all entries, and the room that they take.
pub(super) struct Answers<'a> {
    pub(super) all: Vec<Answer>,
    room: Allowance<'a>,
}

/// A remote secret as it was read.
enum Reading {
    Value(Arc<RemoteValue>),
    Gone { deleted: bool },
}

impl Answers<'_> {
    /// Whether they take the one place for large values, for which others wait.
    pub(super) fn are_large(&self) -> bool {
        self.room.is_large()
    }
}

/// The entries by what they read, which is read once for all of them.
fn by_remote(needs: &[ReadRequest]) -> Vec<Vec<usize>> {
    let mut places = HashMap::new();
    let mut remotes: Vec<Vec<usize>> = Vec::new();
    for (index, need) in needs.iter().enumerate() {
        let place = *places
            .entry((need.source, &need.key, &need.selector))
            .or_insert(remotes.len());
        match remotes.get_mut(place) {
            Some(entries) => entries.push(index),
            None => remotes.push(vec![index]),
        }
    }
    remotes
}

/// What a pass reads by the selector. What is pinned is another version, and none that fails.
fn called(needs: &[ReadRequest], pinned: bool) -> impl Iterator<Item = &ReadRequest> {
    needs
        .iter()
        .filter(move |need| !pinned || need.recorded.is_none())
}

/// A pass must not call AWS for what is known to fail, unless a person has changed the object since. Then it may, but not
/// sooner than ten seconds after the last call for it. The same goes for what is known to be gone, for which only a fresh pass
/// calls.
fn withheld(
    tracker: &mut Tracker,
    now: Duration,
    needs: &[ReadRequest],
    freshness: Freshness,
    pinned: bool,
) -> Result<(), Stop> {
    let wants = called(needs, pinned).map(|need| (need.source, &*need.key, &need.selector));
    let Some(known) = tracker.withheld(now, freshness, wants) else {
        return Ok(());
    };
    let again = known.again.map(|again| again.saturating_sub(now));
    Err(match again {
        // What it means for the Secret is for a whole pass to say.
        Some(again) if known.is_gone() => Stop::Later(again),
        again => Stop::Known(driver::refusal(&known), again),
    })
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
        needs: &[ReadRequest],
        class: Class,
        fresh: bool,
        pinned: bool,
    ) -> Result<Answers<'_>, Stop> {
        let freshness = Freshness {
            since: self.recall(object).since(),
            fresh,
        };
        let remotes = by_remote(needs);
        let properties = if remotes.len() > WHOLE {
            // What must not be read needs no spec either.
            self.tracking
                .tell(|tracker, now| withheld(tracker, now, needs, freshness, pinned))?;
            Some(self.properties(object, entry).await?)
        } else {
            None
        };
        let since = self.permit(needs, freshness, pinned)?;
        let ask = Ask {
            asker: object,
            since: self.clock.instant(since),
            urgency: match class {
                Class::Urgent => Urgency::Fresh,
                Class::Periodic => Urgency::Periodic,
            },
            // Others have their values already and wait for a place to write.
            patient: !fresh && self.slots.secrets.is_crowded(),
        };
        let mut room = self.values.open(&object.namespace);
        let read = async |entries: Vec<usize>| {
            let need = entries.first().and_then(|first| needs.get(*first));
            let answer = match need {
                Some(need) => self.read_one(need, ask, since, freshness, pinned).await,
                None => Err(Stop::Waiting),
            };
            (entries, answer)
        };
        let mut reads = FuturesUnordered::new();
        let mut remotes = remotes.into_iter().peekable();
        let mut all: Vec<_> = needs.iter().map(|_| None).collect();
        let mut bytes = 0;
        loop {
            tokio::select! {
                biased;
                () = room.more(), if remotes.peek().is_some() => {
                    reads.extend(remotes.next().map(&read));
                }
                Some((entries, answer)) = reads.next() => {
                    let (answers, kept) = answers(&entries, answer, properties.as_deref());
                    room.keep(kept);
                    bytes += kept;
                    if bytes > MOST {
                        return Err(too_large(needs.len()).into());
                    }
                    for (index, answer) in entries.into_iter().zip(answers) {
                        if let Some(place) = all.get_mut(index) {
                            *place = Some(answer);
                        }
                    }
                }
                else => break,
            }
        }
        drop(reads);
        let allowed = Self::allowed(object, resolved)?;
        let mut slice = TimeSlice::start(self.clock);
        let mut answers = Vec::with_capacity(needs.len());
        for (answer, need) in all.into_iter().zip(needs) {
            // Of entries that read one secret only the first has the error.
            match answer.unwrap_or(Err(Stop::Waiting))? {
                Answer::Gone { deleted } if entry.deletion == DeletionPolicy::Retain => {
                    return Err(gone(need, deleted).into());
                }
                Answer::Value(value) => {
                    slice.yield_if_spent().await;
                    self.admit(object, entry, resolved, allowed, &value)?;
                    answers.push(Answer::Value(value));
                }
                gone @ Answer::Gone { .. } => answers.push(gone),
            }
        }
        Ok(Answers { all: answers, room })
    }

    /// Notes the calls that a pass is about to make, if it may make them. Gives since when an answer counts.
    fn permit(&self, needs: &[ReadRequest], freshness: Freshness, pinned: bool) -> Result<Duration, Stop> {
        self.tracking.tell(|tracker, now| {
            withheld(tracker, now, needs, freshness, pinned)?;
            let mut since = freshness.since;
            for need in called(needs, pinned) {
                if tracker.lend(now, need.source, &need.key, &need.selector, freshness) {
                    // Only a call that begins now tells more than is known.
                    since = now;
                }
            }
            Ok(since)
        })
    }

    /// The property that each entry takes of its value, from the live spec.
    async fn properties(&self, object: &ObjectKey, entry: &Entry) -> Result<Vec<Option<String>>, Stop> {
        let live = self.writer.cluster().find::<ExternalSecret>(object).await;
        let live = live.map_err(Stop::Kubernetes)?.ok_or(Stop::Later(BEHIND))?;
        let same = Entry::of(object, &live, self.min_interval, self.restart_default);
        if same.uid != entry.uid || same.revision != entry.revision {
            return Err(Stop::Later(BEHIND));
        }
        let entries = live.spec.entries();
        Ok(entries
            .map(|entry| entry.remote.property().map(str::to_owned))
            .collect())
    }

    async fn read_one(
        &self,
        need: &ReadRequest,
        ask: Ask<'_>,
        since: Duration,
        freshness: Freshness,
        pinned: bool,
    ) -> Result<Reading, Stop> {
        let ReadRequest {
            source,
            key,
            selector,
            recorded,
            ..
        } = need;
        // Described as gone: reading it again would only be denied again, whichever version. The tracker wakes us when it is back.
        let known = self.tracking.ask(|tracker| {
            let is_known = tracker.is_gone_for(*source, key, freshness);
            is_known.then(|| tracker.known(*source, key, selector))
        });
        if let Some(Known::Gone { deleted }) = known {
            return Ok(Reading::Gone { deleted });
        }
        // A drifted Secret that is not to be refreshed gets back what it held, if AWS still has it.
        if pinned
            && let Some(version) = recorded
            && let Ok(value) = self
                .reader
                .read(*source, key, &Selector::Version(version.clone()), ask)
                .await
        {
            return Ok(Reading::Value(value));
        }
        let read = if freshness.fresh {
            self.reader.read_fresh(*source, key, selector, ask).await
        } else {
            self.reader.read(*source, key, selector, ask).await
        };
        let value = match read {
            Ok(value) => value,
            Err(error) => return self.unread(need, &error, since).await,
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
            _ => Ok(Reading::Value(value)),
        }
    }

    async fn pinned(&self, need: &ReadRequest, ask: Ask<'_>, version: &VersionId) -> Result<Reading, Stop> {
        let selector = Selector::Version(version.clone());
        let read = self.reader.read(need.source, &need.key, &selector, ask).await;
        read.map(Reading::Value).map_err(|error| match error.class() {
            // A version that stands may be unknown to a replica of AWS for a while.
            aws::Class::NotFound | aws::Class::StageNotFound => {
                Stop::Transient(Refusal::new(error.reason(), error.to_string()))
            }
            _ => Stop::of(&error),
        })
    }

    /// What a failed read means. "Not found" is believed only once `DescribeSecret` says so too.
    async fn unread(&self, need: &ReadRequest, error: &aws::Error, since: Duration) -> Result<Reading, Stop> {
        let ReadRequest {
            source,
            key,
            selector,
            ..
        } = need;
        let refusal = Refusal::new(error.reason(), error.to_string());
        if error.class().is_transient() {
            self.tracking.failed(*source, key, selector, error, since, false);
            return Err(Stop::Transient(refusal));
        }
        if !matches!(
            error.class(),
            aws::Class::NotFound | aws::Class::MarkedForDeletion
        ) {
            self.tracking.failed(*source, key, selector, error, since, false);
            return Err(refusal.into());
        }
        let observation = driver::look(&self.tracking, &self.aws, *source, key).await;
        let known = self.tracking.tell(|tracker, now| {
            tracker.observe(now, observation);
            tracker.known(*source, key, selector)
        });
        if let Known::Gone { deleted } = known {
            return Ok(Reading::Gone { deleted });
        }
        self.tracking.failed(*source, key, selector, error, since, true);
        Err(refusal.into())
    }

    /// Patterns were checked when the keys were.
    fn allowed<'a>(object: &'a ObjectKey, resolved: &'a Resolved) -> Result<AllowedKeys<'a>, Refusal> {
        let patterns = resolved.usable.spec.allowed_keys.as_deref();
        AllowedKeys::new(patterns, &object.namespace)
            .map_err(|bad| Refusal::new(Reason::StoreNotReady, format!("{}: {bad}", resolved.label)))
    }

    /// The name in AWS's answer is checked again: what was asked for and what came must both be allowed.
    fn admit(
        &self,
        object: &ObjectKey,
        entry: &Entry,
        resolved: &Resolved,
        allowed: AllowedKeys<'_>,
        value: &EntryValue,
    ) -> Result<(), Stop> {
        if allowed.allows_answer(&value.name, &value.arn, resolved.usable.home()) {
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

/// What a reading means for each of the entries that wait for it, and how many bytes of it they keep.
fn answers(
    entries: &[usize],
    reading: Result<Reading, Stop>,
    properties: Option<&[Option<String>]>,
) -> (Vec<Result<Answer, Stop>>, usize) {
    let value = match reading {
        Ok(Reading::Value(value)) => value,
        Ok(Reading::Gone { deleted }) => {
            let gone = entries.iter().map(|_| Ok(Answer::Gone { deleted }));
            return (gone.collect(), 0);
        }
        Err(stop) => return (vec![Err(stop)], 0),
    };
    let wanted: Vec<Option<&str>> = entries
        .iter()
        .map(|index| properties?.get(*index)?.as_deref())
        .collect();
    let (values, bytes) = EntryValue::of_each(&value, &wanted);
    let answers = values.into_iter().map(|value| Ok(Answer::Value(value)));
    (answers.collect(), bytes)
}

fn too_large(entries: usize) -> Refusal {
    Refusal::new(
        Reason::TooLarge,
        format!(
            "the values of the {entries} entries are larger than the {MOST} bytes that one ExternalSecret may read: \
             split it"
        ),
    )
}

fn gone(need: &ReadRequest, deleted: bool) -> Refusal {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::SourceId;

    #[test]
    fn entries_that_read_one_secret_read_it_once() {
        let need = |source, key: &str, stage| ReadRequest {
            source: SourceId(source),
            key: key.into(),
            selector: Selector::parse(stage),
            hash: String::new(),
            recorded: None,
            absent: false,
        };
        let needs = [
            need(1, "a", None),
            need(1, "b", None),
            need(1, "a", Some("AWSPREVIOUS")),
            need(1, "a", None),
            need(2, "a", None),
        ];
        let expected: [&[usize]; 4] = [&[0, 3], &[1], &[2], &[4]];
        assert_eq!(by_remote(&needs), expected);
    }
}
