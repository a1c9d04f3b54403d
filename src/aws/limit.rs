//! Keeps calls within the account's quota, which others share: what somebody waits for goes first, and callers take turns.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, timeout};

use super::{
    error::{Cause, Class},
    identity::Caller,
    queue::{Queue, Rate, Ticket},
    service::Service,
};

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

/// How long a call may wait for its turn.
const PATIENCE: Duration = Duration::from_secs(30);

/// The budget of one account in one region of one service.
#[derive(Debug)]
pub(super) struct Budget {
    get: Bucket,
    batch: Bucket,
    describe: Bucket,
    list: Bucket,
}

impl Budget {
    fn new(service: &Service) -> Self {
        let bucket = |operation| Bucket::new((service.rate)(operation));
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
    pub(super) async fn turn(
        &self,
        operation: Operation,
        urgency: Urgency,
        caller: &Caller,
    ) -> Result<Duration, Cause> {
        let bucket = match operation {
            Operation::Get => &self.get,
            Operation::Batch => &self.batch,
            Operation::Describe => &self.describe,
            Operation::List => &self.list,
        };
        bucket.turn(urgency, caller).await
    }
}

/// The budgets in use, and those that were used a moment ago.
#[derive(Debug, Default)]
pub(super) struct Budgets(Mutex<HashMap<Quota, Arc<Budget>>>);

/// What AWS counts calls by.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Quota {
    account: Arc<str>,
    region: Arc<str>,
    service: &'static Service,
}

impl Budgets {
    /// The budget that all who ask in this account and region share. One that nobody holds is kept until it is full, which
    /// takes seconds: dropped sooner, calls one after another would each find a full one.
    pub(super) fn of(&self, account: &Arc<str>, region: &Arc<str>, service: &'static Service) -> Arc<Budget> {
        let mut budgets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = Quota {
            account: account.clone(),
            region: region.clone(),
            service,
        };
        if let Some(budget) = budgets.get(&key) {
            return budget.clone();
        }
        let now = Instant::now();
        budgets.retain(|_, budget| Arc::strong_count(budget) > 1 || !budget.is_full(now));
        let budget = Arc::new(Budget::new(service));
        budgets.insert(key, budget.clone());
        budget
    }
}

/// A token bucket. Only the head of its queue looks at the tokens, so that a call that is given up costs the others nothing.
#[derive(Debug)]
pub(super) struct Bucket(Mutex<Queue>);

impl Bucket {
    fn new(rate: Rate) -> Self {
        Self(Mutex::new(Queue::new(rate, Instant::now())))
    }

    /// For STS: all its calls share one quota of the account, which has been as low as a few a second in practice.
    pub(super) fn sts() -> Self {
        Self::new(Rate {
            per_second: 20,
            burst: 40,
        })
    }

    /// Waits for a turn, and says how long that took.
    pub(super) async fn turn(&self, urgency: Urgency, caller: &Caller) -> Result<Duration, Cause> {
        let start = Instant::now();
        let place = Place {
            bucket: self,
            ticket: self.queue().join(urgency, caller),
        };
        timeout(PATIENCE, place.turn()).await.map_err(|_| {
            Cause::new(
                Class::Throttled,
                "more calls are waiting than Keyturn's own budget lets through",
            )
        })?;
        Ok(start.elapsed())
    }

    fn is_full(&self, now: Instant) -> bool {
        self.queue().is_full(now)
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place in a queue, given back when it is dropped.
struct Place<'a> {
    bucket: &'a Bucket,
    ticket: Ticket,
}

impl Place<'_> {
    async fn turn(&self) {
        while let Err(wait) = self.take() {
            let _rung = timeout(wait, self.ticket.bell.notified()).await;
        }
    }

    /// Takes a token, or says how long to wait unless the bell rings before.
    fn take(&self) -> Result<(), Duration> {
        let mut queue = self.bucket.queue();
        let now = Instant::now();
        match queue.head(now) {
            Some((head, wait)) if head.is(&self.ticket) => {
                if !wait.is_zero() {
                    return Err(wait);
                }
                queue.take(now);
                Ok(())
            }
            _ => Err(PATIENCE),
        }
    }
}

impl Drop for Place<'_> {
    /// Whoever is the head now looks again.
    fn drop(&mut self) {
        let mut queue = self.bucket.queue();
        queue.leave(&self.ticket);
        if let Some((head, _)) = queue.head(Instant::now()) {
            head.bell.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::future::join_all;
    use tokio::time::sleep;

    use super::*;
    use crate::aws::SECRETS_MANAGER;

    fn caller(namespace: &str) -> Caller {
        Caller::Namespace(namespace.into())
    }

    async fn turn(bucket: &Bucket, urgency: Urgency, namespace: &str) -> Result<Duration, Cause> {
        bucket.turn(urgency, &caller(namespace)).await
    }

    async fn seconds(bucket: &Bucket, urgency: Urgency, calls: usize) -> f64 {
        let start = Instant::now();
        for turn in join_all((0..calls).map(|_| turn(bucket, urgency, "shop"))).await {
            turn.unwrap();
        }
        start.elapsed().as_secs_f64()
    }

    #[tokio::test(start_paused = true)]
    async fn a_first_sync_of_2000_secrets_takes_two_seconds_of_budget() {
        let batches = Bucket::new((SECRETS_MANAGER.rate)(Operation::Batch));
        let took = seconds(&batches, Urgency::Fresh, 100).await;
        assert!((1.9..2.2).contains(&took), "{took}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_rate_holds_after_the_burst() {
        let lists = Bucket::new((SECRETS_MANAGER.rate)(Operation::List));
        assert!(seconds(&lists, Urgency::Fresh, 20).await < 0.01);
        let took = seconds(&lists, Urgency::Fresh, 200).await;
        assert!((9.9..10.2).contains(&took), "{took}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_fresh_does_not_wait_behind_what_is_periodic() {
        let batches = Arc::new(Bucket::new((SECRETS_MANAGER.rate)(Operation::Batch)));
        let crowd: Vec<_> = (0..400)
            .map(|_| {
                let batches = batches.clone();
                tokio::spawn(async move { turn(&batches, Urgency::Periodic, "shop").await })
            })
            .collect();
        sleep(Duration::from_secs(3)).await;
        assert!(turn(&batches, Urgency::Fresh, "shop").await.unwrap() < Duration::from_millis(1));
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
        turn(&lists, Urgency::Fresh, "shop").await.unwrap();
        assert!(
            timeout(Duration::from_millis(500), turn(&lists, Urgency::Fresh, "shop"))
                .await
                .is_err()
        );
        let took = seconds(&lists, Urgency::Fresh, 1).await;
        assert!((0.45..0.55).contains(&took), "{took}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_delays_another_caller_by_a_turn_and_starves_nothing_periodic() {
        let batches = Arc::new(Bucket::new((SECRETS_MANAGER.rate)(Operation::Batch)));
        let start = |urgency, namespace: &'static str| {
            let batches = batches.clone();
            tokio::spawn(async move { turn(&batches, urgency, namespace).await })
        };
        let mut crowd: Vec<_> = (0..2000).map(|_| start(Urgency::Fresh, "flood")).collect();
        crowd.extend((0..2000).map(|_| start(Urgency::Periodic, "flood")));
        sleep(Duration::from_secs(3)).await;
        let fresh = turn(&batches, Urgency::Fresh, "shop");
        assert!(
            fresh.await.unwrap() <= Duration::from_millis(150),
            "after one of the flood"
        );
        for _ in 0..10 {
            let periodic = turn(&batches, Urgency::Periodic, "shop");
            assert!(
                periodic.await.unwrap() <= Duration::from_millis(450),
                "of eight tokens one"
            );
        }
        for one in crowd {
            one.abort();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn callers_that_go_away_hold_up_nobody_behind_them() {
        let lists = Arc::new(Bucket::new((SECRETS_MANAGER.rate)(Operation::List)));
        for urgency in [Urgency::Fresh, Urgency::Periodic] {
            let wait = || {
                let lists = lists.clone();
                tokio::spawn(async move { turn(&lists, urgency, "shop").await })
            };
            let crowd: Vec<_> = (0..400).map(|_| wait()).collect();
            sleep(Duration::from_secs(1)).await;
            let last = wait();
            sleep(Duration::from_secs(1)).await;
            for one in crowd {
                one.abort();
            }
            let aborted = Instant::now();
            last.await.unwrap().unwrap();
            assert!(
                aborted.elapsed() <= Duration::from_millis(51),
                "{:?}",
                aborted.elapsed()
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_has_an_end() {
        let slow = Bucket::new(Rate {
            per_second: 1,
            burst: 1,
        });
        let turns = join_all((0..40).map(|_| turn(&slow, Urgency::Periodic, "shop"))).await;
        let refused: Vec<_> = turns.into_iter().filter_map(Result::err).collect();
        assert!((8..=10).contains(&refused.len()), "{}", refused.len());
        assert!(refused.iter().all(|cause| cause.class == Class::Throttled));
    }

    #[test]
    fn an_account_has_one_budget_for_each_region() {
        let budgets = Budgets::default();
        let of = |account: &str, region: &str| budgets.of(&account.into(), &region.into(), &SECRETS_MANAGER);
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
            let budget = budgets.of(&"1".into(), &"eu-central-1".into(), &SECRETS_MANAGER);
            budget
                .turn(Operation::Get, Urgency::Fresh, &caller("shop"))
                .await
                .unwrap();
        }
        let took = start.elapsed().as_secs_f64();
        assert!((3.9..4.2).contains(&took), "{took}");
    }

    #[tokio::test(start_paused = true)]
    async fn budgets_that_are_full_again_take_no_memory() {
        let budgets = Budgets::default();
        let held = budgets.of(&"held".into(), &"eu-central-1".into(), &SECRETS_MANAGER);
        for account in 0..1000 {
            let budget = budgets.of(
                &account.to_string().into(),
                &"eu-central-1".into(),
                &SECRETS_MANAGER,
            );
            budget
                .turn(Operation::Get, Urgency::Fresh, &caller("shop"))
                .await
                .unwrap();
            drop(budget);
            sleep(Duration::from_millis(100)).await;
        }
        let kept = budgets.0.lock().unwrap().len();
        assert!(kept <= 3, "{kept} are kept");
        assert!(Arc::ptr_eq(
            &held,
            &budgets.of(&"held".into(), &"eu-central-1".into(), &SECRETS_MANAGER)
        ));
    }
}
