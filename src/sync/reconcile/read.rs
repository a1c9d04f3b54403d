//! Reading what an ExternalSecret needs: the right version of each secret, or why it cannot be had.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures::{StreamExt as _, stream::FuturesUnordered};

use super::{
    outcome::{Refused, Stop},
    pass::Pass,
    timing::{BEHIND, RECHECK_HELD},
    value_budget::{Allowance, MOST},
};
use crate::{
    api::{AllowedKeys, CreationPolicy, DeletionPolicy, ExternalSecret, Reason, Selector, VersionId},
    aws::{self, Age, Aws, Demand, Patience, RemoteValue, SECRETS_MANAGER, Urgency},
    objects::status::Verdict,
    sync::{
        decide::{
            answers::{Answer, EntryValue},
            comparison::Comparison,
            references::{ReadRequest, Resolved},
        },
        driver::{self, FailedRead},
        queue::Class,
        resolve::Refusal,
        slice::TimeSlice,
    },
    track::{Freshness, Known, Tracker},
};

/// An object that reads more secrets than this has each value reduced to the wanted properties as it arrives. That takes
/// one more read of its spec, which is not kept: it may be large.
const WHOLE: usize = 8;

/// A version that is doubted stands in the way.
const HELD: Stop = Stop::WaitFor(Some(RECHECK_HELD));

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

/// Which version of each secret is read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Target {
    /// The one that the entry selects.
    Selected,
    /// The one that the Secret held, while AWS has it: a drifted Secret that is not to be refreshed gets back what it held.
    Recorded,
}

/// How the needs of one pass are read.
#[derive(Clone, Copy)]
struct ReadMode<'a> {
    needs: &'a [ReadRequest],
    /// How new an answer it needs.
    freshness: Freshness,
    target: Target,
}

/// A read that AWS may be called for.
#[derive(Clone, Copy)]
struct Permit<'a> {
    mode: ReadMode<'a>,
    demand: Demand<'a>,
    /// Since when an answer counts.
    since: Duration,
}

impl<'a> ReadMode<'a> {
    /// What is read by the selector. What the Secret held is another version, and none that fails.
    fn called(self) -> impl Iterator<Item = &'a ReadRequest> {
        let needs = self.needs.iter();
        needs.filter(move |need| self.target == Target::Selected || need.recorded.is_none())
    }

    /// A pass must not call AWS for what is known to fail, unless a person has changed the object since. Then it may, but not
    /// sooner than ten seconds after the last call for it. The same goes for what is known to be gone, for which only a fresh
    /// pass calls.
    fn check_withheld(self, tracker: &Tracker, now: Duration, aws: &Aws) -> Result<(), Stop> {
        let wants = self
            .called()
            .map(|need| (need.source, &*need.key, &need.selector));
        let Some(known) = tracker.withheld(now, self.freshness, wants) else {
            return Ok(());
        };
        let again = known.again.map(|again| again.saturating_sub(now));
        // What it means for the Secret is for a whole pass to say.
        if again.is_some() && known.is_gone() {
            return Err(Stop::WaitFor(again));
        }
        let service = aws.service(known.source).unwrap_or(&SECRETS_MANAGER);
        let Refusal { reason, message } = driver::refusal(&known, service);
        let ready = Verdict::fails(reason, message);
        Err(Stop::Refused(Refused { ready, again }))
    }
}

impl<'a> Pass<'a> {
    /// Reads every need, and takes a place to write what is made of them.
    pub(super) async fn read(&self, comparison: &Comparison) -> Result<Answers<'a>, Stop> {
        let asked = self.is_asked(comparison);
        if asked {
            let now = self.context.clock.now();
            let mut is_new = false;
            self.remember(|memory| is_new = memory.call_for(self.entry.annotations.refresh, now));
            if is_new {
                let tracking = &self.context.provider.tracking;
                tracking.tell(|tracker, now| tracker.refresh_facts(now, self.object));
            }
            self.context
                .provider
                .aws
                .recheck(comparison.resolved.usable.id)
                .await;
        }
        let since = self.recall().since();
        let mode = ReadMode {
            needs: &comparison.resolved.needs,
            freshness: if asked || comparison.is_edited(self.entry) {
                Freshness::Asked(since)
            } else {
                Freshness::Known(since)
            },
            target: if comparison.is_pinned(self.entry) {
                Target::Recorded
            } else {
                Target::Selected
            },
        };
        let read = self.read_all(mode, &comparison.resolved);
        let (read, ()) = tokio::join!(read, self.try_denied(&comparison.resolved, asked));
        let answers = read?;
        if asked {
            self.remember(|memory| memory.refresh.answered = Some(self.entry.annotations.refresh));
        }
        // What is gone is judged by the account that was asked. To find it out may take long, and holds no place to write.
        if self.entry.spec.creation != CreationPolicy::None && answers.all.iter().any(Answer::is_gone) {
            let proven = self
                .context
                .provider
                .aws
                .prove(comparison.resolved.usable.id)
                .await;
            proven.map_err(|error| self.unproven(&error))?;
        }
        let places = &self.context.capacity.slots.secrets;
        // The one place for large values is given back where writes take long: they are read again then.
        let slot = if answers.room.is_large() {
            places.take_soon(&self.object.namespace).await
        } else {
            places.take(&self.object.namespace).await
        };
        self.keep_slot(slot.map_err(|wait| Stop::WaitFor(Some(wait)))?);
        Ok(answers)
    }

    /// Somebody asks for a refresh: what the source was denied is tried again, if that is due.
    async fn try_denied(&self, resolved: &Resolved, asked: bool) {
        if asked {
            let keys: Vec<_> = resolved.needs.iter().map(|need| need.key.clone()).collect();
            let context = self.context;
            driver::try_denied(&context.provider, resolved.usable.id, &keys).await;
        }
    }

    /// Reads every need, and stops at the first in the spec's order that cannot be had.
    async fn read_all(&self, mode: ReadMode<'_>, resolved: &Resolved) -> Result<Answers<'a>, Stop> {
        let remotes = by_remote(mode.needs);
        let properties = if remotes.len() > WHOLE {
            // What must not be read needs no spec either.
            self.context
                .provider
                .tracking
                .tell(|tracker, now| mode.check_withheld(tracker, now, &self.context.provider.aws))?;
            Some(self.properties().await?)
        } else {
            None
        };
        let permit = self.permit(mode)?;
        let mut room = self.context.capacity.values.open(&self.object.namespace);
        let read = async |entries: Vec<usize>| {
            let need = entries.first().and_then(|first| mode.needs.get(*first));
            let answer = match need {
                Some(need) => self.read_one(need, permit).await,
                None => Err(HELD),
            };
            (entries, answer)
        };
        let mut reads = FuturesUnordered::new();
        let mut remotes = remotes.into_iter().peekable();
        let mut all: Vec<_> = mode.needs.iter().map(|_| None).collect();
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
                        return Err(too_large(mode.needs.len()).into());
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
        let all = self.check_answers(mode.needs, all, resolved).await?;
        Ok(Answers { all, room })
    }

    /// The answers in the spec's order, all of them allowed, or the first error.
    async fn check_answers(
        &self,
        needs: &[ReadRequest],
        all: Vec<Option<Result<Answer, Stop>>>,
        resolved: &Resolved,
    ) -> Result<Vec<Answer>, Stop> {
        let allowed = self.allowed(resolved)?;
        let mut slice = TimeSlice::start(self.context.clock);
        let mut answers = Vec::with_capacity(needs.len());
        for (answer, need) in all.into_iter().zip(needs) {
            // Of entries that read one secret only the first has the error.
            let answer = answer.unwrap_or(Err(HELD))?;
            match &answer {
                Answer::Gone { deleted } if self.entry.spec.deletion == DeletionPolicy::Retain => {
                    return Err(gone(need, *deleted).into());
                }
                Answer::Value(value) => {
                    slice.yield_if_spent().await;
                    self.check_answer(resolved, allowed, value)?;
                }
                Answer::Gone { .. } => {}
            }
            answers.push(answer);
        }
        Ok(answers)
    }

    /// Notes the calls that a pass is about to make, if it may make them.
    fn permit<'b>(&'b self, mode: ReadMode<'b>) -> Result<Permit<'b>, Stop> {
        let since = self.context.provider.tracking.tell(|tracker, now| {
            mode.check_withheld(tracker, now, &self.context.provider.aws)?;
            let mut since = mode.freshness.since();
            for need in mode.called() {
                if tracker.lend(now, (need.source, &need.key, &need.selector), mode.freshness) {
                    // Only a call that begins now tells more than is known.
                    since = now;
                }
            }
            Ok::<_, Stop>(since)
        })?;
        let demand = Demand {
            asker: self.object,
            age: match mode.freshness {
                Freshness::Known(_) => Age::Since(self.context.clock.instant(since)),
                Freshness::Asked(_) => Age::New,
            },
            urgency: match self.class {
                Class::Urgent => Urgency::Fresh,
                Class::Periodic => Urgency::Periodic,
            },
            patience: match mode.freshness {
                // Others have their values already and wait for a place to write.
                Freshness::Known(_) if self.context.capacity.slots.secrets.is_crowded() => Patience::Long,
                Freshness::Known(_) | Freshness::Asked(_) => Patience::Short,
            },
        };
        Ok(Permit { mode, demand, since })
    }

    /// The property that each entry takes of its value, from the live spec.
    async fn properties(&self) -> Result<Vec<Option<String>>, Stop> {
        let cluster = self.context.view.writer.cluster();
        let live = cluster.find::<ExternalSecret>(self.object).await;
        let live = live
            .map_err(|error| self.kubernetes(&error))?
            .ok_or(Stop::WaitFor(Some(BEHIND)))?;
        let live = self.same_revision(live)?;
        let entries = live.object.spec.entries();
        Ok(entries
            .map(|entry| entry.remote.property().map(str::to_owned))
            .collect())
    }

    async fn read_one(&self, need: &ReadRequest, permit: Permit<'_>) -> Result<Reading, Stop> {
        let ReadRequest {
            source,
            key,
            selector,
            recorded,
            ..
        } = need;
        let Permit { mode, demand, since } = permit;
        let (tracking, reader) = (&self.context.provider.tracking, &self.context.provider.reader);
        // A version by id never changes: any answer will do.
        let of_version = Demand {
            age: Age::Since(self.context.clock.instant(since)),
            ..demand
        };
        // Described as gone: reading it again would only be denied again, whichever version. The tracker wakes us when it is back.
        let known = tracking.ask(|tracker| {
            let is_known = tracker.is_gone_for(*source, key, mode.freshness);
            is_known.then(|| tracker.known(*source, key, selector))
        });
        if let Some(Known::Gone { deleted }) = known {
            return Ok(Reading::Gone { deleted });
        }
        if mode.target == Target::Recorded
            && let Some(version) = recorded
        {
            let selector = Selector::Version(version.clone());
            if let Ok(value) = reader.read(*source, key, &selector, of_version).await {
                return Ok(Reading::Value(value));
            }
        }
        let value = match reader.read(*source, key, selector, demand).await {
            Ok(value) => value,
            Err(error) => return self.unread(need, &error, since).await,
        };
        match tracking.saw(*source, key, selector, &value) {
            // What stands is another version than was read: a stale replica answered, or a newer version came between.
            Known::Held {
                accepted: Some(stands),
                ..
            }
            | Known::Version(stands)
                if stands != value.version =>
            {
                self.read_version(need, of_version, &stands).await
            }
            Known::Held { accepted: None, .. } => match recorded {
                Some(recorded) => self.read_version(need, of_version, recorded).await,
                None => Err(HELD),
            },
            _ => Ok(Reading::Value(value)),
        }
    }

    async fn read_version(
        &self,
        need: &ReadRequest,
        demand: Demand<'_>,
        version: &VersionId,
    ) -> Result<Reading, Stop> {
        let selector = Selector::Version(version.clone());
        let read = self
            .context
            .provider
            .reader
            .read(need.source, &need.key, &selector, demand)
            .await;
        read.map(Reading::Value).map_err(|error| match error.class() {
            // A version that stands may be unknown to a replica of AWS for a while.
            aws::Class::NotFound | aws::Class::StageNotFound => {
                Stop::Transient(Refusal::new(error.reason(), error.to_string()))
            }
            _ => Stop::from(&*error),
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
        let tracking = &self.context.provider.tracking;
        let failed = FailedRead {
            source: *source,
            key,
            selector,
            begun: since,
            described: false,
        };
        if !matches!(
            error.class(),
            aws::Class::NotFound | aws::Class::MarkedForDeletion
        ) {
            tracking.failed(&failed, error);
            return Err(error.into());
        }
        let observation = driver::look(tracking, &self.context.provider.aws, *source, key).await;
        let known = tracking.tell(|tracker, now| {
            tracker.observe(now, observation);
            tracker.known(*source, key, selector)
        });
        if let Known::Gone { deleted } = known {
            return Ok(Reading::Gone { deleted });
        }
        let failed = FailedRead {
            described: true,
            ..failed
        };
        tracking.failed(&failed, error);
        Err(error.into())
    }

    /// Patterns were checked when the keys were.
    fn allowed<'b>(&'b self, resolved: &'b Resolved) -> Result<AllowedKeys<'b>, Refusal> {
        let patterns = resolved.usable.spec.allowed_keys.as_deref();
        AllowedKeys::new(patterns, &self.object.namespace)
            .map_err(|bad| Refusal::new(Reason::StoreNotReady, format!("{}: {bad}", resolved.label)))
    }

    /// The name in AWS's answer is checked again: what was asked for and what came must both be allowed.
    fn check_answer(
        &self,
        resolved: &Resolved,
        allowed: AllowedKeys<'_>,
        value: &EntryValue,
    ) -> Result<(), Stop> {
        if allowed.allows_answer(&value.name, &value.arn, resolved.usable.home()) {
            return Ok(());
        }
        self.audit_refusal(Reason::KeyNotAllowed, &value.arn);
        // The tracker asks again for what AWS refuses; what was refused of an answer it knows nothing of.
        Err(self.refuse(Refusal::new(
            Reason::KeyNotAllowed,
            format!(
                "{} does not allow what AWS answered: ask the store's administrator",
                resolved.label
            ),
        )))
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
            "The values of the {entries} entries are larger than the {MOST} bytes that one ExternalSecret may read. Split \
             the ExternalSecret."
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
