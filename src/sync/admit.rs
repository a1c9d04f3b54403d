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
            // Anchored: `prod` must not admit `not-prod`.
            .map(|(i, regex)| {
                Regex::new(&format!("^(?:{regex})$")).map_err(|_| BadCondition::Regex(index, i))
            })
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
