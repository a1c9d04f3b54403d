//! Who may write to Kubernetes, and who waits. Pure.
//!
//! An admission webhook that does not answer makes each write of a namespace take its whole time. So a namespace has a few
//! of the places only, and more of them only while its writes are fast. One whose writes are slow has one place, and few
//! that wait for it: whoever comes besides comes back later and holds nothing meanwhile. After a write without an answer
//! the namespace pauses, longer each time.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

/// Time since an arbitrary start of the process.
pub(super) type Now = Duration;

/// Of all namespaces together.
pub(super) const PLACES: usize = 40;
/// Of one namespace, whatever the others do.
pub(super) const OF_NAMESPACE: usize = 4;
/// Of one whose writes are fast, while fewer than [`SHARED`] are taken in all: the others stay free for other namespaces.
pub(super) const OF_FAST_NAMESPACE: usize = 20;
const SHARED: usize = 24;
/// How many wait for the one place of a slow namespace.
const LINE: usize = 4;
/// A write that takes longer is slow.
pub(super) const SLOW: Duration = Duration::from_secs(5);
/// When those come back for whom a slow namespace has no place: as long as one slow write may well take.
pub(super) const COME_BACK: Duration = Duration::from_secs(10);
/// How long a namespace pauses after its first write without an answer, doubled by each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_mins(1);
/// A slow namespace in which nothing was written for so long is taken for any other.
const FORGOTTEN: Duration = Duration::from_mins(10);
/// So many namespaces may be remembered before those that are forgotten are looked for.
const REMEMBERED: usize = 128;

/// One that waits.
pub(super) type Ticket = u64;

/// The answer to a request for a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Grant {
    /// It is taken, until it is given back.
    Taken,
    /// Wait to be called.
    Wait(Ticket),
    /// Ask again after this time.
    ComeBack(Duration),
}

/// How a write ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WriteEnd {
    /// It was answered within this time.
    Answered(Duration),
    /// It was not answered in time.
    TimedOut,
}

/// One that waited is called: `None` to take its place, or a time after which it asks again.
pub(super) type Called = (Ticket, Option<Duration>);

/// The places to write.
#[derive(Debug, Default)]
pub(super) struct Places {
    taken: usize,
    namespaces: HashMap<Arc<str>, Namespace>,
    /// Namespaces in which somebody waits, in turn.
    turns: VecDeque<Arc<str>>,
    tickets: Ticket,
}

#[derive(Debug, Default)]
struct Namespace {
    taken: usize,
    line: VecDeque<Ticket>,
    /// When a place was last taken or given back.
    moved: Now,
    /// When a write was last fast.
    fast: Option<Now>,
    slow: Option<Slow>,
}

/// What is known of a namespace whose last write was slow.
#[derive(Clone, Copy, Debug)]
struct Slow {
    /// Writes in a row without an answer.
    timeouts: u32,
    /// Nothing is written before.
    until: Now,
    /// When this was last found out.
    seen: Now,
}

impl Namespace {
    /// What is known of its slowness, unless that was long ago.
    fn slow(&self, now: Now) -> Option<Slow> {
        self.slow.filter(|slow| now < slow.seen + FORGOTTEN)
    }

    /// How many places it may have while all have taken `taken`.
    fn limit(&self, taken: usize, now: Now) -> usize {
        match self.slow(now) {
            None if taken < SHARED && self.fast.is_some_and(|seen| now < seen + SLOW) => OF_FAST_NAMESPACE,
            None => OF_NAMESPACE,
            Some(slow) if now < slow.until => 0,
            Some(_) => 1,
        }
    }

    /// Why somebody who comes now could not even wait: how long to stay away.
    fn full(&self, now: Now) -> Option<Duration> {
        let slow = self.slow(now)?;
        if let Some(pause) = slow.until.checked_sub(now).filter(|pause| !pause.is_zero()) {
            return Some(pause);
        }
        (self.line.len() >= LINE).then_some(COME_BACK)
    }
}

impl Places {
    /// Asks for a place to write in `namespace`.
    pub(super) fn ask(&mut self, namespace: &Arc<str>, now: Now) -> Grant {
        if self.namespaces.len() >= REMEMBERED && !self.namespaces.contains_key(namespace) {
            self.namespaces
                .retain(|_, of| of.slow(now).is_some() || of.taken > 0 || !of.line.is_empty());
        }
        let of = self.namespaces.entry(Arc::clone(namespace)).or_default();
        if let Some(wait) = of.full(now) {
            return Grant::ComeBack(wait);
        }
        if of.line.is_empty() && self.taken < PLACES && of.taken < of.limit(self.taken, now) {
            of.taken += 1;
            of.moved = now;
            self.taken += 1;
            return Grant::Taken;
        }
        self.tickets += 1;
        if of.line.is_empty() {
            self.turns.push_back(Arc::clone(namespace));
        }
        of.line.push_back(self.tickets);
        Grant::Wait(self.tickets)
    }

    /// How long to stay away from `namespace`, where it makes no sense to ask now.
    pub(super) fn full(&self, namespace: &str, now: Now) -> Option<Duration> {
        self.namespaces.get(namespace)?.full(now)
    }

    /// Whether the last write in `namespace` was slow.
    pub(super) fn is_slow(&self, namespace: &str, now: Now) -> bool {
        self.namespaces
            .get(namespace)
            .is_some_and(|of| of.slow(now).is_some())
    }

    /// A place of `namespace` is free again.
    pub(super) fn give_back(&mut self, namespace: &str, now: Now) -> Vec<Called> {
        if let Some(of) = self.namespaces.get_mut(namespace) {
            of.taken = of.taken.saturating_sub(1);
            of.moved = now;
            self.taken = self.taken.saturating_sub(1);
        }
        let called = self.call(now);
        self.forget(namespace);
        called
    }

    /// One that waits does so no more.
    pub(super) fn withdraw(&mut self, namespace: &str, ticket: Ticket) {
        if let Some(of) = self.namespaces.get_mut(namespace) {
            of.line.retain(|waiting| *waiting != ticket);
            if of.line.is_empty() {
                self.turns.retain(|turn| **turn != *namespace);
            }
        }
        self.forget(namespace);
    }

    /// A write in `namespace` ended.
    pub(super) fn ended(&mut self, namespace: &str, outcome: WriteEnd, now: Now) -> Vec<Called> {
        let Some(of) = self.namespaces.get_mut(namespace) else {
            return Vec::new();
        };
        let before = of.slow(now);
        of.slow = match outcome {
            WriteEnd::Answered(took) if took < SLOW => {
                of.fast = Some(now);
                None
            }
            WriteEnd::Answered(_) => Some(Slow {
                timeouts: 0,
                until: now,
                seen: now,
            }),
            // Those that were under way together count once.
            WriteEnd::TimedOut if before.is_some_and(|slow| now < slow.until) => before,
            WriteEnd::TimedOut => {
                let timeouts = before.map_or(0, |slow| slow.timeouts);
                let pause = FIRST_PAUSE.saturating_mul(1_u32.checked_shl(timeouts).unwrap_or(u32::MAX));
                Some(Slow {
                    timeouts: timeouts.saturating_add(1),
                    until: now + pause.min(LONGEST_PAUSE),
                    seen: now,
                })
            }
        };
        let mut called = self.send_away(namespace, now);
        called.extend(self.call(now));
        called
    }

    /// Somebody has waited for [`SLOW`]. If none of the namespace's places was given back in that time, writes there are slow;
    /// otherwise the line is only long.
    pub(super) fn waited(&mut self, namespace: &str, now: Now) -> Vec<Called> {
        let Some(of) = self.namespaces.get_mut(namespace) else {
            return Vec::new();
        };
        if of.slow(now).is_none() && of.taken >= OF_NAMESPACE && now >= of.moved + SLOW {
            of.slow = Some(Slow {
                timeouts: 0,
                until: now,
                seen: now,
            });
        }
        self.send_away(namespace, now)
    }

    /// Sends those away for whom a slow namespace has no room to wait.
    fn send_away(&mut self, namespace: &str, now: Now) -> Vec<Called> {
        let Some(of) = self.namespaces.get_mut(namespace) else {
            return Vec::new();
        };
        let Some(slow) = of.slow(now) else {
            return Vec::new();
        };
        let (stay, wait) = match slow.until.checked_sub(now).filter(|pause| !pause.is_zero()) {
            Some(pause) => (0, pause),
            None => (LINE, COME_BACK),
        };
        let sent = of.line.split_off(stay.min(of.line.len()));
        if of.line.is_empty() {
            self.turns.retain(|turn| **turn != *namespace);
        }
        sent.into_iter().map(|ticket| (ticket, Some(wait))).collect()
    }

    /// Gives free places to those that wait: namespaces in turn, and in each the first.
    fn call(&mut self, now: Now) -> Vec<Called> {
        let mut called = Vec::new();
        while self.taken < PLACES {
            let may = |namespace: &Arc<str>| {
                let of = self.namespaces.get(namespace);
                of.is_some_and(|of| of.taken < of.limit(self.taken, now))
            };
            let Some(namespace) = self
                .turns
                .iter()
                .position(may)
                .and_then(|at| self.turns.remove(at))
            else {
                break;
            };
            let Some(of) = self.namespaces.get_mut(&namespace) else {
                continue;
            };
            if let Some(ticket) = of.line.pop_front() {
                of.taken += 1;
                of.moved = now;
                self.taken += 1;
                called.push((ticket, None));
            }
            if !of.line.is_empty() {
                self.turns.push_back(namespace);
            }
        }
        called
    }

    /// Drops what is known of a namespace if it is as any other.
    fn forget(&mut self, namespace: &str) {
        let idle = |of: &Namespace| of.taken == 0 && of.line.is_empty() && of.slow.is_none();
        if self.namespaces.get(namespace).is_some_and(idle) {
            self.namespaces.remove(namespace);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    const FAST: WriteEnd = WriteEnd::Answered(Duration::from_millis(20));

    fn namespace(number: usize) -> Arc<str> {
        format!("tenant-{number}").into()
    }

    #[derive(Clone, Debug)]
    enum Step {
        Ask(usize),
        /// The write of one that has a place ends.
        End(usize, WriteEnd),
        /// One that waits leaves.
        Leave(usize),
        /// One that waits has done so for long.
        Waited(usize),
        Pass(Duration),
    }

    fn step() -> impl Strategy<Value = Step> {
        let outcome = prop_oneof![
            4 => (0..9_000_u64).prop_map(|millis| WriteEnd::Answered(Duration::from_millis(millis))),
            1 => Just(WriteEnd::TimedOut),
        ];
        prop_oneof![
            // Few namespaces ask for most.
            6 => prop_oneof![3 => 0..3_usize, 1 => 0..40_usize].prop_map(Step::Ask),
            5 => (any::<usize>(), outcome).prop_map(|(which, outcome)| Step::End(which, outcome)),
            1 => any::<usize>().prop_map(Step::Leave),
            1 => any::<usize>().prop_map(Step::Waited),
            1 => (0..30_000_u64).prop_map(|millis| Step::Pass(Duration::from_millis(millis))),
        ]
    }

    /// Those that asked, as the shell knows them.
    #[derive(Default)]
    struct World {
        places: Places,
        now: Now,
        writing: Vec<usize>,
        waiting: BTreeMap<Ticket, usize>,
    }

    impl World {
        fn called(&mut self, called: Vec<Called>) {
            for (ticket, call) in called {
                let number = self.waiting.remove(&ticket).expect("one that waits is called");
                if call.is_none() {
                    self.writing.push(number);
                }
            }
        }

        fn ask(&mut self, number: usize) {
            match self.places.ask(&namespace(number), self.now) {
                Grant::Taken => self.writing.push(number),
                Grant::Wait(ticket) => {
                    self.waiting.insert(ticket, number);
                }
                Grant::ComeBack(wait) => {
                    assert!(!wait.is_zero() && wait <= LONGEST_PAUSE, "{wait:?}");
                }
            }
        }

        fn end(&mut self, which: usize, outcome: WriteEnd) {
            if self.writing.is_empty() {
                return;
            }
            let number = self.writing.swap_remove(which % self.writing.len());
            let called = self.places.ended(&namespace(number), outcome, self.now);
            self.called(called);
            let called = self.places.give_back(&namespace(number), self.now);
            self.called(called);
        }

        fn waits(&self, which: usize) -> Option<(Ticket, usize)> {
            let at = which.checked_rem(self.waiting.len())?;
            self.waiting
                .iter()
                .nth(at)
                .map(|(ticket, number)| (*ticket, *number))
        }

        fn take(&mut self, step: &Step) {
            match *step {
                Step::Ask(number) => self.ask(number),
                Step::End(which, outcome) => self.end(which, outcome),
                Step::Leave(which) => {
                    if let Some((ticket, number)) = self.waits(which) {
                        self.waiting.remove(&ticket);
                        self.places.withdraw(&namespace(number), ticket);
                    }
                }
                Step::Waited(which) => {
                    if let Some((_, number)) = self.waits(which) {
                        let called = self.places.waited(&namespace(number), self.now);
                        self.called(called);
                    }
                }
                Step::Pass(time) => self.now += time,
            }
        }

        fn of(&self, number: usize) -> usize {
            self.writing.iter().filter(|writing| **writing == number).count()
        }

        fn check(&self) {
            assert!(self.writing.len() <= PLACES, "{} write", self.writing.len());
            assert_eq!(self.places.taken, self.writing.len());
            let in_line: usize = self.places.namespaces.values().map(|of| of.line.len()).sum();
            assert_eq!(in_line, self.waiting.len());
            let waiting: BTreeSet<usize> = self.waiting.values().copied().collect();
            let beyond: usize = (0..40)
                .map(|number| {
                    let of = self.of(number);
                    assert!(of <= OF_FAST_NAMESPACE, "{of} of {number}");
                    of.saturating_sub(OF_NAMESPACE)
                })
                .sum();
            assert!(beyond <= SHARED - OF_NAMESPACE, "{beyond} beyond the few of each");
            for number in waiting {
                // Nobody waits for what is free.
                let of = &self.places.namespaces[&namespace(number)];
                let free =
                    self.writing.len() < PLACES && self.of(number) < of.limit(self.writing.len(), self.now);
                assert!(!free, "{number} waits for nothing");
                if of.slow(self.now).is_some() {
                    let lined = self.waiting.values().filter(|waits| **waits == number).count();
                    assert!(lined <= LINE, "{lined} wait in {number}, whose writes are slow");
                }
            }
        }
    }

    proptest! {
        #[test]
        fn a_namespace_leaves_places_to_others_and_each_that_waits_is_called(
            steps in prop::collection::vec(step(), 1..400)
        ) {
            let mut world = World::default();
            for step in &steps {
                world.take(step);
                world.check();
            }
            // Writes end, and nobody is left waiting.
            let most = world.writing.len() + world.waiting.len();
            for _ in 0..most {
                world.end(0, FAST);
                world.check();
            }
            prop_assert!(world.waiting.is_empty() && world.writing.is_empty());
            prop_assert!(world.places.turns.is_empty());
            prop_assert!(world.places.namespaces.values().all(|of| of.slow.is_some()));
        }
    }

    #[test]
    fn namespaces_are_served_in_turn_and_in_each_the_first() {
        let mut places = Places::default();
        let now = Duration::ZERO;
        for number in 0..PLACES / OF_NAMESPACE {
            for _ in 0..OF_NAMESPACE {
                assert_eq!(places.ask(&namespace(number), now), Grant::Taken);
            }
        }
        let mut wait = |number| match places.ask(&namespace(number), now) {
            Grant::Wait(ticket) => ticket,
            other => panic!("{other:?}"),
        };
        let tickets = [wait(50), wait(50), wait(51), wait(50), wait(52)];
        let mut called = Vec::new();
        for number in 0..5 {
            called.extend(places.give_back(&namespace(number), now));
        }
        let expected = [0, 2, 4, 1, 3].map(|at: usize| (tickets[at], None));
        assert_eq!(called, expected);
    }

    #[test]
    fn namespaces_with_fast_writes_take_more_places_and_leave_sixteen_to_others() {
        let mut places = Places::default();
        let now = Duration::ZERO;
        let ask = |places: &mut Places, number| {
            (0..100)
                .filter(|_| places.ask(&namespace(number), now) == Grant::Taken)
                .count()
        };
        let began = [0, 1].map(|number| ask(&mut places, number));
        assert_eq!(began, [OF_NAMESPACE; 2], "nothing is known of their writes");
        let called = [0, 1].map(|number| places.ended(&namespace(number), FAST, now).len());
        assert_eq!(called, [OF_FAST_NAMESPACE - OF_NAMESPACE, 0]);
        let others = [2, 3, 4, 5, 6].map(|number| ask(&mut places, number));
        assert_eq!(others, [4, 4, 4, 4, 0]);
    }

    #[test]
    fn a_fast_write_makes_a_slow_namespace_one_like_any_other() {
        let mut places = Places::default();
        let (shop, mut now) = (namespace(0), Duration::ZERO);
        let mut pauses = Vec::new();
        for _ in 0..6 {
            assert_eq!(places.ask(&shop, now), Grant::Taken);
            places.ended(&shop, WriteEnd::TimedOut, now);
            places.give_back(&shop, now);
            let Grant::ComeBack(pause) = places.ask(&shop, now) else {
                panic!("no pause");
            };
            pauses.push(pause.as_secs());
            now += pause;
        }
        assert_eq!(pauses, [5, 10, 20, 40, 60, 60]);
        assert_eq!(places.ask(&shop, now), Grant::Taken);
        assert!(matches!(places.ask(&shop, now), Grant::Wait(_)));
        // A slow answer is an answer: no pause, but one at a time.
        assert!(
            places
                .ended(&shop, WriteEnd::Answered(Duration::from_secs(12)), now)
                .is_empty()
        );
        assert_eq!(places.give_back(&shop, now).len(), 1);
        assert!(matches!(places.ask(&shop, now), Grant::Wait(_)));
        assert_eq!(places.ended(&shop, FAST, now).len(), 1);
        assert_eq!(places.ask(&shop, now), Grant::Taken);
    }

    #[test]
    fn a_long_line_of_fast_writes_is_not_slow_and_a_line_that_stands_still_is() {
        let mut places = Places::default();
        let (shop, mut now) = (namespace(0), Duration::ZERO);
        for _ in 0..OF_NAMESPACE {
            assert_eq!(places.ask(&shop, now), Grant::Taken);
        }
        for _ in 0..500 {
            assert!(matches!(places.ask(&shop, now), Grant::Wait(_)));
        }
        let mut called = 0;
        for _ in 0..300 {
            now += Duration::from_millis(50);
            let more = places.ended(&shop, FAST, now).len();
            assert_eq!(
                more,
                if called == 0 {
                    OF_FAST_NAMESPACE - OF_NAMESPACE
                } else {
                    0
                }
            );
            called += more + places.give_back(&shop, now).len();
            assert!(places.waited(&shop, now).is_empty());
        }
        assert!(!places.is_slow(&shop, now));
        now += SLOW;
        // All but the few that may wait for the one place are sent away.
        assert_eq!(places.waited(&shop, now).len(), 500 - called - LINE);
        assert!(places.is_slow(&shop, now));
    }

    #[test]
    fn a_slow_namespace_that_is_quiet_for_long_is_forgotten() {
        let mut places = Places::default();
        for number in 0..2 * REMEMBERED {
            let name = namespace(number);
            assert_eq!(places.ask(&name, Duration::ZERO), Grant::Taken);
            places.ended(&name, WriteEnd::TimedOut, Duration::ZERO);
            places.give_back(&name, Duration::ZERO);
        }
        assert_eq!(places.namespaces.len(), 2 * REMEMBERED);
        assert!(places.is_slow(&namespace(0), SLOW));
        assert!(!places.is_slow(&namespace(0), FORGOTTEN));
        assert_eq!(places.ask(&namespace(usize::MAX), FORGOTTEN), Grant::Taken);
        assert_eq!(places.namespaces.len(), 1);
    }
}
