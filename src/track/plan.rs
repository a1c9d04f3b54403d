//! By which calls a source is checked: the rule of `changeDetection`.

use std::{collections::BTreeMap, time::Duration};

use crate::track::{CallSizes, Detection, Mode, Why};

/// `ListSecrets` may lag five minutes: it keeps no promise shorter than this.
pub(super) const SLOW: Duration = Duration::from_mins(10);

/// How many secrets of a source are checked at one interval.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Class {
    /// Those of which only AWSCURRENT is wanted.
    pub(super) batchable: usize,
    /// The others.
    pub(super) other: usize,
}

impl Class {
    pub(super) fn count(&mut self, batchable: bool) -> &mut usize {
        if batchable {
            &mut self.batchable
        } else {
            &mut self.other
        }
    }

    pub(super) fn is_empty(self) -> bool {
        self.batchable + self.other == 0
    }
}

/// What the choice depends on.
#[allow(clippy::struct_excessive_bools)] // Independent facts, each named.
pub(super) struct Question<'a> {
    pub(super) detection: Detection,
    pub(super) sizes: CallSizes,
    pub(super) events: bool,
    pub(super) reads: bool,
    pub(super) batch: bool,
    pub(super) list: bool,
    /// By interval, those of the source's own account.
    pub(super) classes: &'a BTreeMap<Duration, Class>,
    /// How many secrets a sweep lists.
    pub(super) listed: usize,
    /// How many secrets want facts of their rotation.
    pub(super) rotating: usize,
    pub(super) now: Plan,
}

/// Which secrets a sweep checks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Sweep {
    #[default]
    None,
    /// Those whose interval bears the lag of `ListSecrets`.
    Slow,
    All,
}

/// The choice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) sweep: Sweep,
    /// What is not swept is read in batches if it can be.
    pub(super) batch: bool,
    /// Facts of rotations come from sweeps, rather than from Describe.
    pub(super) facts: bool,
}

impl Question<'_> {
    pub(super) fn plan(&self) -> (Plan, Mode) {
        let pages = self.listed.div_ceil(self.sizes.page).max(1);
        let facts = self.list && self.rotating >= pages;
        let (sweep, batch, why) = self.choose(pages, facts);
        let plan = Plan { sweep, batch, facts };
        (plan, self.mode(plan, why))
    }

    fn slow(&self, interval: Duration) -> bool {
        self.events || interval >= SLOW
    }

    fn choose(&self, pages: usize, facts: bool) -> (Sweep, bool, Why) {
        let batch = self.batch && self.reads;
        match self.detection {
            Detection::Describe => return (Sweep::None, false, Why::Asked),
            Detection::Read if batch => return (Sweep::None, true, Why::Asked),
            Detection::Read if self.reads => return (Sweep::None, false, Why::BatchDenied),
            Detection::List if self.list => return (Sweep::All, batch, Why::Asked),
            _ => {}
        }
        let slow = || self.classes.iter().filter(|(interval, _)| self.slow(**interval));
        let denied = match (self.list, self.batch) {
            (true, true) => None,
            (false, true) => Some(Why::ListDenied),
            (true, false) => Some(Why::BatchDenied),
            (false, false) => Some(Why::BothDenied),
        };
        let forbidden = if self.reads {
            None
        } else {
            Some(Why::ReadsForbidden)
        };
        let Some((shortest, _)) = slow().next() else {
            let why = if self.list {
                Why::ShortIntervals
            } else {
                Why::ListDenied
            };
            return (Sweep::None, batch, denied.or(forbidden).unwrap_or(why));
        };
        if !self.list {
            return (Sweep::None, batch, denied.unwrap_or(Why::ListDenied));
        }
        let others: u128 = slow()
            .map(|(interval, class)| {
                let reads = if batch {
                    class.batchable.div_ceil(self.sizes.batch)
                } else {
                    class.batchable
                };
                calls_a_day(reads + class.other, *interval)
            })
            .sum();
        let sweeps = calls_a_day(pages, *shortest);
        // At equal cost what is stays, so that nothing flaps; and facts of rotations pay the sweep already.
        if facts || sweeps < others || (sweeps == others && self.now.sweep == Sweep::Slow) {
            (Sweep::Slow, batch, Why::Cheapest)
        } else {
            let why = if self.batch {
                Why::Cheapest
            } else {
                Why::BatchDenied
            };
            (Sweep::None, batch, forbidden.unwrap_or(why))
        }
    }

    fn mode(&self, plan: Plan, why: Why) -> Mode {
        let shortest = self.classes.first_key_value();
        let swept = |interval: Duration| match plan.sweep {
            Sweep::None => false,
            Sweep::Slow => self.slow(interval),
            Sweep::All => true,
        };
        let (detection, why) = match shortest {
            None => (self.detection, Why::Idle),
            Some((interval, _)) if swept(*interval) => (Detection::List, why),
            // A sweep is chosen for slower secrets only.
            Some(_) if plan.sweep == Sweep::Slow && plan.batch => (Detection::Read, Why::ShortIntervals),
            Some(_) if plan.batch => (Detection::Read, why),
            Some(_) => (Detection::Describe, why),
        };
        Mode {
            detection,
            why,
            raised: false,
            batch: self.batch,
            list: self.list,
        }
    }
}

fn calls_a_day(calls: usize, interval: Duration) -> u128 {
    u128::try_from(calls)
        .unwrap_or(u128::MAX)
        .saturating_mul(86_400_000)
        / interval.as_millis().max(1)
}
