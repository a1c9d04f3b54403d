//! Keeps calls within the account's quota, which others share, and lets what somebody waits for go first.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync,
    time::{Instant, sleep, timeout},
};

use super::error::{Cause, Class};

/// Which reads go first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Urgency {
    /// For a new or edited object, or one that asks for a refresh.
    Fresh,
    /// What happens by itself.
    Periodic,
}

/// Operations that have a quota of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Operation {
    Get,
    Batch,
    Describe,
    List,
}

/// Calls a second, and how many may come at once.
#[derive(Clone, Copy, Debug)]
struct Rate {
    per_second: u32,
    burst: u32,
}

impl Operation {
    /// AWS allows 100 Batch and 100 List, 10,000 Get and 40,000 Describe a second, per account and region. Within the
    /// first second after a pause at most 80 batches leave: 1,600 secrets, and the rest of the account goes on. Get
    /// costs a KMS call each; those quotas are lower in small regions (from 5,500/s), so it is kept far below them.
    fn rate(self) -> Rate {
        match self {
            Self::Batch => Rate {
                per_second: 20,
                burst: 60,
            },
            Self::List => Rate {
                per_second: 20,
                burst: 20,
            },
            Self::Get => Rate {
                per_second: 200,
                burst: 200,
            },
            Self::Describe => Rate {
                per_second: 400,
                burst: 400,
            },
        }
    }
}

/// How long a call may wait for its turn.
const PATIENCE: Duration = Duration::from_secs(30);

/// The budget of one account in one region.
#[derive(Debug)]
pub(super) struct Budget {
    get: Bucket,
    batch: Bucket,
    describe: Bucket,
    list: Bucket,
}

impl Budget {
    fn new() -> Self {
        let bucket = |operation: Operation| Bucket::new(operation.rate());
        Self {
            get: bucket(Operation::Get),
            batch: bucket(Operation::Batch),
            describe: bucket(Operation::Describe),
            list: bucket(Operation::List),
        }
    }

    /// Whether no call of late counts against any operation, so that a new budget is the same.
    fn is_full(&self, now: Instant) -> bool {
        let Self {
            get,
            batch,
            describe,
            list,
        } = self;
        [get, batch, describe, list]
            .iter()
            .all(|bucket| bucket.is_full(now))
    }

    /// Waits for a turn, and says how long that took.
    pub(super) async fn turn(&self, operation: Operation, urgency: Urgency) -> Result<Duration, Cause> {
        let bucket = match operation {
            Operation::Get => &self.get,
            Operation::Batch => &self.batch,
            Operation::Describe => &self.describe,
            Operation::List => &self.list,
        };
        bucket.turn(urgency).await
    }
}

/// The budgets in use, and those that were used a moment ago.
#[derive(Debug, Default)]
pub(super) struct Budgets(Mutex<HashMap<AccountAndRegion, Arc<Budget>>>);

type AccountAndRegion = (Arc<str>, Arc<str>);

impl Budgets {
    /// The budget that all who ask in this account and region share. One that nobody holds is kept until it is full, which
    /// takes seconds: dropped sooner, calls one after another would each find a full one.
    pub(super) fn of(&self, account: &Arc<str>, region: &Arc<str>) -> Arc<Budget> {
        let mut budgets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (account.clone(), region.clone());
        if let Some(budget) = budgets.get(&key) {
            return budget.clone();
        }
        let now = Instant::now();
        budgets.retain(|_, budget| Arc::strong_count(budget) > 1 || !budget.is_full(now));
        let budget = Arc::new(Budget::new());
        budgets.insert(key, budget.clone());
        budget
    }
}

/// A token bucket with one queue for each urgency. Only the head of a queue looks at the tokens, so that a caller who
/// goes away costs nobody anything.
#[derive(Debug)]
pub(super) struct Bucket {
    rate: Rate,
    /// When the bucket is full again.
    full_at: Mutex<Instant>,
    fresh: sync::Mutex<()>,
    periodic: sync::Mutex<()>,
}

impl Bucket {
    fn new(rate: Rate) -> Self {
        Self {
            rate,
            full_at: Mutex::new(Instant::now()),
            fresh: sync::Mutex::default(),
            periodic: sync::Mutex::default(),
        }
    }

    /// For STS: all its calls share one quota of the account, which has been as low as a few a second in practice.
    pub(super) fn sts() -> Self {
        Self::new(Rate {
            per_second: 20,
            burst: 40,
        })
    }

    /// Waits for a turn, and says how long that took.
    pub(super) async fn turn(&self, urgency: Urgency) -> Result<Duration, Cause> {
        let start = Instant::now();
        let queue = match urgency {
            Urgency::Fresh => &self.fresh,
            Urgency::Periodic => &self.periodic,
        };
        let turn = async {
            let _head = queue.lock().await;
            while let Err(wait) = self.take(urgency) {
                sleep(wait).await;
            }
        };
        timeout(PATIENCE, turn).await.map_err(|_| {
            Cause::new(
                Class::Throttled,
                "more calls are waiting than Keyturn's own budget lets through",
            )
        })?;
        Ok(start.elapsed())
    }

    fn is_full(&self, now: Instant) -> bool {
        *self.full_at.lock().unwrap_or_else(PoisonError::into_inner) <= now
    }

    /// Takes a token, or says how long to wait. A quarter of the burst is kept for what is fresh.
    fn take(&self, urgency: Urgency) -> Result<(), Duration> {
        let each = Duration::from_secs(1) / self.rate.per_second.max(1);
        let burst = match urgency {
            Urgency::Fresh => self.rate.burst,
            Urgency::Periodic => self.rate.burst - self.rate.burst / 4,
        };
        let mut full_at = self.full_at.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let after = (*full_at).max(now) + each;
        let allowed = now + each * burst.max(1);
        if after <= allowed {
            *full_at = after;
            return Ok(());
        }
        Err(after - allowed)
    }
}

#[cfg(test)]
mod tests {
    use futures::future::join_all;

    use super::*;

    async fn seconds(bucket: &Bucket, urgency: Urgency, calls: usize) -> f64 {
        let start = Instant::now();
        for turn in join_all((0..calls).map(|_| bucket.turn(urgency))).await {
            turn.unwrap();
        }
        start.elapsed().as_secs_f64()
    }

    #[tokio::test(start_paused = true)]
    async fn a_first_sync_of_2000_secrets_takes_two_seconds_of_budget() {
        let batches = Bucket::new(Operation::Batch.rate());
        let took = seconds(&batches, Urgency::Fresh, 100).await;
        assert!((1.9..2.2).contains(&took), "{took}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_rate_holds_after_the_burst() {
        let lists = Bucket::new(Operation::List.rate());
        assert!(seconds(&lists, Urgency::Fresh, 20).await < 0.01);
        let took = seconds(&lists, Urgency::Fresh, 200).await;
        assert!((9.9..10.2).contains(&took), "{took}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_fresh_does_not_wait_behind_what_is_periodic() {
        let batches = Arc::new(Bucket::new(Operation::Batch.rate()));
        let crowd: Vec<_> = (0..400)
            .map(|_| {
                let batches = batches.clone();
                tokio::spawn(async move { batches.turn(Urgency::Periodic).await })
            })
            .collect();
        sleep(Duration::from_secs(3)).await;
        assert!(batches.turn(Urgency::Fresh).await.unwrap() < Duration::from_millis(1));
        for one in crowd {
            one.abort();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_goes_away_takes_nothing_with_it() {
        let lists = Bucket::new(Rate {
            per_second: 1,
            burst: 1,
        });
        lists.turn(Urgency::Fresh).await.unwrap();
        assert!(
            timeout(Duration::from_millis(500), lists.turn(Urgency::Fresh))
                .await
                .is_err()
        );
        let took = seconds(&lists, Urgency::Fresh, 1).await;
        assert!((0.45..0.55).contains(&took), "{took}");
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_has_an_end() {
        let slow = Bucket::new(Rate {
            per_second: 1,
            burst: 1,
        });
        let turns = join_all((0..40).map(|_| slow.turn(Urgency::Periodic))).await;
        let refused: Vec<_> = turns.into_iter().filter_map(Result::err).collect();
        assert!((8..=10).contains(&refused.len()), "{}", refused.len());
        assert!(refused.iter().all(|cause| cause.class == Class::Throttled));
    }

    #[test]
    fn an_account_has_one_budget_for_each_region() {
        let budgets = Budgets::default();
        let of = |account: &str, region: &str| budgets.of(&account.into(), &region.into());
        let one = of("1", "eu-central-1");
        assert!(Arc::ptr_eq(&one, &of("1", "eu-central-1")));
        assert!(!Arc::ptr_eq(&one, &of("2", "eu-central-1")));
        assert!(!Arc::ptr_eq(&one, &of("1", "eu-west-1")));
    }

    #[tokio::test(start_paused = true)]
    async fn calls_one_after_another_keep_the_rate() {
        let budgets = Budgets::default();
        let start = Instant::now();
        for _ in 0..1000 {
            // Each call takes the budget for itself alone, and gives it back.
            let budget = budgets.of(&"1".into(), &"eu-central-1".into());
            budget.turn(Operation::Get, Urgency::Fresh).await.unwrap();
        }
        let took = start.elapsed().as_secs_f64();
        assert!((3.9..4.2).contains(&took), "{took}");
    }

    #[tokio::test(start_paused = true)]
    async fn budgets_that_are_full_again_take_no_memory() {
        let budgets = Budgets::default();
        let held = budgets.of(&"held".into(), &"eu-central-1".into());
        for account in 0..1000 {
            let budget = budgets.of(&account.to_string().into(), &"eu-central-1".into());
            budget.turn(Operation::Get, Urgency::Fresh).await.unwrap();
            drop(budget);
            sleep(Duration::from_millis(100)).await;
        }
        let kept = budgets.0.lock().unwrap().len();
        assert!(kept <= 3, "{kept} are kept");
        assert!(Arc::ptr_eq(
            &held,
            &budgets.of(&"held".into(), &"eu-central-1".into())
        ));
    }
}
