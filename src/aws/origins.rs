//! The Kubernetes objects that identities are made from: what was seen of them, and when they are looked at again.
//!
//! A session outlives a change of its ServiceAccount by up to an hour, and a Secret with keys may come after its store.
//! So each of these objects is read now and then while it is in use, and at once when AWS denies a call.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ops::Bound,
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use super::{
    identity::{Base, KeyRef},
    kube_tokens::{KubeTokenError, KubeTokens, ServiceAccountFacts},
};

/// A ServiceAccount that gives sessions is looked at this often: what changes is noticed within a minute.
const SERVICE_ACCOUNT: Duration = Duration::from_secs(55);
/// A Secret with keys, and whatever an identity cannot be had from, is looked at this often: what is corrected is noticed
/// within 10 s.
const SOON: Duration = Duration::from_secs(8);
/// Out of turn an object is looked at this often at most.
const OUT_OF_TURN: Duration = Duration::from_secs(5);
/// Between the looks that are due: at most 100 begin in a second, however many identities there are.
pub(super) const PAUSE: Duration = Duration::from_millis(10);
/// Looks that are due and under way at once.
pub(super) const AT_ONCE: usize = 8;
/// No session outlives this, so what nobody has asked for so long is not in use.
pub(super) const IN_USE: Duration = Duration::from_hours(1);

/// An object that first credentials come from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum KubeObject {
    ServiceAccount { namespace: Arc<str>, name: Arc<str> },
    Secret { namespace: Arc<str>, name: Arc<str> },
}

/// What an object was when it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Snapshot {
    ServiceAccount(ServiceAccountFacts),
    /// The uid and resourceVersion of a Secret.
    Secret(Arc<str>),
    /// It gave nothing, for a reason that does not pass by itself.
    Refused(KubeTokenError),
}

/// What credentials were made from.
pub(super) type MadeFrom = BTreeMap<KubeObject, Snapshot>;

impl KubeObject {
    /// The objects that `base` names.
    pub(super) fn of(base: &Base) -> BTreeSet<Self> {
        match base {
            Base::Own => BTreeSet::new(),
            Base::ServiceAccount { namespace, name, .. } => BTreeSet::from([Self::ServiceAccount {
                namespace: namespace.clone(),
                name: name.clone(),
            }]),
            Base::StaticKeys {
                access_key_id,
                secret_access_key,
                session_token,
                secrets: _,
            } => [access_key_id, secret_access_key]
                .into_iter()
                .chain(session_token)
                .map(Self::secret)
                .collect(),
        }
    }

    /// The Secret that holds a key.
    pub(super) fn secret(key: &KeyRef) -> Self {
        Self::Secret {
            namespace: key.namespace.clone(),
            name: key.name.clone(),
        }
    }

    /// Reads it as it is now; `None` if Kubernetes does not answer.
    pub(super) async fn read(&self, tokens: &dyn KubeTokens) -> Option<Snapshot> {
        let read = match self {
            Self::ServiceAccount { namespace, name } => tokens
                .service_account(namespace, name)
                .await
                .map(Snapshot::ServiceAccount),
            Self::Secret { namespace, name } => {
                tokens.secret_version(namespace, name).await.map(Snapshot::Secret)
            }
        };
        read.map_or_else(Snapshot::refused, Some)
    }

    fn namespace(&self) -> &Arc<str> {
        match self {
            Self::ServiceAccount { namespace, .. } | Self::Secret { namespace, .. } => namespace,
        }
    }

    fn period(&self, health: Health) -> Duration {
        match (self, health) {
            (Self::ServiceAccount { .. }, Health::Good) => SERVICE_ACCOUNT,
            (Self::Secret { .. }, _) | (_, Health::Broken) => SOON,
        }
    }
}

impl Snapshot {
    /// What an error says of the object; nothing if Kubernetes did not answer.
    pub(super) fn refused(error: KubeTokenError) -> Option<Self> {
        match error {
            KubeTokenError::Unavailable(_) => None,
            error => Some(Self::Refused(error)),
        }
    }

    /// Whether credentials that were made from this must be made again from what the object is `now`. An object that may
    /// not be read any more may be as it was.
    pub(super) fn is_outdated(&self, now: &Self) -> bool {
        let hidden = matches!(now, Self::Refused(KubeTokenError::Forbidden(_)));
        self != now && (!hidden || matches!(self, Self::Refused(_)))
    }

    /// Whether both give sessions of one role, which may do the same.
    pub(super) fn is_same_role(&self, now: &Self) -> bool {
        let (Self::ServiceAccount(before), Self::ServiceAccount(now)) = (self, now) else {
            return false;
        };
        let ServiceAccountFacts {
            uid,
            role_arn,
            audience: _,
        } = before;
        *uid == now.uid && *role_arn == now.role_arn
    }
}

/// Whether an object gives credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Health {
    Good,
    Broken,
}

/// When each object is looked at again. Pure: `now` is an argument.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    looks: HashMap<KubeObject, NextLook>,
    /// By namespace, so that one with many objects delays no other. None is empty.
    due: BTreeMap<Arc<str>, BTreeSet<(Instant, KubeObject)>>,
    /// The namespace that had the last turn.
    turn: Arc<str>,
    random: u64,
}

#[derive(Debug)]
struct NextLook {
    next: Instant,
    last: Instant,
    /// How often in a row it gave no credentials.
    broken: u32,
}

impl Schedule {
    /// The object has just been read for credentials. Gives whether its next look is the first of all.
    pub(super) fn read(&mut self, now: Instant, object: &KubeObject, health: Health) -> bool {
        let wait = self.wait(object, health);
        let look = self.looks.get_mut(object);
        let next = look.map_or(now + wait, |look| {
            look.last = now;
            look.next.min(now + wait)
        });
        self.set(now, object, next)
    }

    /// Whether the object may be looked at now, out of turn. If that was done a moment ago, its next look comes soon.
    pub(super) fn claim(&mut self, now: Instant, object: &KubeObject) -> bool {
        let Some(look) = self.looks.get_mut(object) else {
            self.set(now, object, now + SERVICE_ACCOUNT);
            return true;
        };
        if look.last + OUT_OF_TURN <= now {
            look.last = now;
            return true;
        }
        self.hurry(now, object);
        false
    }

    /// Has the object looked at as soon as that is allowed out of turn.
    pub(super) fn hurry(&mut self, now: Instant, object: &KubeObject) {
        let Some(look) = self.looks.get(object) else {
            return;
        };
        let next = look.next.min(now.max(look.last + OUT_OF_TURN));
        self.set(now, object, next);
    }

    /// An object that is due: namespaces in turn, and of each the one that is due first. It is looked at again even if nobody
    /// says what came of it.
    pub(super) fn take(&mut self, now: Instant) -> Option<KubeObject> {
        let is_due = |(_, due): &(&Arc<str>, &BTreeSet<(Instant, KubeObject)>)| {
            due.first().is_some_and(|(next, _)| *next <= now)
        };
        let behind = (Bound::Excluded(&*self.turn), Bound::Unbounded);
        let mut in_turn = self.due.range::<str, _>(behind).chain(&self.due);
        let (namespace, due) = in_turn.find(is_due)?;
        let (_, object) = due.first()?.clone();
        self.turn = Arc::clone(namespace);
        if let Some(look) = self.looks.get_mut(&object) {
            look.last = now;
        }
        self.set(now, &object, now + SERVICE_ACCOUNT);
        Some(object)
    }

    /// The object was looked at: what is made from it is so, or nobody uses it any more.
    pub(super) fn looked(&mut self, now: Instant, object: &KubeObject, health: Option<Health>) {
        let Some(health) = health else {
            if let Some(look) = self.looks.remove(object) {
                self.forget_due(look.next, object);
            }
            return;
        };
        let wait = self.wait(object, health);
        if let Some(look) = self.looks.get(object) {
            let next = look.next.min(now + wait);
            self.set(now, object, next);
        }
    }

    /// When the next look is due.
    pub(super) fn next(&self) -> Option<Instant> {
        let firsts = self.due.values().filter_map(BTreeSet::first);
        firsts.map(|(next, _)| *next).min()
    }

    fn forget_due(&mut self, next: Instant, object: &KubeObject) {
        if let Some(due) = self.due.get_mut(object.namespace()) {
            due.remove(&(next, object.clone()));
            if due.is_empty() {
                self.due.remove(object.namespace());
            }
        }
    }

    fn set(&mut self, now: Instant, object: &KubeObject, next: Instant) -> bool {
        let look = self.looks.entry(object.clone()).or_insert(NextLook {
            next,
            last: now,
            broken: 0,
        });
        let before = std::mem::replace(&mut look.next, next);
        self.forget_due(before, object);
        let due = self.due.entry(Arc::clone(object.namespace())).or_default();
        due.insert((next, object.clone()));
        self.next() == Some(next)
    }

    /// From three quarters to the whole of the period. What is broken is looked at again after 1 s, 2 s and 4 s first, since
    /// objects are often applied together.
    fn wait(&mut self, object: &KubeObject, health: Health) -> Duration {
        let mut period = object.period(health);
        if let Some(look) = self.looks.get_mut(object) {
            look.broken = match health {
                Health::Good => 0,
                Health::Broken => look.broken.saturating_add(1),
            };
            if health == Health::Broken {
                period = period.min(Duration::from_secs(1 << look.broken.saturating_sub(1).min(3)));
            }
        } else if health == Health::Broken {
            period = period.min(Duration::from_secs(1));
        }
        // splitmix64: small, and the same in every run of a test.
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        let per_mille = u32::try_from((z ^ (z >> 31)) % 251).unwrap_or_default();
        period.saturating_sub(period * per_mille / 1000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(namespace: &str, name: usize) -> KubeObject {
        KubeObject::ServiceAccount {
            namespace: namespace.into(),
            name: name.to_string().into(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_thousand_identities_of_one_tenant_delay_no_other() {
        let (mut schedule, start) = (Schedule::default(), Instant::now());
        for name in 0..1000 {
            schedule.read(start, &account("a-many", name), Health::Good);
        }
        for namespace in ["shop", "web"] {
            schedule.read(start, &account(namespace, 0), Health::Good);
        }
        let now = start + SERVICE_ACCOUNT;
        let taken: Vec<_> = std::iter::from_fn(|| schedule.take(now)).collect();
        assert_eq!(taken.len(), 1002, "each once");
        let first: Vec<_> = taken.iter().take(4).map(|object| &**object.namespace()).collect();
        assert_eq!(first, ["a-many", "shop", "web", "a-many"]);
        assert!(schedule.next().is_some_and(|next| next > now));
        for object in &taken {
            schedule.looked(now, object, None);
        }
        assert!(schedule.looks.is_empty() && schedule.due.is_empty() && schedule.next().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn of_a_namespace_the_first_that_is_due_is_taken_and_none_before_its_time() {
        let (mut schedule, start) = (Schedule::default(), Instant::now());
        for name in 0..3 {
            schedule.read(start, &account("shop", name), Health::Good);
        }
        assert_eq!(schedule.take(start), None);
        let soon = start + OUT_OF_TURN;
        schedule.hurry(start, &account("shop", 2));
        assert_eq!(schedule.next(), Some(soon));
        assert_eq!(schedule.take(soon), Some(account("shop", 2)));
        assert_eq!(schedule.take(soon), None);
    }
}
