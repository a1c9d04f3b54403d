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

/// The annotation that a restart for the Secret `name` adds to a pod template, as `keyturn::api::names` has it.
pub(super) fn restart_annotation(name: &str) -> String {
    let length = u64::try_from(name.len()).unwrap_or(u64::MAX).to_be_bytes();
    let text = [&length, name.as_bytes()].concat();
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &text);
    format!("restart.keyturn.dev/{}", hex(digest.as_ref(), 8))
}

/// The start of the SHA-256 and the length: enough to see a change.
pub(super) fn fingerprint(value: &[u8]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, value);
    format!("{} ({} bytes)", hex(digest.as_ref(), 4), value.len())
}

/// The first bytes in hexadecimal.
fn hex(bytes: &[u8], count: usize) -> String {
    let mut text = String::new();
    for byte in bytes.iter().take(count) {
        // Writing to a String does not fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}
