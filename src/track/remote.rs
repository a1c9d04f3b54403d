//! What is known of one remote secret.

use std::{sync::Arc, time::Duration};

use crate::{
    api::{Selector, VersionId},
    track::{
        Call, Failure, Freshness, Known, Now, Rotation, Schedule,
        absence::{self, Absence},
        failure::{FIRST_STEP, FailedCall, Trouble, take_failure},
        objects::ObjectId,
        view::{Evidence, Verdict, View},
    },
};

/// Permanent failures are re-checked at least this often.
const RECHECK: Duration = Duration::from_mins(5);
/// How often a secret is described for its rotation alone.
pub(super) const FACTS: Duration = Duration::from_mins(30);
/// When a secret whose version moved is described again: the date of its rotation may come seconds after the label.
const LATE_DATE: [Duration; 3] = [
    Duration::from_secs(5),
    Duration::from_secs(20),
    Duration::from_mins(1),
];
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

#[allow(clippy::struct_excessive_bools)] // Independent facts, each named.
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
    /// What Describe fails with. Failures of reads belong to their views.
    pub(super) trouble: Option<Box<Trouble>>,
    pub(super) hint: Option<Box<Hint>>,
    pub(super) facts: Option<Box<Facts>>,
    /// The last sweep that showed it.
    pub(super) swept: u32,
    /// Of another account or region, or perhaps so: neither batched nor listed.
    pub(super) foreign: bool,
    /// Only AWSCURRENT is wanted, so that a batch can read it.
    pub(super) batchable: bool,
    /// Describe is denied: reading its views one by one has to do.
    pub(super) undescribed: bool,
    /// Views of it have yet to be read in the source's round for it.
    pub(super) has_turns: bool,
}

/// A call under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) at: Now,
    pub(super) cohort: bool,
    pub(super) describes: bool,
}

/// A call for one secret alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Question {
    Describe,
    Read(Selector),
    /// Each of these views in turn, which stands in for Describe.
    ReadAll(Vec<Selector>),
    /// The next turn of a round that has begun.
    NextTurn,
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
    /// When to describe since a person asks for a refresh.
    pub(super) asked: Option<Now>,
    /// A version moved, and the date of its rotation has yet to show.
    pub(super) undated: Option<Undated>,
}

/// A version moved, and AWS has shown no new date of a rotation since.
#[derive(Debug)]
pub(super) struct Undated {
    moved: Now,
    /// How often the secret was described again.
    tries: u8,
    /// The date before.
    last: Option<i64>,
}

impl Facts {
    pub(super) fn new(next: Option<Now>) -> Self {
        Self {
            rotation: None,
            described: None,
            next,
            asked: None,
            undated: None,
        }
    }

    /// When to describe for the facts.
    fn due(&self, undescribed: bool) -> Option<Now> {
        let undated = self.undated.as_ref().and_then(Undated::due);
        // Where Describe is denied, a read would stand in for it, which shows no facts.
        let besides = undated.into_iter().chain(self.asked).filter(|_| !undescribed);
        besides.chain(self.next).min()
    }

    /// A Describe starts.
    fn start_describe(&mut self, now: Now) {
        if let Some(next) = &mut self.next {
            *next = (*next).max(now + FACTS);
        }
        self.asked = None;
        if let Some(undated) = &mut self.undated {
            while undated.due().is_some_and(|due| due <= now) {
                undated.tries += 1;
            }
        }
    }

    /// A version moved.
    pub(super) fn moved(&mut self, now: Now) {
        let last = self.rotation.as_ref().and_then(|rotation| rotation.schedule.last);
        self.undated = Some(Undated {
            moved: now,
            tries: 0,
            last,
        });
    }

    /// AWS shows this schedule: a new date, or that the secret does not rotate, ends the wait for one.
    pub(super) fn dated(&mut self, schedule: &Schedule) {
        self.undated = self
            .undated
            .take()
            .filter(|undated| schedule.enabled && schedule.last == undated.last && undated.due().is_some());
    }
}

impl Undated {
    fn due(&self) -> Option<Now> {
        LATE_DATE
            .get(usize::from(self.tries))
            .map(|after| self.moved + *after)
    }
}

/// What a failure means for those who want the secret, or one view of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    None,
    Failing,
    Gone,
}

/// Whose trouble a success has ended, as far as users were told of it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Over {
    /// What concerned all views.
    pub(super) all: bool,
    pub(super) views: Vec<Selector>,
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
            has_turns: false,
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

    pub(super) fn known(&self, selector: &Selector) -> Known {
        let Some(view) = self.view(selector) else {
            return Known::Unknown;
        };
        if let Some(trouble) = self.trouble_of(view) {
            return if trouble.is_gone() {
                Known::Gone {
                    deleted: trouble.failure == Failure::MarkedForDeletion,
                }
            } else {
                Known::Failing(trouble.failure.clone())
            };
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

    /// What stands against using this view and users are told of: that the secret is gone, what the view fails with, or
    /// what Describe fails with.
    pub(super) fn trouble_of<'a>(&'a self, view: &'a View) -> Option<&'a Trouble> {
        let told = |trouble: &'a Option<Box<Trouble>>| trouble.as_deref().filter(|trouble| trouble.is_told());
        let of_all = told(&self.trouble);
        of_all
            .filter(|trouble| trouble.is_gone())
            .or_else(|| told(&view.trouble))
            .or(of_all)
    }

    /// When this view was last checked with success.
    pub(super) fn checked_of(&self, selector: &Selector) -> Option<Now> {
        let trouble = self.view(selector).and_then(|view| view.trouble.as_deref());
        match trouble.filter(|trouble| trouble.is_told() && trouble.call == Call::Read) {
            Some(trouble) => trouble.good,
            None => self.checked,
        }
    }

    /// Whether its cohort reads it, rather than a call of its own.
    pub(super) fn rides_along(&self) -> bool {
        let views = self.views.iter().filter_map(|view| view.trouble.as_deref());
        // A Describe without an answer says nothing of reads.
        let described = self.trouble.as_deref();
        let described = described.filter(|trouble| trouble.failure != Failure::Unanswered);
        self.asked.is_none()
            && described
                .into_iter()
                .chain(views)
                .all(|trouble| trouble.failure == Failure::Identity)
    }

    /// Whether calls for it get no answer while others of the source do.
    pub(super) fn is_unanswered(&self) -> bool {
        let views = self.views.iter().filter_map(|view| view.trouble.as_deref());
        self.trouble
            .as_deref()
            .into_iter()
            .chain(views)
            .any(|trouble| trouble.failure == Failure::Unanswered)
    }

    /// Forgets what failed, if every view has shown a version before. Gives whether anything did.
    pub(super) fn dismiss_trouble(&mut self) -> bool {
        if self.views.iter().any(View::is_blank) {
            return false;
        }
        let mut failed = self.trouble.take().is_some();
        for view in &mut self.views {
            failed |= view.trouble.take().is_some();
        }
        failed
    }

    /// What failed is asked for again as soon as it may be. Gives whether anything did.
    pub(super) fn retry(&mut self, now: Now) -> bool {
        let views = self.views.iter_mut().filter_map(|view| view.trouble.as_mut());
        let mut failed = false;
        for trouble in self.trouble.iter_mut().chain(views) {
            // However often its identity or its store changes.
            trouble.next = trouble.next.min(now.max(trouble.called + FIRST_STEP));
            failed = true;
        }
        failed
    }

    /// The interval may be shorter now: what failed is asked for again within it.
    pub(super) fn recheck_within(&mut self, now: Now) {
        let at = now + self.recheck().max(FIRST_STEP);
        let views = self.views.iter_mut().filter_map(|view| view.trouble.as_mut());
        for trouble in self.trouble.iter_mut().chain(views) {
            trouble.next = trouble.next.min(at);
        }
    }

    /// When to ask for it alone; none while a call is under way.
    pub(super) fn due(&self) -> Option<Now> {
        if self.asked.is_some() {
            return None;
        }
        let reads = self.views.iter().filter_map(|view| self.read_due(view));
        reads
            .chain(self.describe_due())
            .chain(self.has_turns.then_some(Now::ZERO))
            .min()
    }

    /// When Describe, or what stands in for it, is due.
    fn describe_due(&self) -> Option<Now> {
        let planned = if let Some(trouble) = &self.trouble {
            Some(trouble.next)
        } else {
            let own = match self.lane {
                Lane::Own(next) => Some(next),
                _ => None,
            };
            let missing = self.views.iter().filter_map(|view| view.trouble.as_ref());
            own.into_iter()
                .chain(self.views.iter().filter_map(|view| self.confirm_due(view)))
                .chain(
                    self.hint
                        .as_ref()
                        .filter(|hint| hint.tries < HINT_TRIES)
                        .map(|hint| hint.next),
                )
                .chain(self.facts.as_ref().and_then(|facts| facts.due(self.undescribed)))
                .chain(
                    missing
                        .filter(|trouble| trouble.is_described() && !self.undescribed)
                        .map(|trouble| trouble.next),
                )
                .min()
        };
        planned.into_iter().chain(self.urgent).min()
    }

    /// When the view's suspect version is to be confirmed. Of what cannot be seen nothing can be: it waits for its own step.
    fn confirm_due(&self, view: &View) -> Option<Now> {
        let unseen = view
            .trouble
            .as_ref()
            .is_some_and(|trouble| self.undescribed || trouble.is_described());
        if unseen { None } else { view.due() }
    }

    /// When the view is to be read because it fails.
    fn read_due(&self, view: &View) -> Option<Now> {
        let trouble = view.trouble.as_ref()?;
        (self.undescribed || !trouble.is_described()).then_some(trouble.next)
    }

    /// Which call checks it alone, which starts now.
    pub(super) fn ask(&mut self, now: Now) -> Question {
        let question = self.question(now);
        self.asked = Some(Asked {
            at: now,
            cohort: false,
            describes: question == Question::Describe,
        });
        question
    }

    fn question(&mut self, now: Now) -> Question {
        if self.has_turns {
            return Question::NextTurn;
        }
        if self.describe_due().is_some_and(|due| due <= now) {
            self.start_describe(now);
            if !self.undescribed {
                return Question::Describe;
            }
            return Question::ReadAll(self.turns(now));
        }
        let failing = self
            .views
            .iter()
            .filter_map(|view| Some((self.read_due(view)?, view)))
            .min_by_key(|(due, _)| *due);
        match failing {
            Some((_, view)) => Question::Read(view.selector.clone()),
            None => Question::Describe,
        }
    }

    /// Describe starts, or what stands in for it: moves all that it answers on.
    fn start_describe(&mut self, now: Now) {
        self.urgent = None;
        // Also where the call shows no stages, which is how it is where Describe is denied.
        if let Some(facts) = &mut self.facts {
            facts.start_describe(now);
        }
        let longest = self.recheck();
        if let Some(trouble) = &mut self.trouble {
            trouble.call_again(now, longest);
        }
        for trouble in self.views.iter_mut().filter_map(|view| view.trouble.as_mut()) {
            if trouble.is_described() && !self.undescribed {
                trouble.call_again(now, longest);
            }
        }
        if let (Lane::Own(next), Some(interval)) = (&mut self.lane, self.interval) {
            *next = now + interval;
        }
        if let Some(hint) = &mut self.hint {
            hint.tries = hint.tries.saturating_add(1);
            hint.next = now + Duration::from_secs(1 << hint.tries.min(HINT_TRIES));
        }
    }

    /// Every view but those that fail and wait, AWSCURRENT last, which is read first.
    fn turns(&self, now: Now) -> Vec<Selector> {
        let due = |view: &&View| view.trouble.as_ref().is_none_or(|trouble| trouble.next <= now);
        let mut views: Vec<_> = self
            .views
            .iter()
            .filter(due)
            .map(|view| view.selector.clone())
            .collect();
        views.sort_by_key(Selector::is_current);
        views
    }

    /// A view is read now, by a call of its own.
    pub(super) fn ask_for(&mut self, now: Now, selector: &Selector) {
        let longest = self.recheck();
        let view = self.views.iter_mut().find(|view| view.selector == *selector);
        if let Some(trouble) = view.and_then(|view| view.trouble.as_mut()) {
            trouble.call_again(now, longest);
        }
    }

    /// A read of the view got no answer: it is due again, if it fails. Gives whether it does.
    pub(super) fn read_again(&mut self, now: Now, selector: &Selector) -> bool {
        let view = self.views.iter_mut().find(|view| view.selector == *selector);
        let Some(trouble) = view.and_then(|view| view.trouble.as_mut()) else {
            return false;
        };
        trouble.next = now;
        true
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

    /// Describe has failed.
    pub(super) fn fail_describe(&mut self, now: Now, failed: FailedCall) -> Turn {
        let longest = self.recheck();
        if failed.failure.may_be_gone() {
            for view in &mut self.views {
                view.trouble = None;
            }
        }
        let known = self.trouble.as_ref().and_then(|trouble| trouble.absence);
        let shows_gone = failed.failure.may_be_gone();
        let news = take_failure(&mut self.trouble, now, failed, longest, None);
        let Some(trouble) = &mut self.trouble else {
            return Turn::None;
        };
        let mut confirmed = false;
        if shows_gone {
            let (absence, seen) = Absence::see(known, now);
            confirmed = seen == absence::Seen::Confirmed;
            trouble.absence = Some(absence);
            trouble.next = absence.due().map_or(trouble.next, |due| trouble.next.min(due));
        }
        match (trouble.is_gone(), news) {
            (true, _) if news || confirmed => Turn::Gone,
            (false, true) => Turn::Failing,
            _ => Turn::None,
        }
    }

    /// A read of one view has failed. `described` tells that Describe was asked since, and does not call it gone.
    pub(super) fn fail_read(&mut self, now: Now, selector: &Selector, failed: FailedCall) -> Turn {
        let (longest, good) = (self.recheck(), self.checked);
        let described = failed.described;
        let is_gone = self.trouble.as_ref().is_some_and(|trouble| trouble.is_gone());
        let may_be_gone = failed.failure.may_be_gone();
        let is_missing = matches!(&failed.failure, Failure::StageNotFound(Selector::Stage(_)));
        if is_gone && may_be_gone {
            // Already decided by Describe; a read cannot say more.
            return Turn::None;
        }
        let undescribed = self.undescribed;
        let Some(view) = self.views.iter_mut().find(|view| view.selector == *selector) else {
            return Turn::None;
        };
        let good = good.filter(|_| !view.is_blank());
        let news = take_failure(&mut view.trouble, now, failed, longest, good);
        if let Some(trouble) = view.trouble.as_mut().filter(|_| news && is_missing) {
            trouble.describe_first = !undescribed;
        }
        if !news {
            return Turn::None;
        }
        // Describe decides whether what cannot be read is there at all.
        if may_be_gone && !described && !undescribed {
            self.urgent = Some(now);
        }
        Turn::Failing
    }

    /// Describe shows no version with the view's label.
    pub(super) fn miss(&mut self, now: Now, begun: Now, selector: &Selector) -> Turn {
        let (longest, good) = (self.recheck(), self.checked);
        let Some(view) = self.views.iter_mut().find(|view| view.selector == *selector) else {
            return Turn::None;
        };
        let good = good.filter(|_| !view.is_blank());
        let failed = FailedCall {
            call: Call::Describe,
            failure: Failure::StageNotFound(selector.clone()),
            text: None,
            begun,
            described: true,
        };
        if take_failure(&mut view.trouble, now, failed, longest, good) {
            Turn::Failing
        } else {
            Turn::None
        }
    }

    /// A read of one view has succeeded: the secret is there, and the identity is good. Gives whose trouble is over.
    pub(super) fn succeed_read(&mut self, selector: &Selector) -> Over {
        let of_all = |trouble: &Trouble| trouble.is_gone() || trouble.failure == Failure::Identity;
        let mut over = Over::default();
        if self.trouble.as_deref().is_some_and(of_all) {
            over.all = self.trouble.take().is_some_and(|trouble| trouble.is_told());
        }
        for view in &mut self.views {
            let ends = view
                .trouble
                .as_deref()
                .is_some_and(|trouble| view.selector == *selector || trouble.failure == Failure::Identity);
            if ends && view.trouble.take().is_some_and(|trouble| trouble.is_told()) {
                over.views.push(view.selector.clone());
            }
        }
        over
    }

    /// Describe has succeeded, and shows the labels for which `shows` holds. Gives whose trouble is over.
    pub(super) fn succeed_describe(&mut self, shows: impl Fn(&Selector) -> bool) -> Over {
        let mut over = Over {
            all: self.trouble.take().is_some_and(|trouble| trouble.is_told()),
            views: Vec::new(),
        };
        for view in &mut self.views {
            let ends = view.trouble.as_deref().is_some_and(|trouble| match trouble.call {
                Call::Describe => shows(&view.selector),
                // Only a read of it tells of anything else.
                _ => matches!(trouble.failure, Failure::Identity | Failure::Unanswered),
            });
            if let Some(trouble) = &mut view.trouble {
                trouble.describe_first = false;
            }
            if ends && view.trouble.take().is_some_and(|trouble| trouble.is_told()) {
                over.views.push(view.selector.clone());
            }
        }
        over
    }

    /// Why a pass must not call AWS for the view now, and until when if a call may show more than is known. What is known to
    /// be gone holds up no pass that does not call for it.
    pub(super) fn withheld(
        &self,
        now: Now,
        selector: &Selector,
        freshness: Freshness,
    ) -> Option<(&Trouble, Option<Now>)> {
        let trouble = self.trouble_of(self.view(selector)?)?;
        if trouble.is_gone() && trouble.answers(freshness) {
            return None;
        }
        if trouble.at >= freshness.since() {
            return Some((trouble, None));
        }
        let again = trouble.called + FIRST_STEP;
        (now < again).then_some((trouble, Some(again)))
    }

    /// Whether the secret is known to be gone, so that the pass need not call for it.
    pub(super) fn is_gone_for(&self, freshness: Freshness) -> bool {
        let gone = self.trouble.as_deref().filter(|trouble| trouble.is_gone());
        gone.is_some_and(|gone| gone.answers(freshness))
    }

    /// A person asks for a refresh: the secret is described for the facts of its rotation, which a read does not show, at
    /// most once in ten seconds. What fails is described by its own steps.
    pub(super) fn describe_facts(&mut self, now: Now) {
        if let Some(facts) = &mut self.facts {
            let soonest = facts.described.map_or(now, |at| now.max(at + FIRST_STEP));
            facts.asked = Some(facts.asked.map_or(soonest, |asked| asked.min(soonest)));
        }
    }

    /// A pass calls for the view. Gives whether it is known to fail, or to be gone.
    pub(super) fn lend(&mut self, now: Now, selector: &Selector, freshness: Freshness) -> bool {
        if self.is_gone_for(freshness) {
            return false;
        }
        let longest = self.recheck();
        let view = self.views.iter_mut().find(|view| view.selector == *selector);
        let of_view = view.and_then(|view| view.trouble.as_mut());
        let of_all = self.trouble.as_mut();
        let trouble = if of_all.as_ref().is_some_and(|trouble| trouble.is_gone()) {
            of_all
        } else {
            of_view.or(of_all)
        };
        if let Some(trouble) = trouble {
            trouble.call_again(now, longest);
            return true;
        }
        false
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
