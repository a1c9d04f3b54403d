//! The rules that hold a workload up: suspension, size, membership, the workload itself, a missing approval. Pure.

use super::{
    membership::{self, Membership, Terms},
    model::{ObservedWorkload, Setting},
    state::Hold,
};
use crate::{
    api::{RestartStrategy, WorkloadState, caps},
    objects::Suspension,
    restart::{
        observed::{
            managed_secrets::ManagedSecret,
            model::{Annotations, UpdateStrategy, Workload},
        },
        timing::{RESTART_AT, later},
    },
};

/// What holds the restart of a workload for a content up now, whatever its pods hold. The first rule that applies is
/// reported.
pub fn hold(
    setting: &Setting<'_>,
    object: &ManagedSecret,
    membership: &Membership,
    terms: Terms,
    observed: &ObservedWorkload<'_>,
) -> Option<Hold> {
    let ObservedWorkload {
        workload, namespace, ..
    } = *observed;
    suspended(setting, object, workload, namespace)
        .or_else(|| by_size(workload))
        .or_else(|| by_membership(membership, observed))
        .or_else(|| by_workload(setting, terms, workload))
        .or_else(|| unapproved(object))
}

fn suspended(
    setting: &Setting<'_>,
    object: &ManagedSecret,
    workload: &Workload,
    namespace: &Annotations,
) -> Option<Hold> {
    let now = setting.now;
    let control = setting
        .control
        .filter(|control| control.restarts && control.applies(now, &object.content.object.namespace));
    if let Some(control) = control {
        let sentence = "the ConfigMap keyturn-control in the operator's namespace suspends restarts";
        return Some(Hold::new(WorkloadState::Suspended, sentence, control.until));
    }
    [
        (namespace.suspended, "the Namespace"),
        (object.restarts.suspended, "the ExternalSecret"),
        (workload.annotations.suspended, "the workload"),
    ]
    .into_iter()
    .find_map(|(suspension, on)| match suspension {
        Suspension::None => None,
        Suspension::Until(until) if until <= now => None,
        Suspension::Until(until) => Some(Hold::new(
            WorkloadState::Suspended,
            format!("the annotation keyturn.dev/suspend-restarts-until on {on} suspends restarts"),
            Some(until),
        )),
        Suspension::Unreadable => Some(Hold::new(
            WorkloadState::Suspended,
            format!(
                "the annotation keyturn.dev/suspend-restarts-until on {on} is no time, so restarts are \
                 suspended: write one such as 2030-01-31T08:00:00Z, or remove it"
            ),
            None,
        )),
    })
}

fn by_size(workload: &Workload) -> Option<Hold> {
    workload.oversized.then(|| {
        Hold::new(
            WorkloadState::Unreadable,
            format!(
                "its labels, its references to Secrets and its annotations of Keyturn and Reloader take more than the {} KiB \
                 that Keyturn keeps of one workload, so it is not restarted: remove some",
                caps::WORKLOAD >> 10
            ),
            None,
        )
    })
}

fn by_membership(membership: &Membership, observed: &ObservedWorkload<'_>) -> Option<Hold> {
    match membership {
        Membership::In(_) | Membership::Out => None,
        Membership::LeftToReloader(_) => Some(Hold::new(
            WorkloadState::LeftToReloader,
            "stakater Reloader restarts this workload: set restart.reloader to Honour to take it over",
            None,
        )),
        Membership::Unreadable(_) => {
            let sentence = membership::unreadable(&observed.workload.annotations, observed.namespace)?;
            Some(Hold::new(WorkloadState::Unreadable, sentence, None))
        }
    }
}

fn by_workload(setting: &Setting<'_>, terms: Terms, workload: &Workload) -> Option<Hold> {
    if terms.strategy == RestartStrategy::Evict {
        return (!setting.evict_allowed).then(|| {
            Hold::new(
                WorkloadState::EvictNotAllowed,
                "the operator may not evict pods: allow it by --allow-evict, or choose another strategy",
                None,
            )
        });
    }
    if workload.controller.borrowed_template && terms.strategy == RestartStrategy::Template {
        return Some(Hold::new(
            WorkloadState::BorrowedTemplate,
            "the Rollout takes its template from another workload: choose the strategy RestartAt",
            None,
        ));
    }
    let planned = workload
        .controller
        .restart_at
        .filter(|at| terms.strategy == RestartStrategy::RestartAt && *at > later(setting.now, RESTART_AT));
    if let Some(at) = planned {
        return Some(Hold::new(
            WorkloadState::Paused,
            format!("somebody planned its restart for {at} (spec.restartAt): to have it now, remove that"),
            Some(at),
        ));
    }
    // Argo Rollouts replaces pods for restartAt whatever else is paused. A canary that is paused is at a step; that is
    // not a request to hold restarts.
    if workload.controller.paused {
        return Some(Hold::new(
            WorkloadState::Paused,
            "its rollouts are paused (spec.paused): it is restarted once they are resumed",
            None,
        ));
    }
    let sentence = match workload.controller.update {
        UpdateStrategy::Rolling { partition } if partition <= 0 => return None,
        UpdateStrategy::Rolling { .. } => {
            "its update strategy has a partition, so its controller would leave pods with the old content: delete \
             its pods, remove the partition or choose the strategy Evict"
        }
        UpdateStrategy::OnDelete => {
            "its update strategy is OnDelete: delete its pods, or choose the strategy Evict"
        }
    };
    (terms.strategy == RestartStrategy::Template)
        .then(|| Hold::new(WorkloadState::AwaitingPodDeletion, sentence, None))
}

/// The hold of a Rollout with `workloadRef` whose pods are not known.
pub fn unknown_pods() -> Hold {
    Hold::new(
        WorkloadState::BorrowedTemplate,
        "The Rollout takes its template from another workload (spec.workloadRef), and its pods cannot be found. Set its \
         spec.selector to the one of that workload",
        None,
    )
}

fn unapproved(object: &ManagedSecret) -> Option<Hold> {
    let token = &object.content.rollout;
    object.lacks_approval().then(|| {
        let mut sentence =
            format!("restarts wait for approval: annotate the ExternalSecret with keyturn.dev/approve={token}");
        if let Some(reply) = object.approval_reply() {
            sentence = format!(
                "{reply}. Restarts wait for approval: annotate the ExternalSecret with keyturn.dev/approve={token}"
            );
        }
        Hold::new(WorkloadState::AwaitingApproval, sentence, None)
    })
}
