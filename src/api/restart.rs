//! `rotation` and `restart`: how a credential rotates, and how the workloads that use it follow.

use std::{collections::BTreeMap, fmt, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Invalid, block::Block, caps, external_secret::ExternalSecretSpec, interval, refused, schema,
    window::Window,
};

/// How the credential rotates.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RotationSpec {
    /// When the old credential dies: `SingleUser` (as AWSCURRENT moves), `AlternatingUsers` and `Overlap` (at the next
    /// rotation), `Opaque` (nobody knows). `Auto` (the default) finds out from the user name and AWS's rotation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strategy: Option<RotationStrategy>,
    /// For how long a rotation may be under way before it counts as stuck, as a Go duration from `1m`; `30m` by
    /// default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32), transform = schema::duration)]
    pub pending_timeout: Option<String>,
    /// The first field that could not be read.
    #[serde(skip)]
    pub unreadable: Option<Invalid>,
}

impl Block for RotationSpec {
    const PATH: &'static str = "spec.rotation";

    fn unreadable(&mut self, invalid: Invalid) {
        self.unreadable = Some(invalid);
    }
}

/// When the old credential dies.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[schemars(description = "")]
pub enum RotationStrategy {
    /// To be found out.
    #[default]
    Auto,
    /// As AWSCURRENT moves, or a moment before.
    SingleUser,
    /// At the next rotation: two users take turns.
    AlternatingUsers,
    /// At the next rotation: both passwords of one user work.
    Overlap,
    /// Nobody knows.
    Opaque,
}

impl RotationStrategy {
    /// The strategy as users write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "Auto",
            Self::SingleUser => "SingleUser",
            Self::AlternatingUsers => "AlternatingUsers",
            Self::Overlap => "Overlap",
            Self::Opaque => "Opaque",
        }
    }

    /// The strategy of this name.
    pub fn parse(text: &str) -> Option<Self> {
        [
            Self::Auto,
            Self::SingleUser,
            Self::AlternatingUsers,
            Self::Overlap,
            Self::Opaque,
        ]
        .into_iter()
        .find(|strategy| strategy.as_str() == text)
    }
}

/// How workloads follow a change of the Secret.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = refused::restart)]
pub struct RestartSpec {
    /// `Automatic`: workloads are restarted by themselves. `Manual`: each content must be approved, by the annotation
    /// `keyturn.dev/approve`. `Disabled`: never. Without it, the operator's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<RestartMode>,
    /// Which workloads: `Auto` (the default), all of the namespace that use the Secret and do not opt out; `OptIn`, those of
    /// them that carry `keyturn.dev/restart: "true"`, or whose Namespace does; `Explicit`, `targets` only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub discovery: Option<Discovery>,
    /// Workloads by name or labels: their wave and strategy and, with `Explicit`, which ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 100), extend("x-kubernetes-list-type" = "atomic"))]
    pub targets: Option<Vec<RestartTarget>>,
    /// Which changes restart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trigger: Option<RestartTrigger>,
    /// What the first write of the Secret does. `Ignore` (the default): it restarts nothing. `Restart`: workloads with pods that
    /// are older than the Secret are restarted, such as those that began with `optional: true`, or before the ExternalSecret was
    /// deleted and made again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_first_write: Option<FirstWrite>,
    /// What to do about workloads that stakater Reloader restarts: `Defer` (the default) leaves them to it, `Honour` reads its
    /// annotations in its place, `Ignore` treats them as any other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reloader: Option<Reloader>,
    /// How many at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pacing: Option<Pacing>,
    /// When restarts may begin; always, without any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 20), extend("x-kubernetes-list-type" = "atomic"))]
    pub windows: Option<Vec<RestartWindow>>,
    /// What happens when the old credential is about to die outside of every window.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<RestartDeadline>,
    /// When a restarted workload counts as failed, and what follows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<RestartHealth>,
    /// The first field that could not be read.
    #[serde(skip)]
    pub unreadable: Option<Invalid>,
}

impl Block for RestartSpec {
    const PATH: &'static str = "spec.restart";

    fn unreadable(&mut self, invalid: Invalid) {
        self.unreadable = Some(invalid);
    }
}

/// Whether restarts happen by themselves.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[schemars(description = "")]
pub enum RestartMode {
    /// They do.
    Automatic,
    /// Somebody approves each content.
    Manual,
    /// They do not happen.
    #[default]
    Disabled,
}

impl RestartMode {
    /// The mode as users write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Automatic => "Automatic",
            Self::Manual => "Manual",
            Self::Disabled => "Disabled",
        }
    }
}

/// What the first write of a Secret does to workloads.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[schemars(description = "")]
pub enum FirstWrite {
    /// Nothing.
    #[default]
    Ignore,
    /// It restarts them.
    Restart,
}

/// How workloads are found.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[schemars(description = "")]
pub enum Discovery {
    /// All that use the Secret and do not opt out.
    #[default]
    Auto,
    /// Those that use the Secret and opt in.
    OptIn,
    /// Those that are listed.
    Explicit,
}

/// Workloads by name or by labels.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = refused::restart_target)]
pub struct RestartTarget {
    /// Their kind.
    pub kind: WorkloadKind,
    /// The name of one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = schema::OBJECT_NAME))]
    pub name: Option<String>,
    /// The labels of several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<TargetSelector>,
    /// Their place in the order: a wave begins when the ones before it are done. 0 by default, also for those not listed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = -1000, max = 1000))]
    pub wave: Option<i32>,
    /// How: `Template` (the default) annotates the pod template, `RestartAt` (the default of a Rollout with steps, `blueGreen` or
    /// `workloadRef`) has Argo Rollouts replace its pods, `Evict` evicts the pods that hold old content.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strategy: Option<RestartStrategy>,
}

/// Labels that a workload must have.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TargetSelector {
    /// All of these, at least one.
    #[schemars(extend("minProperties" = 1, "maxProperties" = 32, "additionalProperties" = {"type": "string", "maxLength": 63}))]
    pub match_labels: BTreeMap<String, String>,
}

/// The kinds that are restarted.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[schemars(description = "")]
pub enum WorkloadKind {
    /// `apps/v1`.
    Deployment,
    /// `apps/v1`.
    StatefulSet,
    /// `apps/v1`.
    DaemonSet,
    /// `argoproj.io/v1alpha1`, of Argo Rollouts.
    Rollout,
}

impl WorkloadKind {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::Deployment,
        Self::StatefulSet,
        Self::DaemonSet,
        Self::Rollout,
    ];

    /// The kind as users write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Deployment => "Deployment",
            Self::StatefulSet => "StatefulSet",
            Self::DaemonSet => "DaemonSet",
            Self::Rollout => "Rollout",
        }
    }
}

impl fmt::Display for WorkloadKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How a workload is restarted.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[schemars(description = "")]
pub enum RestartStrategy {
    /// By an annotation of its pod template.
    Template,
    /// By `spec.restartAt` of a Rollout.
    RestartAt,
    /// By evicting its pods.
    Evict,
}

impl RestartStrategy {
    /// The strategy as users write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Template => "Template",
            Self::RestartAt => "RestartAt",
            Self::Evict => "Evict",
        }
    }

    /// The strategy of this name.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Template, Self::RestartAt, Self::Evict]
            .into_iter()
            .find(|strategy| strategy.as_str() == text)
    }
}

/// Which changes restart.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RestartTrigger {
    /// A change of one of these keys restarts all workloads that use the Secret; a change of other keys restarts none.
    /// Without keys, every change counts, for the workloads that use a changed key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 100), inner(length(min = 1, max = 253), regex(pattern = schema::SECRET_KEY)), extend("x-kubernetes-list-type" = "set"))]
    pub keys: Option<Vec<String>>,
}

/// What to do about stakater Reloader.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[schemars(description = "")]
pub enum Reloader {
    /// Its workloads are left to it.
    #[default]
    Defer,
    /// Its annotations are read in its place.
    Honour,
    /// As if it were not there.
    Ignore,
}

/// How many workloads are restarted at once.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pacing {
    /// How many of this ExternalSecret's workloads roll out at once; 1 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000), extend("format" = "int32"))]
    pub max_concurrent: Option<u32>,
    /// The same while the old credential is dead or about to die; 5 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000), extend("format" = "int32"))]
    pub urgent_max_concurrent: Option<u32>,
    /// The least time between two restarts, as a Go duration; `0s` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32), transform = schema::duration)]
    pub min_interval: Option<String>,
}

/// A time in which restarts may begin.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = refused::restart_window)]
pub struct RestartWindow {
    /// When it opens, as five fields of cron: minute, hour, day of month, month, day of week.
    #[schemars(length(min = 9, max = 100))]
    pub cron: String,
    /// How long it stays open, as a Go duration; from `1m` to `168h`.
    #[schemars(length(min = 1, max = 32), transform = schema::duration)]
    pub duration: String,
    /// The time zone of `cron`, such as `Europe/Vienna`; UTC by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub time_zone: Option<String>,
}

/// What happens as the old credential is about to die.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RestartDeadline {
    /// `Bypass` (the default) restarts outside of windows in time; `Wait` waits for a window whatever follows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<DeadlinePolicy>,
    /// How long before the next rotation workloads must have been restarted, as a Go duration; `1h` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32), transform = schema::duration)]
    pub margin: Option<String>,
}

/// Whether a deadline opens what windows close.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[schemars(description = "")]
pub enum DeadlinePolicy {
    /// It does.
    #[default]
    Bypass,
    /// It does not.
    Wait,
}

/// When a restarted workload counts as failed.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RestartHealth {
    /// How long a rollout may take, as a Go duration from `1s` to `24h`; `10m` by default. Crash loops count before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32), transform = schema::duration)]
    pub timeout: Option<String>,
    /// `Halt` (the default): no further workload is restarted until it recovers, the content changes again or somebody
    /// resumes. `Continue`: the others go on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_failure: Option<OnFailure>,
}

/// What follows a failed restart.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[schemars(description = "")]
pub enum OnFailure {
    /// No further workload is restarted.
    #[default]
    Halt,
    /// The others go on.
    Continue,
}

/// `restart` with everything that was left out filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestartPolicy {
    /// Whether restarts happen by themselves. Never `Disabled`: then there is no policy.
    pub mode: RestartMode,
    /// Which workloads.
    pub discovery: Discovery,
    /// Those that are listed.
    pub targets: Vec<RestartTarget>,
    /// What the first write of the Secret does.
    pub on_first_write: FirstWrite,
    /// What to do about stakater Reloader.
    pub reloader: Reloader,
    /// How many at once.
    pub max_concurrent: u32,
    /// How many at once while it is urgent.
    pub urgent_max_concurrent: u32,
    /// Between two restarts.
    pub min_interval: Duration,
    /// When restarts may begin; always, without any.
    pub windows: Vec<Window>,
    /// Whether a deadline opens what windows close.
    pub deadline: DeadlinePolicy,
    /// How long before the deadline.
    pub margin: Duration,
    /// How long a rollout may take.
    pub timeout: Duration,
    /// What follows a failure.
    pub on_failure: OnFailure,
}

/// How long a rotation may be under way unless the spec says otherwise.
const PENDING_TIMEOUT: Duration = Duration::from_mins(30);
/// How long before a deadline workloads must have been restarted unless the spec says otherwise.
const MARGIN: Duration = Duration::from_hours(1);
/// How long a rollout may take unless the spec says otherwise.
const TIMEOUT: Duration = Duration::from_mins(10);
/// How many workloads of an object roll out at once while it is urgent, unless the spec says otherwise.
const URGENT_MAX_CONCURRENT: u32 = 5;

impl RestartSpec {
    /// Bytes that its lists take in memory.
    pub fn size(&self) -> usize {
        let target = |target: &RestartTarget| {
            let labels = target.selector.iter().flat_map(|selector| &selector.match_labels);
            let labels = labels.map(|(label, value)| caps::ITEM + label.len() + value.len());
            let name = target.name.as_ref().map_or(0, String::len);
            caps::ITEM + name + labels.sum::<usize>()
        };
        let keys = self.trigger.iter().filter_map(|trigger| trigger.keys.as_deref());
        let keys = keys.flatten().map(|key| caps::ITEM + key.len());
        let windows = self.windows.as_ref().map_or(0, Vec::len) * size_of::<Window>();
        let targets = self.targets.iter().flatten().map(target);
        targets.sum::<usize>() + keys.sum::<usize>() + windows
    }
}

impl ExternalSecretSpec {
    /// Whether restarts happen by themselves, `default` being the operator's word.
    pub fn restart_mode(&self, default: RestartMode) -> RestartMode {
        self.restart
            .as_ref()
            .and_then(|restart| restart.mode)
            .unwrap_or(default)
    }

    /// What applies to restarts, with everything filled in; none where they are disabled. Nothing is restarted by a spec
    /// of which a part cannot be read, which `validate` names: a window that is left out would be open for ever.
    pub fn restart_policy(&self, default: RestartMode) -> Option<RestartPolicy> {
        let mode = self.restart_mode(default);
        if mode == RestartMode::Disabled {
            return None;
        }
        let nothing = RestartSpec::default();
        if self.restart.as_ref().unwrap_or(&nothing).size() > caps::RESTART_TEXTS {
            return None;
        }
        let RestartSpec {
            mode: _,
            discovery,
            targets,
            trigger: _,
            on_first_write,
            reloader,
            pacing,
            windows,
            deadline,
            health,
            unreadable: _,
        } = self.restart.as_ref().unwrap_or(&nothing);
        let pacing = pacing.clone().unwrap_or_default();
        let deadline = deadline.clone().unwrap_or_default();
        let health = health.clone().unwrap_or_default();
        let windows = windows.iter().flatten().map(Window::parse);
        Some(RestartPolicy {
            mode,
            discovery: discovery.unwrap_or_default(),
            targets: targets.clone().unwrap_or_default(),
            on_first_write: on_first_write.unwrap_or_default(),
            reloader: reloader.unwrap_or_default(),
            max_concurrent: pacing.max_concurrent.unwrap_or(1),
            urgent_max_concurrent: pacing.urgent_max_concurrent.unwrap_or(URGENT_MAX_CONCURRENT),
            min_interval: duration(pacing.min_interval.as_deref(), Duration::ZERO)?,
            windows: windows.collect::<Result<_, _>>().ok()?,
            deadline: deadline.policy.unwrap_or_default(),
            margin: duration(deadline.margin.as_deref(), MARGIN)?,
            timeout: duration(health.timeout.as_deref(), TIMEOUT)?,
            on_failure: health.on_failure.unwrap_or_default(),
        })
    }

    /// How the credential rotates, as the spec says; none where that is to be found out.
    pub fn rotation_strategy(&self) -> Option<RotationStrategy> {
        self.rotation
            .as_ref()
            .and_then(|rotation| rotation.strategy)
            .filter(|strategy| *strategy != RotationStrategy::Auto)
    }

    /// For how long a rotation may be under way before it counts as stuck.
    pub fn pending_timeout(&self) -> Duration {
        let text = self
            .rotation
            .as_ref()
            .filter(|_| self.validate_rotation().is_ok())
            .and_then(|rotation| rotation.pending_timeout.as_deref());
        duration(text, PENDING_TIMEOUT).unwrap_or(PENDING_TIMEOUT)
    }
}

/// The duration, or what applies without one; none for a text that is none.
fn duration(text: Option<&str>, default: Duration) -> Option<Duration> {
    text.map_or(Some(default), |text| interval::parse_go(text).ok())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn policy(restart: &Value, default: RestartMode) -> Option<RestartPolicy> {
        let spec: ExternalSecretSpec = serde_json::from_value(json!({"restart": restart})).unwrap();
        spec.restart_policy(default)
    }

    #[test]
    fn the_spec_decides_before_the_operators_default() {
        for (restart, default, mode) in [
            (Value::Null, RestartMode::Disabled, None),
            (Value::Null, RestartMode::Automatic, Some(RestartMode::Automatic)),
            (json!({}), RestartMode::Manual, Some(RestartMode::Manual)),
            (json!({"discovery": "OptIn"}), RestartMode::Disabled, None),
            (
                json!({"mode": "Manual"}),
                RestartMode::Disabled,
                Some(RestartMode::Manual),
            ),
            (json!({"mode": "Disabled"}), RestartMode::Automatic, None),
        ] {
            let found = policy(&restart, default).map(|policy| policy.mode);
            assert_eq!(found, mode, "{restart} {default:?}");
        }
    }

    #[test]
    fn what_is_left_out_is_filled_in() {
        let expected = RestartPolicy {
            mode: RestartMode::Automatic,
            discovery: Discovery::Auto,
            targets: Vec::new(),
            on_first_write: FirstWrite::Ignore,
            reloader: Reloader::Defer,
            max_concurrent: 1,
            urgent_max_concurrent: 5,
            min_interval: Duration::ZERO,
            windows: Vec::new(),
            deadline: DeadlinePolicy::Bypass,
            margin: Duration::from_hours(1),
            timeout: Duration::from_mins(10),
            on_failure: OnFailure::Halt,
        };
        assert_eq!(policy(&json!({}), RestartMode::Automatic), Some(expected.clone()));
        let said = json!({
            "discovery": "Explicit",
            "targets": [{"kind": "Deployment", "name": "api", "wave": 1}],
            "reloader": "Honour",
            "pacing": {"maxConcurrent": 3, "urgentMaxConcurrent": 7, "minInterval": "10s"},
            "windows": [{"cron": "0 2 * * *", "duration": "2h"}],
            "deadline": {"policy": "Wait", "margin": "30m"},
            "health": {"timeout": "5m", "onFailure": "Continue"},
        });
        let found = policy(&said, RestartMode::Automatic).unwrap();
        assert_eq!((found.targets.len(), found.windows.len()), (1, 1));
        let rest = RestartPolicy {
            targets: Vec::new(),
            windows: Vec::new(),
            ..found
        };
        let expected = RestartPolicy {
            discovery: Discovery::Explicit,
            reloader: Reloader::Honour,
            max_concurrent: 3,
            urgent_max_concurrent: 7,
            min_interval: Duration::from_secs(10),
            deadline: DeadlinePolicy::Wait,
            margin: Duration::from_mins(30),
            timeout: Duration::from_mins(5),
            on_failure: OnFailure::Continue,
            ..expected
        };
        assert_eq!(rest, expected);
    }

    #[test]
    fn nothing_is_restarted_by_what_cannot_be_read() {
        for restart in [
            json!({"windows": [{"cron": "at night", "duration": "2h"}]}),
            json!({"pacing": {"minInterval": "soon"}}),
            json!({"deadline": {"margin": "-1h"}}),
            json!({"health": {"timeout": "long"}}),
        ] {
            assert_eq!(policy(&restart, RestartMode::Automatic), None, "{restart}");
        }
    }
}
