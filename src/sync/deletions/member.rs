//! What is remembered of an ExternalSecret, and what it counts for.

use std::{sync::Arc, time::Duration};

use crate::api::ObjectKey;

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
    pub(super) wish: Wish,
    /// The last deletion that was carried out within the window.
    pub(super) gone: Option<Gone>,
}

/// A deletion, by its token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Wish {
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
    },
    /// A person has confirmed it.
    Confirmed(Box<str>),
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
pub(super) struct Tally {
    pub(super) all: usize,
    pub(super) losing: usize,
}

impl Wish {
    pub(super) fn token(&self) -> Option<&str> {
        match self {
            Self::None => None,
            Self::Pending { token, .. } | Self::Held { token, .. } | Self::Confirmed(token) => Some(token),
        }
    }

    /// When its time is over.
    pub(super) fn until(&self) -> Option<Duration> {
        match self {
            Self::Pending { until, .. } | Self::Held { until, .. } => *until,
            Self::None | Self::Confirmed(_) => None,
        }
    }

    /// Its time is over: it stays wanted, and counts against no others.
    pub(super) fn expire(&mut self) {
        match self {
            Self::Pending { until, .. } | Self::Held { until, .. } => *until = None,
            Self::None | Self::Confirmed(_) => {}
        }
    }
}

impl Tally {
    pub(super) fn is_over(self) -> bool {
        let Self { all, losing } = self;
        let exceeds = |(count, percent): (usize, usize)| losing > count && losing * 100 > all * percent;
        LIMITS.into_iter().any(exceeds) || (all >= ALL && losing >= all)
    }
}

impl Member {
    /// What it counts for.
    pub(super) fn tally(&self) -> Tally {
        let lost = self.gone.as_ref().is_some_and(|gone| !gone.confirmed);
        let losing = match &self.wish {
            Wish::Pending { until, .. } | Wish::Held { until, .. } => lost || until.is_some(),
            Wish::None | Wish::Confirmed(_) => lost,
        };
        Tally {
            all: usize::from(self.exists || self.gone.is_some() || self.wish != Wish::None),
            losing: usize::from(losing),
        }
    }

    pub(super) fn groups(&self) -> impl Iterator<Item = Group> {
        let place = self.place.clone().map(Group::Place);
        [Group::Store(self.store.clone())].into_iter().chain(place)
    }
}
