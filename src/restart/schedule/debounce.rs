//! Changes settle, and changes that follow each other make one restart. Pure.

use jiff::Timestamp;

use super::per_object::ObjectPaces;
use crate::{
    api::{RestartStrategy, WorkloadState},
    restart::{
        judge::{
            model::{Claim, Judgement},
            state::Hold,
        },
        timing::{COALESCE, COALESCE_AT_MOST, EVICT_SETTLE, SETTLE, later},
    },
};

/// When the workload may restart for the claims that are `ready`.
pub(super) fn settled_at(
    judgement: &Judgement,
    ready: &[&Claim],
    urgent: bool,
    objects: &ObjectPaces<'_>,
) -> Timestamp {
    let pressing = |claim: &&&Claim| !urgent || objects.urgent(claim.object.key());
    let pressing = || ready.iter().filter(pressing);
    let oldest = pressing().map(|claim| claim.changed_at).min();
    let latest = pressing().map(|claim| claim.there_at).max();
    let (Some(oldest), Some(latest)) = (oldest, latest) else {
        return Timestamp::MAX;
    };
    let first = judgement.changing_since.map_or(oldest, |since| since.min(oldest));
    let rest = if urgent { SETTLE } else { COALESCE };
    let at = later(latest, rest).min(later(first, COALESCE_AT_MOST));
    let evicts = ready
        .iter()
        .any(|claim| claim.terms.strategy == RestartStrategy::Evict);
    if evicts {
        at.max(later(latest, EVICT_SETTLE))
    } else {
        at
    }
}

pub(super) fn settling(at: Timestamp) -> Hold {
    Hold::new(
        WorkloadState::Settling,
        "the Secret changed a moment ago; other changes are waited for",
        Some(at),
    )
}
