use std::{sync::Arc, time::Duration};

use aws_config::timeout::TimeoutConfig;
use serde_json::json;

use super::fake::{ACCOUNT, CANARY, Turn, start, start_with};
use crate::{
    api::{Selector, VersionId, reason::Reason},
    aws::{
        Class,
        client::{Denied, Right},
    },
};

fn arn(account: &str, name: &str, suffix: &str) -> Arc<str> {
    format!("arn:aws:secretsmanager:eu-central-1:{account}:secret:{name}{suffix}").into()
}

#[tokio::test]
async fn a_batch_answers_in_the_order_of_its_keys_however_they_name_the_secret() {
    let running = start().await;
    let source = running.role();
    running.secrets(3);
    let keys = [
        "prod/2".into(),
        arn(ACCOUNT, "prod/0", "-AbCdEf"),
        arn(ACCOUNT, "prod/1", ""),
    ];
    let values = running.reader().check(source, &keys).await.unwrap();
    let names: Vec<_> = values
        .into_iter()
        .map(|value| value.unwrap().value.name.to_string())
        .collect();
    assert_eq!(names, ["prod/2", "prod/0", "prod/1"]);
    assert_eq!(running.fake.count("BatchGetSecretValue"), 1);
    assert_eq!(running.fake.count("GetSecretValue"), 0);
}

#[tokio::test]
async fn a_batch_is_of_at_most_20_ids_of_the_own_account() {
    let running = start().await;
    let source = running.role();
    let mut keys = running.secrets(45);
    keys.insert(7, arn("999988887777", "prod/1", "-AbCdEf"));
    let values = running.reader().check(source, &keys).await.unwrap();
    assert!(values.iter().all(Result::is_ok));
    let batches = running.fake.asked("BatchGetSecretValue");
    let sizes: Vec<_> = batches
        .iter()
        .map(|asked| asked.body["SecretIdList"].as_array().unwrap().len())
        .collect();
    assert_eq!(sizes, [19, 20, 6]);
    let alone = running.fake.asked("GetSecretValue");
    assert_eq!(alone.len(), 1);
    assert_eq!(alone[0].body["SecretId"], *keys[7]);
}

#[tokio::test]
async fn one_bad_id_harms_no_other() {
    let running = start().await;
    let source = running.own();
    let keys = running.secrets(4);
    {
        let mut script = running.fake.script();
        script.batch_errors.insert(
            "prod/1".into(),
            ("AccessDeniedException", "Access to KMS is not allowed"),
        );
        script.batch_omits.insert("prod/2".into());
    }
    let values = running.reader().check(source, &keys).await.unwrap();
    let classes: Vec<_> = values
        .iter()
        .map(|value| value.as_ref().err().map(crate::aws::Error::class))
        .collect();
    assert_eq!(classes, [None, Some(Class::KeyAccessDenied), None, None]);
    assert_eq!(
        running.fake.count("GetSecretValue"),
        1,
        "what was left out is read alone"
    );

    running.fake.script().always.insert(
        "BatchGetSecretValue",
        Turn::Fail(
            400,
            "ValidationException",
            "1 validation error detected at 'secretIdList'",
        ),
    );
    let values = running.reader().check(source, &keys).await.unwrap();
    assert!(
        values.iter().all(Result::is_ok),
        "a malformed id spoils the batch, so each is read alone"
    );
}

#[tokio::test]
async fn a_denied_batch_is_remembered_until_told_otherwise() {
    let running = start().await;
    let source = running.own();
    let keys = running.secrets(2);
    assert_eq!(running.aws.rights(source), Denied::default());
    let denied = Turn::Fail(400, "AccessDeniedException", "not authorized to perform");
    running
        .fake
        .script()
        .next
        .insert("BatchGetSecretValue", vec![denied]);
    let error = running.reader().check(source, &keys).await.unwrap_err();
    assert_eq!(
        (error.class(), error.reason()),
        (Class::AccessDenied, Reason::AccessDenied)
    );
    assert!(running.aws.rights(source).batch.is_denied());
    running.aws.retry_denied(source);
    assert_eq!(running.aws.rights(source), Denied::default());
    running.reader().check(source, &keys).await.unwrap();
    assert_eq!(running.aws.rights(source).batch, Right::Granted);
}

#[tokio::test]
async fn a_version_is_asked_for_as_it_is_selected() {
    let running = start().await;
    let source = running.own();
    let key = running.secrets(1).remove(0);
    for selector in [
        Selector::parse(None),
        Selector::parse(Some("AWSPREVIOUS")),
        Selector::Version(VersionId("0b5e9c1e-0000-4000-8000-000000000001".into())),
    ] {
        running
            .reader()
            .check_version(source, &key, &selector)
            .await
            .unwrap();
    }
    let bodies: Vec<_> = running
        .fake
        .asked("GetSecretValue")
        .into_iter()
        .map(|asked| asked.body)
        .collect();
    assert_eq!(
        bodies,
        [
            json!({"SecretId": "prod/0"}),
            json!({"SecretId": "prod/0", "VersionStage": "AWSPREVIOUS"}),
            json!({"SecretId": "prod/0", "VersionId": "0b5e9c1e-0000-4000-8000-000000000001"}),
        ]
    );
    let asked = running.fake.asked("GetSecretValue").remove(0);
    let version = concat!("keyturn/", env!("CARGO_PKG_VERSION"));
    assert!(asked.user_agent.contains(version), "{}", asked.user_agent);
}

#[tokio::test]
async fn a_value_is_shown_to_nobody_who_did_not_ask() {
    let running = start().await;
    let source = running.own();
    let key = running.secrets(1).remove(0);
    let value = running
        .reader()
        .check_version(source, &key, &Selector::parse(None))
        .await
        .unwrap()
        .value;
    assert_eq!(value.payload(), format!("{CANARY} of prod/0").as_bytes());
    assert_eq!(
        (&*value.version.0, value.created, &*value.request_id),
        ("version-of-prod/0", Some(1_700_000_000), "r-1")
    );
    let shown = format!("{value:?} {:?} {:?}", running.aws, running.aws.source(source));
    assert!(!shown.contains(CANARY), "{shown}");
}

#[tokio::test]
async fn a_binary_is_given_as_it_is_and_a_secret_without_a_value_has_no_such_stage() {
    let running = start().await;
    let source = running.own();
    let head = json!({"ARN": *arn(ACCOUNT, "a", "-AbCdEf"), "Name": "a", "VersionId": "v"});
    let mut binary = head.clone();
    binary["SecretBinary"] = json!("AP8K");
    running
        .fake
        .script()
        .next
        .insert("GetSecretValue", vec![Turn::Json(binary), Turn::Json(head)]);
    let read = || async {
        running
            .reader()
            .check_version(source, &"a".into(), &Selector::parse(None))
            .await
    };
    assert_eq!(read().await.unwrap().value.payload(), [0, 255, 10]);
    assert_eq!(read().await.unwrap_err().class(), Class::StageNotFound);
}

#[tokio::test]
async fn a_listing_follows_its_token_alone_and_begins_again_when_aws_forgot_it() {
    let running = start().await;
    let source = running.own();
    let secret = |name: &str| {
        json!({"ARN": *arn(ACCOUNT, name, "-AbCdEf"), "Name": name, "DeletedDate": 1_700_000_000,
            "SecretVersionsToStages": {"v1": ["AWSCURRENT"], "v2": []}})
    };
    let pages = vec![
        Turn::Json(json!({"SecretList": [secret("a")], "NextToken": "t1"})),
        Turn::Json(json!({"SecretList": [], "NextToken": "t2"})),
        Turn::Fail(
            400,
            "InvalidNextTokenException",
            "The NextToken value is invalid.",
        ),
        Turn::Json(json!({"SecretList": [secret("a")], "NextToken": "t3"})),
        Turn::Json(json!({"SecretList": [secret("b")]})),
    ];
    running.fake.script().next.insert("ListSecrets", pages);
    let mut listing = running.aws.list(source);
    let mut names = Vec::new();
    while let Some(page) = listing.next().await.unwrap() {
        for secret in page {
            assert!(secret.deleted);
            assert_eq!(secret.stages.len(), 1, "a version without a label is deprecated");
            names.push(secret.name.to_string());
        }
    }
    assert_eq!(names, ["a", "a", "b"]);
    let asked = running.fake.asked("ListSecrets");
    let tokens: Vec<_> = asked
        .iter()
        .map(|asked| asked.body["NextToken"].as_str())
        .collect();
    assert_eq!(tokens, [None, Some("t1"), Some("t2"), None, Some("t3")]);
    assert_eq!(asked[0].body["IncludePlannedDeletion"], true);
    assert_eq!(asked[0].body["MaxResults"], 100);
    assert_eq!(running.aws.rights(source).list, Right::Granted);
}

#[tokio::test]
async fn a_listing_that_is_lost_again_and_again_ends() {
    let running = start().await;
    let source = running.own();
    running
        .fake
        .script()
        .always
        .insert("ListSecrets", Turn::Fail(400, "InvalidNextTokenException", ""));
    let error = running.aws.list(source).next().await.unwrap_err();
    assert_eq!(error.class(), Class::Unavailable);
    assert_eq!(running.fake.count("ListSecrets"), 4);
}

#[tokio::test]
async fn a_description_tells_stages_deletion_and_rotation() {
    let running = start().await;
    let source = running.own();
    running.fake.script().always.insert(
        "DescribeSecret",
        Turn::Json(
            json!({"ARN": *arn(ACCOUNT, "a", "-AbCdEf"), "Name": "a", "RotationEnabled": true,
            "LastRotatedDate": 1.5, "NextRotationDate": 1_700_000_000,
            "VersionIdsToStages": {"v1": ["AWSCURRENT"], "v2": ["AWSPENDING"]}}),
        ),
    );
    let secret = running.aws.describe(source, &"a".into()).await.unwrap();
    assert!(!secret.deleted && secret.rotation_enabled);
    assert_eq!(
        (secret.last_rotated, secret.next_rotation),
        (Some(1), Some(1_700_000_000))
    );
    assert_eq!(secret.stages[&VersionId("v2".into())], ["AWSPENDING".into()]);
}

#[tokio::test]
async fn failures_of_the_network_and_of_aws_pass_by_themselves() {
    let attempt = Duration::from_millis(100);
    let timeouts = TimeoutConfig::builder()
        .operation_attempt_timeout(attempt)
        .operation_timeout(3 * attempt)
        .build();
    let running = start_with(timeouts).await;
    let source = running.own();
    for turn in [
        Turn::Hang,
        Turn::Fail(503, "SomethingNew", ""),
        Turn::Fail(500, "InternalServiceError", ""),
    ] {
        running
            .fake
            .script()
            .always
            .insert("GetSecretValue", turn.clone());
        let error = running
            .reader()
            .check_version(source, &"a".into(), &Selector::parse(None))
            .await
            .unwrap_err();
        assert_eq!(error.class(), Class::Unavailable, "{turn:?}: {error}");
    }
    running.stop().await;
    let error = running.aws.describe(source, &"a".into()).await.unwrap_err();
    assert_eq!(error.class(), Class::Unavailable, "{error}");
}

#[tokio::test]
async fn what_is_not_aws_is_not_believed() {
    let running = start().await;
    let source = running.own();
    running
        .fake
        .script()
        .always
        .insert("DescribeSecret", Turn::Json(json!(["<html>", CANARY])));
    let error = running.aws.describe(source, &"a".into()).await.unwrap_err();
    assert_eq!(error.class(), Class::Unavailable, "{error}");
    assert!(!format!("{error} {error:?}").contains(CANARY));
}

#[tokio::test]
async fn a_forgotten_source_makes_no_calls() {
    let running = start().await;
    let source = running.own();
    assert_eq!(running.own(), source, "the same source has the same number");
    running.aws.forget(source);
    assert!(running.aws.source(source).is_none());
    let error = running.aws.describe(source, &"a".into()).await.unwrap_err();
    assert!(error.class().is_transient());
    assert!(running.fake.script().asked.is_empty());
    assert_ne!(running.own(), source, "a number is not used again");
}

#[tokio::test]
async fn a_batch_of_one_secret_finds_out_whether_batches_are_permitted() {
    let running = start().await;
    let keys = running.secrets(1);
    let source = running.role();
    let denied = Turn::Fail(400, "AccessDeniedException", "not authorized");
    running.fake.script().always.insert("BatchGetSecretValue", denied);
    let error = running.reader().try_batch(source, &keys[0]).await.unwrap_err();
    assert_eq!(error.class(), Class::AccessDenied);
    assert!(running.aws.rights(source).batch.is_denied());
    running.fake.script().always.clear();
    running.reader().try_batch(source, &keys[0]).await.unwrap();
    assert_eq!(running.aws.rights(source).batch, Right::Granted);
    let asked = running.fake.asked("BatchGetSecretValue").pop().unwrap();
    assert_eq!(asked.body["SecretIdList"], json!(["prod/0"]));
}
