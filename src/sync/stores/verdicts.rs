//! Verdicts of `allowedKeys` on keys, kept so that a pass does not match every key again.
//!
//! Kept are the verdicts asked for last: two maps, of which the older one goes when the younger one is full. A verdict that
//! is gone costs one more match and nothing else, so whoever pushes others out slows nothing down by much.

use std::{
    collections::HashMap,
    mem,
    sync::{Arc, Mutex, PoisonError},
};

/// Verdicts in one map, and the bytes of their keys.
const VERDICTS: usize = 8192;
const KEY_BYTES: usize = 1 << 20;

/// What a verdict rests on besides the key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct VerdictScope {
    /// The store's uid and generation: what its spec says.
    pub(super) store: Arc<str>,
    pub(super) generation: i64,
    /// The account that names and patterns mean, once known.
    pub(super) account: Option<Arc<str>>,
    /// The ExternalSecret's namespace.
    pub(super) namespace: Arc<str>,
}

/// Verdicts on keys.
#[derive(Debug, Default)]
pub(super) struct Verdicts(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    young: HashMap<(Arc<VerdictScope>, Arc<str>), bool>,
    old: HashMap<(Arc<VerdictScope>, Arc<str>), bool>,
    /// Bytes of the keys in `young`.
    bytes: usize,
}

impl Verdicts {
    /// The verdict on `key`: as kept, or by `judge`.
    pub(super) fn of(&self, scope: &Arc<VerdictScope>, key: &Arc<str>, judge: impl FnOnce() -> bool) -> bool {
        let question = (scope.clone(), key.clone());
        let kept = self.with(|kept| match kept.young.get(&question) {
            Some(verdict) => Some(*verdict),
            None => kept
                .old
                .remove(&question)
                .inspect(|verdict| kept.keep(question.clone(), *verdict)),
        });
        // Not under the lock, which all passes share.
        kept.unwrap_or_else(|| {
            let verdict = judge();
            self.with(|kept| kept.keep(question, verdict));
            verdict
        })
    }

    fn with<T>(&self, with: impl FnOnce(&mut Kept) -> T) -> T {
        with(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Kept {
    fn keep(&mut self, question: (Arc<VerdictScope>, Arc<str>), verdict: bool) {
        let bytes = question.1.len();
        if self.young.len() >= VERDICTS || self.bytes + bytes > KEY_BYTES {
            self.old = mem::take(&mut self.young);
            self.bytes = 0;
        }
        if self.young.insert(question, verdict).is_none() {
            self.bytes += bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(store: &str, generation: i64, namespace: &str) -> Arc<VerdictScope> {
        Arc::new(VerdictScope {
            store: store.into(),
            generation,
            account: Some("111122223333".into()),
            namespace: namespace.into(),
        })
    }

    /// The verdict, and whether it was judged anew.
    fn judged(verdicts: &Verdicts, scope: &Arc<VerdictScope>, key: &str, verdict: bool) -> (bool, bool) {
        let mut judged = false;
        let said = verdicts.of(scope, &key.into(), || {
            judged = true;
            verdict
        });
        (said, judged)
    }

    #[test]
    fn a_key_is_judged_once_for_each_revision_of_the_store_and_namespace() {
        let verdicts = Verdicts::default();
        for (scope, key, verdict) in [
            (scope("a", 1, "shop"), "db", true),
            (scope("a", 1, "shop"), "other", false),
            (scope("a", 2, "shop"), "db", false),
            (scope("b", 1, "shop"), "db", false),
            (scope("a", 1, "bank"), "db", false),
        ] {
            assert_eq!(judged(&verdicts, &scope, key, verdict), (verdict, true));
            assert_eq!(judged(&verdicts, &scope, key, !verdict), (verdict, false));
        }
        let mut unproved = (*scope("a", 1, "shop")).clone();
        unproved.account = None;
        assert_eq!(judged(&verdicts, &Arc::new(unproved), "db", false), (false, true));
    }

    #[test]
    fn what_is_kept_is_bounded_in_number_and_bytes() {
        let scope = scope("a", 1, "shop");
        for length in [8, 2048] {
            let verdicts = Verdicts::default();
            for number in 0..3 * VERDICTS {
                judged(&verdicts, &scope, &format!("{number:0length$}"), true);
                // What is asked for again and again stays.
                assert_eq!(judged(&verdicts, &scope, "db", true).1, number == 0);
            }
            verdicts.with(|kept| {
                for map in [&kept.young, &kept.old] {
                    let bytes: usize = map.keys().map(|(_, key)| key.len()).sum();
                    assert!(
                        map.len() <= VERDICTS && bytes <= KEY_BYTES,
                        "{} {bytes}",
                        map.len()
                    );
                }
            });
        }
    }
}
