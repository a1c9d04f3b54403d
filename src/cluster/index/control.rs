//! The ConfigMap by which people hold everything up in an incident.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ConfigMap;
use serde::Deserialize;

use super::{Change, Index, Project};
use crate::{
    api::{ObjectKey, names::CONTROL_CONFIG_MAP},
    cluster::{Class, Cluster, Error},
};

/// What `keyturn-control` says. Anything that cannot be read holds up: in an incident that is the safe side.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Control {
    /// `suspendSync`: nothing is read from AWS, no Secret is written.
    pub sync: bool,
    /// `suspendRestarts`: no workload is restarted.
    pub restarts: bool,
    /// `until`; for ever without it.
    pub until: Option<Timestamp>,
    /// `namespaces`, separated by commas, spaces or lines; all without any.
    pub namespaces: Vec<Arc<str>>,
    /// The entries that could not be read, by name.
    pub unreadable: Vec<&'static str>,
}

impl Control {
    /// Whether it speaks of `namespace`, now.
    pub fn applies(&self, now: Timestamp, namespace: &str) -> bool {
        self.lasts(now)
            && (self.namespaces.is_empty() || self.namespaces.iter().any(|named| **named == *namespace))
    }

    /// Whether its time is not over.
    pub fn lasts(&self, now: Timestamp) -> bool {
        self.until.is_none_or(|until| now < until)
    }

    /// What a ConfigMap with these entries says.
    pub fn read(data: &BTreeMap<String, String>) -> Self {
        let mut unreadable = Vec::new();
        let mut flag = |name: &'static str| match data.get(name).map(|text| text.trim()) {
            None | Some("" | "false") => false,
            Some("true") => true,
            Some(_) => {
                unreadable.push(name);
                true
            }
        };
        let (sync, restarts) = (flag("suspendSync"), flag("suspendRestarts"));
        let until = match data.get("until").map(|text| text.trim()) {
            None | Some("") => None,
            Some(text) => {
                let until = text.parse().ok();
                if until.is_none() {
                    unreadable.push("until");
                }
                until
            }
        };
        let namespaces = data.get("namespaces").map_or("", String::as_str);
        Self {
            sync,
            restarts,
            until,
            namespaces: namespaces
                .split([',', ' ', '\n', '\t'])
                .filter(|name| !name.is_empty())
                .map(Into::into)
                .collect(),
            unreadable,
        }
    }
}

impl Index<Control> {
    /// What is in force for `namespace` now, if anything is.
    pub fn in_force(&self, now: Timestamp, namespace: &str) -> Option<Control> {
        let mut found = None;
        self.for_each(|_, indexed| {
            found = indexed
                .entry()
                .filter(|control| control.applies(now, namespace))
                .cloned();
        });
        found
    }
}

impl Cluster {
    /// Reads what is in force as it is now, whatever the index knows; none without the ConfigMap.
    pub async fn control(&self, operator_namespace: &Arc<str>) -> Result<Option<Control>, Error> {
        let key = ObjectKey::new(Arc::clone(operator_namespace), CONTROL_CONFIG_MAP);
        match self.get_as::<ConfigMap, Door>(&key).await {
            Ok(door) => Ok(Some(Control::read(&door.data.unwrap_or_default()))),
            Err(error) if error.class == Class::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// The one ConfigMap, in the operator's namespace.
pub(super) struct Controls;

/// The part of a ConfigMap that is read.
#[derive(Deserialize)]
pub(super) struct Door {
    #[serde(default)]
    data: Option<BTreeMap<String, String>>,
}

impl Project for Controls {
    type Kind = ConfigMap;
    type Object = Door;
    type Entry = Control;

    const NAME: Option<&'static str> = Some(CONTROL_CONFIG_MAP);

    fn project(&self, _key: &ObjectKey, object: Door) -> Control {
        Control::read(&object.data.unwrap_or_default())
    }

    fn change(&self, _key: ObjectKey) -> Change {
        Change::Control
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Control {
        let data = pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Control::read(&data.collect())
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn what_is_not_said_holds_nothing_up() {
        assert_eq!(read(&[]), Control::default());
        let control = read(&[("suspendSync", "false"), ("suspendRestarts", " true\n")]);
        assert_eq!((control.sync, control.restarts), (false, true));
    }

    #[test]
    fn what_cannot_be_read_holds_up_and_is_named() {
        let control = read(&[("suspendSync", "yes"), ("until", "tomorrow")]);
        assert!(control.sync && control.applies(at(1), "shop"));
        assert_eq!(control.unreadable, ["suspendSync", "until"]);
    }

    #[test]
    fn it_ends_at_its_time_and_speaks_of_its_namespaces() {
        let control = read(&[
            ("suspendRestarts", "true"),
            ("until", "1970-01-01T00:01:00Z"),
            ("namespaces", "shop, bank\nmail"),
        ]);
        for (second, namespace, applies) in [
            (59, "shop", true),
            (59, "bank", true),
            (59, "mail", true),
            (59, "other", false),
            (60, "shop", false),
        ] {
            assert_eq!(
                control.applies(at(second), namespace),
                applies,
                "{second} {namespace}"
            );
        }
    }
}
