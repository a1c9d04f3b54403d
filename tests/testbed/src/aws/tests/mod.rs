//! The emulator against the real SDK, over the wire.

mod access;
mod faults;
mod identity;
mod listing;
mod values;

use aws_config::{BehaviorVersion, Region};
use aws_credential_types::Credentials;
use aws_sdk_secretsmanager::{Client, error::ProvideErrorMetadata};

use super::{AwsEmulator, Keys, Options, documents};

const ACCOUNT: &str = "111122223333";
const OTHER: &str = "444455556666";
const REGION: &str = "eu-central-1";

/// An emulator and a client that may do everything in [`ACCOUNT`].
struct Bed {
    aws: AwsEmulator,
    admin: Client,
}

fn bed() -> Bed {
    let aws = AwsEmulator::start(Options::default()).unwrap();
    let keys = aws
        .create_user(
            &format!("arn:aws:iam::{ACCOUNT}:user/admin"),
            &[&documents::allow(&["*"], &["*"])],
        )
        .unwrap();
    let admin = secrets(&aws, &keys);
    Bed { aws, admin }
}

impl Bed {
    fn create(&self, name: &str, value: &str) -> String {
        self.aws.create_secret(ACCOUNT, REGION, name, value).unwrap()
    }

    /// A client of a user of [`ACCOUNT`] with this policy.
    fn user(&self, name: &str, policy: &str) -> Client {
        let keys = self
            .aws
            .create_user(&format!("arn:aws:iam::{ACCOUNT}:user/{name}"), &[policy])
            .unwrap();
        secrets(&self.aws, &keys)
    }
}

fn credentials(keys: &Keys) -> Credentials {
    Credentials::new(
        &keys.access_key_id,
        &keys.secret_access_key,
        keys.session_token.clone(),
        None,
        "test",
    )
}

fn secrets(aws: &AwsEmulator, keys: &Keys) -> Client {
    Client::from_conf(
        aws_sdk_secretsmanager::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::from_static(REGION))
            .endpoint_url(aws.url())
            .credentials_provider(credentials(keys))
            .retry_config(aws_config::retry::RetryConfig::disabled())
            .build(),
    )
}

fn sts(aws: &AwsEmulator, keys: Option<&Keys>) -> aws_sdk_sts::Client {
    let mut config = aws_sdk_sts::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::from_static(REGION))
        .endpoint_url(aws.url())
        .retry_config(aws_config::retry::RetryConfig::disabled());
    if let Some(keys) = keys {
        config = config.credentials_provider(credentials(keys));
    }
    aws_sdk_sts::Client::from_conf(config.build())
}

/// `ok`, or AWS's code.
fn code<T, E: ProvideErrorMetadata>(result: &Result<T, E>) -> String {
    match result {
        Ok(_) => "ok".to_owned(),
        Err(error) => error.code().unwrap_or("no code").to_owned(),
    }
}

/// AWS's text of a refusal.
fn message<T, E: ProvideErrorMetadata>(result: &Result<T, E>) -> String {
    result
        .as_ref()
        .err()
        .and_then(|e| e.message())
        .unwrap_or_default()
        .to_owned()
}
