//! One source: its secrets, their lanes, its queue.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use crate::{
    api::{Selector, SourceId, VersionId, arn},
    track::{
        Call, Cause, Config, Detection, Effect, Freshness, Mode, Now, SourcePolicy, Trial, Want,
        backoff::{Backoff, Gate},
        cohort::Cohorts,
        dice::Dice,
        names::Arn,
        objects::{Object, ObjectId, Objects, Wakes},
        plan::{Class, Plan, SLOW},
        remote::{Lane, Remote, RemoteId},
        round::Round,
        view::{Recorded, View},
    },
};

/// An effect that was not answered for this long is lost, and asked for again.
pub(super) const LOST: Duration = Duration::from_mins(5);
/// What is denied is tried at most once in this time for those who ask for a refresh: List and Batch for the source, Describe
/// for each secret.
const TRIAL: Duration = Duration::from_mins(5);
/// Between trials of Describe for a source, whichever secrets they are of.
const BETWEEN_DESCRIBES: Duration = Duration::from_secs(1);
/// Secrets of a source that are in flight at most, so that the end of an outage brings no storm.
pub(super) const IN_FLIGHT: usize = 320;

/// What every step needs.
pub(super) struct Context<'a> {
    pub(super) now: Now,
    pub(super) config: &'a Config,
    pub(super) dice: &'a mut Dice,
    pub(super) objects: &'a mut Objects,
    pub(super) wakes: &'a mut Wakes,
    pub(super) effects: &'a mut Vec<Effect>,
}

/// What is due in a source's queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Task {
    /// A denial is old enough to be tried again.
    Retry,
    Sweep,
    Cohort(u32),
    Remote(RemoteId),
}

#[derive(Debug, Default)]
pub(super) struct Sweeping {
    /// Its place in the queue.
    pub(super) queued: Option<Now>,
    pub(super) asked: Option<Now>,
    /// Secrets in the lane, by interval.
    pub(super) lane: BTreeMap<Duration, usize>,
    pub(super) number: u32,
    pub(super) seen: usize,
    pub(super) started: Now,
    /// How many secrets the last complete sweep has shown.
    pub(super) total: usize,
    pub(super) done: bool,
    /// Secrets that no sweep checks wait for their first look since the start, which one listing gives to all.
    pub(super) looking: bool,
    /// Pages of the listing under way.
    pub(super) pages: usize,
    /// How many pages that first look is worth.
    pub(super) worth: usize,
}

/// What the source was denied, and what of it was tried again.
#[derive(Debug, Default)]
pub(super) struct Denials {
    /// Until when what was denied is not tried again. Of Describe, until when all secrets are tried again of which it was.
    pub(super) list: Option<Now>,
    pub(super) batch: Option<Now>,
    pub(super) describe: Option<Now>,
    /// When List and Batch, as far as they are denied, were last tried for somebody who asked for a refresh.
    pub(super) tried: Option<Now>,
    /// When Describe was, of which secrets. Of one a second, for as long as it is not tried again.
    pub(super) describes_tried: BTreeMap<RemoteId, Now>,
}

/// How the source is checked, and what that depends on.
#[derive(Debug, Default)]
pub(super) struct Checking {
    pub(super) classes: BTreeMap<Duration, Class>,
    pub(super) rotating: usize,
    pub(super) plan: Plan,
    pub(super) replan: bool,
    pub(super) mode: Option<Mode>,
    pub(super) raised: bool,
}

/// The calls of the source, under way and answered.
#[derive(Debug, Default)]
pub(super) struct Calls {
    /// Calls under way in the order of their start; answered ones are skipped when they come to the front.
    pub(super) flights: VecDeque<(Now, RemoteId)>,
    pub(super) flying: usize,
    /// When a call was last answered.
    pub(super) answered: Option<Now>,
    /// When calls for one secret alone last failed for a reason that passes: reads of a version, or Describe.
    pub(super) doubts: BTreeMap<(RemoteId, Option<Selector>), Now>,
    /// What reads under way are of, where it is not AWSCURRENT.
    pub(super) reading: BTreeMap<RemoteId, Selector>,
    /// The reads that stand in for a Describe which is denied.
    pub(super) rounds: BTreeMap<RemoteId, Round>,
}

#[derive(Debug)]
pub(super) struct Source {
    pub(super) id: SourceId,
    pub(super) policy: Option<SourcePolicy>,
    pub(super) names: HashMap<Arc<str>, RemoteId>,
    pub(super) remotes: BTreeMap<RemoteId, Box<Remote>>,
    last: RemoteId,
    pub(super) queue: BTreeSet<(Now, Task)>,
    pub(super) cohorts: Cohorts,
    pub(super) sweep: Sweeping,
    pub(super) backoff: Backoff,
    /// Secrets whose subscribers have changed since the last poll.
    pub(super) dirty: BTreeSet<RemoteId>,
    /// Objects that wait for a refresh of a secret.
    pub(super) waiting: BTreeMap<RemoteId, Vec<ObjectId>>,
    pub(super) denials: Denials,
    pub(super) checking: Checking,
    pub(super) calls: Calls,
    /// Its place in the tracker's agenda.
    pub(super) agenda: Option<Now>,
}

impl Source {
    pub(super) fn new(id: SourceId) -> Self {
        Self {
            id,
            policy: None,
            names: HashMap::new(),
            remotes: BTreeMap::new(),
            last: 0,
            queue: BTreeSet::new(),
            cohorts: Cohorts::default(),
            sweep: Sweeping::default(),
            backoff: Backoff::default(),
            dirty: BTreeSet::new(),
            waiting: BTreeMap::new(),
            denials: Denials::default(),
            checking: Checking {
                replan: true,
                ..Checking::default()
            },
            calls: Calls::default(),
            agenda: None,
        }
    }

    /// Says whether that changes anything.
    pub(super) fn set_policy(&mut self, policy: Option<SourcePolicy>) -> bool {
        if self.policy == policy {
            return false;
        }
        if let Some(policy) = &policy {
            self.cohorts.set_size(policy.sizes.batch);
        }
        self.policy = policy;
        self.forget_denials();
        self.checking.raised = false;
        self.dirty.extend(self.remotes.keys());
        true
    }

    /// What was denied may be allowed by now.
    fn forget_denials(&mut self) {
        self.denials.list = None;
        self.denials.batch = None;
        self.checking.replan = true;
        self.forget_denied_describes();
    }

    /// Describe may be allowed by now, of whichever secret.
    pub(super) fn forget_denied_describes(&mut self) {
        self.denials.describe = None;
        for remote in self.remotes.values_mut() {
            remote.undescribed = false;
        }
    }

    /// Who asks AWS is another one, or may do other things: what was denied and what failed is tried again now.
    pub(super) fn retry_all(&mut self, now: Now) {
        self.forget_denials();
        self.backoff.cut(now);
        let mut failing = Vec::new();
        for (id, remote) in &mut self.remotes {
            if remote.retry(now) {
                failing.push(*id);
            }
        }
        for id in failing {
            self.requeue(id);
        }
    }

    /// What was denied and is worth another try, now that somebody asks for a refresh of these secrets. However often that
    /// happens, List and Batch are tried once in five minutes, and so is Describe of one secret, so that those who share the
    /// source do not use up each other's trials. A trial that fails changes nothing.
    pub(super) fn trial<'a>(
        &mut self,
        now: Now,
        keys: impl IntoIterator<Item = &'a Arc<str>>,
    ) -> Option<Trial> {
        let is_due = |tried: Option<Now>, pause| tried.is_none_or(|tried| tried + pause <= now);
        let source = is_due(self.denials.tried, TRIAL);
        let mut trial = Trial {
            list: source && self.denials.list.is_some(),
            batch: source && self.denials.batch.is_some(),
            describe: None,
        };
        if trial != Trial::default() {
            self.denials.tried = Some(now);
        }
        self.denials
            .describes_tried
            .retain(|_, tried| !is_due(Some(*tried), TRIAL));
        if is_due(
            self.denials.describes_tried.values().max().copied(),
            BETWEEN_DESCRIBES,
        ) {
            let untried = |key: &&Arc<str>| {
                let id = self.names.get(*key);
                id.is_some_and(|id| !self.denials.describes_tried.contains_key(id))
                    && self.remote(key).is_some_and(|remote| remote.undescribed)
            };
            trial.describe = keys.into_iter().find(untried).cloned();
        }
        if let Some(id) = trial.describe.as_ref().and_then(|key| self.names.get(key)) {
            self.denials.describes_tried.insert(*id, now);
        }
        (trial != Trial::default()).then_some(trial)
    }

    /// A trial went well.
    pub(super) fn permit(&mut self, call: Call) {
        match call {
            Call::List => self.denials.list = None,
            Call::Read => self.denials.batch = None,
            Call::Describe => self.forget_denied_describes(),
        }
        self.checking.replan = true;
    }

    pub(super) fn remote(&self, key: &str) -> Option<&Remote> {
        self.remotes.get(self.names.get(key)?).map(Box::as_ref)
    }

    /// The secret that a key or ARN of an event means.
    pub(super) fn find(&self, key: &str) -> Option<RemoteId> {
        let exact = self.names.get(key).or_else(|| {
            self.names
                .get(arn::without_suffix(key).filter(|_| arn::is_arn(key))?)
        });
        exact.copied().or_else(|| {
            let resource = Arn::parse(key).filter(|_| !self.is_foreign(key))?.resource;
            let name = arn::without_suffix(resource).and_then(|name| self.names.get(name));
            name.or_else(|| self.names.get(resource)).copied()
        })
    }

    /// Whether the key may lie in another account or region.
    pub(super) fn is_foreign(&self, key: &str) -> bool {
        let Some(arn) = Arn::parse(key) else {
            return arn::is_arn(key);
        };
        self.policy.as_ref().is_none_or(|policy| {
            *arn.region != *policy.region || policy.account.as_deref() != Some(arn.account)
        })
    }

    /// Adds a want. Gives whether the object holds a version that has been left.
    pub(super) fn want(&mut self, now: Now, object: ObjectId, want: Want, once: bool) -> Recorded {
        let id = self.names.get(&want.key).copied().unwrap_or_else(|| {
            self.last = self.last.wrapping_add(1);
            while self.remotes.contains_key(&self.last) {
                self.last = self.last.wrapping_add(1);
            }
            let foreign = self.is_foreign(&want.key);
            self.remotes
                .insert(self.last, Box::new(Remote::new(want.key.clone(), foreign)));
            self.names.insert(want.key.clone(), self.last);
            self.last
        });
        self.dirty.insert(id);
        let Some(remote) = self.remotes.get_mut(&id) else {
            return Recorded::Agrees;
        };
        if arn::is_arn(&remote.key) && !arn::is_arn(&want.key) {
            let arn = std::mem::replace(&mut remote.key, want.key.clone());
            remote.aliases.retain(|alias| *alias != want.key);
            remote.aliases.push(arn);
        }
        if !remote.subscribers.contains(&object) {
            remote.subscribers.push(object);
        }
        let view = remote.view_mut(&want.selector);
        let recorded = want
            .recorded
            .map_or(Recorded::Agrees, |version| view.record(now, version));
        let blank = remote.views.iter().any(View::is_blank);
        if recorded == Recorded::Disputed || (once && blank && remote.urgent.is_none()) {
            let at = if recorded == Recorded::Disputed {
                now
            } else {
                now + LOST
            };
            remote.urgent = Some(remote.urgent.map_or(at, |urgent| urgent.min(at)));
        }
        recorded
    }

    /// The object no longer wants the key.
    pub(super) fn unwant(&mut self, object: ObjectId, key: &str, objects: &Objects) {
        let Some(id) = self.names.get(key).copied() else {
            return;
        };
        self.dirty.insert(id);
        let still = objects.get(object).is_some_and(|object| {
            object
                .wants
                .iter()
                .any(|w| w.source == self.id && self.names.get(&w.key) == Some(&id))
        });
        let Some(remote) = self.remotes.get_mut(&id) else {
            return;
        };
        if still {
            return;
        }
        if let Some(at) = remote
            .subscribers
            .iter()
            .position(|subscriber| *subscriber == object)
        {
            remote.subscribers.swap_remove(at);
        }
        if remote.subscribers.is_empty() {
            self.forget(id);
        }
    }

    /// Whether this secret is one that the first look after a start is for: a Secret holds it, nobody has asked for it
    /// yet, its turn may be far, and its interval bears the lag of `ListSecrets`.
    pub(super) fn is_unseen(&self, remote: &Remote) -> bool {
        let Some(policy) = self.policy.as_ref() else {
            return false;
        };
        policy.detection == Detection::Auto
            && matches!(remote.lane, Lane::Cohort(_) | Lane::Own(_))
            && !remote.foreign
            && remote.checked.is_none()
            && remote
                .interval
                .is_some_and(|interval| policy.events || interval >= SLOW)
            && !remote.views.iter().all(View::is_blank)
    }

    /// The object is no longer to be told of a check.
    pub(super) fn stop_waiting(&mut self, object: ObjectId, key: &str) {
        if let Some(waiting) = self.names.get(key).and_then(|id| self.waiting.get_mut(id)) {
            waiting.retain(|waiting| *waiting != object);
        }
    }

    /// Checks the secret now for the object. Gives whether an answer is to come.
    pub(super) fn refresh(&mut self, now: Now, object: ObjectId, key: &str) -> bool {
        let Some(id) = self.names.get(key).copied() else {
            return false;
        };
        let Some(remote) = self.remotes.get_mut(&id) else {
            return false;
        };
        let waiting = self.waiting.entry(id).or_default();
        if waiting.contains(&object) {
            return false;
        }
        waiting.push(object);
        remote.urgent = Some(now);
        self.requeue(id);
        true
    }

    /// A person asks for a refresh of an object that follows the rotation of this secret.
    pub(super) fn describe_facts(&mut self, now: Now, key: &str) {
        if let Some(id) = self.names.get(key).copied()
            && let Some(remote) = self.remotes.get_mut(&id)
        {
            remote.describe_facts(now);
            self.requeue(id);
        }
    }

    /// A pass reads the secret for itself.
    pub(super) fn lend(&mut self, now: Now, key: &str, selector: &Selector, freshness: Freshness) -> bool {
        let Some(id) = self.names.get(key).copied() else {
            return false;
        };
        let failing = self
            .remotes
            .get_mut(&id)
            .is_some_and(|remote| remote.lend(now, selector, freshness));
        if failing {
            self.requeue(id);
        }
        failing
    }

    /// Whether Describe has shown twice that the secret is gone. Asks for the second time if not.
    pub(super) fn confirm_gone(&mut self, key: &str) -> bool {
        let Some(id) = self.names.get(key).copied() else {
            return false;
        };
        let confirmed = self
            .remotes
            .get_mut(&id)
            .is_some_and(|remote| remote.confirm_gone());
        self.requeue(id);
        confirmed
    }

    /// An event has told of the secret.
    pub(super) fn hint(&mut self, now: Now, key: &str, expected: Option<VersionId>) {
        let Some(id) = self.find(key) else { return };
        let Some(remote) = self
            .remotes
            .get_mut(&id)
            .filter(|remote| remote.interval.is_some())
        else {
            return;
        };
        remote.hint(now, expected);
        self.requeue(id);
    }

    pub(super) fn forget(&mut self, id: RemoteId) {
        self.waiting.remove(&id);
        let Some(remote) = self.take(id) else { return };
        for key in remote.aliases.iter().chain([&remote.key]) {
            if self.names.get(key) == Some(&id) {
                self.names.remove(key);
            }
        }
    }

    /// Takes the secret out of all schedules.
    pub(super) fn take(&mut self, id: RemoteId) -> Option<Box<Remote>> {
        self.leave(id);
        self.uncount(id);
        self.dirty.remove(&id);
        self.calls.rounds.remove(&id);
        self.calls.reading.remove(&id);
        let doubts = self.calls.doubts.range((id, None)..);
        let doubts: Vec<_> = doubts
            .map(|(doubt, _)| doubt.clone())
            .take_while(|(doubted, _)| *doubted == id)
            .collect();
        for doubt in doubts {
            self.calls.doubts.remove(&doubt);
        }
        let remote = self.remotes.remove(&id)?;
        if let Some(at) = remote.queued {
            self.queue.remove(&(at, Task::Remote(id)));
        }
        self.calls.flying -= usize::from(remote.asked.is_some());
        Some(remote)
    }

    pub(super) fn queue_sweep(&mut self, at: Option<Now>) {
        if let Some(before) = std::mem::replace(&mut self.sweep.queued, at) {
            self.queue.remove(&(before, Task::Sweep));
        }
        if let Some(at) = at {
            self.queue.insert((at, Task::Sweep));
        }
    }

    /// Puts the secret where it belongs in the queue.
    pub(super) fn requeue(&mut self, id: RemoteId) {
        let Some(remote) = self.remotes.get_mut(&id) else {
            return;
        };
        let due = remote.due();
        if due == remote.queued {
            return;
        }
        if let Some(before) = std::mem::replace(&mut remote.queued, due) {
            self.queue.remove(&(before, Task::Remote(id)));
        }
        if let Some(at) = due {
            self.queue.insert((at, Task::Remote(id)));
        }
    }

    /// When a poll has something to do here.
    pub(super) fn next_due(&self, now: Now) -> Option<Now> {
        if !self.dirty.is_empty() || self.checking.replan {
            return Some(Now::ZERO);
        }
        self.policy.as_ref()?;
        let lost = self.calls.flights.front().map(|(at, _)| *at + LOST);
        let work = self.queue.first().map(|(at, _)| *at);
        let work = match self.backoff.gate(now) {
            _ if self.calls.flying >= IN_FLIGHT => None,
            Gate::Probing => None,
            Gate::Until(until) => work.map(|at| at.max(until)),
            Gate::Open | Gate::Probe => work,
        };
        work.into_iter().chain(lost).min()
    }

    /// Wakes those who want the secret and of whom `concerned` holds.
    pub(super) fn wake(
        &self,
        id: RemoteId,
        cause: Cause,
        context: &mut Context<'_>,
        concerned: impl Fn(&Object) -> bool,
    ) {
        let Some(remote) = self.remotes.get(&id) else {
            return;
        };
        for object in remote
            .subscribers
            .iter()
            .filter_map(|object| context.objects.get(*object))
        {
            if concerned(object) {
                context.wakes.add(&object.key, cause);
            }
        }
    }
}
