//! Each cause once: what many ExternalSecrets report for the same reason is one finding. Pure.

use std::collections::BTreeSet;

use super::{
    report::{Finding, FindingKind, Object},
    stores::label,
};
use crate::api::{Reason, StoreKind};

/// The findings of the stores, then those of the ExternalSecrets. What a store causes belongs to the store's finding, and
/// ExternalSecrets that report the same words share one.
pub(super) fn by_cause(stores: Vec<Finding>, of_objects: Vec<(&Object, Finding)>) -> Vec<Finding> {
    let mut of_stores = stores;
    let mut rest: Vec<Finding> = Vec::new();
    for (object, finding) in of_objects {
        if let Some(of_store) = cause(&mut of_stores, object, &finding) {
            of_store.affected.insert(key(&finding));
            continue;
        }
        match rest.iter_mut().find(|earlier| is_same(earlier, &finding)) {
            Some(earlier) => {
                earlier.affected.insert(key(&finding));
                earlier.since = earlier.since.min(finding.since).or(earlier.since);
            }
            None => rest.push(finding),
        }
    }
    of_stores.append(&mut rest);
    of_stores
}

/// The finding of the store that causes this one; made if the store does not exist.
fn cause<'a>(stores: &'a mut Vec<Finding>, object: &Object, finding: &Finding) -> Option<&'a mut Finding> {
    let is = |reason: Reason| finding.reason == reason.as_str();
    let missing = finding.what == FindingKind::NotReady && is(Reason::StoreNotFound);
    let broken = finding.what == FindingKind::NotReady
        && (is(Reason::StoreNotReady) || is(Reason::IdentityError))
        || finding.what == FindingKind::Stale;
    if !missing && !broken {
        return None;
    }
    let named = object.spec.secret_store_ref.as_ref()?;
    let namespace = match named.kind() {
        StoreKind::SecretStore => finding.namespace.as_str(),
        StoreKind::ClusterSecretStore => "",
    };
    let store = label(named.kind(), &named.name);
    let known = stores
        .iter()
        .position(|of| of.namespace == namespace && of.store.as_deref() == Some(&store));
    let place = match known {
        Some(place) => place,
        None if missing => {
            stores.push(Finding {
                namespace: namespace.to_owned(),
                name: named.name.clone(),
                what: FindingKind::Store,
                attention: true,
                store: Some(store),
                affected: BTreeSet::new(),
                workload: None,
                reason: finding.reason.clone(),
                since: finding.since,
                until: None,
                message: finding.message.clone(),
            });
            stores.len() - 1
        }
        None => return None,
    };
    stores.get_mut(place)
}

/// Whether two ExternalSecrets report the same. What stands in numbers or concerns one workload is never shared.
fn is_same(a: &Finding, b: &Finding) -> bool {
    let shared = matches!(
        a.what,
        FindingKind::NotSeen | FindingKind::NotReady | FindingKind::Stale | FindingKind::Suspended
    );
    // A tenant must not hide another one's trouble behind its own. What has no status says nothing of its own.
    let place = |finding: &Finding| {
        let seen = finding.what != FindingKind::NotSeen;
        seen.then(|| finding.namespace.clone())
    };
    shared
        && place(a) == place(b)
        && (a.what, &a.reason, &a.message, a.until) == (b.what, &b.reason, &b.message, b.until)
}

fn key(finding: &Finding) -> String {
    format!("{}/{}", finding.namespace, finding.name)
}
