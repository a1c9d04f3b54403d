//! What is said of restarts: the status, the condition and what happened. Pure, and nothing in it changes while nothing
//! changes.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::{
    api::{EventReason, ObjectKey, Reason, RestartException, RestartStatus},
    restart::{
        judge::{hold::Word, staleness},
        observed::model::{Content, WorkloadKey},
        schedule::decide::{Decisions, Go, State},
    },
    sync::entry::rollout_note,
};

/// The most exceptions that a status lists.
const EXCEPTIONS: usize = 50;

/// What is said of one ExternalSecret.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// `status.restart`.
    pub status: RestartStatus,
    /// Of the condition `RestartsComplete`.
    pub reason: Reason,
    /// Its message.
    pub message: String,
}

/// How many workloads are where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// They wait.
    pub pending: usize,
    /// They roll out.
    pub in_flight: usize,
    /// They hold the content.
    pub done: usize,
    /// They did not become healthy.
    pub failed: usize,
}

/// What is said of the ExternalSecret that `content` is made for.
pub fn report(content: &Content, decisions: &Decisions) -> Report {
    let object = &content.object;
    let states: Vec<&State> = decisions
        .states
        .iter()
        .filter(|state| state.object == *object)
        .collect();
    let counts = count(states.iter().copied());
    let halted = decisions.objects.get(object).is_some_and(|state| state.halted);
    let changed = staleness::counts(content);
    let exceptions: Vec<RestartException> = states
        .iter()
        .filter(|state| is_exception(state.word))
        .take(EXCEPTIONS)
        .map(|state| exception(state))
        .collect();
    let number = |count: usize| Some(i32::try_from(count).unwrap_or(i32::MAX));
    let all = states.len();
    let (reason, mut message) = condition(changed, &content.token, &states, counts, halted);
    if changed {
        message.push_str(&rollout_note(&content.token));
    }
    Report {
        status: RestartStatus {
            rollout: changed.then(|| content.token.to_string()),
            progress: changed.then(|| format!("{}/{all}", counts.done)),
            pending: number(counts.pending),
            in_flight: number(counts.in_flight),
            done: number(counts.done),
            failed: number(counts.failed),
            halted: Some(halted),
            exceptions: (!exceptions.is_empty()).then_some(exceptions),
        },
        reason,
        message,
    }
}

/// What is said of an ExternalSecret with this `fault` in `restart` or `rotation`. How far its restarts are stays as it was
/// said last.
pub fn report_of_fault(fault: &str) -> Report {
    Report {
        status: RestartStatus::default(),
        reason: Reason::InvalidSpec,
        message: format!(
            "{fault}. No workload is restarted until it is corrected; what is due then follows. Values are still synced"
        ),
    }
}

/// How many workloads are where.
pub fn count<'a>(states: impl Iterator<Item = &'a State>) -> Counts {
    let mut counts = Counts::default();
    for state in states {
        let of = match state.word {
            Word::Done => &mut counts.done,
            Word::RollingOut => &mut counts.in_flight,
            Word::Failed | Word::StillUnhealthy => &mut counts.failed,
            _ => &mut counts.pending,
        };
        *of += 1;
    }
    counts
}

/// Whether the report waits until it is known where all workloads stand, `reported` being the rollout that was reported last.
/// It does not wait once the content changed: what was reported of the content before must not pass for this one.
pub fn awaits_pods(content: &Content, states: &[State], reported: Option<&str>) -> bool {
    reported == Some(&*content.token) && states.iter().any(|state| state.word == Word::Looking)
}

fn is_exception(word: Word) -> bool {
    !matches!(
        word,
        Word::Done
            | Word::RollingOut
            | Word::Looking
            | Word::Settling
            | Word::WaitingForWindow
            | Word::WaitingForWave
            | Word::WaitingForTurn
            | Word::Halted
            | Word::AwaitingApproval
    )
}

fn exception(state: &State) -> RestartException {
    RestartException {
        kind: state.key.kind.to_string(),
        name: state.key.key.name.to_string(),
        reason: state.word.to_string(),
        message: Some(state.sentence.to_string()),
        until: state.until.map(Time),
    }
}

fn condition(
    changed: bool,
    token: &str,
    states: &[&State],
    counts: Counts,
    halted: bool,
) -> (Reason, String) {
    let has = |word: Word| states.iter().find(|state| state.word == word);
    let all = states.len();
    if !changed {
        return (
            Reason::NothingPending,
            "the content has not changed since restarts are wanted".to_owned(),
        );
    }
    if all == 0 {
        return (
            Reason::NothingPending,
            "no workload has to follow the Secret".to_owned(),
        );
    }
    if counts.done == all {
        return (
            Reason::Complete,
            "all workloads hold the present content".to_owned(),
        );
    }
    let rest = format!("{} of {all} workloads hold the present content", counts.done);
    if halted {
        let failed = has(Word::Failed).map_or_else(String::new, |state| {
            format!(": {}: {}", state.key, state.sentence)
        });
        return (
            Reason::Halted,
            format!(
                "{rest}; no more are restarted since {} failed{failed}. Mend it, or annotate the ExternalSecret with \
                 keyturn.dev/resume={token} to go on",
                counts.failed
            ),
        );
    }
    if counts.in_flight > 0 {
        return (Reason::InProgress, rest);
    }
    for (word, reason) in [
        (Word::AwaitingApproval, Reason::AwaitingApproval),
        (Word::WaitingForWindow, Reason::WaitingForWindow),
        (Word::Reverted, Reason::Reverted),
    ] {
        if let Some(state) = has(word) {
            return (reason, format!("{rest}; {}", state.sentence));
        }
    }
    let left = |state: &&&State| state.word == Word::LeftToReloader;
    let open = states.iter().filter(|state| state.word != Word::Done);
    let first = open.clone().next();
    if open.clone().count() == open.filter(|state| left(state)).count() {
        let sentence = first.map_or("", |state| &*state.sentence);
        return (Reason::LeftToReloader, format!("{rest}; {sentence}"));
    }
    (
        Reason::Pending,
        first.map_or_else(
            || rest.clone(),
            |state| format!("{rest}; {}: {}", state.key, state.sentence),
        ),
    )
}

/// What happened, to be told as an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Happening {
    /// The ExternalSecret.
    pub object: ObjectKey,
    /// The workload; none if it is about all of them.
    pub workload: Option<WorkloadKey>,
    /// What.
    pub event: EventReason,
    /// In a sentence.
    pub sentence: String,
    /// For a workload that is done: when the content changed.
    pub changed_at: Option<Timestamp>,
}

/// What was seen before, to tell what happened since. Bounded by what exists: each look replaces the one before.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    words: BTreeMap<(ObjectKey, WorkloadKey), (Box<str>, Word)>,
    halted: BTreeSet<ObjectKey>,
    looked: bool,
}

impl Seen {
    /// A restart was taken by the API server.
    pub fn triggered(&mut self, go: &Go) {
        for carried in &go.carried {
            let key = (carried.object.clone(), go.key.clone());
            self.words
                .insert(key, (carried.asked.record.token.clone(), Word::RollingOut));
        }
    }

    /// What happened since the last look. The first one tells nothing: a start is no event.
    pub fn look(&mut self, decisions: &Decisions) -> Vec<Happening> {
        let mut happened = Vec::new();
        let mut words = BTreeMap::new();
        for state in &decisions.states {
            let key = (state.object.clone(), state.key.clone());
            let before = self
                .words
                .get(&key)
                .filter(|(token, _)| *token == state.token)
                .map(|(_, word)| *word);
            if let Some((event, sentence)) = event(before, state).filter(|_| self.looked) {
                happened.push(Happening {
                    object: state.object.clone(),
                    workload: Some(state.key.clone()),
                    event,
                    sentence,
                    changed_at: (event == EventReason::RestartCompleted).then_some(state.changed_at),
                });
            }
            words.insert(key, (state.token.clone(), state.word));
        }
        let halted: BTreeSet<ObjectKey> = decisions
            .objects
            .iter()
            .filter(|(_, state)| state.halted)
            .map(|(key, _)| key.clone())
            .collect();
        for object in halted.difference(&self.halted).filter(|_| self.looked) {
            happened.push(Happening {
                object: object.clone(),
                workload: None,
                event: EventReason::RestartHalted,
                sentence: "no more workloads are restarted, since one did not become healthy".to_owned(),
                changed_at: None,
            });
        }
        (self.words, self.halted, self.looked) = (words, halted, true);
        happened
    }
}

fn event(before: Option<Word>, state: &State) -> Option<(EventReason, String)> {
    let key = &state.key;
    match (before, state.word) {
        (Some(Word::RollingOut | Word::Failed | Word::StillUnhealthy), Word::Done) => Some((
            EventReason::RestartCompleted,
            format!("{key} holds the new content"),
        )),
        (before, Word::Reverted) if before != Some(Word::Reverted) => {
            Some((EventReason::RestartReverted, format!("{key}: {}", state.sentence)))
        }
        _ => None,
    }
}
