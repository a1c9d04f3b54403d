//! Reading what people wrote about restarts. Pure.

use std::collections::BTreeMap;

use super::model::{AnnotationValue, Annotations, RestartFlag};
use crate::{
    api::{RestartStrategy, names::annotation},
    objects::Suspension,
};

impl Annotations {
    /// Of a workload's or a Namespace's annotations; `value` gives the one of a full name.
    pub fn read<'a>(value: impl Fn(&str) -> Option<&'a str>) -> Self {
        Self {
            restart: match value(annotation::RESTART) {
                None => RestartFlag::Unset,
                Some("true") => RestartFlag::Yes,
                Some("false") => RestartFlag::No,
                Some(_) => RestartFlag::Unreadable,
            },
            strategy: read(value(annotation::RESTART_STRATEGY), RestartStrategy::parse),
            hot_reload: read(value(annotation::HOT_RELOAD), |text| text.parse().ok()),
            suspended: Suspension::parse(value(annotation::SUSPEND_RESTARTS_UNTIL)),
        }
    }

    /// Of a Namespace's annotations as its index has them, without our domain.
    pub fn of_namespace(annotations: &BTreeMap<String, String>) -> Self {
        Self::read(|name| {
            let name = name.strip_prefix("keyturn.dev/")?;
            annotations.get(name).map(String::as_str)
        })
    }
}

/// How many characters of a text that cannot be read are kept for messages.
const UNREADABLE: usize = 32;

fn read<T>(text: Option<&str>, parse: impl FnOnce(&str) -> Option<T>) -> AnnotationValue<T> {
    text.map_or(AnnotationValue::Unset, |text| {
        parse(text).map_or_else(
            || AnnotationValue::Unreadable(text.chars().take(UNREADABLE).collect()),
            AnnotationValue::Is,
        )
    })
}

/// stakater Reloader's annotations that are read on a workload.
pub const RELOADER: [&str; 7] = [
    "reloader.stakater.com/ignore",
    "reloader.stakater.com/auto",
    "reloader.stakater.com/search",
    "secret.reloader.stakater.com/auto",
    "secret.reloader.stakater.com/reload",
    "secret.reloader.stakater.com/exclude",
    "secrets.exclude.reloader.stakater.com/reload",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &'static str)]) -> Annotations {
        Annotations::read(|name| {
            pairs
                .iter()
                .find(|(known, _)| *known == name)
                .map(|(_, value)| *value)
        })
    }

    #[test]
    fn what_is_not_said_is_no_wish_and_what_cannot_be_read_is_known_as_that() {
        assert_eq!(read(&[]), Annotations::default());
        let annotations = read(&[
            ("keyturn.dev/restart", "yes"),
            ("keyturn.dev/restart-strategy", "Explode"),
            ("keyturn.dev/hot-reload", "TRUE"),
            ("keyturn.dev/suspend-restarts-until", "tomorrow"),
        ]);
        assert_eq!(
            annotations,
            Annotations {
                restart: RestartFlag::Unreadable,
                strategy: AnnotationValue::Unreadable("Explode".into()),
                hot_reload: AnnotationValue::Unreadable("TRUE".into()),
                suspended: Suspension::Unreadable,
            }
        );
    }

    #[test]
    fn a_namespace_says_the_same_words_as_a_workload() {
        let pairs = [
            ("restart", "false"),
            ("restart-strategy", "Evict"),
            ("hot-reload", "true"),
            ("suspend-restarts-until", "2030-01-01T00:00:00Z"),
        ];
        let annotations = pairs.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let annotations = Annotations::of_namespace(&annotations.into());
        assert_eq!(annotations.restart, RestartFlag::No);
        assert_eq!(annotations.strategy, AnnotationValue::Is(RestartStrategy::Evict));
        assert_eq!(annotations.hot_reload, AnnotationValue::Is(true));
        assert_eq!(
            annotations.suspended,
            Suspension::Until("2030-01-01T00:00:00Z".parse().unwrap())
        );
    }
}
