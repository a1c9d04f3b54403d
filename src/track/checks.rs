//! Which calls of a source are due.

use crate::{
    api::Selector,
    track::{
        Effect, Now,
        backoff::Gate,
        remote::{Asked, CohortId, Lane, Question, RemoteId},
        round::Round,
        source::{Context, IN_FLIGHT, LOST, Source, Task},
    },
};

/// Stands for the sweep among the calls under way.
const SWEEP: RemoteId = 0;

impl Source {
    /// Hands out all that is due and allowed.
    pub(super) fn poll(&mut self, context: &mut Context<'_>) {
        if self.checking.replan || !self.dirty.is_empty() {
            self.settle(context);
        }
        if self.policy.is_none() {
            return;
        }
        self.lose(context.now);
        while self.calls.flying < IN_FLIGHT {
            let gate = self.backoff.gate(context.now);
            if matches!(gate, Gate::Until(_) | Gate::Probing) {
                break;
            }
            let Some((_, task)) = self.queue.first().copied().filter(|(at, _)| *at <= context.now) else {
                break;
            };
            self.queue.pop_first();
            let effect = match task {
                Task::Retry => {
                    self.retry(context);
                    None
                }
                Task::Sweep => self.sweep_now(context.now),
                Task::Cohort(id) => self.read_cohort(id, context.now),
                Task::Remote(id) => self.ask(id, context.now),
            };
            let Some(effect) = effect else { continue };
            context.effects.push(effect);
            if gate == Gate::Probe {
                self.backoff.probe();
            }
        }
    }

    /// What was denied long enough ago may be allowed by now.
    fn retry(&mut self, context: &mut Context<'_>) {
        self.denials.list = self.denials.list.filter(|until| *until > context.now);
        self.denials.batch = self.denials.batch.filter(|until| *until > context.now);
        if self.denials.describe.is_some_and(|until| until <= context.now) {
            self.forget_denied_describes();
        }
        self.checking.replan = true;
        self.settle(context);
    }

    fn sweep_now(&mut self, now: Now) -> Option<Effect> {
        self.sweep.queued = None;
        if self.sweep_interval().is_none() {
            // Describing each would cost as many calls.
            self.sweep.worth = self
                .remotes
                .values()
                .filter(|remote| self.is_unseen(remote))
                .count();
            self.sweep.looking &= self.sweep.worth > 0;
            if !self.sweep.looking {
                return None;
            }
        }
        self.sweep.pages = 0;
        self.sweep.number = self.sweep.number.wrapping_add(1);
        self.sweep.seen = 0;
        self.sweep.started = now;
        self.sweep.asked = Some(now);
        self.calls.flying += 1;
        self.calls.flights.push_back((now, SWEEP));
        Some(Effect::List { source: self.id })
    }

    /// A page has come: the sweep is alive.
    pub(super) fn keep_sweeping(&mut self, now: Now) {
        if self.sweep.asked.is_some_and(|asked| asked < now) {
            self.sweep.asked = Some(now);
            self.calls.flights.push_back((now, SWEEP));
        }
    }

    /// Whether a listing that only looks at what nobody has looked at since the start costs more than it is worth: the
    /// account is large, and little of it is wanted.
    pub(super) fn looks_too_long(&self) -> bool {
        self.sweep.looking && self.sweep_interval().is_none() && self.sweep.pages >= self.sweep.worth
    }

    /// The sweep has ended, well or not.
    pub(super) fn end_sweep(&mut self) -> bool {
        let asked = self.sweep.asked.take().is_some();
        self.calls.flying -= usize::from(asked);
        asked
    }

    fn read_cohort(&mut self, id: CohortId, now: Now) -> Option<Effect> {
        let members = self.cohorts.fire(&mut self.queue, id, now)?.to_vec();
        let mut keys = Vec::with_capacity(members.len());
        for member in members {
            let Some(remote) = self
                .remotes
                .get_mut(&member)
                .filter(|remote| remote.rides_along())
            else {
                continue;
            };
            remote.asked = Some(Asked {
                at: now,
                cohort: true,
                describes: false,
            });
            keys.push(remote.key.clone());
            self.calls.flights.push_back((now, member));
            self.calls.flying += 1;
            self.requeue(member);
        }
        (!keys.is_empty()).then_some(Effect::Read {
            source: self.id,
            keys,
        })
    }

    fn ask(&mut self, id: RemoteId, now: Now) -> Option<Effect> {
        let remote = self.remotes.get_mut(&id)?;
        remote.queued = None;
        let question = remote.ask(now);
        let key = remote.key.clone();
        self.calls.flights.push_back((now, id));
        self.calls.flying += 1;
        let source = self.id;
        let selector = match question {
            Question::Describe => return Some(Effect::Describe { source, key }),
            Question::Read(selector) => selector,
            Question::ReadAll(views) => {
                self.calls.rounds.insert(id, Round::new(now, views));
                self.next_turn(id)?
            }
            Question::NextTurn => self.next_turn(id)?,
        };
        if let Some(remote) = self.remotes.get_mut(&id) {
            remote.ask_for(now, &selector);
        }
        Some(if selector.is_current() {
            Effect::Read {
                source,
                keys: vec![key],
            }
        } else {
            self.calls.reading.insert(id, selector.clone());
            Effect::ReadVersion {
                source,
                key,
                selector,
            }
        })
    }

    /// The next view of a round. If there is none, all of them fail and wait.
    fn next_turn(&mut self, id: RemoteId) -> Option<Selector> {
        let turn = self.calls.rounds.get_mut(&id).and_then(Round::next);
        if let Some(remote) = self.remotes.get_mut(&id) {
            remote.has_turns = turn.as_ref().is_some_and(|(_, more)| *more);
        }
        if turn.is_none() {
            self.calls.rounds.remove(&id);
            self.land_any(id);
            self.requeue(id);
        }
        Some(turn?.0)
    }

    /// A view was answered for, which may end its round.
    pub(super) fn end_turn(&mut self, id: RemoteId, selector: &Selector) {
        let Some(since) = self
            .calls
            .rounds
            .get_mut(&id)
            .and_then(|round| round.end(selector))
        else {
            return;
        };
        self.calls.rounds.remove(&id);
        if let Some(remote) = self.remotes.get_mut(&id) {
            remote.has_turns = false;
            remote.checked = Some(since);
        }
    }

    /// A view got no answer. Gives whether its round goes on with it.
    pub(super) fn repeat_turn(&mut self, id: RemoteId, selector: &Selector) -> bool {
        let repeats = self
            .calls
            .rounds
            .get_mut(&id)
            .is_some_and(|round| round.repeat(selector));
        if let Some(remote) = self.remotes.get_mut(&id).filter(|_| repeats) {
            remote.has_turns = true;
        }
        repeats
    }

    /// A Describe of the secret is over, or a read of one of its views. Gives the call, if it was one of ours.
    pub(super) fn land(&mut self, id: RemoteId, read: Option<&Selector>) -> Option<Asked> {
        let asked = self.remotes.get(&id)?.asked?;
        let is_meant = match read {
            None => asked.describes,
            Some(_) if asked.describes => false,
            Some(selector) => match self.calls.reading.get(&id) {
                Some(reading) => reading == selector,
                None => selector.is_current(),
            },
        };
        if is_meant { self.land_any(id) } else { None }
    }

    /// The call for the secret is over, whichever it is.
    fn land_any(&mut self, id: RemoteId) -> Option<Asked> {
        let asked = self.remotes.get_mut(&id)?.asked.take()?;
        self.calls.reading.remove(&id);
        self.calls.flying = self.calls.flying.saturating_sub(1);
        Some(asked)
    }

    fn is_flying(&self, at: Now, id: RemoteId) -> bool {
        match id {
            SWEEP => self.sweep.asked == Some(at),
            _ => self
                .remotes
                .get(&id)
                .is_some_and(|remote| remote.asked.is_some_and(|asked| asked.at == at)),
        }
    }

    /// Forgets the calls that were answered, as far as they stand in front.
    pub(super) fn trim(&mut self) {
        while self
            .calls
            .flights
            .front()
            .is_some_and(|(at, id)| !self.is_flying(*at, *id))
        {
            self.calls.flights.pop_front();
        }
    }

    /// Gives up calls that were never answered; they are due again.
    fn lose(&mut self, now: Now) {
        self.trim();
        while let Some((_, id)) = self
            .calls
            .flights
            .front()
            .copied()
            .filter(|(at, _)| *at + LOST <= now)
        {
            self.calls.flights.pop_front();
            self.backoff.lose();
            if id == SWEEP {
                self.end_sweep();
                self.queue_sweep(Some(now));
            } else if let Some(asked) = self.land_any(id) {
                self.again(id, asked, now);
            }
            self.trim();
        }
    }

    /// The call has to be made again as soon as the source may be asked.
    pub(super) fn again(&mut self, id: RemoteId, asked: Asked, now: Now) {
        let Some(remote) = self.remotes.get_mut(&id) else {
            return;
        };
        match remote.lane {
            Lane::Cohort(cohort) if asked.cohort => {
                self.cohorts.retry(&mut self.queue, cohort, now);
            }
            _ => remote.urgent = Some(now),
        }
        self.requeue(id);
    }
}
