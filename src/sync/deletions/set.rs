//! The held deletions of a store: when people are told of them, and by which tokens they confirm them.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use crate::api::{ObjectKey, token};

/// A set of held deletions is shown when none was added for this time.
const QUIET: Duration = Duration::from_secs(15);
/// A set that grows all the time is shown after this.
const PATIENCE: Duration = Duration::from_mins(5);
/// What is held is told again after this: an event is kept for an hour, and its token must be there to be found.
const REPEAT: Duration = Duration::from_mins(50);
/// A token is good for so long after it was told last, as its event is. What is held once more within that is no news.
pub(super) const KEPT: Duration = Duration::from_hours(1);
/// So many tokens of a store come as fast as there is news; as long as they are kept, further ones after a pause.
const BURST: usize = 4;
/// The pause between them, and between alerts of a store.
const PAUSE: Duration = Duration::from_mins(5);
/// How many ExternalSecrets and namespaces are named.
pub(super) const EXAMPLES: usize = 3;
/// How many tokens of a store are kept. The pauses allow for no more.
pub(super) const TOKENS: usize = 16;

/// The held deletions of a store.
#[derive(Clone, Debug, Default)]
pub(super) struct StoreDeletions {
    pub(super) held: BTreeMap<u64, ObjectKey>,
    /// Since when there is something to show, and when the last of it came.
    pub(super) news: Option<(Duration, Duration)>,
    /// When it was shown last.
    pub(super) told: Option<Duration>,
    /// When people were called last, and whether there was news since.
    pub(super) alerted: Option<Duration>,
    pub(super) owed: bool,
    /// The last one is the one that was told last.
    pub(super) shown: VecDeque<Token>,
    /// Deletions that were shown, and are not wanted any more: one that is held once more has the number it had.
    pub(super) released: HashMap<ObjectKey, (u64, Box<str>)>,
    /// The wrong token that was told last.
    pub(super) wrong: Option<String>,
    /// Tokens that confirm nothing any more, the last ones: they were used, or were there before anything was shown for them.
    pub(super) used: VecDeque<String>,
}

/// A token that was shown.
#[derive(Clone, Debug)]
pub(super) struct Token {
    pub(super) text: String,
    /// When it was told last.
    pub(super) at: Duration,
    /// The deletions that it was shown for, sorted.
    pub(super) numbers: Vec<u64>,
}

impl Token {
    pub(super) fn covers(&self, number: u64) -> bool {
        self.numbers.binary_search(&number).is_ok()
    }
}

impl StoreDeletions {
    pub(super) fn covers(&self, number: u64) -> bool {
        self.shown.iter().any(|token| token.covers(number))
    }

    /// What is held of the deletions that the token was shown for.
    pub(super) fn covered(&self, token: &Token) -> Vec<ObjectKey> {
        let numbers = token.numbers.iter();
        numbers
            .filter_map(|number| self.held.get(number).cloned())
            .collect()
    }

    /// Those with most of what is held.
    pub(super) fn namespaces(&self) -> Vec<(Arc<str>, usize)> {
        let mut counts: BTreeMap<&Arc<str>, usize> = BTreeMap::new();
        for object in self.held.values() {
            *counts.entry(&object.namespace).or_default() += 1;
        }
        let mut counts: Vec<_> = counts
            .into_iter()
            .map(|(name, n)| (Arc::clone(name), n))
            .collect();
        counts.sort_by_key(|(_, count)| Reverse(*count));
        counts.truncate(EXAMPLES);
        counts
    }

    pub(super) fn announce(&mut self, now: Duration) {
        self.news = Some((self.news.map_or(now, |(since, _)| since), now));
    }

    /// Nothing is held any more. The tokens stay for what is held once more.
    pub(super) fn clear(&mut self) {
        self.news = None;
        self.owed = false;
        self.wrong = None;
    }

    /// Nothing of it need be kept.
    pub(super) fn is_empty(&self) -> bool {
        self.held.is_empty() && self.shown.is_empty() && self.used.is_empty()
    }

    /// From now on this token confirms nothing, neither what it was shown for and is not held at the moment.
    pub(super) fn use_up(&mut self, token: &str) {
        if self.used.iter().any(|used| used == token) {
            return;
        }
        self.used.push_back(token.to_owned());
        if self.used.len() > TOKENS {
            self.used.pop_front();
        }
        if let Some(shown) = self.shown.iter().find(|shown| shown.text == token) {
            self.released.retain(|_, (number, _)| !shown.covers(*number));
        }
    }

    /// What confirms the deletions with these tokens: always the same, unless that is used up.
    pub(super) fn text<'a>(&self, tokens: impl IntoIterator<Item = &'a str>) -> String {
        let mut text = token::of_set(tokens);
        while self.used.contains(&text) {
            text = token::of_set([&*text]);
        }
        text
    }

    /// Forgets old tokens. What only they were shown for is news again.
    pub(super) fn expire(&mut self, now: Duration) {
        let before = self.shown.len();
        self.shown.retain(|token| now < token.at + KEPT);
        let surplus = self.shown.len().saturating_sub(TOKENS);
        self.shown.drain(..surplus);
        if self.shown.len() == before {
            return;
        }
        let shown = &self.shown;
        let covers = |number: u64| shown.iter().any(|token| token.covers(number));
        self.released.retain(|_, (number, _)| covers(*number));
        if !self.held.keys().all(|number| covers(*number)) {
            self.announce(now);
        }
    }

    pub(super) fn is_due(&self, now: Duration) -> bool {
        let paused = |since: Option<Duration>, pause| since.is_none_or(|since| now >= since + pause);
        match self.news {
            Some((since, last)) => {
                (now >= last + QUIET || now >= since + PATIENCE)
                    && (self.shown.len() < BURST || paused(self.told, PAUSE))
            }
            None => (self.owed && paused(self.alerted, PAUSE)) || paused(self.told, REPEAT),
        }
    }

    /// Whether people may be called for what is told now.
    pub(super) fn alert(&mut self, now: Duration) -> bool {
        let owed = self.news.take().is_some() || self.owed;
        let alert = owed && self.alerted.is_none_or(|at| now >= at + PAUSE);
        self.owed = owed && !alert;
        if alert {
            self.alerted = Some(now);
        }
        alert
    }
}
