//! A refusal as AWS words it.

use std::borrow::Cow;

/// A refusal: HTTP status, AWS's code, AWS's text. It never holds a secret's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError {
    /// HTTP status of the answer.
    pub status: u16,
    /// AWS's code, for instance `ResourceNotFoundException`.
    pub code: Cow<'static, str>,
    /// AWS's text.
    pub message: String,
}

impl ApiError {
    /// A client error of Secrets Manager: always HTTP 400.
    pub(super) fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self::with_status(400, code, message)
    }

    pub(super) fn with_status(
        status: u16,
        code: impl Into<Cow<'static, str>>,
        message: impl Into<String>,
    ) -> Self {
        Self {
            status,
            code: code.into(),
            message: message.into(),
        }
    }

    pub(super) fn secret_not_found() -> Self {
        Self::new(
            "ResourceNotFoundException",
            "Secrets Manager can't find the specified secret.",
        )
    }

    pub(super) fn stage_not_found(stage: &str) -> Self {
        Self::new(
            "ResourceNotFoundException",
            format!("Secrets Manager can't find the specified secret value for staging label: {stage}"),
        )
    }

    pub(super) fn version_not_found(version: &str) -> Self {
        Self::new(
            "ResourceNotFoundException",
            format!("Secrets Manager can't find the specified secret value for VersionId: {version}"),
        )
    }

    pub(super) fn marked_for_deletion() -> Self {
        Self::request("You can't perform this operation on the secret because it was marked for deletion.")
    }

    pub(super) fn request(message: impl Into<String>) -> Self {
        Self::new("InvalidRequestException", message)
    }

    pub(super) fn parameter(message: impl Into<String>) -> Self {
        Self::new("InvalidParameterException", message)
    }

    /// A request that breaks a constraint of the API model. `at` is the wire name of the field.
    pub(super) fn constraint(at: &str, constraint: &str) -> Self {
        Self::new(
            "ValidationException",
            format!(
                "1 validation error detected: Value at '{at}' failed to satisfy constraint: {constraint}"
            ),
        )
    }
}

impl std::fmt::Display for ApiError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

impl std::error::Error for ApiError {}
