//! A model of AWS and of the reconciler, driven by the tracker's effects in simulated time.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use crate::{
    api::{ObjectKey, Selector, SourceId, VersionId},
    track::{
        Call, Cause, Config, Described, Effect, Failure, Freshness, Known, Now, Observation, Refresh,
        Schedule, SourcePolicy, Stages, Subscription, Tracker, Want, dice::Dice, view::at_stage,
    },
};

pub(super) const ACCOUNT: &str = "111122223333";
pub(super) const REGION: &str = "eu-central-1";
pub(super) const S: SourceId = SourceId(1);

pub(super) fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

pub(super) fn mins(n: u64) -> Duration {
    Duration::from_mins(n)
}

pub(super) fn version(id: &str) -> VersionId {
    VersionId(id.into())
}

pub(super) fn current() -> Selector {
    Selector::parse(None)
}

pub(super) fn object(n: usize) -> ObjectKey {
    ObjectKey::new("shop", format!("object-{n:05}"))
}

pub(super) fn policy() -> SourcePolicy {
    SourcePolicy {
        account: Some(ACCOUNT.into()),
        region: REGION.into(),
        ..SourcePolicy::default()
    }
}

/// One state of a secret; none: it does not exist.
#[derive(Clone, Debug)]
pub(super) struct State {
    pub(super) stages: Stages,
    pub(super) deleted: bool,
    pub(super) suffix: &'static str,
}

/// Which calls fail, and how.
pub(super) type Fault = Box<dyn FnMut(Now, Call, &str) -> Option<Failure>>;

pub(super) struct World {
    pub(super) tracker: Tracker,
    pub(super) now: Now,
    pub(super) secrets: BTreeMap<String, Vec<(Now, Option<State>)>>,
    /// What AWS says of rotations, from which time on.
    pub(super) schedules: BTreeMap<String, Vec<(Now, Schedule)>>,
    pub(super) calls: Vec<(Now, Effect)>,
    pub(super) wakes: Vec<(Now, ObjectKey, Cause)>,
    /// What each object's Secret holds, by key and selector, as the reconciler wrote it.
    pub(super) written: BTreeMap<(ObjectKey, String, Selector), Vec<VersionId>>,
    pub(super) wants: BTreeMap<ObjectKey, Vec<(Arc<str>, Selector)>>,
    /// Answers are up to this old, for List, and for the others.
    pub(super) lag: (Duration, Duration),
    pub(super) fault: Fault,
    pub(super) dice: Dice,
    /// Since when each object is as it is. With `passes`, what is woken is read as the reconciler does.
    pub(super) since: BTreeMap<ObjectKey, Now>,
    pub(super) passes: bool,
    /// Whose refresh a person asks for, until it was answered.
    pub(super) asked: BTreeSet<ObjectKey>,
    /// Calls of passes.
    pub(super) called: usize,
    /// The last call for each version of each secret, and for Describe.
    pub(super) last_call: BTreeMap<(String, Option<Selector>), Now>,
    again: BTreeMap<Now, BTreeSet<ObjectKey>>,
    in_flight: BTreeSet<String>,
    answers: BTreeMap<(Now, u64), (Vec<String>, Vec<Observation>)>,
    sent: u64,
}

impl World {
    pub(super) fn new(config: Config) -> Self {
        Self {
            tracker: Tracker::new(config),
            now: secs(1000),
            secrets: BTreeMap::new(),
            schedules: BTreeMap::new(),
            calls: Vec::new(),
            wakes: Vec::new(),
            written: BTreeMap::new(),
            wants: BTreeMap::new(),
            lag: (Duration::ZERO, Duration::ZERO),
            fault: Box::new(|_, _, _| None),
            dice: Dice::new(1),
            since: BTreeMap::new(),
            passes: false,
            asked: BTreeSet::new(),
            called: 0,
            last_call: BTreeMap::new(),
            again: BTreeMap::new(),
            in_flight: BTreeSet::new(),
            answers: BTreeMap::new(),
            sent: 0,
        }
    }

    /// With one source of that policy.
    pub(super) fn with(policy: SourcePolicy) -> Self {
        let mut world = Self::new(Config {
            seed: 3,
            ..Config::default()
        });
        world.tracker.set_source(world.now, S, policy);
        world
    }

    pub(super) fn put(&mut self, name: &str, id: &str) {
        let state = State {
            stages: stages(&[(id, "AWSCURRENT")]),
            deleted: false,
            suffix: "AbCdEf",
        };
        self.set(name, Some(state));
    }

    /// Moves AWSCURRENT as AWS does, AWSPREVIOUS with it.
    pub(super) fn rotate(&mut self, name: &str, id: &str) {
        let Some(mut state) = self.state(name, self.now) else {
            return;
        };
        let before = at_stage(&state.stages, "AWSCURRENT").cloned().unwrap();
        if before == version(id) {
            return;
        }
        for labels in state.stages.values_mut() {
            labels.retain(|label| !matches!(&**label, "AWSCURRENT" | "AWSPREVIOUS"));
        }
        state.stages.entry(before).or_default().push("AWSPREVIOUS".into());
        state
            .stages
            .entry(version(id))
            .or_default()
            .push("AWSCURRENT".into());
        state.stages.retain(|_, labels| !labels.is_empty());
        self.set(name, Some(state));
    }

    pub(super) fn set(&mut self, name: &str, state: Option<State>) {
        self.secrets
            .entry(name.to_owned())
            .or_default()
            .push((self.now, state));
    }

    fn describe(&self, name: &str, state: State) -> Described {
        let shown = self.schedules.get(name);
        let shown = shown.into_iter().flatten().rfind(|(from, _)| *from <= self.now);
        Described {
            arn: arn(name, &state),
            name: name.into(),
            stages: state.stages,
            deleted: state.deleted,
            rotation: shown.map_or_else(Schedule::default, |(_, schedule)| schedule.clone()),
        }
    }

    pub(super) fn state(&self, name: &str, at: Now) -> Option<State> {
        let history = self.secrets.get(name)?;
        history
            .iter()
            .rev()
            .find(|(from, _)| *from <= at)
            .or_else(|| history.first())?
            .1
            .clone()
    }

    /// The name that a key means, and its present state.
    fn resolve(&self, key: &str, at: Now) -> Option<(String, State)> {
        let Some(resource) = key.strip_prefix("arn:").and_then(|arn| arn.splitn(6, ':').last()) else {
            return Some((key.to_owned(), self.state(key, at)?));
        };
        if let Some(state) = self.state(resource, at) {
            return Some((resource.to_owned(), state));
        }
        let (name, suffix) = resource.rsplit_once('-')?;
        let state = self.state(name, at)?;
        (state.suffix == suffix).then(|| (name.to_owned(), state))
    }

    pub(super) fn subscribe(&mut self, n: usize, refresh: Refresh, wants: &[(&str, Selector, Option<&str>)]) {
        self.subscribe_rotation(n, refresh, false, wants);
    }

    pub(super) fn subscribe_rotation(
        &mut self,
        n: usize,
        refresh: Refresh,
        rotation: bool,
        wants: &[(&str, Selector, Option<&str>)],
    ) {
        let key = object(n);
        let list = wants.iter().map(|(key, selector, recorded)| Want {
            source: S,
            key: (*key).into(),
            selector: selector.clone(),
            recorded: recorded.map(version),
        });
        let subscription = Subscription {
            refresh,
            rotation,
            wants: list.collect(),
        };
        self.wants.insert(
            key.clone(),
            wants.iter().map(|(k, s, _)| ((*k).into(), s.clone())).collect(),
        );
        for (name, selector, recorded) in wants {
            if let Some(recorded) = recorded {
                let slot = (key.clone(), (*name).to_owned(), selector.clone());
                self.written.insert(slot, vec![version(recorded)]);
            }
        }
        self.tracker.subscribe(self.now, &key, subscription);
        // The reconciler reads what is new.
        for (name, selector, recorded) in wants {
            if recorded.is_none() && self.tracker.known(S, name, selector) == Known::Unknown {
                self.read_on_own(name, selector);
            }
        }
        self.reconcile(&key);
    }

    pub(super) fn read_on_own(&mut self, key: &str, selector: &Selector) {
        let observation = self.value(key, selector, self.now);
        self.tracker.observe(self.now, observation);
    }

    /// The reconciler tries again what it could not read.
    pub(super) fn read_again(&mut self) {
        let wants = self.wants.clone();
        for (object, wants) in wants {
            for (key, selector) in wants {
                if self.tracker.known(S, &key, &selector) == Known::Unknown {
                    self.read_on_own(&key, &selector);
                }
                if !self
                    .written
                    .contains_key(&(object.clone(), key.to_string(), selector))
                {
                    self.reconcile(&object);
                }
            }
        }
    }

    /// A person changes the object, which is looked at.
    pub(super) fn edit(&mut self, object: &ObjectKey) {
        self.since.insert(object.clone(), self.now);
        for (key, selector) in self.wants.get(object).cloned().unwrap_or_default() {
            self.written.remove(&(object.clone(), key.to_string(), selector));
        }
        self.pass(object);
    }

    /// A person asks for a refresh of the object, which is looked at.
    pub(super) fn ask(&mut self, object: &ObjectKey) {
        self.asked.insert(object.clone());
        self.edit(object);
    }

    /// The reconciler looks at the object: it reads unless all is as it should be, or is known to fail.
    pub(super) fn pass(&mut self, object: &ObjectKey) {
        let Some(wants) = self.wants.get(object).cloned() else {
            return;
        };
        let held = |world: &Self, key: &Arc<str>, selector: &Selector| {
            let slot = (object.clone(), key.to_string(), selector.clone());
            world.written.get(&slot)?.last().cloned()
        };
        let list = wants.iter().map(|(key, selector)| Want {
            source: S,
            key: key.clone(),
            selector: selector.clone(),
            recorded: held(self, key, selector),
        });
        let subscription = Subscription {
            refresh: Refresh::Every(mins(1)),
            rotation: false,
            wants: list.collect(),
        };
        self.tracker.subscribe(self.now, object, subscription);
        let settled = wants.iter().all(|(key, selector)| {
            let held = held(self, key, selector);
            held.is_some()
                && match self.tracker.known(S, key, selector) {
                    Known::Unknown | Known::Held { .. } => true,
                    Known::Version(version) => Some(version) == held,
                    Known::Gone { .. } | Known::Failing(_) => false,
                }
        });
        let fresh = self.asked.contains(object);
        if settled && !fresh {
            return;
        }
        let since = self.since.get(object).copied().unwrap_or_default();
        let freshness = if fresh {
            Freshness::Asked(since)
        } else {
            Freshness::Known(since)
        };
        let all = || wants.iter().map(|(key, selector)| (S, &**key, selector));
        if let Some(withheld) = self.tracker.withheld(self.now, freshness, all()) {
            if let Some(at) = withheld.again {
                self.again.entry(at).or_default().insert(object.clone());
            }
            return;
        }
        let mut answered = true;
        for (key, selector) in &wants {
            if self.tracker.is_gone_for(S, key, freshness) {
                answered = false;
                continue;
            }
            self.call(key, Some(selector));
            self.called += 1;
            self.tracker.lend(self.now, (S, key, selector), freshness);
            self.look(key, selector);
            answered &= matches!(self.tracker.known(S, key, selector), Known::Version(_));
        }
        if answered {
            self.asked.remove(object);
        }
        self.reconcile(object);
    }

    /// The reconciler reads a version, and has Describe decide where the secret seems to be gone.
    fn look(&mut self, key: &Arc<str>, selector: &Selector) {
        let observation = self.value(key, selector, self.now);
        let seems_gone = matches!(&observation, Observation::Unread { failure, .. } if failure.may_be_gone());
        if !seems_gone {
            return self.tracker.observe(self.now, observation);
        }
        let described = Effect::Describe {
            source: S,
            key: key.clone(),
        };
        self.called += 1;
        self.call(key, None);
        for observation in self.answer(&described) {
            self.tracker.observe(self.now, observation);
        }
        if let Observation::Unread {
            source,
            key,
            selector,
            failure,
            text,
            begun,
            alone,
            ..
        } = observation
            && !matches!(self.tracker.known(S, &key, &selector), Known::Gone { .. })
        {
            let described = true;
            let unread = Observation::Unread {
                source,
                key,
                selector,
                failure,
                text,
                begun,
                described,
                alone,
            };
            self.tracker.observe(self.now, unread);
        }
    }

    /// A call is made. What is known to fail, or to be gone, is called for once in ten seconds at most.
    fn call(&mut self, key: &str, selector: Option<&Selector>) {
        let name = self
            .resolve(key, self.now)
            .map_or_else(|| key.to_owned(), |(name, _)| name);
        let slot = (name, selector.cloned());
        let failing = selector.is_some_and(|selector| {
            matches!(
                self.tracker.known(S, key, selector),
                Known::Failing(_) | Known::Gone { .. }
            )
        });
        if let Some(last) = self.last_call.insert(slot.clone(), self.now)
            && self.passes
            && failing
        {
            assert!(
                self.now >= last + secs(10),
                "{slot:?} at {last:?} and {:?}",
                self.now
            );
        }
    }

    /// Writes what the tracker accepts.
    fn reconcile(&mut self, object: &ObjectKey) {
        for (key, selector) in self.wants.get(object).cloned().unwrap_or_default() {
            if let Known::Version(version) = self.tracker.known(S, &key, &selector) {
                let held = self
                    .written
                    .entry((object.clone(), key.to_string(), selector))
                    .or_default();
                if held.last() != Some(&version) {
                    held.push(version);
                }
            }
        }
    }

    pub(super) fn holds(&self, n: usize, key: &str) -> Option<&VersionId> {
        self.written.get(&(object(n), key.to_owned(), current()))?.last()
    }

    fn value(&mut self, key: &str, selector: &Selector, at: Now) -> Observation {
        let failed = |failure| Observation::Unread {
            source: S,
            key: key.into(),
            selector: selector.clone(),
            failure,
            text: "in words".into(),
            begun: self.now,
            described: false,
            alone: true,
        };
        let shown = match selector {
            selector if selector.is_current() => key.to_owned(),
            selector => format!("{key} {selector}"),
        };
        if let Some(failure) = (self.fault)(self.now, Call::Read, &shown) {
            return failed(failure);
        }
        let Some((name, state)) = self.resolve(key, at) else {
            return failed(Failure::NotFound);
        };
        if state.deleted {
            return failed(Failure::MarkedForDeletion);
        }
        let found = match selector {
            Selector::Stage(label) => at_stage(&state.stages, label).cloned(),
            Selector::Version(version) => Some(version.clone()),
        };
        let Some(version) = found else {
            return failed(Failure::StageNotFound(selector.clone()));
        };
        Observation::Value {
            source: S,
            key: key.into(),
            selector: selector.clone(),
            version,
            arn: arn(&name, &state),
            name: name.into(),
            created: None,
        }
    }

    fn lagged(&mut self, list: bool) -> Now {
        let most = if list { self.lag.0 } else { self.lag.1 };
        self.now.saturating_sub(self.dice.between(Duration::ZERO, most))
    }

    fn answer(&mut self, effect: &Effect) -> Vec<Observation> {
        let begun = self.now;
        let whole = |call, keys: Vec<Arc<str>>, failure| Observation::Failed {
            source: S,
            call,
            keys,
            failure,
            begun,
        };
        match effect {
            Effect::Describe { key, .. } => {
                if let Some(failure) = (self.fault)(self.now, Call::Describe, key) {
                    return vec![whole(Call::Describe, vec![key.clone()], failure)];
                }
                let at = self.lagged(false);
                let Some((name, state)) = self.resolve(key, at) else {
                    return vec![whole(Call::Describe, vec![key.clone()], Failure::NotFound)];
                };
                vec![Observation::Described {
                    source: S,
                    key: key.clone(),
                    secret: self.describe(&name, state),
                    begun: self.now,
                }]
            }
            Effect::ReadVersion { key, selector, .. } => {
                let at = self.lagged(false);
                vec![self.value(key, selector, at)]
            }
            Effect::Read { keys, .. } => {
                if keys.len() > 1
                    && let Some(failure) = (self.fault)(self.now, Call::Read, "*")
                {
                    return vec![whole(Call::Read, keys.clone(), failure)];
                }
                let at = self.lagged(false);
                keys.iter().map(|key| self.value(key, &current(), at)).collect()
            }
            Effect::List { .. } => {
                if let Some(failure) = (self.fault)(self.now, Call::List, "*") {
                    return vec![whole(Call::List, Vec::new(), failure)];
                }
                let at = self.lagged(true);
                let names: Vec<_> = self.secrets.keys().cloned().collect();
                let shown = names.iter().filter_map(|name| {
                    let state = self.state(name, at).filter(|state| !state.deleted)?;
                    Some(self.describe(name, state))
                });
                let entries: Vec<_> = shown.collect();
                let pages: Vec<_> = entries.chunks(100).collect();
                let count = pages.len();
                pages
                    .iter()
                    .enumerate()
                    .map(|(n, page)| Observation::Listed {
                        source: S,
                        entries: page.to_vec(),
                        complete: n + 1 == count,
                    })
                    .collect()
            }
            Effect::Wake { .. } | Effect::Mode { .. } => Vec::new(),
        }
    }

    /// Runs for the time given, answering calls after 50 ms to 550 ms.
    pub(super) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        let mut turns = 0;
        loop {
            let due = self.tracker.next_due().map(|due| due.max(self.now));
            let answer = self.answers.first_key_value().map(|((at, _), _)| *at);
            let again = self.again.first_key_value().map(|(at, _)| *at);
            if let Some(at) = again.filter(|at| {
                *at <= end && due.is_none_or(|due| *at <= due) && answer.is_none_or(|answer| *at <= answer)
            }) {
                self.now = self.now.max(at);
                for object in self.again.remove(&at).unwrap_or_default() {
                    self.pass(&object);
                }
                continue;
            }
            let Some(next) = due.into_iter().chain(answer).min().filter(|next| *next <= end) else {
                break;
            };
            turns = if next == self.now { turns + 1 } else { 0 };
            assert!(turns < 20_000, "the tracker spins at {next:?}");
            self.now = next;
            if answer == Some(next) {
                let (_, (ids, observations)) = self.answers.pop_first().unwrap();
                for id in ids {
                    self.in_flight.remove(&id);
                }
                for observation in observations {
                    self.tracker.observe(self.now, observation);
                }
            } else {
                self.poll();
            }
        }
        self.now = end;
    }

    fn poll(&mut self) {
        for effect in self.tracker.poll(self.now) {
            let ids: Vec<String> = match &effect {
                Effect::Wake { object, cause } => {
                    self.wakes.push((self.now, object.clone(), *cause));
                    if self.passes {
                        self.pass(object);
                    } else {
                        self.reconcile(object);
                    }
                    continue;
                }
                Effect::Mode { .. } => continue,
                Effect::List { .. } => vec!["list".to_owned()],
                Effect::Describe { key, .. } => {
                    self.call(key, None);
                    vec![format!("{key} by Describe")]
                }
                Effect::ReadVersion { key, selector, .. } => {
                    self.call(key, Some(selector));
                    vec![format!("{key} {selector}")]
                }
                Effect::Read { keys, .. } => {
                    assert!((1..=20).contains(&keys.len()), "a batch of {}", keys.len());
                    for key in keys {
                        self.call(key, Some(&current()));
                    }
                    keys.iter().map(ToString::to_string).collect()
                }
            };
            for id in &ids {
                // The answer to a pass serves as the answer to a call under way, after which another may begin.
                let first = self.in_flight.insert(id.clone());
                assert!(first || self.passes, "{id} is in flight twice: {effect:?}");
            }
            let observations = self.answer(&effect);
            self.calls.push((self.now, effect));
            let at = self.now
                + self
                    .dice
                    .between(Duration::from_millis(50), Duration::from_millis(550));
            self.sent += 1;
            self.answers.insert((at, self.sent), (ids, observations));
        }
    }

    pub(super) fn count(&self, call: Call) -> usize {
        self.calls
            .iter()
            .filter(|(_, effect)| kind(effect) == Some(call))
            .count()
    }

    pub(super) fn counts(&self) -> (usize, usize, usize) {
        (
            self.count(Call::List),
            self.count(Call::Describe),
            self.count(Call::Read),
        )
    }

    pub(super) fn woken(&self, n: usize, cause: Cause) -> usize {
        self.wakes
            .iter()
            .filter(|(_, key, why)| *key == object(n) && *why == cause)
            .count()
    }
}

fn kind(effect: &Effect) -> Option<Call> {
    match effect {
        Effect::List { .. } => Some(Call::List),
        Effect::Describe { .. } => Some(Call::Describe),
        Effect::Read { .. } | Effect::ReadVersion { .. } => Some(Call::Read),
        Effect::Wake { .. } | Effect::Mode { .. } => None,
    }
}

pub(super) fn stages(labels: &[(&str, &str)]) -> Stages {
    let mut stages = Stages::new();
    for (id, label) in labels {
        stages.entry(version(id)).or_default().push((*label).into());
    }
    stages
}

fn arn(name: &str, state: &State) -> Arc<str> {
    format!(
        "arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret:{name}-{}",
        state.suffix
    )
    .into()
}
