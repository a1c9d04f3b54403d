//! Whether a namespace may use a ClusterSecretStore. Pure.

use std::collections::BTreeMap;

use kube::core::{Selector, SelectorExt};
use regex::Regex;

use crate::api::StoreCondition;

/// A store's `conditions`, ready to be asked.
#[derive(Debug, Default)]
pub(super) struct Admission(Vec<Rule>);

#[derive(Debug)]
struct Rule {
    selector: Option<Selector>,
    namespaces: Vec<String>,
    regexes: Vec<Regex>,
}

/// A condition that cannot be understood.
#[derive(Debug, thiserror::Error)]
pub(super) enum BadCondition {
    /// A regular expression that cannot be parsed.
    #[error("spec.conditions[{0}].namespaceRegexes[{1}] is not a regular expression: correct it")]
    Regex(usize, usize),
    /// A label selector with an unknown operator, or without what its operator needs.
    #[error("spec.conditions[{0}].namespaceSelector is not a label selector: correct its matchExpressions")]
    Selector(usize),
}

impl Admission {
    /// Reads the `conditions` of a store.
    pub(super) fn new(conditions: &[StoreCondition]) -> Result<Self, BadCondition> {
        conditions
            .iter()
            .enumerate()
            .map(|(index, condition)| Rule::new(index, condition))
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Whether `namespace` with these labels may use the store: any condition suffices, none at all admits everyone.
    pub(super) fn admits(&self, namespace: &str, labels: &BTreeMap<String, String>) -> bool {
        self.0.is_empty() || self.0.iter().any(|rule| rule.admits(namespace, labels))
    }
}

impl Rule {
    fn new(index: usize, condition: &StoreCondition) -> Result<Self, BadCondition> {
        let selector = match &condition.namespace_selector {
            Some(selector) => {
                let selector =
                    Selector::try_from(selector.clone()).map_err(|_| BadCondition::Selector(index))?;
                Some(selector)
            }
            None => None,
        };
        let regexes = condition
            .namespace_regexes
            .iter()
            .flatten()
            .enumerate()
            .map(|(i, regex)| anchored(regex).ok_or(BadCondition::Regex(index, i)))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            selector,
            namespaces: condition.namespaces.clone().unwrap_or_default(),
            regexes,
        })
    }

    fn admits(&self, namespace: &str, labels: &BTreeMap<String, String>) -> bool {
        self.selector
            .as_ref()
            .is_some_and(|selector| selector.matches(labels))
            || self.namespaces.iter().any(|name| name == namespace)
            || self.regexes.iter().any(|regex| regex.is_match(namespace))
    }
}

/// `prod` must not admit `not-prod`, nor `prod)|(.*`, which is no expression until it is put in parentheses.
fn anchored(regex: &str) -> Option<Regex> {
    Regex::new(regex).ok()?;
    Regex::new(&format!("^(?:{regex})$")).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn conditions(conditions: Value) -> Vec<StoreCondition> {
        serde_json::from_value(conditions).unwrap()
    }

    fn admits(said: Value, namespace: &str, labels: &[(&str, &str)]) -> bool {
        let labels = labels
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        Admission::new(&conditions(said))
            .unwrap()
            .admits(namespace, &labels)
    }

    #[test]
    fn without_conditions_everyone_is_admitted() {
        assert!(admits(json!([]), "any", &[]));
        assert!(Admission::default().admits("any", &BTreeMap::new()));
    }

    #[test]
    fn an_empty_condition_admits_nobody() {
        for empty in [
            json!({}),
            json!({"namespaces": []}),
            json!({"namespaceRegexes": []}),
        ] {
            assert!(!admits(json!([empty]), "shop", &[]), "{empty}");
        }
    }

    #[test]
    fn expressions_must_match_the_whole_name() {
        for (regex, namespace, admitted) in [
            ("prod", "prod", true),
            ("prod", "not-prod", false),
            ("prod", "prod-2", false),
            ("prod-.*", "prod-2", true),
            ("a|b", "b", true),
            ("a|b", "ab", false),
            ("a|b", "bc", false),
            ("^prod$", "prod", true),
            ("(?i)PROD", "prod", true),
            ("", "prod", false),
            (".*", "prod", true),
        ] {
            let conditions = json!([{"namespaceRegexes": ["never", regex]}]);
            assert_eq!(
                admits(conditions, namespace, &[]),
                admitted,
                "{regex} {namespace}"
            );
        }
    }

    #[test]
    fn any_field_of_any_condition_suffices() {
        let conditions = json!([
            {"namespaces": ["shop", "bank"]},
            {"namespaceSelector": {"matchLabels": {"team": "a"}}, "namespaceRegexes": ["dev-.+"]},
        ]);
        for (namespace, labels, admitted) in [
            ("shop", &[][..], true),
            ("bank", &[], true),
            ("shop-2", &[], false),
            ("dev-1", &[], true),
            ("other", &[("team", "a")], true),
            ("other", &[("team", "b")], false),
            ("other", &[("Team", "a")], false),
        ] {
            assert_eq!(
                admits(conditions.clone(), namespace, labels),
                admitted,
                "{namespace}"
            );
        }
    }

    #[test]
    fn selectors_follow_kubernetes() {
        let selector = |selector: Value| json!([{"namespaceSelector": selector}]);
        let expression = |operator: &str, values: Value| {
            selector(json!({"matchExpressions": [{"key": "env", "operator": operator, "values": values}]}))
        };
        for (conditions, labels, admitted) in [
            (selector(json!({})), &[][..], true),
            (expression("In", json!(["dev", "test"])), &[("env", "test")], true),
            (expression("In", json!(["dev"])), &[], false),
            (expression("NotIn", json!(["prod"])), &[("env", "dev")], true),
            (expression("NotIn", json!(["prod"])), &[], true),
            (expression("NotIn", json!(["prod"])), &[("env", "prod")], false),
            (expression("Exists", Value::Null), &[("env", "")], true),
            (expression("Exists", Value::Null), &[], false),
            (expression("DoesNotExist", Value::Null), &[], true),
            (expression("DoesNotExist", Value::Null), &[("env", "x")], false),
            (
                selector(json!({"matchLabels": {"a": "1", "b": "2"}})),
                &[("a", "1")],
                false,
            ),
        ] {
            assert_eq!(admits(conditions.clone(), "ns", labels), admitted, "{conditions}");
        }
    }

    #[test]
    fn what_cannot_be_understood_is_named_by_its_place() {
        for (condition, place) in [
            (
                json!({"namespaceRegexes": ["ok", "("]}),
                "spec.conditions[1].namespaceRegexes[1]",
            ),
            // Well formed only inside the parentheses that anchor it.
            (
                json!({"namespaceRegexes": ["a)|(.*"]}),
                "spec.conditions[1].namespaceRegexes[0]",
            ),
            (
                json!({"namespaceSelector": {"matchExpressions": [{"key": "a", "operator": "Like"}]}}),
                "spec.conditions[1].namespaceSelector",
            ),
        ] {
            let error = Admission::new(&conditions(json!([{"namespaces": ["x"]}, condition]))).unwrap_err();
            assert!(error.to_string().starts_with(place), "{error}");
        }
    }
}
