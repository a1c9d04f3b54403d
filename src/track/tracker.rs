//! The state machine.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{
    api::{ObjectKey, Selector, SourceId, VersionId},
    track::{
        Call, Cause, Config, Effect, Failure, Freshness, Known, Mode, Now, Observation, Refresh, Rotation,
        SourcePolicy, Subscription, Trial, Withheld,
        dice::Dice,
        objects::{Object, ObjectId, Objects, Wakes, Wanted},
        remote::Remote,
        source::{Context, Source},
        view::Recorded,
    },
};

/// The state machine of what is wanted and known.
#[derive(Debug)]
pub struct Tracker {
    config: Config,
    dice: Dice,
    current: Selector,
    sources: BTreeMap<SourceId, Source>,
    objects: Objects,
    wakes: Wakes,
    /// Effects besides wakes that the next poll hands out.
    effects: Vec<Effect>,
    /// When each source has something to do.
    agenda: BTreeSet<(Now, SourceId)>,
}

impl Tracker {
    /// One that knows nothing yet.
    pub fn new(config: Config) -> Self {
        Self {
            dice: Dice::new(config.seed),
            config,
            current: Selector::parse(None),
            sources: BTreeMap::new(),
            objects: Objects::default(),
            wakes: Wakes::default(),
            effects: Vec::new(),
            agenda: BTreeSet::new(),
        }
    }

    /// Adds a source, or changes its policy, which forgets what it was denied. Wants may come before their source:
    /// they are checked once it is known.
    pub fn set_source(&mut self, now: Now, source: SourceId, policy: SourcePolicy) {
        let known = self.source(source);
        if known.set_policy(Some(policy)) {
            known.backoff.cut(now);
        }
        self.schedule(now, source);
    }

    /// Who asks AWS for the source is another one, or its store was edited: what was denied and what failed is tried again
    /// now, and nobody waits for the end of a back-off.
    pub fn retry(&mut self, now: Now, source: SourceId) {
        if let Some(known) = self.sources.get_mut(&source) {
            known.retry_all(now);
            self.schedule(now, source);
        }
    }

    /// The credentials of a source cannot be had any more, for the reason in `text`: all who want something of it are told.
    pub fn lose_identity(&mut self, now: Now, source: SourceId, text: &Arc<str>) {
        let Some(known) = self.sources.get(&source) else {
            return;
        };
        let unread: Vec<_> = known
            .remotes
            .values()
            .flat_map(|remote| remote.views.iter().map(|view| (&remote.key, &view.selector)))
            .map(|(key, selector)| Observation::Unread {
                source,
                key: key.clone(),
                selector: selector.clone(),
                failure: Failure::Identity,
                text: text.clone(),
                begun: now,
                described: false,
                alone: false,
            })
            .collect();
        for observation in unread {
            self.observe(now, observation);
        }
    }

    /// What is denied of a source and worth a try for somebody who asks for a refresh of these secrets. A trial that fails
    /// need not be told; one that goes well is, to [`Tracker::permit`] or as an observation.
    pub fn trial<'a>(
        &mut self,
        now: Now,
        source: SourceId,
        keys: impl IntoIterator<Item = &'a Arc<str>>,
    ) -> Option<Trial> {
        self.sources.get_mut(&source)?.trial(now, keys)
    }

    /// A call that was denied is permitted.
    pub fn permit(&mut self, now: Now, source: SourceId, call: Call) {
        if let Some(known) = self.sources.get_mut(&source) {
            known.permit(call);
            self.schedule(now, source);
        }
    }

    /// Stops all checks of a source. Its wants wait until it is set again or their objects unsubscribe.
    pub fn remove_source(&mut self, source: SourceId) {
        let Some(known) = self.sources.get_mut(&source) else {
            return;
        };
        known.set_policy(None);
        self.schedule(Now::ZERO, source);
    }

    /// Sets what the object wants. Of secrets that stay wanted, all that is known is kept.
    pub fn subscribe(&mut self, now: Now, object: &ObjectKey, subscription: Subscription) {
        let Subscription {
            refresh,
            rotation,
            mut wants,
        } = subscription;
        // One text for all: nearly every want is of AWSCURRENT.
        for want in wants.iter_mut().filter(|want| want.selector.is_current()) {
            want.selector = self.current.clone();
        }
        let refresh = match refresh {
            Refresh::Every(interval) if interval.is_zero() => Refresh::Once,
            refresh => refresh,
        };
        let wanted = |want: &crate::track::Want| Wanted {
            source: want.source,
            key: want.key.clone(),
            selector: want.selector.clone(),
        };
        let new = Object {
            key: object.clone(),
            refresh,
            rotation,
            wants: wants.iter().map(wanted).collect(),
            awaited: 0,
        };
        let (id, before) = self.objects.put(new);
        // Who asks again was woken already and has looked: one whose write is refused would be woken for ever.
        let again = before
            .as_ref()
            .zip(self.objects.get(id))
            .is_some_and(|(before, now)| before.wants == now.wants);
        let mut touched = BTreeSet::new();
        for want in wants {
            touched.insert(want.source);
            let recorded = self
                .source(want.source)
                .want(now, id, want, refresh == Refresh::Once);
            if recorded == Recorded::Behind && refresh != Refresh::Once && !again {
                self.wakes.add(object, Cause::Changed);
            }
        }
        let refreshing = before.as_ref().is_some_and(|before| before.awaited > 0);
        if let Some(before) = before {
            touched.extend(self.drop_wants(id, &before));
        }
        for source in touched {
            self.schedule(now, source);
        }
        if refreshing {
            self.refresh(now, object);
        }
    }

    /// Forgets the object, and the secrets that no other wants.
    pub fn unsubscribe(&mut self, object: &ObjectKey) {
        let Some((id, before)) = self.objects.take(object) else {
            return;
        };
        for source in self.drop_wants(id, &before) {
            self.schedule(Now::ZERO, source);
        }
    }

    /// Takes the object from what it wanted and does not want any more. Gives the sources concerned.
    fn drop_wants(&mut self, id: ObjectId, before: &Object) -> BTreeSet<SourceId> {
        let mut touched = BTreeSet::new();
        for want in &before.wants {
            let Some(source) = self.sources.get_mut(&want.source) else {
                continue;
            };
            source.stop_waiting(id, &want.key);
            source.unwant(id, &want.key, &self.objects);
            touched.insert(want.source);
        }
        touched
    }

    /// Checks all that the object wants now, then wakes it by [`Cause::Refreshed`]. The next `poll` gives the calls.
    pub fn refresh(&mut self, now: Now, object: &ObjectKey) {
        let Some(id) = self.objects.id(object) else { return };
        let Some(known) = self.objects.get_mut(id) else {
            return;
        };
        let mut touched = BTreeSet::new();
        for want in &known.wants {
            if let Some(source) = self.sources.get_mut(&want.source)
                && source.refresh(now, id, &want.key)
            {
                known.awaited += 1;
                touched.insert(want.source);
            }
        }
        if known.awaited == 0 {
            self.wakes.add(object, Cause::Refreshed);
        }
        for source in touched {
            self.schedule(now, source);
        }
    }

    /// A pass reads all that the object wants, for a refresh that a person asks for. The rotation's state, which a read does
    /// not show, is described besides, if the object follows it.
    pub fn refresh_facts(&mut self, now: Now, object: &ObjectKey) {
        let known = self.objects.id(object).and_then(|id| self.objects.get(id));
        let Some(known) = known.filter(|known| known.rotation) else {
            return;
        };
        let mut touched = BTreeSet::new();
        for want in &known.wants {
            if let Some(source) = self.sources.get_mut(&want.source) {
                source.describe_facts(now, &want.key);
                touched.insert(want.source);
            }
        }
        for source in touched {
            self.schedule(now, source);
        }
    }

    /// An event has told that the secret changed, and to which version if the event says. It is described, again with
    /// growing pauses and at most six times, until that version shows.
    #[cfg_attr(not(test), expect(dead_code, reason = "events of AWS will give hints"))]
    pub fn hint(&mut self, now: Now, source: SourceId, key: &str, expected: Option<VersionId>) {
        if let Some(known) = self.sources.get_mut(&source) {
            known.hint(now, key, expected);
            self.schedule(now, source);
        }
    }

    /// All that is due: calls to make, objects to wake. At most about 320 secrets of a source are in flight at a time.
    pub fn poll(&mut self, now: Now) -> Vec<Effect> {
        let mut effects = std::mem::take(&mut self.effects);
        while let Some((_, id)) = self.agenda.first().copied().filter(|(at, _)| *at <= now) {
            self.agenda.pop_first();
            let Self {
                config,
                dice,
                sources,
                objects,
                wakes,
                ..
            } = self;
            let Some(source) = sources.get_mut(&id) else {
                continue;
            };
            source.agenda = None;
            source.poll(&mut Context {
                now,
                config,
                dice,
                objects,
                wakes,
                effects: &mut effects,
            });
            if source.policy.is_none() && source.remotes.is_empty() {
                sources.remove(&id);
                continue;
            }
            let next = source.next_due(now).filter(|next| *next > now);
            if let Some(next) = next {
                source.agenda = Some(next);
                self.agenda.insert((next, id));
            }
        }
        effects.extend(
            self.wakes
                .take()
                .into_iter()
                .map(|(object, cause)| Effect::Wake { object, cause }),
        );
        effects
    }

    /// When `poll` has something next, which may be in the past; none while everything waits for events.
    pub fn next_due(&self) -> Option<Now> {
        if !self.wakes.is_empty() || !self.effects.is_empty() {
            return Some(Now::ZERO);
        }
        self.agenda.first().map(|(at, _)| *at)
    }

    /// Takes an answer. Poll afterwards: wakes are due at once.
    pub fn observe(&mut self, now: Now, observation: Observation) {
        let (Observation::Value { source: id, .. }
        | Observation::Described { source: id, .. }
        | Observation::Listed { source: id, .. }
        | Observation::Unread { source: id, .. }
        | Observation::Failed { source: id, .. }) = observation;
        let Self {
            config,
            dice,
            sources,
            objects,
            wakes,
            effects,
            ..
        } = self;
        let Some(source) = sources.get_mut(&id) else {
            return;
        };
        source.observe(
            observation,
            &mut Context {
                now,
                config,
                dice,
                objects,
                wakes,
                effects,
            },
        );
        self.schedule(now, id);
    }

    /// What holds for a want. A transient failure changes nothing.
    pub fn known(&self, source: SourceId, key: &str, selector: &Selector) -> Known {
        let remote = self.sources.get(&source).and_then(|source| source.remote(key));
        remote.map_or(Known::Unknown, |remote| remote.known(selector))
    }

    /// Why a pass must not read the first of these wants that it must not: it is known to fail, and either that was seen
    /// since the object was made or last changed, or AWS was asked a moment ago, as for one that is gone.
    pub fn withheld<'a>(
        &self,
        now: Now,
        freshness: Freshness,
        wants: impl IntoIterator<Item = (SourceId, &'a str, &'a Selector)>,
    ) -> Option<Withheld> {
        wants.into_iter().find_map(|(source, key, selector)| {
            let remote = self.sources.get(&source)?.remote(key)?;
            let (trouble, again) = remote.withheld(now, selector, freshness)?;
            Some(Withheld {
                source,
                key: key.into(),
                selector: selector.clone(),
                failure: trouble.failure.clone(),
                by: trouble.call,
                text: trouble.text.clone(),
                again,
            })
        })
    }

    /// Whether the secret is known to be gone, so that a pass need not call for it.
    pub fn is_gone_for(&self, source: SourceId, key: &str, freshness: Freshness) -> bool {
        let remote = self.sources.get(&source).and_then(|source| source.remote(key));
        remote.is_some_and(|remote| remote.is_gone_for(freshness))
    }

    /// A pass reads the want. If it is known to fail, which is the answer, it is not called for again by itself for as
    /// long as after a call of the tracker's own.
    pub fn lend(&mut self, now: Now, want: (SourceId, &str, &Selector), freshness: Freshness) -> bool {
        let (source, key, selector) = want;
        let Some(known) = self.sources.get_mut(&source) else {
            return false;
        };
        let failing = known.lend(now, key, selector, freshness);
        if failing {
            self.schedule(now, source);
        }
        failing
    }

    /// Whether Describe has shown twice, a minute apart and without a break, that the secret is gone. If not, the second
    /// time is asked for, and its subscribers are woken by [`Cause::Gone`] when it has come.
    pub fn confirm_gone(&mut self, now: Now, source: SourceId, key: &str) -> bool {
        let Some(known) = self.sources.get_mut(&source) else {
            return false;
        };
        let confirmed = known.confirm_gone(key);
        self.schedule(now, source);
        confirmed
    }

    /// The objects that want this version of the secret, by its key as they give it.
    pub fn subscribers(&self, source: SourceId, key: &str, selector: &Selector) -> Vec<ObjectKey> {
        let Some(source) = self.sources.get(&source) else {
            return Vec::new();
        };
        let Some(id) = source.names.get(key) else {
            return Vec::new();
        };
        let remote = source.remotes.get(id);
        let subscribers = remote.into_iter().flat_map(|remote| &remote.subscribers);
        subscribers
            .filter_map(|object| self.objects.get(*object))
            .filter(|object| source.wants(object, *id, selector))
            .map(|object| object.key.clone())
            .collect()
    }

    /// What is known of the secret's rotation; none while its stages were not seen.
    pub fn rotation(&self, source: SourceId, key: &str) -> Option<&Rotation> {
        self.sources
            .get(&source)?
            .remote(key)?
            .facts
            .as_ref()?
            .rotation
            .as_ref()
    }

    /// Whether AWS will not show the stages of a secret of which somebody wants to know the rotation.
    pub fn stages_hidden(&self, source: SourceId, key: &str) -> bool {
        let remote = self.sources.get(&source).and_then(|source| source.remote(key));
        remote.is_some_and(|remote| {
            let unseen = remote
                .facts
                .as_ref()
                .is_some_and(|facts| facts.rotation.is_none());
            unseen && remote.undescribed
        })
    }

    /// Whether calls for the secret get no answer while others of its source do.
    pub fn is_unanswered(&self, source: SourceId, key: &str) -> bool {
        let remote = self.sources.get(&source).and_then(|source| source.remote(key));
        remote.is_some_and(Remote::is_unanswered)
    }

    /// The first secret that the object wants and that gets no answer while others of its source do.
    pub fn unanswered(&self, object: &ObjectKey) -> Option<Arc<str>> {
        let wants = &self.objects.get(self.objects.id(object)?)?.wants;
        let unanswered = wants
            .iter()
            .find(|want| self.is_unanswered(want.source, &want.key));
        unanswered.map(|want| want.key.clone())
    }

    /// The oldest of the last successful checks of what the object wants; none if one of them was never checked by
    /// this process.
    pub fn checked(&self, object: &ObjectKey) -> Option<Now> {
        let mut oldest = None;
        for want in &self.objects.get(self.objects.id(object)?)?.wants {
            let remote = self.sources.get(&want.source)?.remote(&want.key)?;
            let checked = remote.checked_of(&want.selector)?;
            oldest = Some(oldest.map_or(checked, |oldest: Now| oldest.min(checked)));
        }
        oldest
    }

    /// Whether the source is set.
    pub fn has_source(&self, source: SourceId) -> bool {
        self.sources
            .get(&source)
            .is_some_and(|source| source.policy.is_some())
    }

    /// Whether the listing that [`Effect::List`] asked for is to go on: it may show enough before its end.
    pub fn is_listing(&self, source: SourceId) -> bool {
        self.sources
            .get(&source)
            .is_some_and(|source| source.sweep.asked.is_some())
    }

    /// How the source is checked; none for an unknown one, and before the first poll.
    pub fn mode(&self, source: SourceId) -> Option<Mode> {
        self.sources.get(&source)?.checking.mode
    }

    fn source(&mut self, id: SourceId) -> &mut Source {
        self.sources.entry(id).or_insert_with(|| Source::new(id))
    }

    /// Puts the source where it belongs in the agenda.
    fn schedule(&mut self, now: Now, id: SourceId) {
        let Some(source) = self.sources.get_mut(&id) else {
            return;
        };
        let next = source.next_due(now);
        if source.agenda == next {
            return;
        }
        if let Some(before) = std::mem::replace(&mut source.agenda, next) {
            self.agenda.remove(&(before, id));
        }
        if let Some(at) = next {
            self.agenda.insert((at, id));
        }
    }
}
