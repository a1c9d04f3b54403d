//! Who waits for a token of a budget, and who goes next. Pure: `now` is an argument.

use std::{collections::BTreeMap, ops::Bound, sync::Arc, time::Duration};

use tokio::{sync::Notify, time::Instant};

use super::{identity::Caller, limit::Urgency};

/// So many fresh calls go before a periodic one that waits: a quarter of all is its own.
pub(super) const AHEAD: u32 = 3;

/// Calls a second, and how many may come at once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rate {
    pub(super) per_second: u32,
    pub(super) burst: u32,
}

/// The tokens of a bucket, and those who wait for one: fresh before periodic, and of each urgency the callers in turn.
#[derive(Debug)]
pub(super) struct Queue {
    rate: Rate,
    /// When the bucket is full again.
    full_at: Instant,
    fresh: Turns,
    periodic: Turns,
    /// Fresh calls that went before the periodic one at the head.
    ahead: u32,
    last: u64,
}

/// A call that waits.
#[derive(Clone, Debug)]
pub(super) struct Ticket {
    number: u64,
    urgency: Urgency,
    caller: Caller,
    /// Rings when it is worth looking at the head of the queue again.
    pub(super) bell: Arc<Notify>,
}

/// Calls of one urgency. A caller who makes many delays each of the others by one.
#[derive(Debug, Default)]
struct Turns {
    /// None is empty.
    rows: BTreeMap<Caller, BTreeMap<u64, Ticket>>,
    /// The caller that had the last turn.
    last: Option<Caller>,
}

impl Turns {
    fn put(&mut self, ticket: Ticket) {
        let row = self.rows.entry(ticket.caller.clone()).or_default();
        row.insert(ticket.number, ticket);
    }

    fn first(&self) -> Option<&Ticket> {
        let behind = self.last.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        let mut in_turn = self.rows.range((behind, Bound::Unbounded)).chain(&self.rows);
        let (_, row) = in_turn.next()?;
        row.first_key_value().map(|(_, ticket)| ticket)
    }

    fn remove(&mut self, ticket: &Ticket) {
        if let Some(row) = self.rows.get_mut(&ticket.caller) {
            row.remove(&ticket.number);
            if row.is_empty() {
                self.rows.remove(&ticket.caller);
            }
        }
    }
}

impl Ticket {
    pub(super) fn is(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Queue {
    /// With a full bucket.
    pub(super) fn new(rate: Rate, now: Instant) -> Self {
        Self {
            rate,
            full_at: now,
            fresh: Turns::default(),
            periodic: Turns::default(),
            ahead: 0,
            last: 0,
        }
    }

    pub(super) fn is_full(&self, now: Instant) -> bool {
        self.full_at <= now
    }

    /// A call waits from now on.
    pub(super) fn join(&mut self, urgency: Urgency, caller: &Caller) -> Ticket {
        self.last += 1;
        let ticket = Ticket {
            number: self.last,
            urgency,
            caller: caller.clone(),
            bell: Arc::default(),
        };
        self.turns(urgency).put(ticket.clone());
        ticket
    }

    /// A call no longer waits. Its turn, if it was its own, is that of the next.
    pub(super) fn leave(&mut self, ticket: &Ticket) {
        self.turns(ticket.urgency).remove(ticket);
    }

    /// The call that goes next, and in how long.
    pub(super) fn head(&self, now: Instant) -> Option<(&Ticket, Duration)> {
        let overdue = self.periodic.first().filter(|_| self.ahead >= AHEAD);
        let head = overdue.or_else(|| self.fresh.first().or_else(|| self.periodic.first()))?;
        // A quarter of the burst is kept for what is fresh.
        let burst = match head.urgency {
            Urgency::Periodic if overdue.is_none() => self.rate.burst - self.rate.burst / 4,
            Urgency::Periodic | Urgency::Fresh => self.rate.burst,
        };
        let after = self.full_at.max(now) + self.each();
        Some((
            head,
            after.saturating_duration_since(now + self.each() * burst.max(1)),
        ))
    }

    /// The call at the head takes a token, and no longer waits.
    pub(super) fn take(&mut self, now: Instant) {
        let Some((head, _)) = self.head(now) else { return };
        let ticket = head.clone();
        self.ahead = match ticket.urgency {
            Urgency::Fresh if self.periodic.rows.is_empty() => 0,
            Urgency::Fresh => self.ahead + 1,
            Urgency::Periodic => 0,
        };
        self.full_at = self.full_at.max(now) + self.each();
        let turns = self.turns(ticket.urgency);
        turns.remove(&ticket);
        turns.last = Some(ticket.caller);
    }

    fn each(&self) -> Duration {
        Duration::from_secs(1) / self.rate.per_second.max(1)
    }

    fn turns(&mut self, urgency: Urgency) -> &mut Turns {
        match urgency {
            Urgency::Fresh => &mut self.fresh,
            Urgency::Periodic => &mut self.periodic,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        /// So many calls of a caller begin to wait.
        Join(usize, Urgency, usize),
        /// One that waits is given up.
        Leave(usize),
        /// Time passes, in which calls go as they may.
        Pass(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..CALLERS, urgency(), prop_oneof![Just(1usize), 1..40usize])
                .prop_map(|(caller, urgency, count)| Step::Join(caller, urgency, count)),
            2 => any::<usize>().prop_map(Step::Leave),
            4 => (0..900u64).prop_map(Step::Pass),
        ]
    }

    fn urgency() -> impl Strategy<Value = Urgency> {
        prop_oneof![Just(Urgency::Fresh), Just(Urgency::Periodic)]
    }

    const CALLERS: usize = 5;

    fn caller(n: usize) -> Caller {
        if n == 0 {
            Caller::Store("uid".into())
        } else {
            Caller::Namespace(n.to_string().into())
        }
    }

    struct World {
        queue: Queue,
        start: Instant,
        now: Instant,
        waiting: Vec<Ticket>,
        /// Which other callers had a turn since this one waits for its own.
        passed: BTreeMap<(Urgency, Caller), BTreeSet<Caller>>,
        /// Fresh calls since a periodic one went.
        ahead: u32,
        gone: u32,
    }

    impl World {
        /// All that may go now does.
        fn serve(&mut self) {
            while let Some((head, wait)) = self.queue.head(self.now) {
                if !wait.is_zero() {
                    return;
                }
                let ticket = head.clone();
                self.queue.take(self.now);
                self.went(&ticket);
            }
            assert!(self.waiting.is_empty(), "{:?} wait for nothing", self.waiting);
        }

        fn serve_until(&mut self, end: Instant) {
            while let Some((_, wait)) = self
                .queue
                .head(self.now)
                .filter(|(_, wait)| self.now + *wait <= end)
            {
                self.now += wait;
                self.serve();
            }
            self.now = end;
        }

        fn leave(&mut self, which: usize) {
            let ticket = self.waiting.remove(which % self.waiting.len());
            self.queue.leave(&ticket);
            self.forget_absent();
        }

        fn went(&mut self, ticket: &Ticket) {
            let same = |other: &&Ticket| other.urgency == ticket.urgency && other.caller == ticket.caller;
            let first = self.waiting.iter().find(same);
            assert!(
                first.is_some_and(|first| first.is(ticket)),
                "{first:?} before {ticket:?}"
            );
            self.waiting.retain(|other| !other.is(ticket));
            self.gone += 1;
            let time = (self.now - self.start).as_secs_f64();
            let most = f64::from(self.queue.rate.burst) + time * f64::from(self.queue.rate.per_second);
            assert!(f64::from(self.gone) <= most + 1e-3, "{} of {most}", self.gone);
            self.passed.remove(&(ticket.urgency, ticket.caller.clone()));
            let others = self
                .waiting
                .iter()
                .filter(|other| other.urgency == ticket.urgency);
            let others: BTreeSet<_> = others.map(|other| other.caller.clone()).collect();
            for other in others.into_iter().filter(|other| *other != ticket.caller) {
                let passed = self.passed.entry((ticket.urgency, other.clone())).or_default();
                assert!(
                    passed.insert(ticket.caller.clone()),
                    "{ticket:?} goes before {other:?} again"
                );
            }
            match ticket.urgency {
                Urgency::Fresh => self.ahead += 1,
                Urgency::Periodic => self.ahead = 0,
            }
            self.forget_absent();
            assert!(self.ahead <= AHEAD, "what is periodic starves");
        }

        fn forget_absent(&mut self) {
            let is_of = |waiting: &Ticket, urgency: Urgency, caller: &Caller| {
                waiting.urgency == urgency && waiting.caller == *caller
            };
            let waiting = &self.waiting;
            self.passed
                .retain(|(urgency, caller), _| waiting.iter().any(|one| is_of(one, *urgency, caller)));
            if !waiting.iter().any(|one| one.urgency == Urgency::Periodic) {
                self.ahead = 0;
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

        /// Whoever waits is passed by at most one call of each other caller, and what is periodic by at most three fresh ones
        /// at a time; the rate holds, no token lies idle that somebody fresh waits for, and what is given up costs nothing.
        #[test]
        fn nobody_waits_longer_than_the_turns_of_the_others(
            burst in 1..12u32,
            per_second in 1..30u32,
            steps in prop::collection::vec(step(), 1..80),
        ) {
            let now = Instant::now();
            let mut world = World {
                queue: Queue::new(Rate { per_second, burst }, now),
                start: now,
                now,
                waiting: Vec::new(),
                passed: BTreeMap::new(),
                ahead: 0,
                gone: 0,
            };
            for step in steps {
                match step {
                    Step::Join(n, urgency, count) => {
                        for _ in 0..count {
                            let ticket = world.queue.join(urgency, &caller(n));
                            world.waiting.push(ticket);
                        }
                    }
                    Step::Leave(which) if !world.waiting.is_empty() => world.leave(which),
                    Step::Leave(_) => {}
                    Step::Pass(millis) => world.serve_until(world.now + Duration::from_millis(millis)),
                }
            }
            // All go in the end, as fast as the rate allows. A quarter of the burst is not for what is periodic.
            let left = u32::try_from(world.waiting.len()).unwrap();
            let end = world.now + world.queue.each() * (left + burst) + Duration::from_millis(1);
            world.serve_until(end);
            prop_assert!(world.waiting.is_empty(), "{:?} are left", world.waiting);
            prop_assert!(world.queue.fresh.rows.is_empty() && world.queue.periodic.rows.is_empty());
        }
    }

    #[test]
    fn what_is_periodic_has_a_quarter_of_the_tokens_however_much_is_fresh() {
        let start = Instant::now();
        let mut queue = Queue::new(
            Rate {
                per_second: 20,
                burst: 60,
            },
            start,
        );
        queue.join(Urgency::Periodic, &caller(1));
        let mut periodic = 0;
        // As much is fresh as the rate allows, so that the bucket is never less than three quarters spent.
        for n in 0..1000 {
            let now = start + queue.each() * n;
            queue.join(Urgency::Fresh, &caller(2));
            while let Some((head, wait)) = queue.head(now).filter(|(_, wait)| wait.is_zero()) {
                let urgency = head.urgency;
                assert!(wait.is_zero());
                queue.take(now);
                if urgency == Urgency::Periodic {
                    periodic += 1;
                    queue.join(Urgency::Periodic, &caller(1));
                }
            }
        }
        assert!((200..=300).contains(&periodic), "{periodic} of 1000");
    }
}
