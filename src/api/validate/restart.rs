//! `rotation` and `restart`: what the API server's rules cannot check of them, or might not have checked.

use std::{collections::BTreeSet, ops::RangeInclusive, time::Duration};

use super::{Invalid, invalid, is_secret_key};
use crate::api::{
    caps,
    external_secret::{CreationPolicy, ExternalSecretSpec},
    interval::parse_go,
    restart::{Discovery, Pacing, RestartMode, RestartSpec, RestartStrategy, RestartTarget, WorkloadKind},
    window::Window,
};

/// The longest duration that means something: with more, times would leave the calendar.
const LONGEST: Duration = Duration::from_hours(365 * 24);
/// A rollout under way holds others up.
const HEALTH_TIMEOUT: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_hours(24);

impl ExternalSecretSpec {
    /// The first thing that is wrong with `rotation`, if any.
    pub fn validate_rotation(&self) -> Result<(), Invalid> {
        let Some(rotation) = &self.rotation else {
            return Ok(());
        };
        if let Some(unreadable) = &rotation.unreadable {
            return Err(unreadable.clone());
        }
        duration(
            "spec.rotation.pendingTimeout",
            rotation.pending_timeout.as_deref(),
            Duration::from_mins(1)..=LONGEST,
            "must be a duration from 1m to 8760h, such as 30m",
        )
    }

    /// The first thing that is wrong with `restart`, if any.
    pub fn validate_restart(&self) -> Result<(), Invalid> {
        self.restart
            .as_ref()
            .map_or(Ok(()), |restart| validate(self, restart))
    }

    /// The keys of the Secret whose change restarts; all where there are none. All of them count while `trigger` is wrong or
    /// `restart` larger than what is kept of it, so that no change is missed that counts once it is corrected.
    pub fn trigger_keys(&self) -> &[String] {
        self.restart
            .as_ref()
            .filter(|restart| restart.size() <= caps::RESTART_TEXTS && validate_keys(self, restart).is_ok())
            .and_then(|restart| restart.trigger.as_ref()?.keys.as_deref())
            .unwrap_or_default()
    }
}

fn validate(spec: &ExternalSecretSpec, restart: &RestartSpec) -> Result<(), Invalid> {
    if let Some(unreadable) = &restart.unreadable {
        return Err(unreadable.clone());
    }
    if spec.creation_policy() == CreationPolicy::None && restart.mode != Some(RestartMode::Disabled) {
        return Err(invalid(
            "spec.restart",
            "needs a Secret, and creationPolicy None writes none: remove restart, or let the Secret be written",
        ));
    }
    if restart.size() > caps::RESTART_TEXTS {
        return Err(invalid(
            "spec.restart",
            format!(
                "has targets, windows and keys that take more than the {} KiB that Keyturn keeps of one ExternalSecret: name \
                 workloads by a label that they share",
                caps::RESTART_TEXTS >> 10
            ),
        ));
    }
    validate_targets(restart)?;
    validate_keys(spec, restart)?;
    validate_pacing(restart.pacing.as_ref())?;
    for (index, window) in restart.windows.iter().flatten().enumerate() {
        Window::parse(window).map_err(|bad| {
            invalid(
                format!("spec.restart.windows[{index}].{}", bad.field),
                bad.message,
            )
        })?;
    }
    let margin = restart.deadline.as_ref().and_then(|all| all.margin.as_deref());
    duration(
        "spec.restart.deadline.margin",
        margin,
        Duration::ZERO..=LONGEST,
        "must be a duration up to 8760h, such as 1h",
    )?;
    let timeout = restart.health.as_ref().and_then(|all| all.timeout.as_deref());
    duration(
        "spec.restart.health.timeout",
        timeout,
        HEALTH_TIMEOUT,
        "must be a duration from 1s to 24h, such as 10m",
    )
}

/// Checks that a duration lies in `range`.
fn duration(
    path: &str,
    text: Option<&str>,
    range: RangeInclusive<Duration>,
    message: &str,
) -> Result<(), Invalid> {
    let fits = |text| parse_go(text).is_ok_and(|duration| range.contains(&duration));
    if text.is_none_or(fits) {
        return Ok(());
    }
    Err(invalid(path, message))
}

fn validate_targets(restart: &RestartSpec) -> Result<(), Invalid> {
    let targets = restart.targets.as_deref().unwrap_or_default();
    if restart.discovery == Some(Discovery::Explicit) && targets.is_empty() {
        return Err(invalid(
            "spec.restart.targets",
            "is empty, and discovery Explicit restarts nothing else: name at least one workload",
        ));
    }
    let mut seen = BTreeSet::new();
    for (index, target) in targets.iter().enumerate() {
        let path = format!("spec.restart.targets[{index}]");
        validate_target(&path, target)?;
        let labels = target.selector.as_ref().map(|selector| &selector.match_labels);
        if !seen.insert((target.kind, target.name.as_deref(), labels)) {
            return Err(invalid(
                path,
                "names the same workloads as an earlier target: keep one of them",
            ));
        }
    }
    Ok(())
}

fn validate_target(path: &str, target: &RestartTarget) -> Result<(), Invalid> {
    if target.name.is_some() == target.selector.is_some() {
        return Err(invalid(path, "needs either name or selector: set one of them"));
    }
    if target.name.as_deref().is_some_and(|name| !is_object_name(name)) {
        return Err(invalid(
            format!("{path}.name"),
            "is no name of an object: write lower-case letters, digits, - and .",
        ));
    }
    if let Some(selector) = &target.selector {
        if selector.match_labels.is_empty() {
            return Err(invalid(
                format!("{path}.selector.matchLabels"),
                "is empty: name at least one label, or leave targets out to follow all that use the Secret",
            ));
        }
        for (name, value) in &selector.match_labels {
            if !is_label_name(name) || !is_label_value(value) {
                return Err(invalid(
                    format!("{path}.selector.matchLabels"),
                    "holds what is no label: names and values have at most 63 letters, digits, -, _ and ., and begin and end \
                     with a letter or digit",
                ));
            }
        }
    }
    if target.strategy == Some(RestartStrategy::RestartAt) && target.kind != WorkloadKind::Rollout {
        return Err(invalid(
            format!("{path}.strategy"),
            "RestartAt is for a Rollout: use Template or Evict",
        ));
    }
    Ok(())
}

fn validate_keys(spec: &ExternalSecretSpec, restart: &RestartSpec) -> Result<(), Invalid> {
    let keys = restart.trigger.iter().flat_map(|trigger| &trigger.keys).flatten();
    let mut seen = BTreeSet::new();
    for (index, key) in keys.enumerate() {
        let refused = |message: &str| Err(invalid(format!("spec.restart.trigger.keys[{index}]"), message));
        if !is_secret_key(key) {
            return refused(
                "is no key that a Secret can have: use at most 253 letters, digits, -, _ and ., not . alone, not .. at the \
                 start",
            );
        }
        if !seen.insert(key) {
            return refused("is named twice: remove one");
        }
        // What dataFrom brings is known when it was read.
        let known = spec.data.iter().flatten().any(|entry| entry.secret_key == *key);
        if !known && spec.data_from.iter().flatten().next().is_none() {
            return refused(
                "is the secretKey of no entry of data, so it never changes: correct it, or remove it",
            );
        }
    }
    Ok(())
}

fn validate_pacing(pacing: Option<&Pacing>) -> Result<(), Invalid> {
    let Some(Pacing {
        max_concurrent,
        urgent_max_concurrent,
        min_interval,
    }) = pacing
    else {
        return Ok(());
    };
    for (field, number) in [
        ("maxConcurrent", max_concurrent),
        ("urgentMaxConcurrent", urgent_max_concurrent),
    ] {
        if number.is_some_and(|number| !(1..=1000).contains(&number)) {
            return Err(invalid(
                format!("spec.restart.pacing.{field}"),
                "must be from 1 to 1000: to hold restarts up, use mode Disabled or the annotation \
                 keyturn.dev/suspend-restarts-until",
            ));
        }
    }
    duration(
        "spec.restart.pacing.minInterval",
        min_interval.as_deref(),
        Duration::ZERO..=LONGEST,
        "must be a duration up to 8760h, such as 30s",
    )
}

/// Whether it is a DNS subdomain, as names of workloads and the prefixes of labels are.
fn is_object_name(name: &str) -> bool {
    let part = |part: &str| {
        let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        !part.is_empty() && part.bytes().all(inner) && !part.starts_with('-') && !part.ends_with('-')
    };
    name.len() <= 253 && name.split('.').all(part)
}

fn is_label_name(name: &str) -> bool {
    let (prefix, name) = match name.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, name),
    };
    prefix.is_none_or(is_object_name) && !name.is_empty() && is_label_value(name)
}

fn is_label_value(value: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let ends = |byte: Option<&u8>| byte.is_none_or(u8::is_ascii_alphanumeric);
    let bytes = value.as_bytes();
    bytes.len() <= 63 && bytes.iter().copied().all(inner) && ends(bytes.first()) && ends(bytes.last())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    /// What is refused of an ExternalSecret with the key `password` and this more in its spec.
    fn refused(more: &Value) -> Option<Invalid> {
        let mut spec = json!({"data": [{"secretKey": "password", "remoteRef": {"key": "db"}}]});
        for (field, value) in more.as_object().into_iter().flatten() {
            spec[field] = value.clone();
        }
        let spec: ExternalSecretSpec = serde_json::from_value(spec).unwrap();
        spec.validate()
            .and_then(|()| spec.validate_rotation())
            .and_then(|()| spec.validate_restart())
            .err()
    }

    fn restart(field: &str, value: Value) -> Value {
        let restart = serde_json::Map::from_iter([(field.to_owned(), value)]);
        json!({"restart": restart})
    }

    #[test]
    #[expect(clippy::too_many_lines, reason = "a table of cases")]
    fn what_cannot_be_followed_is_named_by_its_path() {
        let target = |target: Value| {
            restart(
                "targets",
                json!([{"kind": "Deployment", "name": "first"}, target]),
            )
        };
        let labels = |labels: Value| target(json!({"kind": "Rollout", "selector": {"matchLabels": labels}}));
        let window = |window: Value| {
            restart(
                "windows",
                json!([{"cron": "0 2 * * *", "duration": "2h"}, window]),
            )
        };
        let keys = |keys: Value| restart("trigger", json!({"keys": keys}));
        for (spec, path) in [
            (
                json!({"rotation": {"pendingTimeout": "59s"}}),
                "rotation.pendingTimeout",
            ),
            (
                json!({"rotation": {"pendingTimeout": "soon"}}),
                "rotation.pendingTimeout",
            ),
            (
                json!({"rotation": {"pendingTimeout": "8761h"}}),
                "rotation.pendingTimeout",
            ),
            (
                json!({"restart": {}, "target": {"creationPolicy": "None"}}),
                "restart",
            ),
            (restart("discovery", json!("Explicit")), "restart.targets"),
            (target(json!({"kind": "Deployment"})), "restart.targets[1]"),
            (
                target(json!({"kind": "Deployment", "name": "a", "selector": {"matchLabels": {"a": "b"}}})),
                "restart.targets[1]",
            ),
            (
                target(json!({"kind": "Deployment", "name": "first", "wave": 1})),
                "restart.targets[1]",
            ),
            (
                target(json!({"kind": "Deployment", "name": "A"})),
                "restart.targets[1].name",
            ),
            (
                target(json!({"kind": "Deployment", "name": "a/b"})),
                "restart.targets[1].name",
            ),
            (
                target(json!({"kind": "Deployment", "name": "a..b"})),
                "restart.targets[1].name",
            ),
            (
                target(json!({"kind": "StatefulSet", "name": "a", "strategy": "RestartAt"})),
                "restart.targets[1].strategy",
            ),
            (labels(json!({})), "restart.targets[1].selector.matchLabels"),
            (
                labels(json!({"a b": "c"})),
                "restart.targets[1].selector.matchLabels",
            ),
            (
                labels(json!({"": "c"})),
                "restart.targets[1].selector.matchLabels",
            ),
            (
                labels(json!({"x/": "c"})),
                "restart.targets[1].selector.matchLabels",
            ),
            (
                labels(json!({"X/a": "c"})),
                "restart.targets[1].selector.matchLabels",
            ),
            (
                labels(json!({"a": "-c"})),
                "restart.targets[1].selector.matchLabels",
            ),
            (
                labels(json!({"a": "x".repeat(64)})),
                "restart.targets[1].selector.matchLabels",
            ),
            (keys(json!(["password", "..a"])), "restart.trigger.keys[1]"),
            (keys(json!(["password", "password"])), "restart.trigger.keys[1]"),
            (keys(json!(["pasword"])), "restart.trigger.keys[0]"),
            (
                restart("pacing", json!({"maxConcurrent": 0})),
                "restart.pacing.maxConcurrent",
            ),
            (
                restart("pacing", json!({"urgentMaxConcurrent": 1001})),
                "restart.pacing.urgentMaxConcurrent",
            ),
            (
                restart("pacing", json!({"minInterval": "-1s"})),
                "restart.pacing.minInterval",
            ),
            (
                window(json!({"cron": "0 25 * * *", "duration": "2h"})),
                "restart.windows[1].cron",
            ),
            (
                window(json!({"cron": "0 2 * *", "duration": "2h"})),
                "restart.windows[1].cron",
            ),
            (
                window(json!({"cron": "0 2 * * *", "duration": "30s"})),
                "restart.windows[1].duration",
            ),
            (
                window(json!({"cron": "0 2 * * *", "duration": "169h"})),
                "restart.windows[1].duration",
            ),
            (
                window(json!({"cron": "0 2 * * *", "duration": "2h", "timeZone": "Vienna"})),
                "restart.windows[1].timeZone",
            ),
            (
                restart("deadline", json!({"margin": "1 h"})),
                "restart.deadline.margin",
            ),
            (
                restart("health", json!({"timeout": "0"})),
                "restart.health.timeout",
            ),
            (
                restart("health", json!({"timeout": "999ms"})),
                "restart.health.timeout",
            ),
            (
                restart("health", json!({"timeout": "24h1s"})),
                "restart.health.timeout",
            ),
        ] {
            let refused = refused(&spec).map(|invalid| invalid.path);
            assert_eq!(refused, Some(format!("spec.{path}")), "{spec}");
        }
    }

    #[test]
    fn what_the_manual_shows_is_accepted() {
        let all = json!({
            "rotation": {"strategy": "Auto", "pendingTimeout": "30m"},
            "restart": {
                "mode": "Automatic",
                "discovery": "Explicit",
                "targets": [
                    {"kind": "Deployment", "name": "api.v2", "wave": -1, "strategy": "Template"},
                    {"kind": "StatefulSet", "name": "api.v2", "strategy": "Evict"},
                    {"kind": "Rollout", "selector": {"matchLabels": {"example.com/app": "a_B.c", "tier": ""}},
                     "strategy": "RestartAt"},
                ],
                "trigger": {"keys": ["password"]},
                "reloader": "Defer",
                "pacing": {"maxConcurrent": 1, "urgentMaxConcurrent": 5, "minInterval": "0s"},
                "windows": [{"cron": "0 2 * * *", "duration": "2h", "timeZone": "Europe/Vienna"}],
                "deadline": {"policy": "Bypass", "margin": "1h"},
                "health": {"timeout": "10m", "onFailure": "Halt"},
            },
        });
        for spec in [
            all,
            json!({"rotation": {}, "restart": {}}),
            json!({"restart": {"mode": "Disabled"}, "target": {"creationPolicy": "None"}}),
            // What dataFrom brings is not known here.
            json!({"restart": {"trigger": {"keys": ["user"]}}, "dataFrom": [{"extract": {"key": "db"}}]}),
        ] {
            assert_eq!(refused(&spec), None, "{spec}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Nothing that users write makes a check panic, and no sentence quotes it, but a window's, which is never long.
        #[test]
        fn hostile_texts_are_refused_or_accepted(text in "\\PC{0,80}") {
            for spec in [
                json!({"rotation": {"pendingTimeout": text}}),
                restart("targets", json!([{"kind": "Rollout", "name": text}])),
                restart("targets", json!([{"kind": "Rollout", "selector": {"matchLabels": {&text: text}}}])),
                restart("trigger", json!({"keys": [text]})),
                restart("health", json!({"timeout": text})),
            ] {
                let sentence = refused(&spec).map_or_else(String::new, |invalid| invalid.to_string());
                prop_assert!(text.len() < 12 || !sentence.contains(&text), "{sentence}");
            }
            for window in [
                json!({"cron": text, "duration": "1h"}),
                json!({"cron": "* * * * *", "duration": text, "timeZone": text}),
            ] {
                let sentence = refused(&restart("windows", json!([window]))).map_or_else(String::new, |bad| bad.to_string());
                prop_assert!(sentence.len() < 2000 && !sentence.contains(char::is_control), "{sentence}");
            }
        }
    }
}
