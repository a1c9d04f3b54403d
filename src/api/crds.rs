//! The CustomResourceDefinitions, as `keyturn crds` prints them and the chart installs them.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSON, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use kube::CustomResourceExt as _;
use serde_json::json;

use super::{ClusterSecretStore, ExternalSecret, SecretStore, status::UNOBSERVED};

/// All definitions.
pub fn crds() -> Vec<CustomResourceDefinition> {
    [
        ExternalSecret::crd(),
        SecretStore::crd(),
        ClusterSecretStore::crd(),
    ]
    .into_iter()
    .map(finished)
    .collect()
}

/// One definition as a YAML document.
pub fn to_yaml(crd: &CustomResourceDefinition) -> Result<String, serde_saphyr::ser::Error> {
    serde_saphyr::to_string(crd)
}

fn finished(mut crd: CustomResourceDefinition) -> CustomResourceDefinition {
    for version in &mut crd.spec.versions {
        if let Some(schema) = version
            .schema
            .as_mut()
            .and_then(|schema| schema.open_api_v3_schema.as_mut())
        {
            plain(schema);
            if let Some(status) = schema
                .properties
                .as_mut()
                .and_then(|properties| properties.get_mut("status"))
            {
                status.default = Some(unobserved());
            }
        }
    }
    crd
}

/// The status of an object that no operator has looked at. Without it, tools that wait by kstatus (`helm --wait`, Flux)
/// take such an object for finished: a kind without a status has nothing to wait for. It is stored with an object, and the
/// first status that Keyturn writes replaces it.
fn unobserved() -> JSON {
    JSON(json!({"observedGeneration": UNOBSERVED}))
}

/// Optional is not nullable: an explicit null is then dropped by the API server, and no rule ever meets one. What a missing
/// field means is the operator's to say: a default would show as drift.
fn plain(schema: &mut JSONSchemaProps) {
    schema.nullable = None;
    schema.default = None;
    schema
        .properties
        .iter_mut()
        .flat_map(|properties| properties.values_mut())
        .for_each(plain);
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &mut schema.items {
        plain(items);
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = &mut schema.additional_properties {
        plain(values);
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::JSONSchemaProps;

    use super::*;

    fn schema(crd: &CustomResourceDefinition) -> &JSONSchemaProps {
        let schema = crd.spec.versions[0].schema.as_ref().unwrap();
        schema.open_api_v3_schema.as_ref().unwrap()
    }

    #[test]
    fn definitions_are_small_enough_for_client_side_apply() {
        for crd in crds() {
            let size = to_yaml(&crd).unwrap().len();
            assert!(size < 100_000, "{}: {size} bytes", crd.spec.names.kind);
        }
    }

    #[test]
    fn every_field_is_described() {
        fn walk(schema: &JSONSchemaProps, path: &str, missing: &mut Vec<String>) {
            if schema.description.as_deref().is_none_or(str::is_empty) {
                missing.push(path.to_owned());
            }
            for (name, property) in schema.properties.iter().flatten() {
                walk(property, &format!("{path}.{name}"), missing);
            }
            match &schema.items {
                // The members of a list are described by the list; their fields are not.
                Some(JSONSchemaPropsOrArray::Schema(items)) => {
                    for (name, property) in items.properties.iter().flatten() {
                        walk(property, &format!("{path}[].{name}"), missing);
                    }
                }
                Some(JSONSchemaPropsOrArray::Schemas(_)) => missing.push(format!("{path}: a tuple")),
                None => {}
            }
        }
        let mut missing = Vec::new();
        for crd in crds() {
            walk(schema(&crd), &crd.spec.names.kind, &mut missing);
        }
        assert_eq!(missing, Vec::<String>::new());
    }

    #[test]
    fn no_field_of_a_spec_has_a_default_and_none_is_nullable() {
        for crd in crds() {
            let kind = &crd.spec.names.kind;
            let mut schema = schema(&crd).clone();
            let status = schema.properties.as_mut().unwrap().get_mut("status").unwrap();
            assert_eq!(status.default.take(), Some(unobserved()), "{kind}");
            let yaml = serde_saphyr::to_string(&schema).unwrap();
            for word in ["default:", "nullable:"] {
                assert!(
                    !yaml.lines().any(|line| line.trim_start().starts_with(word)),
                    "{kind} {word}"
                );
            }
        }
    }

    #[test]
    fn what_rules_look_at_is_bounded() {
        fn walk(schema: &JSONSchemaProps, path: &str, unbounded: &mut Vec<String>) {
            match schema.type_.as_deref() {
                Some("array") if schema.max_items.is_none() => unbounded.push(path.to_owned()),
                Some("string") if schema.max_length.is_none() && schema.enum_.is_none() => {
                    unbounded.push(path.to_owned());
                }
                _ => {}
            }
            for (name, property) in schema.properties.iter().flatten() {
                walk(property, &format!("{path}.{name}"), unbounded);
            }
            if let Some(JSONSchemaPropsOrArray::Schema(items)) = &schema.items {
                walk(items, &format!("{path}[]"), unbounded);
            }
        }
        let mut unbounded = Vec::new();
        for crd in crds() {
            walk(
                &schema(&crd).properties.as_ref().unwrap()["spec"],
                &crd.spec.names.kind,
                &mut unbounded,
            );
        }
        // A type of Kubernetes: no rule looks inside, only whether it is there.
        unbounded.retain(|path| !path.contains("namespaceSelector"));
        assert_eq!(unbounded, Vec::<String>::new());
    }
}
