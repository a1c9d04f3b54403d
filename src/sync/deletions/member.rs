//! What is remembered of an ExternalSecret, and what it counts for.

use std::{sync::Arc, time::Duration};

use super::set::KEPT;
use crate::api::{ObjectKey, token};

/// More than so many, if they are also more than so many percent, are held.
const LIMITS: [(usize, usize); 2] = [(3, 20), (10, 5)];
/// All of a group are held if there are so many at least.
const ALL: usize = 2;

/// What deletions are counted by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Group {
    Store(ObjectKey),
    Place(Place),
}

/// An account and a region.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// The account.
    pub account: Arc<str>,
    /// The region.
    pub region: Arc<str>,
}

/// An ExternalSecret that has a Secret, or had one until a moment ago.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) store: ObjectKey,
    pub(super) place: Option<Place>,
    /// Its Secret is there.
    pub(super) exists: bool,
    pub(super) state: DeletionState,
    /// How many tokens of its own are used up.
    pub(super) round: u64,
    /// The last deletion that was carried out within the window.
    pub(super) gone: Option<Gone>,
}

/// A deletion, by its token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum DeletionState {
    /// None is wanted.
    #[default]
    None,
    /// AWS has yet to confirm it.
    Pending {
        token: Box<str>,
        /// Until when it counts; none once that is over.
        until: Option<Duration>,
    },
    /// A person has to confirm it.
    Held {
        token: Box<str>,
        number: u64,
        /// As above.
        until: Option<Duration>,
        /// The status says so already: an answer to it may have come before.
        asked: bool,
    },
    /// A person has confirmed it.
    Confirmed {
        token: Box<str>,
        /// Until when that is good.
        until: Duration,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Gone {
    pub(super) token: Box<str>,
    pub(super) at: Duration,
    /// In seconds since 1970.
    pub(super) time: i64,
    pub(super) confirmed: bool,
}

/// How many of a group there are, and how many of them lose data without a confirmation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Count {
    pub(super) all: usize,
    pub(super) losing: usize,
}

impl DeletionState {
    pub(super) fn token(&self) -> Option<&str> {
        match self {
            Self::None => None,
            Self::Pending { token, .. } | Self::Held { token, .. } | Self::Confirmed { token, .. } => {
                Some(token)
            }
        }
    }

    /// When its time is over.
    pub(super) fn until(&self) -> Option<Duration> {
        match self {
            Self::Pending { until, .. } | Self::Held { until, .. } => *until,
            Self::Confirmed { until, .. } => Some(*until),
            Self::None => None,
        }
    }

    /// Its time is over: what waits stays wanted, and counts against no others; a confirmation is void.
    pub(super) fn expire(&mut self) {
        match self {
            Self::Pending { until, .. } | Self::Held { until, .. } => *until = None,
            Self::None | Self::Confirmed { .. } => *self = Self::None,
        }
    }
}

impl Count {
    pub(super) fn is_over(self) -> bool {
        let Self { all, losing } = self;
        let exceeds = |(count, percent): (usize, usize)| losing > count && losing * 100 > all * percent;
        LIMITS.into_iter().any(exceeds) || (all >= ALL && losing >= all)
    }
}

impl Member {
    /// What it counts for.
    pub(super) fn tally(&self) -> Count {
        let lost = self.gone.as_ref().is_some_and(|gone| !gone.confirmed);
        let losing = match &self.state {
            DeletionState::Pending { until, .. } | DeletionState::Held { until, .. } => {
                lost || until.is_some()
            }
            DeletionState::None | DeletionState::Confirmed { .. } => lost,
        };
        Count {
            all: usize::from(self.exists || self.gone.is_some() || self.state != DeletionState::None),
            losing: usize::from(losing),
        }
    }

    /// What confirms it on the ExternalSecret, if it is held. A text that was used up comes no second time.
    pub(super) fn text(&self) -> Option<String> {
        match &self.state {
            DeletionState::Held { token, .. } if self.round == 0 => Some(token.as_ref().to_owned()),
            DeletionState::Held { token, .. } => Some(token::of_set([token, &*self.round.to_string()])),
            _ => None,
        }
    }

    /// A person has confirmed it, if it is held. Its text and that of its store are used up, for later processes too.
    pub(super) fn confirm(&mut self, now: Duration) {
        if let DeletionState::Held { token, .. } = &self.state {
            self.round += 1;
            self.state = DeletionState::Confirmed {
                token: token.clone(),
                until: now + KEPT,
            };
        }
    }

    pub(super) fn groups(&self) -> impl Iterator<Item = Group> {
        let place = self.place.clone().map(Group::Place);
        [Group::Store(self.store.clone())].into_iter().chain(place)
    }
}
