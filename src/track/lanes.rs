//! Which schedule checks a secret, and how a source's secrets come into their lanes.

use std::time::Duration;

use crate::{
    api::Selector,
    track::{
        Cause, Config, Effect, Mode, Refresh,
        plan::{Question, SLOW, Sweep},
        remote::{FACTS, Facts, Lane, RemoteId},
        source::{Context, Source},
        view::View,
    },
};

/// After a start, the first sweep waits so long for objects to subscribe.
const GATHER: Duration = Duration::from_secs(5);
/// Facts of rotations are swept for at most this often.
const FACTS_SWEEP: Duration = Duration::from_mins(10);

impl Source {
    pub(super) fn uncount(&mut self, id: RemoteId) {
        let Some(remote) = self.remotes.get(&id) else {
            return;
        };
        if let (Some(interval), false) = (remote.interval, remote.foreign)
            && let Some(class) = self.checking.classes.get_mut(&interval)
        {
            *class.count(remote.batchable) -= 1;
            if class.is_empty() {
                self.checking.classes.remove(&interval);
            }
        }
        if remote.facts.is_some() {
            self.checking.rotating -= 1;
        }
    }

    pub(super) fn leave(&mut self, id: RemoteId) {
        let Some(remote) = self.remotes.get_mut(&id) else {
            return;
        };
        let lane = std::mem::replace(&mut remote.lane, Lane::None);
        let interval = remote.interval.unwrap_or_default();
        match lane {
            Lane::None | Lane::Own(_) => {}
            Lane::Sweep => {
                if let Some(count) = self.sweep.lane.get_mut(&interval) {
                    *count -= 1;
                    if *count == 0 {
                        self.sweep.lane.remove(&interval);
                    }
                }
            }
            Lane::Cohort(cohort) => {
                if let Some((moved, to)) = self.cohorts.leave(&mut self.queue, cohort, id)
                    && let Some(moved) = self.remotes.get_mut(&moved)
                {
                    moved.lane = Lane::Cohort(to);
                }
            }
        }
    }

    /// Takes in all that has changed since the last poll: who wants what, what is allowed, what it costs.
    pub(super) fn settle(&mut self, context: &mut Context<'_>) {
        if self.policy.is_none() {
            let dirty = std::mem::take(&mut self.dirty);
            for id in dirty {
                self.refresh_wants(id, context);
                self.leave(id);
                self.requeue(id);
            }
            self.queue_sweep(None);
            return;
        }
        let mut dirty = std::mem::take(&mut self.dirty);
        for id in &dirty {
            self.refresh_wants(*id, context);
        }
        if self.checking.replan || !dirty.is_empty() {
            self.checking.replan = false;
            if self.choose(context) {
                dirty = self.remotes.keys().copied().collect();
            }
        }
        for id in dirty {
            self.enlist(id, context);
            self.requeue(id);
        }
        self.plan_sweep(context);
    }

    /// Works out anew what the secret's subscribers want together.
    fn refresh_wants(&mut self, id: RemoteId, context: &mut Context<'_>) {
        let Some(remote) = self.remotes.get(&id) else {
            return;
        };
        let mut shortest = None;
        let mut rotation = false;
        let mut selectors: Vec<&Selector> = Vec::new();
        for object in remote
            .subscribers
            .iter()
            .filter_map(|object| context.objects.get(*object))
        {
            if let Refresh::Every(interval) = object.refresh {
                shortest = Some(shortest.map_or(interval, |shortest: Duration| shortest.min(interval)));
            }
            rotation |= object.rotation;
            for want in object.wants.iter().filter(|want| want.source == self.id) {
                if !selectors.contains(&&want.selector) && self.names.get(&want.key) == Some(&id) {
                    selectors.push(&want.selector);
                }
            }
        }
        let interval = shortest.map(|shortest| effective(shortest, context.config));
        let raised = shortest.is_some_and(|shortest| shortest < SLOW) && !context.config.periodic_reads;
        let batchable = selectors.iter().all(|selector| selector.is_current());
        let foreign = self.is_foreign(&remote.key);
        let changed =
            remote.interval != interval || remote.batchable != batchable || remote.foreign != foreign;
        if changed {
            self.leave(id);
        }
        self.uncount(id);
        self.checking.raised |= raised;
        let Some(remote) = self.remotes.get_mut(&id) else {
            return;
        };
        remote.views.retain(|view| selectors.contains(&&view.selector));
        for selector in selectors {
            remote.view_mut(selector);
        }
        // Whoever wanted it checked is gone, and with him the reason to look after what fails. Those who have what they
        // wanted once need nothing; who does not tries again now.
        let dismissed = remote.interval.is_some() && interval.is_none() && remote.dismiss_trouble();
        remote.interval = interval;
        remote.batchable = batchable;
        remote.foreign = foreign;
        remote.recheck_within(context.now);
        if let (Some(interval), false) = (interval, foreign) {
            *self
                .checking
                .classes
                .entry(interval)
                .or_default()
                .count(batchable) += 1;
        }
        match (rotation, &mut remote.facts) {
            (true, facts @ None) => {
                *facts = Some(Box::new(Facts::new(None)));
            }
            (false, facts) => *facts = None,
            _ => {}
        }
        self.checking.rotating += usize::from(rotation);
        if dismissed {
            self.wake(id, Cause::Recovered, context, |_| true);
        }
    }

    /// Chooses the plan; gives whether it is another one.
    fn choose(&mut self, context: &mut Context<'_>) -> bool {
        let Some(policy) = &self.policy else { return false };
        let (plan, mode) = Question {
            detection: policy.detection,
            sizes: policy.sizes,
            events: policy.events,
            reads: context.config.periodic_reads,
            batch: self.denials.batch.is_none(),
            list: self.denials.list.is_none(),
            classes: &self.checking.classes,
            listed: self.sweep.total.max(self.remotes.len()),
            rotating: self.checking.rotating,
            now: self.checking.plan,
        }
        .plan();
        let mode = Mode {
            raised: self.checking.raised,
            ..mode
        };
        if self.checking.mode != Some(mode) {
            self.checking.mode = Some(mode);
            context.effects.push(Effect::Mode { source: self.id });
        }
        let other = plan != self.checking.plan;
        self.checking.plan = plan;
        other
    }

    /// Puts the secret into the lane that the plan has for it, and leaves it there if it is in it.
    fn enlist(&mut self, id: RemoteId, context: &mut Context<'_>) {
        let Some(remote) = self.remotes.get(&id) else {
            return;
        };
        let events = self.policy.as_ref().is_some_and(|policy| policy.events);
        let current = remote.lane;
        let target = match remote.interval {
            None => Lane::None,
            Some(_) if remote.foreign => Lane::Own(context.now),
            Some(interval) => match self.checking.plan.sweep {
                Sweep::All => Lane::Sweep,
                Sweep::Slow if events || interval >= SLOW => Lane::Sweep,
                _ if self.checking.plan.batch && remote.batchable => Lane::Cohort(0),
                _ => Lane::Own(context.now),
            },
        };
        let (foreign, interval) = (remote.foreign, remote.interval.unwrap_or_default());
        if std::mem::discriminant(&target) != std::mem::discriminant(&current) {
            self.leave(id);
            let Some(remote) = self.remotes.get(&id) else {
                return;
            };
            // What is recorded was last checked at an unknown time: evenly over the interval. What is new is read
            // by whoever wants it just now.
            let fresh = remote.views.iter().all(View::is_blank);
            let earliest = if fresh { interval / 2 } else { Duration::ZERO };
            let promised = remote.checked.map_or(Duration::MAX, |checked| checked + interval);
            let first = context.now + context.dice.between(earliest, interval);
            let lane = match target {
                Lane::Own(_) => Lane::Own(first.min(promised)),
                Lane::Cohort(_) => {
                    Lane::Cohort(
                        self.cohorts
                            .join(&mut self.queue, id, interval, first.max(context.now)),
                    )
                }
                Lane::Sweep => {
                    *self.sweep.lane.entry(interval).or_default() += 1;
                    let unchecked = !fresh && remote.checked.is_none() && !self.sweep.done;
                    let at = if unchecked { context.now + GATHER } else { first };
                    if self.sweep.asked.is_none() {
                        let at = self.sweep.queued.map_or(at, |queued| queued.min(at));
                        self.queue_sweep(Some(at));
                    }
                    Lane::Sweep
                }
                Lane::None => Lane::None,
            };
            if let Some(remote) = self.remotes.get_mut(&id) {
                remote.lane = lane;
            }
            self.look_first(id);
        }
        let facts = self.checking.plan.facts && !foreign;
        if let Some(facts_of) = self.remotes.get_mut(&id).and_then(|remote| remote.facts.as_mut()) {
            facts_of.next = match (facts, facts_of.next) {
                (true, _) => None,
                (false, None) => Some(context.now + context.dice.between(Duration::ZERO, FACTS)),
                (false, next) => next,
            };
        }
    }

    /// After a start, a listing looks once at what would wait for its turn in an interval that may be a day. What comes
    /// after it has begun is left to its turn.
    fn look_first(&mut self, id: RemoteId) {
        if self.sweep.done || self.denials.list.is_some() {
            return;
        }
        if !self.remotes.get(&id).is_some_and(|remote| self.is_unseen(remote)) {
            return;
        }
        let (begun, number) = (self.sweep.asked.is_some(), self.sweep.number);
        if !begun {
            self.sweep.looking = true;
        } else if let Some(remote) = self.remotes.get_mut(&id) {
            remote.swept = number;
        }
    }

    /// How often the source is swept; none if it is not.
    pub(super) fn sweep_interval(&self) -> Option<Duration> {
        let lane = self.sweep.lane.first_key_value().map(|(interval, _)| *interval);
        lane.into_iter()
            .chain(self.checking.plan.facts.then_some(FACTS_SWEEP))
            .min()
    }

    fn plan_sweep(&mut self, context: &Context<'_>) {
        match (self.sweep_interval(), self.sweep.queued) {
            (None, Some(_)) if self.sweep.looking => {}
            (None, None) if self.sweep.looking && self.sweep.asked.is_none() => {
                self.queue_sweep(Some(context.now + GATHER));
            }
            (None, _) => self.queue_sweep(None),
            (Some(_), None) if self.sweep.asked.is_none() => self.queue_sweep(Some(context.now + GATHER)),
            (Some(interval), Some(queued)) if self.sweep.asked.is_none() => {
                self.queue_sweep(Some(queued.min(context.now + interval)));
            }
            _ => {}
        }
    }
}

/// The interval at which a secret is checked that is wanted at this one.
fn effective(interval: Duration, config: &Config) -> Duration {
    let shortest = if config.periodic_reads {
        config.min_interval
    } else {
        config.min_interval.max(SLOW)
    };
    interval.max(shortest)
}
