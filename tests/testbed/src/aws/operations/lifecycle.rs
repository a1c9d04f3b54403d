//! Operations on the life of a secret: rotated, deleted, restored.

use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use serde_json::json;

use super::{
    super::error::ApiError,
    Outcome, Request, input, seconds,
    write::{about, token, with_secret},
};

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Rotate {
    secret_id: String,
    client_request_token: Option<String>,
    #[serde(rename = "RotationLambdaARN")]
    rotation_lambda_arn: Option<String>,
    rotation_rules: Option<RotationRules>,
    #[serde(rename = "RotateImmediately")]
    immediately: Option<bool>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RotationRules {
    automatically_after_days: Option<i64>,
}

pub(super) fn rotate(request: &Request<'_>, body: &[u8]) -> Outcome {
    with_secret(
        request,
        body,
        |input: &Rotate| &input.secret_id,
        |found, input| {
            let version = token(input.client_request_token)?;
            let days = input
                .rotation_rules
                .and_then(|rules| rules.automatically_after_days);
            if days.is_some_and(|days| !(1..=1000).contains(&days)) {
                return Err(ApiError::parameter(
                    "AutomaticallyAfterDays must be between 1 and 1000.",
                ));
            }
            found.secret.change(|state| {
                state.alive()?;
                state.rotation.lambda_arn = input
                    .rotation_lambda_arn
                    .or_else(|| state.rotation.lambda_arn.take());
                if state.rotation.lambda_arn.is_none() {
                    return Err(ApiError::request(
                        "No Lambda rotation function ARN is associated with this secret.",
                    ));
                }
                state.rotation.every_days = days.or(state.rotation.every_days);
                state.rotation.enabled = true;
                if input.immediately.unwrap_or(true) {
                    state.begin_rotation(&version)?;
                }
                Ok(())
            })?;
            Ok(about(&found.secret, &[("VersionId", json!(version))]))
        },
    )
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct OnlyId {
    secret_id: String,
}

pub(super) fn cancel_rotation(request: &Request<'_>, body: &[u8]) -> Outcome {
    with_secret(
        request,
        body,
        |input: &OnlyId| &input.secret_id,
        |found, _| {
            found.secret.change(|state| {
                state.alive()?;
                state.rotation.enabled = false;
                state.changed = Timestamp::now();
                Ok(())
            })?;
            Ok(about(&found.secret, &[]))
        },
    )
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Delete {
    secret_id: String,
    recovery_window_in_days: Option<i64>,
    force_delete_without_recovery: Option<bool>,
}

pub(super) fn delete(request: &Request<'_>, body: &[u8]) -> Outcome {
    let mut resource = None;
    let result = (|| {
        let Delete {
            secret_id,
            recovery_window_in_days: days,
            force_delete_without_recovery: force,
        } = input(body)?;
        let force = force.unwrap_or_default();
        if force && days.is_some() {
            return Err(ApiError::parameter(
                "You can't use ForceDeleteWithoutRecovery in conjunction with RecoveryWindowInDays.",
            ));
        }
        let days = days.unwrap_or(30);
        if !(7..=30).contains(&days) {
            return Err(ApiError::parameter(
                "The RecoveryWindowInDays value must be between 7 and 30 days (inclusive).",
            ));
        }
        let found = match request.find(&secret_id, &request.action(), None, &mut resource) {
            // Forcing what is not there succeeds, so that a clean-up can be repeated.
            Err(error) if force && error.code == "ResourceNotFoundException" => {
                return Ok(
                    json!({"ARN": secret_id, "Name": secret_id, "DeletionDate": seconds(Timestamp::now())}),
                );
            }
            found => found?,
        };
        let at = if force {
            found.store.purge(&found.secret);
            Timestamp::now()
        } else {
            found.secret.change(|state| {
                if state.deleted.is_some() {
                    return Err(ApiError::request(
                        "You tried to perform the operation on a secret that's currently marked deleted.",
                    ));
                }
                state.deleted = Some(Timestamp::now());
                state.changed = Timestamp::now();
                Ok(())
            })?;
            Timestamp::now() + SignedDuration::from_hours(24 * days)
        };
        Ok(about(&found.secret, &[("DeletionDate", seconds(at))]))
    })();
    Outcome {
        resource,
        reads: Vec::new(),
        result,
    }
}

pub(super) fn restore(request: &Request<'_>, body: &[u8]) -> Outcome {
    with_secret(
        request,
        body,
        |input: &OnlyId| &input.secret_id,
        |found, _| {
            found.secret.change(|state| {
                state.deleted = None;
                state.changed = Timestamp::now();
                Ok(())
            })?;
            Ok(about(&found.secret, &[]))
        },
    )
}
