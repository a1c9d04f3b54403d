//! Where secrets live: one store per account and region, found by name or ARN without scanning.
//!
//! A secret keeps its last few states with their times, so that reads can be served as of a moment ago (eventual
//! consistency is a fault one switches on, see `faults`).

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    ops::Bound,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Instant,
};

use jiff::Timestamp;

use super::{error::ApiError, versions::SecretState, wire::random};

const SUFFIX: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
const SUFFIX_LEN: usize = 6;

/// Former states a secret keeps for stale reads.
const MAX_STATES: usize = 16;

/// Entries one page of a listing looks at: with filters that match little a page may be short or empty, as in AWS.
pub(super) const MAX_SCAN: usize = 1000;

/// The state of the KMS key that protects a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KmsKey {
    /// Usable.
    #[default]
    Enabled,
    /// Disabled: `DecryptionFailure`.
    Disabled,
    /// The caller has no `kms:Decrypt`: `AccessDeniedException`.
    Denied,
}

pub(super) struct Secret {
    pub(super) name: Arc<str>,
    pub(super) arn: Arc<str>,
    pub(super) account: Arc<str>,
    pub(super) sequence: u64,
    pub(super) created: Timestamp,
    states: RwLock<History>,
    /// Day of the last read, in days since 1970; -1: never.
    accessed: AtomicI64,
    kms: Mutex<KmsKey>,
}

struct History {
    states: VecDeque<(Instant, Arc<SecretState>)>,
    /// Whether the secret's first state was dropped already.
    truncated: bool,
}

impl Secret {
    /// The state now.
    pub(super) fn state(&self) -> Option<Arc<SecretState>> {
        self.at(None)
    }

    /// The state as of a moment ago; `None` if the secret did not exist then.
    pub(super) fn at(&self, as_of: Option<Instant>) -> Option<Arc<SecretState>> {
        let history = self.states.read().unwrap_or_else(PoisonError::into_inner);
        let Some(as_of) = as_of else {
            return history.states.back().map(|(_, s)| s.clone());
        };
        let found = history.states.iter().rev().find(|(since, _)| *since <= as_of);
        let oldest = history.states.front().filter(|_| history.truncated);
        found.or(oldest).map(|(_, state)| state.clone())
    }

    /// Makes a new state by `change`. An error changes nothing.
    pub(super) fn change<T>(
        &self,
        change: impl FnOnce(&mut SecretState) -> Result<T, ApiError>,
    ) -> Result<T, ApiError> {
        let mut history = self.states.write().unwrap_or_else(PoisonError::into_inner);
        let (_, last) = history.states.back().ok_or_else(ApiError::secret_not_found)?;
        let mut state = SecretState::clone(last);
        let answer = change(&mut state)?;
        history.states.push_back((Instant::now(), Arc::new(state)));
        if history.states.len() > MAX_STATES {
            history.states.pop_front();
            history.truncated = true;
        }
        Ok(answer)
    }

    pub(super) fn touch(&self) {
        self.accessed
            .store(Timestamp::now().as_second() / 86_400, Ordering::Relaxed);
    }

    /// Day of the last read, in seconds since 1970.
    pub(super) fn accessed(&self) -> Option<i64> {
        Some(self.accessed.load(Ordering::Relaxed))
            .filter(|day| *day >= 0)
            .map(|day| day * 86_400)
    }

    pub(super) fn kms(&self) -> KmsKey {
        *self.kms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_kms(&self, key: KmsKey) {
        *self.kms.lock().unwrap_or_else(PoisonError::into_inner) = key;
    }
}

pub(super) fn check_name(name: &str) -> Result<(), ApiError> {
    if name.is_empty() || name.len() > 512 {
        return Err(ApiError::constraint(
            "name",
            "Member must have length between 1 and 512",
        ));
    }
    if !name
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b"-/_+=.@!".contains(&b))
    {
        return Err(ApiError::new(
            "ValidationException",
            "Invalid name. Must be a valid name containing alphanumeric characters, or any of the following: -/_+=.@!",
        ));
    }
    Ok(())
}

/// How a caller named a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SecretId<'a> {
    Name(&'a str),
    /// An ARN without suffix.
    PartialArn {
        account: &'a str,
        region: &'a str,
        name: &'a str,
    },
    /// Also a partial ARN whose name ends in a hyphen and six characters: AWS takes that for a suffix.
    FullArn {
        account: &'a str,
        region: &'a str,
        name: &'a str,
    },
}

impl<'a> SecretId<'a> {
    pub(super) fn parse(id: &'a str) -> Self {
        let parts: Vec<&str> = id.splitn(7, ':').collect();
        let ["arn", "aws", "secretsmanager", region, account, "secret", rest] = *parts.as_slice() else {
            return Self::Name(id);
        };
        match rest.split_at_checked(rest.len().saturating_sub(SUFFIX_LEN + 1)) {
            Some((name, suffix))
                if suffix
                    .strip_prefix('-')
                    .is_some_and(|s| s.bytes().all(|b| b.is_ascii_alphanumeric())) =>
            {
                Self::FullArn {
                    account,
                    region,
                    name,
                }
            }
            _ => Self::PartialArn {
                account,
                region,
                name: rest,
            },
        }
    }

    pub(super) fn name(self) -> &'a str {
        match self {
            Self::Name(name) | Self::PartialArn { name, .. } | Self::FullArn { name, .. } => name,
        }
    }

    /// Account and region of an ARN.
    pub(super) fn place(self) -> Option<(&'a str, &'a str)> {
        match self {
            Self::Name(_) => None,
            Self::PartialArn { account, region, .. } | Self::FullArn { account, region, .. } => {
                Some((account, region))
            }
        }
    }
}

/// The order of a listing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum SortBy {
    #[default]
    Created,
    Changed,
    Accessed,
    Name,
}

/// Where a page ended. The secret itself may be gone by the time the next page is asked for.
#[derive(Debug, Clone)]
pub(super) struct Cursor {
    pub(super) sequence: u64,
    pub(super) name: Arc<str>,
}

/// The secrets of one account in one region.
pub(super) struct Store {
    account: Arc<str>,
    region: Arc<str>,
    index: RwLock<Index>,
}

#[derive(Default)]
struct Index {
    by_name: BTreeMap<Arc<str>, Arc<Secret>>,
    by_age: BTreeMap<u64, Arc<Secret>>,
}

impl Store {
    pub(super) fn find(&self, id: &str) -> Option<Arc<Secret>> {
        let parsed = SecretId::parse(id);
        let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
        let secret = index.by_name.get(parsed.name())?;
        match parsed {
            SecretId::FullArn { .. } => (*secret.arn == *id).then(|| secret.clone()),
            SecretId::Name(_) | SecretId::PartialArn { .. } => Some(secret.clone()),
        }
    }

    /// The ARN a new secret of that name would get.
    pub(super) fn new_arn(&self, name: &str) -> String {
        format!(
            "arn:aws:secretsmanager:{}:{}:secret:{name}-{}",
            self.region,
            self.account,
            random(SUFFIX, SUFFIX_LEN)
        )
    }

    /// Adds a secret; `Err` with the one that has the name already.
    pub(super) fn insert(
        &self,
        name: &str,
        arn: String,
        state: SecretState,
    ) -> Result<Arc<Secret>, Arc<Secret>> {
        static SEQUENCE: AtomicU64 = AtomicU64::new(1);
        let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(former) = index.by_name.get(name) {
            return Err(former.clone());
        }
        let secret = Arc::new(Secret {
            name: name.into(),
            arn: arn.into(),
            account: self.account.clone(),
            // Only the order matters, so one counter may serve every store of the process.
            sequence: SEQUENCE.fetch_add(1, Ordering::Relaxed),
            created: Timestamp::now(),
            states: RwLock::new(History {
                states: [(Instant::now(), Arc::new(state))].into(),
                truncated: false,
            }),
            accessed: AtomicI64::new(-1),
            kms: Mutex::default(),
        });
        index.by_name.insert(secret.name.clone(), secret.clone());
        index.by_age.insert(secret.sequence, secret.clone());
        Ok(secret)
    }

    pub(super) fn purge(&self, secret: &Secret) {
        let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
        if index.by_age.remove(&secret.sequence).is_some() {
            index.by_name.remove(&secret.name);
        }
    }

    /// Up to [`MAX_SCAN`] secrets after `last` in the wanted order. Sorting by a date of change or access costs a
    /// scan, the other orders cost only what is returned.
    pub(super) fn after(
        &self,
        last: Option<&Cursor>,
        sort: SortBy,
        descending: bool,
        limit: usize,
    ) -> Vec<Arc<Secret>> {
        let limit = limit.min(MAX_SCAN);
        let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
        let take = |entries: &mut dyn Iterator<Item = &Arc<Secret>>| entries.take(limit).cloned().collect();
        match (sort, descending) {
            (SortBy::Created, false) => {
                let from = last.map_or(Bound::Unbounded, |s| Bound::Excluded(s.sequence));
                take(&mut index.by_age.range((from, Bound::Unbounded)).map(|(_, s)| s))
            }
            (SortBy::Created, true) => {
                let to = last.map_or(Bound::Unbounded, |s| Bound::Excluded(s.sequence));
                take(&mut index.by_age.range((Bound::Unbounded, to)).rev().map(|(_, s)| s))
            }
            (SortBy::Name, false) => {
                let from = last.map_or(Bound::Unbounded, |s| Bound::Excluded(s.name.clone()));
                take(&mut index.by_name.range((from, Bound::Unbounded)).map(|(_, s)| s))
            }
            (SortBy::Name, true) => {
                let to = last.map_or(Bound::Unbounded, |s| Bound::Excluded(s.name.clone()));
                take(&mut index.by_name.range((Bound::Unbounded, to)).rev().map(|(_, s)| s))
            }
            (SortBy::Changed | SortBy::Accessed, _) => {
                let key = |secret: &Secret| match sort {
                    SortBy::Accessed => (secret.accessed(), None, secret.sequence),
                    _ => (None, secret.state().map(|s| s.changed), secret.sequence),
                };
                let mut all: Vec<_> = index.by_age.values().map(|s| (key(s), s)).collect();
                all.sort_by(|(a, _), (b, _)| if descending { b.cmp(a) } else { a.cmp(b) });
                let start = last.and_then(|l| all.iter().position(|(_, s)| s.sequence == l.sequence));
                take(&mut all.into_iter().skip(start.map_or(0, |at| at + 1)).map(|(_, s)| s))
            }
        }
    }
}

/// All accounts and regions.
#[derive(Default)]
pub(super) struct Stores {
    stores: RwLock<HashMap<String, Arc<Store>>>,
}

impl Stores {
    /// The store of an account in a region; made when first asked for.
    pub(super) fn of(&self, account: &str, region: &str) -> Arc<Store> {
        let key = format!("{account}/{region}");
        if let Some(store) = self
            .stores
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&key)
        {
            return store.clone();
        }
        let mut stores = self.stores.write().unwrap_or_else(PoisonError::into_inner);
        stores
            .entry(key)
            .or_insert_with(|| {
                Arc::new(Store {
                    account: account.into(),
                    region: region.into(),
                    index: RwLock::default(),
                })
            })
            .clone()
    }

    /// The secret an ARN names.
    pub(super) fn by_arn(&self, arn: &str) -> Option<(Arc<Store>, Arc<Secret>)> {
        let (account, region) = SecretId::parse(arn).place()?;
        let store = self.of(account, region);
        let secret = store.find(arn)?;
        Some((store, secret))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arn_that_ends_like_a_suffix_is_taken_for_a_full_one() {
        let arn = |rest: &str| format!("arn:aws:secretsmanager:eu-central-1:111122223333:secret:{rest}");
        for (rest, name, full) in [
            ("prod/db-AbCdEf", "prod/db", true),
            ("prod/db", "prod/db", false),
            ("prod/db-backup", "prod/db", true),
            ("prod/db-backup-AbCdEf", "prod/db-backup", true),
            ("prod/db-back_p", "prod/db-back_p", false),
            ("short", "short", false),
        ] {
            let arn = arn(rest);
            let parsed = SecretId::parse(&arn);
            assert_eq!(parsed.name(), name, "{rest}");
            assert_eq!(matches!(parsed, SecretId::FullArn { .. }), full, "{rest}");
            assert_eq!(parsed.place(), Some(("111122223333", "eu-central-1")));
        }
        assert_eq!(
            SecretId::parse("prod/db-AbCdEf"),
            SecretId::Name("prod/db-AbCdEf")
        );
    }

    #[test]
    fn a_former_state_is_served_as_of_its_time() {
        let store = Stores::default().of("111122223333", "eu-central-1");
        let before = Instant::now();
        let secret = store
            .insert(
                "a",
                store.new_arn("a"),
                SecretState::new(None, None, BTreeMap::new()),
            )
            .unwrap_or_else(|s| s);
        let created = Instant::now();
        secret
            .change(|s| {
                s.description = Some("new".into());
                Ok(())
            })
            .unwrap();
        assert!(secret.at(Some(before)).is_none(), "it did not exist yet");
        assert_eq!(secret.at(Some(created)).unwrap().description, None);
        assert_eq!(secret.state().unwrap().description.as_deref(), Some("new"));
        for n in 0..MAX_STATES {
            secret
                .change(|s| {
                    s.description = Some(n.to_string());
                    Ok(())
                })
                .unwrap();
        }
        assert!(
            secret.at(Some(before)).is_some(),
            "the oldest state kept stands for those before it"
        );
    }
}
