//! Which keys one batch may bring together. A single key can make AWS fail the whole batch: after two failures its keys
//! are asked for in smaller and smaller parts, a call at a time, and what fails alone is read without batches.
//!
//! While nothing is answered, a run makes one call, as it would with all keys: an outage costs no more calls.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::time::Instant;

/// After this long without a failure of its batch a key is trusted again.
const EXPIRY: Duration = Duration::from_hours(1);
/// Keys that are kept in mind. More fail at once only in an outage, which clears them by its end.
const KEPT: usize = 400;
/// How many calls in a row may fail in a run once one was answered. Of a part with one bad key, the part and its first
/// half can; then the other half is answered.
const FAILURES: u8 = 2;
/// After so many calls the next failure ends a run. One bad key among twenty takes ten.
const CALLS: u8 = 16;

/// The keys of a source whose last batch got no answer.
#[derive(Debug)]
pub(super) struct Suspects {
    /// Most keys of a batch.
    batch: usize,
    keys: HashMap<Arc<str>, Suspect>,
}

#[derive(Clone, Copy, Debug)]
struct Suspect {
    /// How many keys a batch with it may have; none: it is read without.
    most: usize,
    /// When its last batch failed.
    at: Instant,
}

/// The calls that bring the values of some keys.
#[derive(Debug)]
pub(super) struct Run {
    left: Vec<Arc<str>>,
    calls: u8,
    answered: bool,
    /// Calls that may still fail before the next answer.
    may_fail: u8,
}

impl Suspects {
    /// None, of a service whose batches have at most so many keys.
    pub(super) fn new(batch: usize) -> Self {
        Self {
            batch,
            keys: HashMap::new(),
        }
    }

    fn get(&self, key: &str, now: Instant) -> Option<Suspect> {
        let known = self.keys.get(key)?;
        (now < known.at + EXPIRY).then_some(*known)
    }

    fn most(&self, key: &str, now: Instant) -> usize {
        self.get(key, now).map_or(self.batch, |known| known.most)
    }

    /// A batch of these keys got no answer. A key that fails alone is given up for batches only where others were
    /// `answered` in the same run.
    fn fail(&mut self, part: &[Arc<str>], answered: bool, now: Instant) {
        let half = (part.len() / 2).max(usize::from(part.len() > 1 || !answered));
        for key in part {
            let most = if self.get(key, now).is_some() {
                half
            } else {
                self.batch
            };
            if self.keys.len() >= KEPT && !self.keys.contains_key(key) {
                self.keys.retain(|_, known| now < known.at + EXPIRY);
                if self.keys.len() >= KEPT {
                    continue;
                }
            }
            self.keys.insert(key.clone(), Suspect { most, at: now });
        }
    }

    fn clear(&mut self, part: &[Arc<str>]) {
        for key in part {
            self.keys.remove(key);
        }
    }
}

impl Run {
    pub(super) fn new(keys: impl IntoIterator<Item = Arc<str>>) -> Self {
        Self {
            left: keys.into_iter().collect(),
            calls: 0,
            answered: false,
            may_fail: 0,
        }
    }

    /// Whether a call of the run was answered.
    pub(super) fn was_answered(&self) -> bool {
        self.answered
    }

    /// The keys to ask for next: those that are least in doubt, then those that failed longest ago. Keys that belong into
    /// no batch are passed over.
    pub(super) fn next(&mut self, suspects: &Suspects, now: Instant) -> Option<Vec<Arc<str>>> {
        self.left.retain(|key| suspects.most(key, now) > 0);
        self.left.sort_by_key(|key| {
            let known = suspects.get(key, now).filter(|known| known.most < suspects.batch);
            (
                std::cmp::Reverse(suspects.most(key, now)),
                known.map(|known| known.at),
            )
        });
        let most = suspects.most(self.left.first()?, now);
        let alike = self.left.iter().take(most.min(suspects.batch));
        let count = alike.take_while(|key| suspects.most(key, now) == most).count();
        if most == suspects.batch && self.left.len() == 1 && self.calls == 0 {
            // A batch of one has no point, unless it tells whether the others are bad.
            self.left.clear();
            return None;
        }
        self.calls = self.calls.saturating_add(1);
        Some(self.left.drain(..count).collect())
    }

    /// The part was answered.
    pub(super) fn answer(&mut self, suspects: &mut Suspects, part: &[Arc<str>]) {
        suspects.clear(part);
        self.answered = true;
        self.may_fail = FAILURES;
    }

    /// The part got no answer, for a reason that may be one of its keys. Gives whether the run goes on; its parts come
    /// again.
    pub(super) fn fail(&mut self, suspects: &mut Suspects, part: Vec<Arc<str>>, now: Instant) -> bool {
        suspects.fail(&part, self.answered, now);
        self.left.extend(part);
        let goes_on = self.may_fail > 0 && self.calls < CALLS;
        self.may_fail = self.may_fail.saturating_sub(1);
        goes_on
    }

    /// The part got no answer, for a reason that is none of its keys.
    pub(super) fn give_back(&mut self, part: Vec<Arc<str>>) {
        self.left.extend(part);
    }

    /// What was not asked for with success, nor is to be read without a batch.
    pub(super) fn left(self, suspects: &Suspects, now: Instant) -> Vec<Arc<str>> {
        let mut left = self.left;
        left.retain(|key| suspects.most(key, now) > 0);
        left
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const BATCH: usize = 20;

    /// What came of a run.
    #[derive(Debug, Default)]
    struct Outcome {
        calls: usize,
        /// Whether all failed, as one call.
        whole: bool,
        read: BTreeSet<Arc<str>>,
        /// Those that are to be read without a batch.
        alone: BTreeSet<Arc<str>>,
    }

    fn keys(count: usize) -> Vec<Arc<str>> {
        (0..count).map(|n| format!("prod/{n:02}").into()).collect()
    }

    fn run(
        suspects: &mut Suspects,
        keys: &[Arc<str>],
        now: Instant,
        mut fails: impl FnMut(&[Arc<str>]) -> bool,
    ) -> Outcome {
        let mut run = Run::new(keys.iter().cloned());
        let mut outcome = Outcome::default();
        while let Some(part) = run.next(suspects, now) {
            assert!((1..=BATCH).contains(&part.len()));
            outcome.calls += 1;
            if !fails(&part) {
                run.answer(suspects, &part);
                outcome.read.extend(part);
            } else if !run.fail(suspects, part, now) {
                if !run.was_answered() {
                    outcome.whole = true;
                    return outcome;
                }
                break;
            }
        }
        let left: BTreeSet<_> = run.left(suspects, now).into_iter().collect();
        let all = keys.iter().cloned();
        outcome.alone = all
            .filter(|key| !outcome.read.contains(key) && !left.contains(key))
            .collect();
        outcome
    }

    #[test]
    fn one_bad_key_is_found_wherever_it_stands_and_the_others_share_a_batch_again() {
        let keys = keys(BATCH);
        for bad in &keys {
            let (mut suspects, now) = (Suspects::new(BATCH), Instant::now());
            let fails = |part: &[Arc<str>]| part.contains(bad);
            let mut calls = Vec::new();
            let found = loop {
                let outcome = run(&mut suspects, &keys, now, fails);
                calls.push(outcome.calls);
                if !outcome.whole {
                    break outcome;
                }
            };
            assert!(calls.len() <= 4, "{bad}: {calls:?}");
            assert!(
                calls[..calls.len() - 1].iter().all(|calls| *calls == 1),
                "{calls:?}"
            );
            assert!(calls.last().is_some_and(|calls| *calls <= 10), "{bad}: {calls:?}");
            assert_eq!(found.read.len(), BATCH - 1, "{bad}");
            assert_eq!(found.alone.iter().collect::<Vec<_>>(), [bad]);
            let next = run(&mut suspects, &keys, now, fails);
            assert_eq!((next.calls, next.read.len()), (1, BATCH - 1), "{bad}");
            assert!(next.alone.contains(bad));
            // It is tried again after an hour.
            let later = run(&mut suspects, &keys, now + EXPIRY, |_| false);
            assert_eq!((later.calls, later.read.len()), (1, BATCH));
            assert!(suspects.keys.is_empty());
        }
    }

    #[test]
    fn of_two_keys_the_good_one_is_read() {
        let keys = keys(2);
        let (mut suspects, now) = (Suspects::new(BATCH), Instant::now());
        let mut now = now;
        for _ in 0..5 {
            now += Duration::from_secs(1);
            run(&mut suspects, &keys, now, |part| part.contains(&keys[0]));
        }
        let outcome = run(&mut suspects, &keys, now, |part| part.contains(&keys[0]));
        assert_eq!(outcome.alone.len(), 2, "a batch of one has no point: {outcome:?}");
        assert_eq!(outcome.calls, 0);
        assert_eq!(suspects.most(&keys[0], now), 0);
        assert!(suspects.get(&keys[1], now).is_none());
    }

    #[test]
    fn no_more_keys_are_kept_in_mind_than_some() {
        let keys: Vec<Arc<str>> = (0..2 * KEPT).map(|n| format!("{n}").into()).collect();
        let (mut suspects, now) = (Suspects::new(BATCH), Instant::now());
        for part in keys.chunks(BATCH) {
            run(&mut suspects, part, now, |_| true);
        }
        assert_eq!(suspects.keys.len(), KEPT);
        run(&mut suspects, &keys[KEPT..KEPT + 2], now + EXPIRY, |_| true);
        assert_eq!(suspects.keys.len(), 2, "those that expired make room");
    }

    proptest! {
        #[test]
        fn an_outage_costs_one_call_a_run_and_every_good_key_is_read_soon_after(
            count in 2..=BATCH,
            bad in prop::collection::btree_set(0..BATCH, 0..4),
            outages in prop::collection::vec(0..60usize, 0..4),
        ) {
            let keys = keys(count);
            let bad: BTreeSet<_> = bad.iter().filter_map(|n| keys.get(*n)).cloned().collect();
            let fails = |part: &[Arc<str>]| part.iter().any(|key| bad.contains(key));
            let (mut suspects, mut now) = (Suspects::new(BATCH), Instant::now());
            for outage in outages {
                for _ in 0..outage {
                    now += Duration::from_secs(10);
                    let outcome = run(&mut suspects, &keys, now, |_| true);
                    // Those that were found to be bad are not asked for with others; a single one is read alone.
                    prop_assert!(outcome.calls <= 1);
                    prop_assert!(outcome.whole || outcome.calls == 0);
                }
                // How often each good key has been read, or left to be read alone, in the runs that follow.
                let mut served: BTreeSet<Arc<str>> = BTreeSet::new();
                let mut failed = 0;
                for _ in 0..25 {
                    now += Duration::from_secs(10);
                    let outcome = run(&mut suspects, &keys, now, |part| {
                        let fails = fails(part);
                        failed += usize::from(fails);
                        fails
                    });
                    prop_assert!(outcome.calls <= BATCH + usize::from(CALLS));
                    served.extend(outcome.read);
                    served.extend(outcome.alone);
                }
                let mut good = keys.iter().filter(|key| !bad.contains(*key));
                prop_assert!(good.clone().all(|key| served.contains(key)), "{:?} of {:?}", served, keys);
                if good.next().is_none() {
                    // Nothing tells this from an outage.
                    continue;
                }
                // Each bad key fails once for each time that its part is halved.
                prop_assert!(failed <= 2 + 7 * bad.len(), "{} failures", failed);
                let settled = run(&mut suspects, &keys, now, fails);
                prop_assert!(settled.calls <= 1 && !settled.whole);
                prop_assert!(settled.alone.is_superset(&bad));
                prop_assert!(good.next().is_none() || settled.alone == bad, "{:?}", settled.alone);
            }
        }
    }
}
