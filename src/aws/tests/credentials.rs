use std::sync::Arc;

use futures::future::join_all;

use super::fake::{ACCOUNT, CANARY, Running, Turn, identity, start, tenant};
use crate::{
    api::{Selector, SourceId},
    aws::{Base, Class, Error, Identity, KeyRef},
};

async fn read(running: &Running, source: SourceId) -> Result<(), Error> {
    running
        .reader()
        .check_version(source, &"prod/0".into(), &Selector::parse(None))
        .await
        .map(drop)
}

#[tokio::test]
async fn sts_is_asked_once_for_each_identity() {
    let running = start().await;
    running.secrets(1);
    let (one, two) = (
        running.source(tenant("uid-1", "shop")),
        running.source(tenant("uid-2", "shop")),
    );
    let reads = (0..20).map(|n| read(&running, if n % 2 == 0 { one } else { two }));
    for answer in join_all(reads).await {
        answer.unwrap();
    }
    let asked = running.fake.asked("AssumeRoleWithWebIdentity");
    let mut names: Vec<_> = asked
        .iter()
        .map(|asked| asked.body["RoleSessionName"].as_str().unwrap())
        .collect();
    names.sort_unstable();
    assert_eq!(names, ["keyturn-test-uid-1", "keyturn-test-uid-2"]);
    assert!(
        asked.iter().all(|asked| asked.by.is_empty()),
        "the call is not signed"
    );
    assert_eq!(running.fake.script().tokens[0], ["sts.amazonaws.com", "extra"]);
    let mut by: Vec<_> = running
        .fake
        .asked("GetSecretValue")
        .into_iter()
        .map(|asked| asked.by)
        .collect();
    by.sort_unstable();
    by.dedup();
    assert_eq!(
        by,
        ["SESSION1", "SESSION2"],
        "each store reads with a session of its own"
    );
}

#[tokio::test]
async fn a_role_is_proved_by_its_session_and_own_credentials_are_shared() {
    let running = start().await;
    running.secrets(1);
    let role = format!("arn:aws:iam::{ACCOUNT}:role/shop");
    let one = running.source(identity("uid-1", Base::Own, &[&role]));
    let two = running.source(identity("uid-2", Base::Own, &[&role]));
    let proven = running.aws.prove(one).await.unwrap();
    assert_eq!(&*proven.account, ACCOUNT);
    assert_eq!(
        &*proven.arn,
        format!("arn:aws:sts::{ACCOUNT}:assumed-role/shop/keyturn-test-uid-1")
    );
    read(&running, two).await.unwrap();
    let asked = running.fake.asked("AssumeRole");
    assert_eq!(asked.len(), 2);
    assert!(
        asked
            .iter()
            .all(|asked| asked.by == "OWN" && asked.body["ExternalId"] == "x-1")
    );
    assert!(asked.iter().all(|asked| asked.body["DurationSeconds"] == "3600"));
    assert_eq!(running.fake.count("GetCallerIdentity"), 0);
}

#[tokio::test]
async fn a_chain_assumes_each_role_with_the_one_before() {
    let running = start().await;
    running.secrets(1);
    let roles = [
        format!("arn:aws:iam::{ACCOUNT}:role/hub"),
        "arn:aws:iam::222233334444:role/shop".into(),
    ];
    let source = running.source(Identity {
        ..identity("uid-1", Base::Own, &[&roles[0], &roles[1]])
    });
    read(&running, source).await.unwrap();
    read(&running, source).await.unwrap();
    let by: Vec<_> = running
        .fake
        .asked("AssumeRole")
        .into_iter()
        .map(|asked| asked.by)
        .collect();
    assert_eq!(by, ["OWN", "SESSION1"]);
    assert_eq!(&*running.aws.prove(source).await.unwrap().account, "222233334444");
}

#[tokio::test]
async fn own_credentials_are_proved_once() {
    let running = start().await;
    let source = running.own();
    for proven in join_all((0..5).map(|_| running.aws.prove(source))).await {
        assert_eq!(&*proven.unwrap().account, ACCOUNT);
    }
    assert_eq!(running.fake.count("GetCallerIdentity"), 1);
}

#[tokio::test]
async fn an_identity_that_cannot_be_had_says_what_to_mend_and_asks_sts_once() {
    let running = start().await;
    let source = running.source(tenant("uid-1", "shop"));
    running.fake.script().always.insert(
        "AssumeRoleWithWebIdentity",
        Turn::Fail(
            403,
            "AccessDenied",
            "Not authorized to perform sts:AssumeRoleWithWebIdentity",
        ),
    );
    for answer in join_all((0..20).map(|_| read(&running, source))).await {
        let error = answer.unwrap_err();
        assert_eq!(error.class(), Class::Identity);
        assert_eq!(
            error.to_string(),
            format!(
                "Cannot read secret prod/0 (AWSCURRENT). AccessDenied: ServiceAccount shop/reader may not assume \
                 arn:aws:iam::{ACCOUNT}:role/tenant: Not authorized to perform sts:AssumeRoleWithWebIdentity. The trust \
                 policy of the role must allow the subject system:serviceaccount:shop:reader and the audience \
                 sts.amazonaws.com or extra. Correct the identity of the store."
            )
        );
    }
    assert_eq!(
        running.fake.count("AssumeRoleWithWebIdentity"),
        1,
        "a failure answers all who wait"
    );
    assert_eq!(running.fake.count("GetSecretValue"), 0);

    running.fake.script().role_arn = None;
    running.aws.invalidate(source);
    let error = running.aws.prove(source).await.unwrap_err().to_string();
    assert!(
        error.contains("ServiceAccount shop/reader has no annotation eks.amazonaws.com/role-arn"),
        "{error}"
    );
}

#[tokio::test]
async fn trouble_of_sts_is_no_fault_of_the_identity() {
    let running = start().await;
    let source = running.source(tenant("uid-1", "shop"));
    running.fake.script().always.insert(
        "AssumeRoleWithWebIdentity",
        Turn::Fail(400, "Throttling", "Rate exceeded"),
    );
    assert_eq!(
        running.aws.prove(source).await.unwrap_err().class(),
        Class::Throttled
    );
}

#[tokio::test]
async fn a_service_account_made_again_is_not_the_same() {
    let running = start().await;
    let base = Base::ServiceAccount {
        namespace: "shop".into(),
        name: "reader".into(),
        uid: Some("another uid".into()),
        audiences: Vec::new(),
    };
    let source = running.source(identity("uid-1", base, &[]));
    let error = running.aws.prove(source).await.unwrap_err();
    assert_eq!(error.class(), Class::Identity);
    assert_eq!(running.fake.count("AssumeRoleWithWebIdentity"), 0);
}

fn static_keys() -> Identity {
    let key = |key: &str| KeyRef {
        namespace: "shop".into(),
        name: "aws-keys".into(),
        key: key.into(),
    };
    let base = Base::StaticKeys {
        access_key_id: key("id"),
        secret_access_key: key("secret"),
        session_token: None,
        secrets: "uid".into(),
    };
    identity("uid-1", base, &[])
}

#[tokio::test]
async fn keys_of_a_secret_are_used_as_they_are_now() {
    let running = start().await;
    running.secrets(1);
    let source = running.source(static_keys());
    let error = read(&running, source).await.unwrap_err();
    assert_eq!(error.class(), Class::Identity);
    assert!(
        error
            .to_string()
            .contains("Key id of Secret shop/aws-keys does not exist"),
        "{error}"
    );

    let put = |id: &str| {
        let keys = [("id", id), ("secret", CANARY)];
        running.fake.script().keys = keys.map(|(key, value)| (key.into(), format!("{value}\n"))).into();
        running.aws.invalidate(source);
    };
    for id in ["AKIAONE", "AKIATWO"] {
        put(id);
        read(&running, source).await.unwrap();
        assert_eq!(
            running.fake.asked("GetSecretValue").pop().unwrap().by,
            id,
            "a line end is no part of a key"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn refused_credentials_are_got_anew_but_not_in_a_storm() {
    let running = start().await;
    running.secrets(1);
    let source = running.role();
    let expired = || {
        Turn::Fail(
            400,
            "ExpiredTokenException",
            "The security token included in the request is expired",
        )
    };
    running.fake.script().always.insert("GetSecretValue", expired());
    for _ in 0..3 {
        assert_eq!(read(&running, source).await.unwrap_err().class(), Class::Identity);
    }
    assert_eq!(
        running.fake.count("AssumeRole"),
        1,
        "a set refused as soon as it was got is not changed for another"
    );
    tokio::time::advance(std::time::Duration::from_secs(6)).await;
    assert!(read(&running, source).await.is_err());
    running.fake.script().always.clear();
    read(&running, source).await.unwrap();
    assert_eq!(running.fake.count("AssumeRole"), 2);
}

#[tokio::test(start_paused = true)]
async fn credentials_that_expire_early_are_noticed_by_nobody() {
    let running = start().await;
    running.secrets(1);
    let source = running.role();
    read(&running, source).await.unwrap();
    tokio::time::advance(std::time::Duration::from_mins(10)).await;
    running.fake.script().next.insert(
        "GetSecretValue",
        vec![Turn::Fail(400, "ExpiredTokenException", "expired")],
    );
    read(&running, source).await.unwrap();
    let by: Vec<_> = running
        .fake
        .asked("GetSecretValue")
        .into_iter()
        .map(|asked| asked.by)
        .collect();
    assert_eq!(by, ["SESSION1", "SESSION1", "SESSION2"]);
}

#[tokio::test(start_paused = true)]
async fn a_session_is_refreshed_before_it_ends_and_a_failed_refresh_harms_nobody() {
    let running = start().await;
    running.secrets(1);
    let source = running.role();
    let minutes = |minutes| tokio::time::advance(std::time::Duration::from_mins(minutes));
    read(&running, source).await.unwrap();
    minutes(54).await;
    read(&running, source).await.unwrap();
    assert_eq!(running.fake.count("AssumeRole"), 1);
    let fails = vec![Turn::Fail(403, "AccessDenied", "")];
    running.fake.script().next.insert("AssumeRole", fails);
    minutes(2).await;
    for _ in 0..5 {
        read(&running, source).await.unwrap();
    }
    assert_eq!(
        running.fake.count("AssumeRole"),
        2,
        "a refresh that failed is not tried again at once"
    );
    minutes(1).await;
    read(&running, source).await.unwrap();
    assert_eq!(running.fake.count("AssumeRole"), 3);
    assert_eq!(running.fake.asked("GetSecretValue").pop().unwrap().by, "SESSION2");
}

#[tokio::test]
async fn the_last_source_of_an_identity_takes_its_credentials_along() {
    let running = start().await;
    running.secrets(1);
    let source = running.source(tenant("uid-1", "shop"));
    read(&running, source).await.unwrap();
    running.aws.forget(source);
    let again = running.source(tenant("uid-1", "shop"));
    read(&running, again).await.unwrap();
    assert_eq!(running.fake.count("AssumeRoleWithWebIdentity"), 2);
}

#[tokio::test]
async fn no_credential_is_shown() {
    let running = start().await;
    running.secrets(1);
    let key = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    running.fake.script().keys = [key("id", "AKIA"), key("secret", CANARY)].into();
    let source = running.source(static_keys());
    read(&running, source).await.unwrap();
    let cache: Arc<str> = format!("{:?} {:?}", running.aws, running.aws.source(source)).into();
    assert!(!cache.contains(CANARY), "{cache}");
}
