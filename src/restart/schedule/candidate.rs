//! A workload that is restarted as soon as a slot is free. Pure.

use jiff::Timestamp;

use super::per_object::ObjectPaces;
use crate::restart::{
    judge::model::{Cause, Claim, Judgement, Restart, Stamp},
    observed::model::{Record, WorkloadKey},
};

/// A workload that may restart, if there is a slot.
pub(super) struct Candidate<'a> {
    pub(super) judgement: &'a Judgement,
    /// What it is restarted for.
    pub(super) claims: Vec<&'a Claim>,
    /// Claims of another strategy, which follow later.
    pub(super) left: Vec<&'a Claim>,
    pub(super) urgent: bool,
    /// Whether AWS showed a rotation that makes it urgent.
    pub(super) rotation_seen: bool,
    pub(super) order: Priority<'a>,
}

/// Urgent ones first, then by deadline, wave, age and name.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Priority<'a> {
    later: bool,
    deadline: Timestamp,
    wave: i32,
    changed_at: Timestamp,
    key: &'a WorkloadKey,
}

impl<'a> Candidate<'a> {
    pub(super) fn new(
        judgement: &'a Judgement,
        mut ready: Vec<&'a Claim>,
        objects: &ObjectPaces<'_>,
    ) -> Self {
        // One patch is of one strategy: the one of the first content that is pressing.
        ready.sort_by_key(|claim| (!objects.urgent(claim.object.key()), claim.object.key().clone()));
        let strategy = ready.first().map(|claim| claim.terms.strategy);
        let is_of = |claim: &&Claim| Some(claim.terms.strategy) == strategy;
        let (claims, left): (Vec<_>, Vec<_>) = ready.into_iter().partition(is_of);
        let urgent = claims.iter().any(|claim| objects.urgent(claim.object.key()));
        let rotation_seen = claims
            .iter()
            .any(|claim| objects.rotation_seen(claim.object.key()));
        let first = |of: fn(&Claim) -> Timestamp| {
            claims
                .iter()
                .map(|claim| of(claim))
                .min()
                .unwrap_or(Timestamp::MAX)
        };
        let order = Priority {
            later: !urgent,
            deadline: first(|claim| claim.object.restarts.deadline.unwrap_or(Timestamp::MAX)),
            wave: claims
                .iter()
                .map(|claim| claim.terms.wave)
                .min()
                .unwrap_or_default(),
            changed_at: first(|claim| claim.changed_at),
            key: &judgement.key,
        };
        Self {
            judgement,
            claims,
            left,
            urgent,
            rotation_seen,
            order,
        }
    }

    pub(super) fn restart(&self) -> Option<Restart> {
        let judgement = self.judgement;
        let causes = self
            .claims
            .iter()
            .map(|claim| {
                let content = &claim.object.content;
                Cause {
                    object: content.object.clone(),
                    secret: content.secret.clone(),
                    stamp: Stamp {
                        hash: content.hash.clone(),
                        record: Record {
                            token: content.token.clone(),
                            attempt: claim.attempt,
                            was_healthy: judgement.healthy,
                        },
                        changed_at: claim.changed_at,
                    },
                }
            })
            .collect();
        Some(Restart {
            key: judgement.key.clone(),
            uid: judgement.uid.clone(),
            strategy: self.claims.first()?.terms.strategy,
            causes,
            urgent: self.urgent,
        })
    }
}
