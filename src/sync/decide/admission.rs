//! Whether an ExternalSecret may be worked on now: suspensions, its spec, its namespace. Pure.

use jiff::Timestamp;

use crate::{
    api::{ObjectKey, Reason, names::CONTROL_CONFIG_MAP, time::seconds},
    cluster::Control,
    objects::{Entry, StoreRef, Suspension},
    sync::resolve::Refusal,
};

/// What may keep an ExternalSecret from being worked on, besides itself.
#[derive(Debug, Default)]
pub struct Surroundings<'a> {
    /// The present.
    pub now: Timestamp,
    /// ConfigMap `keyturn-control`, where it suspends the namespace now.
    pub control: Option<Control>,
    /// The suspend annotation on the Namespace.
    pub namespace: Suspension,
    /// The store, with the suspend annotation on it; none if the ExternalSecret means no store.
    pub store: Option<(StoreRef, Suspension)>,
    /// Namespaces in which no Secret is written.
    pub protected: &'a [String],
}

/// Why an ExternalSecret is not worked on.
#[derive(Debug)]
pub enum NotAdmitted {
    /// People have suspended it.
    Suspended(Suspended),
    /// A suspend annotation is not a time, so that it is unknown whether it is suspended.
    Unreadable(Refusal),
    /// Its spec or its namespace does not allow it.
    Refused(Refusal),
}

/// A suspension in force.
#[derive(Debug, PartialEq, Eq)]
pub struct Suspended {
    /// Its end, if it names one.
    pub until: Option<Timestamp>,
    /// What it is written on, as a sentence.
    pub message: String,
}

/// Whether `object` may be worked on.
pub fn admit(object: &ObjectKey, entry: &Entry, around: &Surroundings<'_>) -> Result<(), NotAdmitted> {
    check_suspensions(object, entry, around)?;
    let refused = |reason, message: String| Err(NotAdmitted::Refused(Refusal::new(reason, message)));
    if let Some(invalid) = &entry.spec.invalid {
        return refused(Reason::InvalidSpec, invalid.to_string());
    }
    let namespace = &object.namespace;
    if around.protected.iter().any(|name| **name == **namespace) {
        return refused(
            Reason::NamespaceNotAllowed,
            format!("namespace {namespace} is protected: the operator writes no Secrets there"),
        );
    }
    Ok(())
}

/// Whether nothing suspends `object`.
pub fn check_suspensions(
    object: &ObjectKey,
    entry: &Entry,
    around: &Surroundings<'_>,
) -> Result<(), NotAdmitted> {
    if let Some(control) = &around.control {
        return Err(NotAdmitted::Suspended(Suspended {
            until: control.until,
            message: control_message(control),
        }));
    }
    let (of_store, store) = match &around.store {
        Some((store, suspension)) => (*suspension, store.to_string()),
        None => (Suspension::None, String::new()),
    };
    let places = [
        (
            entry.annotations.suspended,
            format!("ExternalSecret {}", object.name),
        ),
        (around.namespace, format!("Namespace {}", object.namespace)),
        (of_store, store),
    ];
    match latest(around.now, places) {
        Ok(None) => Ok(()),
        Ok(Some((until, by))) => Err(NotAdmitted::Suspended(Suspended {
            until: Some(until),
            message: format!("suspended until {} by the annotation on {by}", seconds(until)),
        })),
        Err(refusal) => Err(NotAdmitted::Unreadable(refusal)),
    }
}

/// The latest suspension in force and its place; refused if one cannot be read.
fn latest(
    now: Timestamp,
    places: impl IntoIterator<Item = (Suspension, String)>,
) -> Result<Option<(Timestamp, String)>, Refusal> {
    let mut latest: Option<(Timestamp, String)> = None;
    for (suspension, place) in places {
        match suspension {
            Suspension::Unreadable => return Err(Refusal::unreadable_suspension(&place)),
            Suspension::Until(until)
                if until > now && latest.as_ref().is_none_or(|(latest, _)| until > *latest) =>
            {
                latest = Some((until, place));
            }
            Suspension::Until(_) | Suspension::None => {}
        }
    }
    Ok(latest)
}

fn control_message(control: &Control) -> String {
    let message = match control.until {
        Some(until) => format!(
            "suspended until {} by ConfigMap {CONTROL_CONFIG_MAP} in the operator's namespace",
            seconds(until)
        ),
        None => format!(
            "suspended by ConfigMap {CONTROL_CONFIG_MAP} in the operator's namespace, which names no end: it lasts until \
             somebody removes suspendSync from it"
        ),
    };
    if control.unreadable.is_empty() {
        return message;
    }
    let unreadable = control.unreadable.join(" and ");
    format!("{message}. It holds up because its entries {unreadable} cannot be read: correct them")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_suspension_in_force_counts() {
        let at = |hour: i64| Timestamp::from_second(hour * 3600).unwrap();
        let until = |hour| Suspension::Until(at(hour));
        for (suspensions, expected) in [
            ([Suspension::None; 3], None),
            ([until(9), until(10), Suspension::None], None),
            ([until(9), until(11), Suspension::None], Some((11, "1"))),
            ([until(11), until(13), until(12)], Some((13, "1"))),
            ([until(11), until(11), until(11)], Some((11, "0"))),
        ] {
            let places = (0..).map(|place: i32| place.to_string());
            let found = latest(at(10), suspensions.into_iter().zip(places)).unwrap();
            let expected = expected.map(|(hour, place)| (at(hour), place.to_owned()));
            assert_eq!(found, expected, "{suspensions:?}");
        }
    }

    #[test]
    fn a_suspension_that_is_no_time_is_named_by_its_place() {
        let later = Suspension::Until(Timestamp::from_second(7200).unwrap());
        let places = [
            (later, "ExternalSecret db".to_owned()),
            (Suspension::Unreadable, "Namespace shop".to_owned()),
        ];
        let refusal = latest(Timestamp::UNIX_EPOCH, places).unwrap_err();
        assert_eq!(refusal.reason, Reason::InvalidSpec);
        assert!(refusal.message.contains("Namespace shop"), "{refusal}");
    }

    #[test]
    fn the_message_says_until_when_and_what_cannot_be_read() {
        let control = |until: Option<&str>, unreadable: &[&'static str]| Control {
            sync: true,
            until: until.map(|until| until.parse().unwrap()),
            unreadable: unreadable.to_vec(),
            ..Control::default()
        };
        let until = Some("2026-11-01T08:00:00Z");
        for (control, parts) in [
            (
                control(until, &[]),
                &["until 2026-11-01T08:00:00Z", "keyturn-control"][..],
            ),
            (control(None, &[]), &["names no end", "suspendSync"]),
            (
                control(None, &["until"]),
                &["names no end", "entries until cannot be read"],
            ),
        ] {
            let message = control_message(&control);
            for part in parts {
                assert!(message.contains(part), "{part}: {message}");
            }
        }
    }
}
