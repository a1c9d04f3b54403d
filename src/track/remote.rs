//! What is known of one remote secret.

use std::{sync::Arc, time::Duration};

use crate::{
    api::{Selector, VersionId},
    track::{
        Call, Failure, Known, Now, Rotation,
        absence::{Absence, Seen},
        objects::ObjectId,
        view::{Evidence, Verdict, View},
    },
};

/// Permanent failures are re-checked at least this often, and never more often than the secret is checked.
const RECHECK: Duration = Duration::from_mins(5);
/// How often a secret is described for its rotation alone.
pub(super) const FACTS: Duration = Duration::from_mins(30);
/// How often a hint has the secret described.
const HINT_TRIES: u8 = 6;

pub(super) type RemoteId = u32;
pub(super) type CohortId = u32;

/// Which schedule checks the secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lane {
    /// None: nobody wants periodic checks, or the source is not known.
    None,
    /// The source's sweep.
    Sweep,
    /// Reads of a cohort.
    Cohort(CohortId),
    /// Its own, at this time next.
    Own(Now),
}

#[derive(Debug)]
pub(super) struct Remote {
    /// What it is asked by: a name rather than an ARN, since a name outlives the making of the secret anew.
    pub(super) key: Arc<str>,
    /// What else leads here: keys of wants and names learnt.
    pub(super) aliases: Vec<Arc<str>>,
    pub(super) views: Vec<View>,
    pub(super) subscribers: Vec<ObjectId>,
    /// The shortest of its subscribers' intervals.
    pub(super) interval: Option<Duration>,
    pub(super) lane: Lane,
    /// Its place in the source's queue.
    pub(super) queued: Option<Now>,
    pub(super) asked: Option<Asked>,
    pub(super) checked: Option<Now>,
    /// To be checked then for itself, whatever its lane.
    pub(super) urgent: Option<Now>,
    pub(super) trouble: Option<Box<Trouble>>,
    pub(super) hint: Option<Box<Hint>>,
    pub(super) facts: Option<Box<Facts>>,
    /// The last sweep that showed it.
    pub(super) swept: u32,
    /// Of another account or region, or perhaps so: neither batched nor listed.
    pub(super) foreign: bool,
    /// Only AWSCURRENT is wanted, so that a batch can read it.
    pub(super) batchable: bool,
    /// Describe is denied: reading it alone has to do.
    pub(super) undescribed: bool,
}

/// A call under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) at: Now,
    pub(super) cohort: bool,
}

/// A failure that waiting does not mend, or an id that a batch left out.
#[derive(Debug)]
pub(super) struct Trouble {
    pub(super) failure: Failure,
    pub(super) call: Call,
    pub(super) next: Now,
    tries: u8,
    /// Since when Describe shows that it is gone.
    absence: Option<Absence>,
}

impl Trouble {
    /// Whether users are told.
    fn is_told(&self) -> bool {
        self.failure != Failure::Unanswered
    }

    fn is_gone(&self) -> bool {
        self.call == Call::Describe && matches!(self.failure, Failure::NotFound | Failure::MarkedForDeletion)
    }
}

/// An event told of a version.
#[derive(Debug)]
pub(super) struct Hint {
    expected: Option<VersionId>,
    tries: u8,
    next: Now,
}

/// Facts of the rotation, for those who want them.
#[derive(Debug)]
pub(super) struct Facts {
    pub(super) rotation: Option<Rotation>,
    /// When Describe last told them.
    pub(super) described: Option<Now>,
    /// When to describe for them; none while sweeps tell them.
    pub(super) next: Option<Now>,
}

/// What a change of trouble means for those who want the secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    None,
    Failing,
    Gone,
    Recovered,
}

impl Remote {
    pub(super) fn new(key: Arc<str>, foreign: bool) -> Self {
        Self {
            key,
            aliases: Vec::new(),
            views: Vec::with_capacity(1),
            subscribers: Vec::with_capacity(1),
            interval: None,
            lane: Lane::None,
            queued: None,
            asked: None,
            checked: None,
            urgent: None,
            trouble: None,
            hint: None,
            facts: None,
            swept: 0,
            foreign,
            batchable: false,
            undescribed: false,
        }
    }

    pub(super) fn view(&self, selector: &Selector) -> Option<&View> {
        self.views.iter().find(|view| view.selector == *selector)
    }

    /// The view of the selector, made if there is none.
    pub(super) fn view_mut(&mut self, selector: &Selector) -> &mut View {
        let at = self
            .views
            .iter()
            .position(|view| view.selector == *selector)
            .unwrap_or_else(|| {
                self.views.push(View::new(selector.clone()));
                self.views.len() - 1
            });
        // Found or pushed just now.
        #[allow(clippy::indexing_slicing)]
        &mut self.views[at]
    }

    pub(super) fn has_current(&self) -> bool {
        self.views.iter().any(|view| view.selector.is_current())
    }

    pub(super) fn known(&self, selector: &Selector) -> Known {
        let Some(view) = self.view(selector) else {
            return Known::Unknown;
        };
        if let Some(trouble) = self.trouble.as_deref().filter(|trouble| trouble.is_told()) {
            if trouble.is_gone() {
                return Known::Gone {
                    deleted: trouble.failure == Failure::MarkedForDeletion,
                };
            }
            match &trouble.failure {
                Failure::StageNotFound(missing) if missing != selector => {}
                failure => return Known::Failing(failure.clone()),
            }
        }
        if view.missing {
            return Known::Failing(Failure::StageNotFound(selector.clone()));
        }
        match (view.accepted(), view.suspect()) {
            (accepted, Some(suspect)) => Known::Held {
                accepted: accepted.cloned(),
                suspect: suspect.clone(),
            },
            (Some(accepted), None) => Known::Version(accepted.clone()),
            (None, None) => Known::Unknown,
        }
    }

    /// Whether Describe has shown twice that the secret is gone. Asks for the second time if not.
    pub(super) fn confirm_gone(&mut self) -> bool {
        let Some(trouble) = self.trouble.as_deref_mut() else {
            return false;
        };
        let Some(absence) = &mut trouble.absence else {
            return false;
        };
        absence.want();
        if let Some(due) = absence.due() {
            trouble.next = trouble.next.min(due);
        }
        absence.is_confirmed()
    }

    pub(super) fn recheck(&self) -> Duration {
        self.interval.map_or(RECHECK, |interval| interval.min(RECHECK))
    }

    /// Whether its cohort reads it, rather than a call of its own.
    pub(super) fn rides_along(&self) -> bool {
        self.asked.is_none()
            && self
                .trouble
                .as_ref()
                .is_none_or(|trouble| trouble.failure == Failure::Identity)
    }

    /// Forgets what failed, if every view has shown a version before. Gives whether anything did.
    pub(super) fn dismiss_trouble(&mut self) -> bool {
        if self.views.iter().any(View::is_blank) {
            return false;
        }
        let mut failed = self.trouble.take().is_some();
        for view in &mut self.views {
            failed |= std::mem::take(&mut view.missing);
        }
        failed
    }

    /// When to ask for it alone; none while a call is under way.
    pub(super) fn due(&self) -> Option<Now> {
        if self.asked.is_some() {
            return None;
        }
        let own = match self.lane {
            Lane::Own(next) => Some(next),
            _ => None,
        };
        let planned = if let Some(trouble) = &self.trouble {
            Some(trouble.next)
        } else {
            let missing = self.views.iter().any(|view| view.missing);
            own.into_iter()
                .chain(self.views.iter().filter_map(View::due))
                .chain(
                    self.hint
                        .as_ref()
                        .filter(|hint| hint.tries < HINT_TRIES)
                        .map(|hint| hint.next),
                )
                .chain(self.facts.as_ref().and_then(|facts| facts.next))
                .chain(
                    self.checked
                        .filter(|_| missing)
                        .map(|checked| checked + self.recheck()),
                )
                .min()
        };
        planned.into_iter().chain(self.urgent).min()
    }

    /// Which call checks it alone.
    pub(super) fn call(&self) -> Call {
        // Of stages other than AWSCURRENT only Describe tells whether they are there by now.
        let elsewhere = |failure: &Failure| {
            matches!(failure, Failure::StageNotFound(stage) if !stage.is_current()) && !self.undescribed
        };
        let unread = self
            .trouble
            .as_ref()
            .is_some_and(|trouble| trouble.call == Call::Read && !elsewhere(&trouble.failure));
        // A missing secret is described first, since only that decides.
        let undecided = self.urgent.is_some() && !self.undescribed;
        if self.has_current() && ((unread && !undecided) || (self.undescribed && self.batchable)) {
            Call::Read
        } else {
            Call::Describe
        }
    }

    /// A call of its own starts.
    pub(super) fn ask(&mut self, now: Now) {
        self.asked = Some(Asked {
            at: now,
            cohort: false,
        });
        self.urgent = None;
        let recheck = self.recheck();
        // Also where the call shows no stages, which is how it is where Describe is denied.
        if let Some(next) = self.facts.as_mut().and_then(|facts| facts.next.as_mut()) {
            *next = (*next).max(now + FACTS);
        }
        if let Some(trouble) = &mut self.trouble {
            trouble.next = now + recheck;
        }
        if let (Lane::Own(next), Some(interval)) = (&mut self.lane, self.interval) {
            *next = now + interval;
        }
        if let Some(hint) = &mut self.hint {
            hint.tries = hint.tries.saturating_add(1);
            hint.next = now + Duration::from_secs(1 << hint.tries.min(HINT_TRIES));
        }
    }

    pub(super) fn hint(&mut self, now: Now, expected: Option<VersionId>) {
        let known = expected
            .as_ref()
            .is_some_and(|expected| self.views.iter().any(|v| v.accepted() == Some(expected)));
        if !known {
            self.hint = Some(Box::new(Hint {
                expected,
                tries: 0,
                next: now,
            }));
        }
    }

    /// A Describe has answered: the hint is done if it shows what was expected, or was asked for often enough.
    pub(super) fn follow_hint(&mut self, shows: impl Fn(&VersionId) -> bool) {
        self.hint = self.hint.take().filter(|hint| {
            hint.tries < HINT_TRIES && hint.expected.as_ref().is_some_and(|expected| !shows(expected))
        });
    }

    pub(super) fn fail(&mut self, now: Now, call: Call, failure: Failure) -> Turn {
        let recheck = now + self.recheck();
        if let Some(told) = self
            .trouble
            .as_mut()
            .filter(|told| told.is_told() && failure == Failure::Unanswered)
        {
            // Nothing new: what users were told of stands, and its end is told too.
            told.next = recheck;
            return Turn::None;
        }
        let before = self.trouble.take();
        let tries = before.as_ref().map_or(0, |before| before.tries).saturating_add(1);
        let next = match failure {
            Failure::Unanswered => now + Duration::from_secs(1 << tries.min(12)).min(self.recheck()),
            _ => recheck,
        };
        // Describe decides first whether what cannot be read is there at all.
        let undecided = may_be_gone(&failure)
            && call == Call::Read
            && before.as_ref().is_none_or(|before| before.failure != failure);
        if undecided {
            self.urgent = Some(now);
        }
        if before.as_ref().is_some_and(|before| before.is_gone())
            && call == Call::Read
            && may_be_gone(&failure)
        {
            // Already decided by Describe; a read cannot say more.
            self.urgent = None;
            self.trouble = before;
            return Turn::None;
        }
        let mut trouble = Trouble {
            failure,
            call,
            next,
            tries,
            absence: None,
        };
        let mut confirmed = false;
        if trouble.is_gone() {
            let known = before.as_ref().and_then(|before| before.absence);
            let (absence, seen) = Absence::see(known, now);
            confirmed = seen == Seen::Confirmed;
            trouble.absence = Some(absence);
            trouble.next = absence.due().map_or(next, |due| next.min(due));
        }
        let same = before
            .as_ref()
            .is_some_and(|before| before.failure == trouble.failure && before.is_gone() == trouble.is_gone());
        let turn = match (same || !trouble.is_told(), trouble.is_gone()) {
            (true, _) if !confirmed => Turn::None,
            (true, _) | (false, true) => Turn::Gone,
            (false, false) => Turn::Failing,
        };
        self.trouble = Some(Box::new(trouble));
        turn
    }

    /// A call has succeeded, which may have ended the trouble.
    pub(super) fn succeed(&mut self, call: Call, shows: impl Fn(&Selector) -> bool) -> Turn {
        let Some(trouble) = &self.trouble else {
            return Turn::None;
        };
        let over = match (trouble.call, call) {
            (Call::Read, Call::Describe) => match &trouble.failure {
                Failure::Identity | Failure::Unanswered => true,
                Failure::StageNotFound(missing) => !missing.is_current() && shows(missing),
                // No read of our own can tell: whoever wants it has to try.
                _ => !self.has_current(),
            },
            (Call::Read, _) => match &trouble.failure {
                Failure::StageNotFound(missing) => shows(missing),
                _ => true,
            },
            _ => true,
        };
        if !over {
            return Turn::None;
        }
        let told = trouble.is_told();
        self.trouble = None;
        if told { Turn::Recovered } else { Turn::None }
    }

    /// What an answer shows for one of the views.
    pub(super) fn see(
        &mut self,
        now: Now,
        selector: &Selector,
        version: &VersionId,
        evidence: Evidence<'_>,
    ) -> Option<Verdict> {
        self.views
            .iter_mut()
            .find(|view| view.selector == *selector)
            .map(|view| view.see(now, version, evidence))
    }
}

fn may_be_gone(failure: &Failure) -> bool {
    matches!(failure, Failure::NotFound | Failure::MarkedForDeletion)
}
