//! How many Secrets may lose their data because secrets are gone in AWS, before a person has to confirm it. Pure: the time
//! is an argument.
//!
//! An account that was emptied by mistake looks like many secrets that were deleted on purpose. So deletions are counted by
//! store, and by account and region; those that would exceed the limits are held, and stay held until they are confirmed or
//! the secrets are back. What waits, for AWS or for a person, counts against others for ten minutes, like what was carried
//! out: one tenant's deletions that wait do not hold those of the others for ever.
//!
//! It promises: without a confirmation no more Secrets than the limits allow lose data within ten minutes; a confirmation
//! covers the deletions that its token was shown for and no later one, once, and for an hour. It stays where it was written,
//! on the store or the ExternalSecret. So a token is used up when it has confirmed something, and also when it stood there
//! before it was asked for: what is held again gets another. Only what an earlier process asked for may be answered already.

mod member;
mod set;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

pub use self::member::Place;
use self::{
    member::{Count, DeletionState, Gone, Group, Member},
    set::{EXAMPLES, StoreDeletions, Token},
};
use crate::api::ObjectKey;

/// Deletions of the last ten minutes count together.
pub const WINDOW: Duration = Duration::from_mins(10);
/// How many tokens of one deletion a new process tries, to find the one that is asked for.
const ROUNDS: usize = 16;

/// Whether a deletion may be carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It may, and counts as carried out.
    Go,
    /// A person has to confirm it.
    Held,
}

/// A set of held deletions that people are to be told of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldDeletions {
    /// The store.
    pub store: ObjectKey,
    /// What confirms them.
    pub token: String,
    /// How many Secrets would lose data.
    pub held: usize,
    /// How many the store has in all.
    pub of: usize,
    /// Some of the ExternalSecrets, by name.
    pub examples: Vec<ObjectKey>,
    /// The namespaces with most of them, and how many each has.
    pub namespaces: Vec<(Arc<str>, usize)>,
    /// People may be called for it: there is news, and they were not called a moment ago.
    pub alert: bool,
}

/// What a confirmation came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Confirmed {
    /// Nothing is held, or nothing was shown yet.
    Nothing,
    /// These deletions may be carried out.
    All(Vec<ObjectKey>),
    /// The token is none that was shown, or is used up. Told once; later it is `Nothing`.
    Wrong {
        /// The one that was shown last.
        current: String,
    },
}

/// The ExternalSecrets whose Secrets may lose data, and those that do.
#[derive(Debug, Default)]
pub struct Deletions {
    members: HashMap<ObjectKey, Member>,
    tallies: HashMap<Group, Count>,
    /// Deletions that were carried out, in the order of time.
    recent: VecDeque<(Duration, ObjectKey)>,
    /// When the time of which deletion is over.
    ends: BTreeSet<(Duration, ObjectKey)>,
    /// By store.
    sets: BTreeMap<ObjectKey, StoreDeletions>,
    /// The number of the last deletion that was held.
    number: u64,
}

/// The Secret of an ExternalSecret, whose data may be deleted.
#[derive(Clone, Copy, Debug)]
pub struct DeletionTarget<'a> {
    /// The store that the ExternalSecret reads through.
    pub store: &'a ObjectKey,
    /// None where the account is not known.
    pub place: Option<&'a Place>,
    /// Whether the Secret is there.
    pub exists: bool,
}

/// Now, by two clocks.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// By the clock of the process.
    pub now: Duration,
    /// By the API server, in seconds since 1970.
    pub time: i64,
}

impl Deletions {
    /// The policy of an ExternalSecret lets data of its Secret be deleted.
    pub fn see(&mut self, now: Duration, object: &ObjectKey, target: DeletionTarget<'_>) {
        let DeletionTarget { store, place, exists } = target;
        self.expire(now);
        let before = self.members.get(object);
        if let Some(before) = before
            && before.store == *store
            && before.exists == exists
            && (place.is_none() || before.place.as_ref() == place)
        {
            return;
        }
        let mut member = before.cloned().unwrap_or_else(|| Member {
            store: store.clone(),
            place: None,
            exists,
            state: DeletionState::None,
            round: 0,
            gone: None,
        });
        if member.store != *store {
            member.store = store.clone();
            member.place = None;
            // Another store is another source: nothing is known to be gone there.
            member.state = DeletionState::None;
        }
        member.place = place.cloned().or(member.place);
        member.exists = exists;
        self.put(object, Some(member));
    }

    /// A deletion that an earlier process carried out, at this time.
    pub fn recall(&mut self, object: &ObjectKey, store: &ObjectKey, at: Duration, time: i64) {
        let gone = Gone {
            token: "".into(),
            at,
            time,
            confirmed: false,
        };
        let member = Member {
            store: store.clone(),
            place: None,
            exists: false,
            state: DeletionState::None,
            round: 0,
            gone: Some(gone),
        };
        self.put(object, Some(member));
        let place = self.recent.partition_point(|(other, _)| *other <= at);
        self.recent.insert(place, (at, object.clone()));
    }

    /// Its Secret was deleted, which no pass over it need show.
    pub fn lose(&mut self, object: &ObjectKey) {
        if let Some(mut member) = self.members.get(object).cloned() {
            member.exists = false;
            self.put(object, Some(member));
        }
    }

    /// The ExternalSecret is gone, or its policy keeps everything. What was carried out still counts.
    pub fn forget(&mut self, object: &ObjectKey) {
        let Some(mut member) = self.members.get(object).cloned() else {
            return;
        };
        member.exists = false;
        member.state = DeletionState::None;
        self.put(object, Some(member));
    }

    /// Nothing of the ExternalSecret's Secret is to be deleted any more. What was decided and not carried out is void.
    pub fn withdraw(&mut self, object: &ObjectKey) {
        let Some(mut member) = self.members.get(object).cloned() else {
            return;
        };
        let decided = member.gone.as_mut().filter(|gone| !gone.token.is_empty());
        if member.state == DeletionState::None && decided.is_none() {
            return;
        }
        if let Some(gone) = decided {
            gone.token = "".into();
        }
        member.state = DeletionState::None;
        self.put(object, Some(member));
    }

    /// A deletion has shown that AWS has yet to confirm: from now on it counts. It counts no longer because it shows again.
    pub fn expect(&mut self, now: Duration, object: &ObjectKey, token: &str) {
        let Some(mut member) = self.members.get(object).cloned() else {
            return;
        };
        if member.state.token() != Some(token) {
            member.state = DeletionState::Pending {
                token: token.into(),
                until: Some(now + WINDOW),
            };
            self.put(object, Some(member));
        }
    }

    /// Whether a deletion that AWS has confirmed may be carried out. `held`: its status says that it is held, so an earlier
    /// process may have held it.
    pub fn decide(&mut self, now: Moment, object: &ObjectKey, token: &str, held: bool) -> Decision {
        let Moment { now, time } = now;
        self.expire(now);
        // It was tried before and did not succeed, or the same is asked again.
        if let Some(gone) = self.members.get(object).and_then(|member| member.gone.as_ref())
            && *gone.token == *token
        {
            return Decision::Go;
        }
        self.expect(now, object, token);
        let Some(mut member) = self.members.get(object).cloned() else {
            return Decision::Held;
        };
        let confirmed = match &mut member.state {
            DeletionState::Confirmed { .. } => true,
            DeletionState::Held { .. } => return Decision::Held,
            DeletionState::None => false,
            // However long AWS took: now it counts.
            DeletionState::Pending { until, .. } => {
                *until = Some(now + WINDOW);
                self.put(object, Some(member.clone()));
                false
            }
        };
        let over = |group| self.tallies.get(&group).copied().unwrap_or_default().is_over();
        if !confirmed && (held || member.groups().any(over)) {
            let number = self.number_of(object, &member.store, token);
            member.state = DeletionState::Held {
                token: token.into(),
                number,
                until: Some(now + WINDOW),
                asked: held,
            };
            let store = member.store.clone();
            self.put(object, Some(member));
            let set = self.sets.entry(store).or_default();
            if !set.covers(number) {
                set.announce(now);
            }
            return Decision::Held;
        }
        member.state = DeletionState::None;
        // One that went without a confirmation a moment ago still counts.
        let confirmed = confirmed && member.gone.as_ref().is_none_or(|gone| gone.confirmed);
        member.gone = Some(Gone {
            token: token.into(),
            at: now,
            time,
            confirmed,
        });
        self.put(object, Some(member));
        self.recent.push_back((now, object.clone()));
        Decision::Go
    }

    /// The number of a deletion that is to be held: the one it had, if a token that is kept was shown for it.
    fn number_of(&mut self, object: &ObjectKey, store: &ObjectKey, token: &str) -> u64 {
        let set = self.sets.get_mut(store);
        if let Some(set) = set
            && let Some((number, released)) = set.released.remove(object)
            && *released == *token
            && set.covers(number)
        {
            return number;
        }
        self.number += 1;
        self.number
    }

    /// When the last deletion of the ExternalSecret's data was carried out, if that was within the window.
    pub fn time_of(&self, object: &ObjectKey) -> Option<i64> {
        self.members.get(object)?.gone.as_ref().map(|gone| gone.time)
    }

    /// How many deletions are held.
    pub fn held(&self) -> usize {
        self.sets.values().map(|set| set.held.len()).sum()
    }

    /// Stores with held deletions.
    pub fn stores(&self) -> Vec<ObjectKey> {
        let held = self.sets.iter().filter(|(_, set)| !set.held.is_empty());
        held.map(|(store, _)| store.clone()).collect()
    }

    /// The sets that are to be shown now.
    pub fn show(&mut self, now: Duration) -> Vec<HeldDeletions> {
        self.expire(now);
        let mut all = Vec::new();
        for (store, set) in &mut self.sets {
            set.expire(now);
            if set.held.is_empty() || !set.is_due(now) {
                continue;
            }
            let alert = set.alert(now);
            set.told = Some(now);
            let texts = set
                .held
                .values()
                .filter_map(|object| self.members.get(object)?.text());
            let mut texts: Vec<String> = texts.collect();
            texts.sort_unstable();
            let token = set.text(texts.iter().map(String::as_str));
            set.shown.retain(|shown| shown.text != token);
            set.shown.push_back(Token {
                text: token.clone(),
                at: now,
                numbers: set.held.keys().copied().collect(),
            });
            let group = Group::Store(store.clone());
            all.push(HeldDeletions {
                store: store.clone(),
                token,
                held: set.held.len(),
                of: self.tallies.get(&group).map_or(0, |tally| tally.all),
                examples: set.held.values().take(EXAMPLES).cloned().collect(),
                namespaces: set.namespaces(),
                alert,
            });
        }
        self.sets.retain(|store, set| {
            if !self.tallies.contains_key(&Group::Store(store.clone())) {
                set.used.clear();
            }
            !set.is_empty()
        });
        all
    }

    /// What confirms the deletion of one ExternalSecret's data, if it is held.
    pub fn text(&self, object: &ObjectKey) -> Option<String> {
        self.members.get(object)?.text()
    }

    /// The token of one ExternalSecret's deletion stood there before it was asked for: another one confirms it.
    pub fn reject(&mut self, object: &ObjectKey) {
        if let Some(mut member) = self.members.get(object).cloned() {
            member.round += 1;
            self.put(object, Some(member));
        }
    }

    /// Goes on from the token that people are asked for, which an earlier process may have chosen.
    pub fn resume(&mut self, object: &ObjectKey, asked: impl Fn(&str) -> bool) {
        let Some(mut member) = self.members.get(object).cloned() else {
            return;
        };
        for _ in 0..ROUNDS {
            if member.text().is_some_and(|text| asked(&text)) {
                self.put(object, Some(member));
                return;
            }
            member.round += 1;
        }
    }

    /// A person confirms the deletion of one ExternalSecret's data. Gives whether that is one that is held.
    pub fn confirm(&mut self, now: Duration, object: &ObjectKey, text: &str) -> bool {
        let Some(mut member) = self.members.get(object).cloned() else {
            return false;
        };
        let held = member.text().is_some_and(|held| held == *text);
        if held {
            member.confirm(now);
            self.put(object, Some(member));
        }
        held
    }

    /// The store carries this token, by which a person confirms deletions that it was shown for. To be called before what
    /// is due is shown.
    pub fn confirm_store(&mut self, now: Duration, store: &ObjectKey, token: &str) -> Confirmed {
        let Some(set) = self.sets.get_mut(store) else {
            return Confirmed::Nothing;
        };
        let found = set.shown.iter().find(|shown| shown.text == token);
        let is_used = set.used.iter().any(|used| used == token);
        let objects = found
            .filter(|_| !is_used)
            .map(|found| set.covered(found))
            .unwrap_or_default();
        let members = &self.members;
        let asked = |object: &ObjectKey| {
            let state = members.get(object).map(|member| &member.state);
            matches!(state, Some(DeletionState::Held { asked: true, .. }))
        };
        if found.is_some() || !set.held.values().all(asked) {
            set.use_up(token);
        }
        let is_last = set.shown.back().is_some_and(|last| last.text == token);
        if objects.is_empty() && !is_last {
            // The last one may be of deletions that are not held any more.
            let mut shown = set.shown.iter().rev();
            let current = shown.find(|shown| !set.covered(shown).is_empty());
            let Some(current) = current.filter(|_| set.wrong.as_deref() != Some(token)) else {
                return Confirmed::Nothing;
            };
            let current = current.text.clone();
            set.wrong = Some(token.to_owned());
            return Confirmed::Wrong { current };
        }
        for object in &objects {
            let Some(mut member) = self.members.get(object).cloned() else {
                continue;
            };
            member.confirm(now);
            self.put(object, Some(member));
        }
        Confirmed::All(objects)
    }

    /// Forgets what was carried out before the window; what has waited for longer counts no more, and what was confirmed
    /// long ago has to be confirmed again.
    fn expire(&mut self, now: Duration) {
        while let Some((end, object)) = self.ends.pop_first() {
            if end > now {
                self.ends.insert((end, object));
                break;
            }
            if let Some(mut member) = self.members.get(&object).cloned() {
                member.state.expire();
                self.put(&object, Some(member));
            }
        }
        while let Some((at, object)) = self.recent.front().filter(|(at, _)| *at + WINDOW <= now).cloned() {
            self.recent.pop_front();
            let Some(mut member) = self.members.get(&object).cloned() else {
                continue;
            };
            // Later ones stand for themselves.
            if member.gone.as_ref().is_some_and(|gone| gone.at <= at) {
                member.gone = None;
                self.put(&object, Some(member));
            }
        }
    }

    /// The only place that changes a member, so that the numbers follow.
    fn put(&mut self, object: &ObjectKey, member: Option<Member>) {
        let member = member.filter(|member| member.tally().all > 0);
        let before = match &member {
            Some(member) => self.members.insert(object.clone(), member.clone()),
            None => self.members.remove(object),
        };
        if let Some(before) = &before {
            let of = before.tally();
            for group in before.groups() {
                if let Some(tally) = self.tallies.get_mut(&group) {
                    tally.all -= of.all;
                    tally.losing -= of.losing;
                    if tally.all == 0 {
                        self.tallies.remove(&group);
                    }
                }
            }
            if let Some(end) = before.state.until() {
                self.ends.remove(&(end, object.clone()));
            }
            if let DeletionState::Held { number, .. } = before.state
                && let Some(set) = self.sets.get_mut(&before.store)
            {
                set.held.remove(&number);
            }
            self.release(object, before, member.as_ref());
        }
        if let Some(member) = &member {
            let of = member.tally();
            for group in member.groups() {
                let tally = self.tallies.entry(group).or_default();
                tally.all += of.all;
                tally.losing += of.losing;
            }
            if let Some(end) = member.state.until() {
                self.ends.insert((end, object.clone()));
            }
            if let DeletionState::Held { number, .. } = member.state {
                let set = self.sets.entry(member.store.clone()).or_default();
                set.held.insert(number, object.clone());
            }
        }
        if let Some(before) = before
            && let Some(set) = self.sets.get_mut(&before.store)
            && set.held.is_empty()
        {
            set.clear();
            if set.is_empty() {
                self.sets.remove(&before.store);
            }
        }
    }

    /// Keeps in mind what was held and shown, and is not wanted now: it may be held once more.
    fn release(&mut self, object: &ObjectKey, before: &Member, member: Option<&Member>) {
        let DeletionState::Held { token, number, .. } = &before.state else {
            return;
        };
        if member.is_none_or(|member| member.state.token() != Some(token))
            && let Some(set) = self.sets.get_mut(&before.store)
            && set.covers(*number)
        {
            set.released.insert(object.clone(), (*number, token.clone()));
        }
    }
}
