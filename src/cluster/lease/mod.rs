//! One leader: holding the Lease, and the leave to write that comes with it.

mod decide;
#[cfg(test)]
mod tests;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant as StdInstant},
};

use k8s_openapi::{
    api::coordination::v1::{Lease as LeaseObject, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use serde_json::json;
use tokio::{
    sync::{OwnedRwLockReadGuard, RwLock, watch},
    time::{Instant, sleep, timeout},
};

use self::decide::{DURATION, Decision, Elector, RETRY, View};
use super::{
    call::{CALL_TIMEOUT, Call, TimeLimit, Verb},
    client::Cluster,
    error::{Class, Error},
    writes::{Observed, Written},
};
use crate::{
    api::{ObjectKey, names::SYNC_MANAGER},
    cluster::writes::MergePatch,
};

/// How long one call on the Lease may take: several fit into the time for renewals.
const LEASE_CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// Durations read from a Lease are taken to lie in between, whatever stands there.
const DURATIONS: (Duration, Duration) = (DURATION, Duration::from_mins(2));

/// The Lease was lost: another replica may lead now, so this process must end at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("lost the leader lease")]
pub struct LeaseLost;

/// The leave to write, shared by everything that writes.
#[derive(Debug)]
pub struct Leadership {
    until: Mutex<Option<StdInstant>>,
    leading: watch::Sender<bool>,
    turns: Arc<RwLock<()>>,
}

/// Held while a write is under way, so that vacating the Lease waits for it.
#[derive(Debug)]
pub(super) struct Turn(#[expect(dead_code, reason = "held for its drop")] OwnedRwLockReadGuard<()>);

impl Leadership {
    fn none() -> Self {
        Self {
            until: Mutex::new(None),
            leading: watch::Sender::new(false),
            turns: Arc::default(),
        }
    }

    /// Leave to write without a Lease, for a single replica.
    #[cfg(test)]
    pub fn alone() -> Arc<Self> {
        const FOREVER: Duration = Duration::from_hours(100 * 365 * 24);
        let leadership = Self::none();
        leadership.hold(Some(Instant::now().into_std() + FOREVER));
        Arc::new(leadership)
    }

    /// Whether a write may be sent at `now`: it arrives, or times out, before another replica can begin.
    pub fn may_write(&self, now: StdInstant) -> bool {
        self.until
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_some_and(|until| now < until)
    }

    /// Returns once this replica leads, at once if it does already.
    pub async fn acquired(&self) {
        let mut leading = self.leading.subscribe();
        // The sender lives in `self`, so an error cannot come.
        let _ = leading.wait_for(|leading| *leading).await;
    }

    /// Whether this replica leads.
    #[cfg(test)]
    pub fn leads(&self) -> bool {
        *self.leading.borrow()
    }

    /// A turn to write, if this replica may.
    pub(super) async fn turn(leadership: Arc<Self>) -> Option<Turn> {
        let turn = Arc::clone(&leadership.turns).read_owned().await;
        leadership
            .may_write(Instant::now().into_std())
            .then_some(Turn(turn))
    }

    fn hold(&self, until: Option<StdInstant>) {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner) = until;
        self.leading
            .send_if_modified(|leading| std::mem::replace(leading, until.is_some()) != until.is_some());
    }
}

/// One replica's part in the election.
pub struct Lease {
    cluster: Cluster,
    key: ObjectKey,
    identity: String,
    elector: Elector,
    leadership: Arc<Leadership>,
}

impl Lease {
    /// Takes part in the election for the Lease `key`. `identity` names the replica for people; a random part
    /// is added, so that a Pod that starts again under its name is another holder.
    pub fn new(cluster: Cluster, key: ObjectKey, identity: &str) -> Result<(Self, Arc<Leadership>), Error> {
        let mut random = [0; 4];
        let call = Call {
            verb: Verb::Create,
            kind: "Lease",
            key: &key,
        };
        aws_lc_rs::rand::fill(&mut random)
            .map_err(|_| call.failed(Class::Malformed("the machine gives no random numbers")))?;
        let identity = format!("{identity}_{:08x}", u32::from_be_bytes(random));
        let leadership = Arc::new(Leadership::none());
        let elector = Elector::new(identity.clone());
        let lease = Self {
            cluster,
            key,
            identity,
            elector,
            leadership: Arc::clone(&leadership),
        };
        Ok((lease, leadership))
    }

    /// Waits for the Lease, then keeps it until `stop`, then vacates it when the last write has ended. An error
    /// means that it was lost: nothing may be written any more, end the process.
    pub async fn run(mut self, stop: impl Future<Output = ()>) -> Result<(), LeaseLost> {
        let mut stop = std::pin::pin!(stop);
        // Our own write tells the state; what another did, or an unknown outcome, must be read first.
        let mut known = false;
        loop {
            let round = async {
                known = self.step(known).await?;
                sleep(RETRY).await;
                Ok(())
            };
            tokio::select! {
                biased;
                () = &mut stop => break,
                done = round => if let Err(lost) = done {
                    self.publish(false);
                    tracing::error!(lease = %self.key, "lost the leader lease");
                    return Err(lost);
                },
            }
        }
        self.vacate().await;
        Ok(())
    }

    /// One round; says whether the state of the Lease is known after it.
    async fn step(&mut self, known: bool) -> Result<bool, LeaseLost> {
        let known = known && self.elector.holds();
        if !known && let Err(err) = self.look().await {
            tracing::warn!(error = %err, "the leader lease could not be read");
            return self.unless_late().map(|()| false);
        }
        let now = Instant::now().into_std();
        let sent = match self.elector.decide(now) {
            Decision::Wait => return Ok(false),
            Decision::Lost => return Err(LeaseLost),
            Decision::Create => bounded(self.create()).await,
            Decision::Take => bounded(self.take()).await,
            Decision::Renew => bounded(self.renew()).await,
        };
        match sent {
            Some(Ok(Written {
                uid,
                resource_version,
            })) => {
                let holder = Some(self.identity.clone());
                let view = View {
                    holder,
                    duration: DURATION,
                    uid,
                    resource_version,
                };
                let gained = !self.elector.holds();
                self.elector.wrote(view, now, Instant::now().into_std());
                self.publish(true);
                if gained {
                    tracing::info!(lease = %self.key, identity = self.identity, "this replica leads");
                }
                Ok(true)
            }
            Some(Err(err)) => {
                tracing::debug!(error = %err, "the leader lease was not written");
                self.unless_late().map(|()| false)
            }
            None => self.unless_late().map(|()| false),
        }
    }

    /// Without an answer the Lease counts as lost once it could not be renewed for too long.
    fn unless_late(&self) -> Result<(), LeaseLost> {
        let late = self
            .elector
            .may_write_until()
            .is_some_and(|until| Instant::now().into_std() >= until);
        if late { Err(LeaseLost) } else { Ok(()) }
    }

    fn publish(&self, holds: bool) {
        let until = if holds {
            self.elector.may_write_until()
        } else {
            None
        };
        self.leadership.hold(until);
        self.cluster.metrics.leading.set(until.is_some().into());
    }

    async fn look(&mut self) -> Result<(), Error> {
        let call = Call {
            verb: Verb::Get,
            kind: "Lease",
            key: &self.key,
        };
        let found = bounded(self.cluster.find::<LeaseObject>(&self.key)).await;
        let found = found.unwrap_or_else(|| Err(call.failed(Class::Timeout)))?;
        let view = found
            .map(view_of)
            .transpose()
            .map_err(|class| call.failed(class))?;
        self.elector.observe(view, Instant::now().into_std());
        Ok(())
    }

    async fn create(&self) -> Result<Written, Error> {
        let now = MicroTime(self.cluster.time().now());
        let object = LeaseObject {
            metadata: ObjectMeta {
                namespace: Some(self.key.namespace.to_string()),
                name: Some(self.key.name.to_string()),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(self.identity.clone()),
                lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
                acquire_time: Some(now.clone()),
                renew_time: Some(now),
                lease_transitions: Some(0),
                ..LeaseSpec::default()
            }),
        };
        self.cluster.create(TimeLimit::Usual, &self.key, &object).await
    }

    async fn take(&self) -> Result<Written, Error> {
        let now = MicroTime(self.cluster.time().now());
        self.patch(json!({
            "holderIdentity": self.identity,
            "leaseDurationSeconds": DURATION.as_secs(),
            "acquireTime": now,
            "renewTime": now,
        }))
        .await
    }

    async fn renew(&self) -> Result<Written, Error> {
        self.patch(json!({"renewTime": MicroTime(self.cluster.time().now())}))
            .await
    }

    async fn patch(&self, spec: serde_json::Value) -> Result<Written, Error> {
        let seen = self.elector.seen().ok_or_else(|| {
            Call {
                verb: Verb::Patch,
                kind: "Lease",
                key: &self.key,
            }
            .failed(Class::NotFound)
        })?;
        let observed = Observed {
            uid: seen.uid.clone(),
            resource_version: seen.resource_version.clone(),
        };
        self.cluster
            .patch::<LeaseObject, _>(
                &self.key,
                &observed,
                MergePatch {
                    limit: TimeLimit::Usual,
                    manager: SYNC_MANAGER,
                    body: json!({"spec": spec}),
                },
            )
            .await
    }

    /// Lets the next replica begin at once. No turn begins after the first line, and those under way end.
    async fn vacate(&mut self) {
        self.publish(false);
        if !self.elector.holds() {
            return;
        }
        if timeout(CALL_TIMEOUT, self.leadership.turns.write())
            .await
            .is_err()
        {
            // A write may still arrive: the Lease runs out by itself.
            return;
        }
        // A renewal may have been cut off whose outcome is not known: read what it left.
        let vacated = match self.look().await {
            Ok(()) if self.elector.is_holder() => {
                let spec = json!({"holderIdentity": "", "renewTime": MicroTime(self.cluster.time().now())});
                bounded(self.patch(spec))
                    .await
                    .is_some_and(|patched| patched.is_ok())
            }
            Ok(()) | Err(_) => false,
        };
        tracing::info!(lease = %self.key, vacated, "this replica leads no more");
    }
}

async fn bounded<T>(call: impl Future<Output = T>) -> Option<T> {
    timeout(LEASE_CALL_TIMEOUT, call).await.ok()
}

fn view_of(lease: LeaseObject) -> Result<View, Class> {
    const UNVERSIONED: Class = Class::Malformed("the Lease has no uid or resource version");
    let LeaseObject { metadata, spec } = lease;
    let spec = spec.unwrap_or_default();
    let seconds = spec
        .lease_duration_seconds
        .and_then(|seconds| u64::try_from(seconds).ok());
    let (shortest, longest) = DURATIONS;
    Ok(View {
        holder: spec.holder_identity.filter(|holder| !holder.is_empty()),
        duration: Duration::from_secs(seconds.unwrap_or_default()).clamp(shortest, longest),
        uid: metadata.uid.ok_or(UNVERSIONED)?,
        resource_version: metadata.resource_version.ok_or(UNVERSIONED)?,
    })
}
