//! What a Deployment says about the process in its Pods.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Container, EnvVar, ResourceRequirements};
use kube::ResourceExt as _;

/// Name of the operator's container in the chart; the only one, unless somebody adds a sidecar.
const CONTAINER: &str = "keyturn";

/// A process as a Deployment describes it, with what the downward API would say filled in.
#[derive(Debug, Clone)]
pub(super) struct Described {
    pub(super) service_account: String,
    pub(super) arguments: Vec<String>,
    pub(super) environment: BTreeMap<String, String>,
}

impl Described {
    pub(super) fn of(deployment: &Deployment, pod_name: &str) -> Result<Self> {
        let name = deployment.name_any();
        let spec = deployment
            .spec
            .as_ref()
            .and_then(|spec| spec.template.spec.as_ref());
        let pod = spec.with_context(|| format!("the Deployment {name} has no Pod template"))?;
        let service_account = pod
            .service_account_name
            .clone()
            .unwrap_or_else(|| "default".to_owned());
        let container = pod
            .containers
            .iter()
            .find(|container| container.name == CONTAINER)
            .or_else(|| pod.containers.first())
            .with_context(|| format!("the Deployment {name} has no container"))?;
        let namespace = deployment.namespace().unwrap_or_default();
        let fields = BTreeMap::from([
            ("metadata.name", pod_name.to_owned()),
            ("metadata.namespace", namespace),
            ("spec.serviceAccountName", service_account.clone()),
            ("spec.nodeName", "node-0".to_owned()),
            ("status.podIP", "127.0.0.1".to_owned()),
            ("status.hostIP", "127.0.0.1".to_owned()),
        ]);
        let mut environment = BTreeMap::new();
        for variable in container.env.iter().flatten() {
            let value = value_of(variable, &fields, container.resources.as_ref())
                .with_context(|| format!("the variable {} of the Deployment {name}", variable.name))?;
            let value = expand(&value, &environment);
            environment.insert(variable.name.clone(), value);
        }
        Ok(Self {
            service_account,
            arguments: arguments(container, &environment),
            environment,
        })
    }

    /// Sets `--flag`: in place of the one that is there, since most may be given only once.
    /// Whether the chart gives this flag: one of an earlier version may not know it.
    pub(super) fn has_argument(&self, flag: &str) -> bool {
        let names = |given: &String| given.split('=').next() == Some(flag);
        self.arguments.iter().any(names)
    }

    pub(super) fn set_argument(&mut self, argument: &str) {
        let flag = argument.split('=').next().unwrap_or_default();
        let same = |given: &String| given.split('=').next() == Some(flag);
        if let Some(at) = self.arguments.iter().position(same) {
            // `--flag value` in two words; no argument of the operator is a flag without a value.
            let two_words = self.arguments.get(at).is_some_and(|given| !given.contains('='));
            let words = if two_words { 2 } else { 1 };
            let end = (at + words).min(self.arguments.len());
            self.arguments.splice(at..end, [argument.to_owned()]);
        } else {
            self.arguments.push(argument.to_owned());
        }
    }
}

/// The image's entry point is the binary, so `command` may only repeat it.
fn arguments(container: &Container, environment: &BTreeMap<String, String>) -> Vec<String> {
    let command = container.command.iter().flatten().skip(1);
    command
        .chain(container.args.iter().flatten())
        .map(|argument| expand(argument, environment))
        .collect()
}

fn value_of(
    variable: &EnvVar,
    fields: &BTreeMap<&str, String>,
    resources: Option<&ResourceRequirements>,
) -> Result<String> {
    let Some(source) = &variable.value_from else {
        return Ok(variable.value.clone().unwrap_or_default());
    };
    if let Some(field) = &source.field_ref {
        let path = field.field_path.as_str();
        let value = fields.get(path);
        return value
            .cloned()
            .with_context(|| format!("the testbed does not know the field {path}"));
    }
    if let Some(field) = &source.resource_field_ref {
        let (kind, name) = field.resource.split_once('.').unwrap_or_default();
        let amounts = resources.and_then(|resources| match kind {
            "limits" => resources.limits.as_ref(),
            _ => resources.requests.as_ref(),
        });
        let amount = amounts.and_then(|amounts| amounts.get(name));
        return amount
            .map(|quantity| quantity.0.clone())
            .with_context(|| format!("the container has no {}", field.resource));
    }
    bail!("the testbed does not know where its value comes from")
}

/// `$(NAME)` as the kubelet expands it: unknown names stay, `$$` is a dollar.
fn expand(text: &str, environment: &BTreeMap<String, String>) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        if let Some(after) = after.strip_prefix('$') {
            out.push('$');
            rest = after;
            continue;
        }
        let named = after.strip_prefix('(').and_then(|inner| inner.split_once(')'));
        if let Some((value, tail)) = named.and_then(|(name, tail)| Some((environment.get(name)?, tail))) {
            out.push_str(value);
            rest = tail;
        } else {
            out.push('$');
            rest = after;
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_expanded_as_the_kubelet_does() {
        let environment = BTreeMap::from([("A".to_owned(), "1".to_owned())]);
        for (text, expanded) in [
            ("--a=$(A)", "--a=1"),
            ("$(B) $(A", "$(B) $(A"),
            ("$$(A) $", "$(A) $"),
            ("plain", "plain"),
        ] {
            assert_eq!(expand(text, &environment), expanded, "{text}");
        }
    }

    #[test]
    fn an_argument_of_ours_takes_the_place_of_the_charts() {
        let mut described = Described {
            service_account: String::new(),
            arguments: ["run", "--listen=0.0.0.0:8080", "--log", "info"]
                .map(ToOwned::to_owned)
                .to_vec(),
            environment: BTreeMap::new(),
        };
        for argument in ["--listen=127.0.0.1:1", "--log=debug", "--audit=false"] {
            described.set_argument(argument);
        }
        assert_eq!(
            described.arguments,
            ["run", "--listen=127.0.0.1:1", "--log=debug", "--audit=false"]
        );
    }
}
