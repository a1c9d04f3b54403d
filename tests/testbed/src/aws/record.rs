//! Records every call like a line of CloudTrail, so that tests can assert how often, by whom and on what.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, Mutex, PoisonError},
};

use jiff::Timestamp;

/// One line: one call, or one secret read by a batch.
#[derive(Debug, Clone)]
pub struct Call {
    /// When the answer was decided.
    pub time: Timestamp,
    /// For instance `GetSecretValue`.
    pub operation: String,
    /// ARN of the user or session that asked; empty if unknown or for an unsigned call.
    pub principal: Arc<str>,
    /// The role of the session that asked; of an unsigned call, the role asked for.
    pub role: Option<Arc<str>>,
    /// The name of the session that asked; of an unsigned call, the name asked for.
    pub session_name: Option<Arc<str>>,
    /// The access key of a signed call.
    pub access_key: Option<Arc<str>>,
    /// The caller's `user-agent`.
    pub user_agent: String,
    /// ARN of the secret or role; the id as it was given if nothing was found.
    pub resource: Option<Arc<str>>,
    /// AWS's code of a refusal; `ConnectionReset` and `NoAnswer` for calls that a fault left without answer.
    pub error: Option<String>,
    /// The caller's account; empty if unknown.
    pub account: Arc<str>,
    /// From the credential scope; empty for an unsigned call.
    pub region: String,
    /// Source port: names the caller's connection.
    pub port: u16,
    /// Whether this line is one secret of a batch. The batch call has its own line.
    pub in_batch: bool,
}

/// A point in the record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark(u64);

/// A part of the record, in order.
#[derive(Debug, Clone, Default)]
pub struct Calls(pub Vec<Call>);

impl Calls {
    /// The batches: when each was answered, and how many secrets it had.
    pub fn batches(&self) -> Vec<(Timestamp, usize)> {
        let mut batches: Vec<(Timestamp, usize)> = Vec::new();
        for call in &self.0 {
            match batches.last_mut() {
                Some((_, secrets)) if call.in_batch => *secrets += 1,
                _ if call.operation == "BatchGetSecretValue" => batches.push((call.time, 0)),
                _ => {}
            }
        }
        batches
    }

    /// Calls of `operation`. The lines that a batch adds per secret are not calls.
    pub fn count(&self, operation: &str) -> usize {
        self.requests().filter(|c| c.operation == operation).count()
    }

    /// Calls by operation, without the lines that a batch adds per secret.
    pub fn counts(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for call in self.requests() {
            *counts.entry(call.operation.clone()).or_default() += 1;
        }
        counts
    }

    /// Calls by operation and error code, of those that failed.
    pub fn errors(&self) -> BTreeMap<(String, String), usize> {
        let mut counts = BTreeMap::new();
        for call in &self.0 {
            if let Some(error) = &call.error {
                *counts.entry((call.operation.clone(), error.clone())).or_default() += 1;
            }
        }
        counts
    }

    /// Distinct connections, by source port.
    pub fn connections(&self) -> usize {
        self.0.iter().map(|c| c.port).collect::<BTreeSet<_>>().len()
    }

    /// Values read, by get or by batch: a pair of reader (ARN) and secret (ARN) per read.
    pub fn values_read(&self) -> Vec<(Arc<str>, Arc<str>)> {
        self.0
            .iter()
            .filter(|c| c.operation == "GetSecretValue" && c.error.is_none())
            .filter_map(|c| Some((c.principal.clone(), c.resource.clone()?)))
            .collect()
    }

    /// Who read the value of the secret with this ARN.
    pub fn readers_of(&self, arn: &str) -> BTreeSet<Arc<str>> {
        self.values_read()
            .into_iter()
            .filter(|(_, secret)| **secret == *arn)
            .map(|(reader, _)| reader)
            .collect()
    }

    /// The calls, without the lines that a batch adds per secret.
    pub fn requests(&self) -> impl Iterator<Item = &Call> {
        self.0.iter().filter(|c| !c.in_batch)
    }
}

pub(super) struct Record {
    capacity: usize,
    lines: Mutex<Lines>,
}

#[derive(Default)]
struct Lines {
    kept: VecDeque<Call>,
    /// Lines ever written, since the start.
    written: u64,
    dropped: u64,
    /// Exact since the last reset, also when lines were dropped.
    totals: BTreeMap<String, u64>,
}

impl Record {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            capacity,
            lines: Mutex::default(),
        }
    }

    pub(super) fn add(&self, calls: impl IntoIterator<Item = Call>) {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        for call in calls {
            if !call.in_batch {
                match lines.totals.get_mut(&call.operation) {
                    Some(total) => *total += 1,
                    None => {
                        lines.totals.insert(call.operation.clone(), 1);
                    }
                }
            }
            lines.written += 1;
            lines.kept.push_back(call);
            if lines.kept.len() > self.capacity {
                lines.kept.pop_front();
                lines.dropped += 1;
            }
        }
    }

    pub(super) fn mark(&self) -> Mark {
        Mark(self.lines.lock().unwrap_or_else(PoisonError::into_inner).written)
    }

    pub(super) fn since(&self, mark: Mark) -> Calls {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = usize::try_from(lines.written.saturating_sub(mark.0)).unwrap_or(usize::MAX);
        Calls(
            lines
                .kept
                .iter()
                .skip(lines.kept.len().saturating_sub(wanted))
                .cloned()
                .collect(),
        )
    }

    pub(super) fn all(&self) -> Calls {
        self.since(Mark(0))
    }

    pub(super) fn dropped(&self) -> u64 {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).dropped
    }

    pub(super) fn totals(&self) -> BTreeMap<String, u64> {
        self.lines
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .totals
            .clone()
    }

    pub(super) fn reset(&self) {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.kept.clear();
        lines.totals.clear();
        lines.dropped = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(operation: &str) -> Call {
        Call {
            time: Timestamp::now(),
            operation: operation.to_owned(),
            principal: "arn:p".into(),
            role: None,
            session_name: None,
            access_key: None,
            user_agent: String::new(),
            resource: None,
            error: None,
            account: "".into(),
            region: String::new(),
            port: 1,
            in_batch: false,
        }
    }

    #[test]
    fn a_full_record_drops_the_oldest_lines_and_counts_on() {
        let record = Record::new(3);
        record.add((0..5).map(|n| call(&format!("Op{n}"))));
        let mark = record.mark();
        record.add([call("Op4")]);
        assert_eq!(
            record
                .all()
                .0
                .iter()
                .map(|c| c.operation.as_str())
                .collect::<Vec<_>>(),
            ["Op3", "Op4", "Op4"]
        );
        assert_eq!(
            record.since(mark).counts(),
            BTreeMap::from([("Op4".to_owned(), 1)])
        );
        assert_eq!(record.dropped(), 3);
        assert_eq!(record.totals().get("Op0"), Some(&1));
        record.reset();
        assert!(record.all().0.is_empty() && record.totals().is_empty());
        record.add([call("Op5")]);
        assert_eq!(
            record.since(mark).count("Op5"),
            1,
            "a mark stays valid over a reset"
        );
    }
}
