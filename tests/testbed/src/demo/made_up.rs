//! What the demo makes up: policies, passwords, and how they are shown.

use std::fmt::Write as _;

use serde_json::json;
use testbed::aws::documents;

use super::{ACCOUNT, REGION};

/// What a reader of secrets needs: batches and lists cannot be limited to names.
pub(super) fn reader(names: &str) -> Vec<String> {
    vec![
        documents::allow(
            &["secretsmanager:GetSecretValue", "secretsmanager:DescribeSecret"],
            &[&format!(
                "arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret:{names}"
            )],
        ),
        documents::allow(
            &["secretsmanager:BatchGetSecretValue", "secretsmanager:ListSecrets"],
            &["*"],
        ),
    ]
}

pub(super) fn login(password: &str) -> String {
    json!({"username": "shop", "password": password}).to_string()
}

pub(super) fn login_password(password: &str) -> String {
    fingerprint(password.as_bytes())
}

/// The start of the SHA-256 and the length: enough to see a change.
pub(super) fn fingerprint(value: &[u8]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, value);
    let mut text = String::new();
    for byte in digest.as_ref().iter().take(4) {
        // Writing to a String does not fail.
        let _ = write!(text, "{byte:02x}");
    }
    format!("{text} ({} bytes)", value.len())
}
