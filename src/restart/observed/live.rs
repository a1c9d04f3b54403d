//! A workload, its pods and `keyturn-control` as they are now, read from the API server.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::{
    apps::v1::{DaemonSet, Deployment, StatefulSet},
    core::v1,
};

use super::{
    Context,
    model::{PatchBase, Pod, PodSelector, Workload, WorkloadKey},
    pods::{OF_ROLLOUT, PROVES_NOTHING, borrows_selector},
    wire::{WirePod, WireWorkload},
};
use crate::{
    api::WorkloadKind,
    cluster::{Class, Control, Error, Found, Rollout},
};

/// A workload as it is now.
pub struct FreshWorkload {
    /// What a patch rests on.
    pub base: PatchBase,
    /// The workload.
    pub workload: Workload,
    /// Its pods.
    pub pods: Vec<Arc<Pod>>,
    /// A time before they were listed.
    pub at: Timestamp,
    /// `keyturn-control` as it is now; an error if that could not be found out.
    pub control: Result<Option<Control>, Error>,
}

impl Context {
    /// Reads a workload and its pods; none if it is gone or cannot be restarted any more.
    pub async fn read_fresh(&self, key: &WorkloadKey) -> Result<Option<Box<FreshWorkload>>, Error> {
        let object = &key.key;
        let Some((base, workload)) = self.read(key).await? else {
            return Ok(None);
        };
        let own = selector(&workload.selector);
        let Some(selector) = own.or_else(|| borrows_selector(&workload).then(|| OF_ROLLOUT.to_owned()))
        else {
            return Ok(None);
        };
        let (at, pods) = self.pods(&object.namespace, Some(&selector)).await?;
        let pods = self.workloads.sort_pods(&object.namespace, at, pods);
        let own = pods.of(&object.name, &workload.selector);
        // The index may lag behind by as long as a broken connection goes unnoticed: too long in an incident.
        let control = self
            .view
            .writer
            .cluster()
            .control(&self.view.operator_namespace)
            .await;
        Ok(Some(Box::new(FreshWorkload {
            base,
            at: own.at,
            pods: own.pods.into_iter().cloned().collect(),
            workload,
            control,
        })))
    }

    /// A workload as it is now, and what a patch rests on; none if it is gone or cannot be restarted any more.
    pub async fn read(&self, key: &WorkloadKey) -> Result<Option<(PatchBase, Workload)>, Error> {
        let cluster = self.view.writer.cluster();
        let object = &key.key;
        let door = match key.kind {
            WorkloadKind::Deployment => cluster.get_as::<Deployment, WireWorkload>(object).await,
            WorkloadKind::StatefulSet => cluster.get_as::<StatefulSet, WireWorkload>(object).await,
            WorkloadKind::DaemonSet => cluster.get_as::<DaemonSet, WireWorkload>(object).await,
            WorkloadKind::Rollout => cluster.get_as::<Rollout, WireWorkload>(object).await,
        };
        let door = match door {
            Err(error) if error.class == Class::NotFound => return Ok(None),
            door => door?,
        };
        Ok(door.patch_base().zip(door.workload(key.kind)))
    }

    /// The pods of a namespace, and a time before they were listed.
    pub async fn pods(
        &self,
        namespace: &str,
        selector: Option<&str>,
    ) -> Result<(Timestamp, Vec<Pod>), Error> {
        let at = self.view.time.now();
        let cluster = self.view.writer.cluster();
        let found = cluster
            .find_all::<v1::Pod, _, _>(namespace, selector, WirePod::pod)
            .await?;
        let Found {
            objects: pods,
            malformed: unread,
        } = found;
        if unread == 0 {
            return Ok((at, pods));
        }
        tracing::warn!(
            namespace,
            unread,
            "some pods cannot be read, so no workload there is taken for done by its pods"
        );
        Ok((PROVES_NOTHING, pods))
    }
}

/// A selector as lists take it; none for one that chooses all pods or cannot be understood.
fn selector(selector: &PodSelector) -> Option<String> {
    let PodSelector { labels, expressions } = selector;
    let mut parts: Vec<String> = labels
        .iter()
        .map(|(label, value)| format!("{label}={value}"))
        .collect();
    for expression in expressions {
        let (key, values) = (&expression.key, expression.values.join(","));
        parts.push(match &*expression.operator {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "Exists" => key.to_string(),
            "DoesNotExist" => format!("!{key}"),
            _ => return None,
        });
    }
    (!parts.is_empty()).then(|| parts.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::restart::observed::model::Expression;

    #[test]
    fn a_selector_is_written_as_lists_take_it() {
        let expression = |operator: &str, values: &[&str]| Expression {
            key: "tier".into(),
            operator: operator.into(),
            values: values.iter().map(|value| (*value).into()).collect(),
        };
        let with = |expressions| PodSelector {
            labels: [("app".into(), "web".into())].into_iter().collect(),
            expressions,
        };
        for (expressions, expected) in [
            (vec![], Some("app=web")),
            (vec![expression("In", &["a", "b"])], Some("app=web,tier in (a,b)")),
            (vec![expression("NotIn", &["a"])], Some("app=web,tier notin (a)")),
            (vec![expression("Exists", &[])], Some("app=web,tier")),
            (vec![expression("DoesNotExist", &[])], Some("app=web,!tier")),
            (vec![expression("Near", &["a"])], None),
        ] {
            assert_eq!(selector(&with(expressions)).as_deref(), expected);
        }
        assert_eq!(selector(&PodSelector::default()), None);
    }
}
