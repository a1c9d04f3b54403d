//! What the operator's surroundings decide. A process reads its environment once, so each case is a process of its own:
//! this test, run again by itself.

use std::{process::Stdio, sync::Arc, time::Duration};

use tokio::process::Command;

use super::fake::{ACCOUNT, Fake, identity, start};
use crate::aws::{Aws, AwsConfig, Base, Class, Metrics, SECRETS_MANAGER, Source};

const CHILD: &str = "KEYTURN_TEST_EXPECTS";
const NAME: &str = "aws::tests::environment::own_credentials_and_endpoints_come_from_the_environment";

type Variables<'a> = &'a [(&'a str, &'a str)];

/// What the process that `child` starts finds out of itself.
async fn as_child(expected: &str) {
    let config = AwsConfig {
        region: None,
        instance_metadata: false,
        tokens: Arc::new(Fake::default()),
        subscribers: Arc::new(|_, _, _| Vec::new()),
    };
    let aws = match Aws::from_environment(config, Metrics::default()).await {
        Ok(aws) => aws,
        Err(error) => {
            assert!(error.to_string().contains(expected), "{error}");
            return;
        }
    };
    assert_eq!(aws.region(), Some("eu-west-3"));
    let identity = Arc::new(identity("uid-1", Base::Own, &[]));
    let source = aws.intern(Source {
        identity,
        region: "eu-west-3".into(),
        service: &SECRETS_MANAGER,
    });
    match aws.prove(source).await {
        Ok(proven) => assert_eq!(*proven.account, *expected),
        Err(error) => assert_eq!((error.class(), "none"), (Class::Identity, expected), "{error}"),
    }
}

#[tokio::test]
async fn own_credentials_and_endpoints_come_from_the_environment() {
    if let Ok(expected) = std::env::var(CHILD) {
        return as_child(&expected).await;
    }
    let running = start().await;
    let token = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(token.path(), "a.b.c").unwrap();
    let token = token.path().to_str().unwrap();
    let role = format!("arn:aws:iam::{ACCOUNT}:role/operator");
    let cases: [(&str, &str, Variables<'_>); 5] = [
        (
            ACCOUNT,
            "GetCallerIdentity",
            &[("AWS_ACCESS_KEY_ID", "AKIA"), ("AWS_SECRET_ACCESS_KEY", "s")],
        ),
        (
            ACCOUNT,
            "AssumeRoleWithWebIdentity",
            &[("AWS_ROLE_ARN", &role), ("AWS_WEB_IDENTITY_TOKEN_FILE", token)],
        ),
        // Without anything the node is not asked: that would take seconds, or give its role.
        ("none", "", &[]),
        (
            "AWS_CA_BUNDLE names the file /nowhere/ca.pem",
            "",
            &[("AWS_CA_BUNDLE", "/nowhere/ca.pem")],
        ),
        // A manifest may pass what is not set.
        ("none", "", &[("AWS_CA_BUNDLE", "")]),
    ];
    for (expected, operation, variables) in cases {
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", NAME, "--nocapture"]).env_clear();
        child
            .env(CHILD, expected)
            .env("AWS_REGION", "eu-west-3")
            .env("AWS_ENDPOINT_URL", &running.endpoint);
        child
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let output = tokio::time::timeout(Duration::from_secs(30), child.output())
            .await
            .unwrap()
            .unwrap();
        assert!(
            output.status.success(),
            "{operation}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        if !operation.is_empty() {
            assert!(running.fake.count(operation) > 0, "{operation}");
        }
    }
}
