//! What an ExternalSecret says of its rotation, and what its status says. Pure.

use std::time::Duration;

use crate::api::{
    ExternalSecretSpec, RotationStatus, RotationStrategy,
    caps::{self, capped},
};

/// What an ExternalSecret says of its rotation.
#[derive(Clone, Debug, PartialEq)]
pub struct RotationRule {
    /// How the credential rotates; none where that is to be found out.
    pub strategy: Option<RotationStrategy>,
    /// For how long a rotation may be under way before it counts as stuck.
    pub timeout: Duration,
    /// What the status says.
    pub said: Option<RotationStatus>,
    /// What is wrong with `rotation`, as a sentence.
    pub invalid: Option<Box<str>>,
}

impl RotationRule {
    /// The rule of this spec, beside what the status says.
    pub fn new(spec: &ExternalSecretSpec, said: Option<&RotationStatus>) -> Self {
        Self {
            strategy: spec.rotation_strategy(),
            timeout: spec.pending_timeout(),
            said: said.map(kept),
            invalid: spec
                .validate_rotation()
                .err()
                .map(|invalid| capped(&invalid.to_string(), caps::SENTENCE)),
        }
    }
}

/// The status, none of its texts longer than those that we write.
fn kept(said: &RotationStatus) -> RotationStatus {
    let kept = |text: &Option<String>| text.as_deref().map(|text| capped(text, caps::WORD).into());
    RotationStatus {
        state: kept(&said.state),
        pending_version_id: kept(&said.pending_version_id),
        strategy: kept(&said.strategy),
        ..said.clone()
    }
}
