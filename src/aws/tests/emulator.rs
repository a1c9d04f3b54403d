use std::{collections::BTreeSet, sync::Arc, time::Duration};

use aws_credential_types::Credentials;
use futures::future::join_all;
use serde_json::json;
use testbed::aws::{AwsEmulator, Fault, KmsKey, Match, Options, SecretValue, documents};

use super::{
    ask,
    fake::{Fake, aws_at, identity},
};
use crate::{
    api::{ObjectKey, Selector, SourceId},
    aws::{Aws, Base, Class, Identity, Reader, SECRETS_MANAGER, Source, client::timeouts},
};

const HOME: &str = "111122223333";
const AWAY: &str = "222233334444";
const REGION: &str = "eu-central-1";
const ALL: [&str; 4] = [
    "secretsmanager:GetSecretValue",
    "secretsmanager:BatchGetSecretValue",
    "secretsmanager:DescribeSecret",
    "secretsmanager:ListSecrets",
];

struct Testing {
    emulator: AwsEmulator,
    aws: Arc<Aws>,
}

impl Testing {
    /// What reads values without an object that asks.
    fn checks(&self) -> Reader {
        Reader::new(self.aws.clone())
    }

    /// An operator that may assume roles, which trust it if they hear the external id.
    fn start() -> Self {
        let emulator = AwsEmulator::start(Options::default()).unwrap();
        let operator = format!("arn:aws:iam::{HOME}:user/operator");
        let keys = emulator
            .create_user(&operator, &[&documents::allow(&["sts:AssumeRole"], &["*"])])
            .unwrap();
        let own = Credentials::new(keys.access_key_id, keys.secret_access_key, None, None, "test");
        let aws = aws_at(emulator.url(), timeouts(), own, Fake::default());
        Self { emulator, aws }
    }

    fn role(&self, name: &str, allowed: &str) -> String {
        let arn = format!("arn:aws:iam::{HOME}:role/{name}");
        let trust = documents::trust_principal(&format!("arn:aws:iam::{HOME}:user/operator"), Some("x-1"));
        self.emulator.create_role(&arn, &trust, &[allowed]).unwrap();
        arn
    }

    fn source(&self, identity: Identity) -> SourceId {
        let (identity, service) = (Arc::new(identity), &SECRETS_MANAGER);
        self.aws.intern(Source {
            identity,
            region: REGION.into(),
            service,
        })
    }

    /// A source that may read everything that is not denied.
    fn reader(&self) -> SourceId {
        let role = self.role("reader", &documents::allow(&ALL, &["*"]));
        self.source(identity("uid-1", Base::Own, &[&role]))
    }

    fn secret(&self, account: &str, name: &str) -> String {
        self.emulator
            .create_secret(account, REGION, name, "value")
            .unwrap()
    }
}

#[tokio::test]
async fn errors_of_a_strict_aws_are_told_apart() {
    let testing = Testing::start();
    let source = testing.reader();
    testing.secret(HOME, "prod/good");
    let denies = json!({"Version": "2012-10-17", "Statement": [{"Effect": "Deny", "Principal": "*",
        "Action": "secretsmanager:GetSecretValue", "Resource": "*"}]});
    let forbidden = testing.secret(HOME, "forbidden/one");
    testing
        .emulator
        .set_resource_policy(&forbidden, Some(&denies.to_string()))
        .unwrap();
    testing
        .emulator
        .delete_secret(&testing.secret(HOME, "prod/deleted"))
        .unwrap();
    testing
        .emulator
        .create_empty_secret(HOME, REGION, "prod/empty")
        .unwrap();
    testing
        .emulator
        .set_kms_state(&testing.secret(HOME, "kms/disabled"), KmsKey::Disabled)
        .unwrap();
    testing
        .emulator
        .set_kms_state(&testing.secret(HOME, "kms/denied"), KmsKey::Denied)
        .unwrap();
    let cases = [
        ("prod/good", None, None),
        ("prod/missing", None, Some(Class::NotFound)),
        ("prod/deleted", None, Some(Class::MarkedForDeletion)),
        ("prod/empty", None, Some(Class::StageNotFound)),
        ("prod/good", Some("AWSPENDING"), Some(Class::StageNotFound)),
        (
            "prod/good",
            Some("uuid/0b5e9c1e-0000-4000-8000-000000000001"),
            Some(Class::StageNotFound),
        ),
        ("forbidden/one", None, Some(Class::AccessDenied)),
        ("kms/disabled", None, Some(Class::KeyAccessDenied)),
        ("kms/denied", None, Some(Class::KeyAccessDenied)),
    ];
    let mut together = Vec::new();
    for (key, version, class) in cases {
        let answer = testing
            .checks()
            .check_version(source, &key.into(), &Selector::parse(version))
            .await;
        assert_eq!(
            answer.as_ref().err().map(crate::aws::Error::class),
            class,
            "{key} {version:?}: {answer:?}"
        );
        if version.is_none() {
            together.push((Arc::from(key), class));
        }
    }
    let keys: Vec<Arc<str>> = together.iter().map(|(key, _)| Arc::clone(key)).collect();
    let mark = testing.emulator.mark();
    for ((key, class), answer) in together
        .iter()
        .zip(testing.checks().check(source, &keys).await.unwrap())
    {
        assert_eq!(
            answer.as_ref().err().map(crate::aws::Error::class),
            *class,
            "{key}: {answer:?}"
        );
    }
    assert_eq!(
        testing.emulator.calls_since(mark).requests().count(),
        1,
        "one call answers them all"
    );
    assert!(
        testing
            .aws
            .describe(source, &"prod/deleted".into())
            .await
            .unwrap()
            .deleted
    );
    assert_eq!(
        testing
            .aws
            .describe(source, &"prod/missing".into())
            .await
            .unwrap_err()
            .class(),
        Class::NotFound
    );
}

#[tokio::test]
async fn a_listing_takes_a_call_for_each_hundred_and_tells_of_deletions() {
    let testing = Testing::start();
    let source = testing.reader();
    for n in 0..450 {
        testing.secret(HOME, &format!("prod/{n}"));
    }
    testing
        .emulator
        .delete_secret(&testing.secret(HOME, "prod/deleted"))
        .unwrap();
    let mark = testing.emulator.mark();
    let (mut listing, mut secrets) = (testing.aws.list(source), Vec::new());
    while let Some(page) = listing.next().await.unwrap() {
        secrets.extend(page);
    }
    assert_eq!(secrets.len(), 451);
    let deleted: Vec<_> = secrets
        .iter()
        .filter(|secret| secret.deleted)
        .map(|secret| &*secret.name)
        .collect();
    assert_eq!(deleted, ["prod/deleted"]);
    assert_eq!(testing.emulator.calls_since(mark).count("ListSecrets"), 5);
}

#[tokio::test]
async fn secrets_of_another_account_are_read_by_their_arn_alone() {
    let testing = Testing::start();
    let source = testing.reader();
    let away = testing.secret(AWAY, "shared");
    testing
        .emulator
        .set_kms_key_id(&away, &format!("arn:aws:kms:{REGION}:{AWAY}:key/k"))
        .unwrap();
    let policy = documents::share_with(&format!("arn:aws:iam::{HOME}:role/reader"));
    testing
        .emulator
        .set_resource_policy(&away, Some(&policy))
        .unwrap();
    testing.secret(HOME, "prod/a");
    testing.secret(HOME, "prod/b");
    let keys = ["prod/a".into(), away.as_str().into(), "prod/b".into()];
    for answer in testing.checks().check(source, &keys).await.unwrap() {
        assert_eq!(answer.unwrap().value.payload(), b"value");
    }
    let calls = testing.emulator.calls();
    assert_eq!((calls.count("BatchGetSecretValue"), calls.errors().len()), (1, 0));
}

#[tokio::test]
async fn no_store_reads_with_the_session_of_another() {
    let testing = Testing::start();
    let allowed = |name: &str| {
        let arn = format!("arn:aws:secretsmanager:{REGION}:{HOME}:secret:{name}-??????");
        documents::allow(&ALL[..1], &[&arn])
    };
    let arns = ["one", "two"].map(|name| testing.secret(HOME, name));
    let roles = ["one", "two"].map(|name| testing.role(name, &allowed(name)));
    let sources = ["one", "two"].map(|name| {
        let role = if name == "one" { &roles[0] } else { &roles[1] };
        testing.source(identity(&format!("uid-{name}"), Base::Own, &[role]))
    });
    let current = Selector::parse(None);
    for (mine, other) in [(0, 1), (1, 0)] {
        let key = |arn: &str| Arc::from(arn);
        testing
            .checks()
            .check_version(sources[mine], &key(&arns[mine]), &current)
            .await
            .unwrap();
        let error = testing
            .checks()
            .check_version(sources[mine], &key(&arns[other]), &current)
            .await
            .unwrap_err();
        assert_eq!(error.class(), Class::AccessDenied, "{error}");
    }
    for (arn, role) in arns.iter().zip(&roles) {
        let readers = testing.emulator.calls().readers_of(arn);
        let principal = role.replace(":iam:", ":sts:").replace(":role/", ":assumed-role/");
        assert!(
            readers
                .iter()
                .all(|reader| reader.starts_with(&principal) || **reader == **role),
            "{readers:?}"
        );
        assert_eq!(readers.len(), 1);
    }
    let sessions: BTreeSet<_> = testing
        .emulator
        .calls()
        .0
        .into_iter()
        .filter_map(|call| call.session_name)
        .collect();
    let sessions: Vec<_> = sessions.iter().map(|name| &**name).collect();
    assert_eq!(sessions, ["keyturn-test-uid-one", "keyturn-test-uid-two"]);
}

#[tokio::test]
async fn a_trust_policy_that_refuses_is_told_as_such() {
    let testing = Testing::start();
    let role = testing.role("reader", &documents::allow(&ALL, &["*"]));
    let mut stranger = identity("uid-1", Base::Own, &[&role]);
    stranger.roles[0].external_id = Some("guess".into());
    let error = testing.aws.prove(testing.source(stranger)).await.unwrap_err();
    assert_eq!(error.class(), Class::Identity);
    assert!(
        error
            .to_string()
            .contains("The operator's own identity may not assume"),
        "{error}"
    );
    assert!(error.to_string().contains("AccessDenied"), "{error}");
}

#[tokio::test]
async fn expired_credentials_are_noticed_and_an_outage_is_none_of_the_identity() {
    let testing = Testing::start();
    let source = testing.reader();
    let key: Arc<str> = testing.secret(HOME, "prod/a").as_str().into();
    let current = Selector::parse(None);
    testing
        .checks()
        .check_version(source, &key, &current)
        .await
        .unwrap();
    testing
        .emulator
        .expire_credentials(&format!("arn:aws:iam::{HOME}:role/reader"));
    assert_eq!(
        testing
            .checks()
            .check_version(source, &key, &current)
            .await
            .unwrap_err()
            .class(),
        Class::Identity
    );
    testing.aws.invalidate(source);
    testing
        .checks()
        .check_version(source, &key, &current)
        .await
        .unwrap();

    testing.emulator.set_unreachable(true);
    assert_eq!(
        testing
            .checks()
            .check_version(source, &key, &current)
            .await
            .unwrap_err()
            .class(),
        Class::Unavailable
    );
    testing.aws.invalidate(source);
    assert_eq!(
        testing.aws.prove(source).await.unwrap_err().class(),
        Class::Unavailable
    );
    testing.emulator.set_unreachable(false);
    testing.aws.invalidate(source);
    testing
        .checks()
        .check_version(source, &key, &current)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_sync_gets_through_latency_throttling_and_partial_errors() {
    let testing = Testing::start();
    let source = testing.reader();
    for n in 0..1000 {
        let value = SecretValue::from(format!("value of {n}").as_str());
        testing
            .emulator
            .create_secret(HOME, REGION, &format!("prod/{n}"), value)
            .unwrap();
    }
    let reads = Match::all().operation("BatchGetSecretValue");
    testing
        .emulator
        .add_fault(reads.clone(), Fault::latency(Duration::from_millis(10)));
    testing
        .emulator
        .add_fault(reads.clone(), Fault::Throttle { probability: 0.05 });
    let code = "InternalServiceError".to_owned();
    testing.emulator.add_fault(
        reads,
        Fault::BatchErrors {
            code,
            probability: 0.05,
        },
    );
    let reader = Reader::new(testing.aws.clone());
    let (current, asker) = (Selector::parse(None), ObjectKey::new("shop", "db"));
    let keys: Vec<Arc<str>> = (0..1000).map(|n| format!("prod/{n}").into()).collect();
    let readings = join_all(
        keys.iter()
            .map(|key| reader.read(source, key, &current, ask(&asker))),
    )
    .await;
    let mut failed = 0;
    for (n, reading) in readings.into_iter().enumerate() {
        match reading {
            Ok(value) => assert_eq!(value.payload(), format!("value of {n}").as_bytes()),
            Err(error) => {
                assert!(error.class().is_transient(), "{error}");
                failed += 1;
            }
        }
    }
    assert!(
        (1..100).contains(&failed),
        "{failed} of 1000 ids fail in their batch, and no throttled call does"
    );
    assert!(testing.emulator.calls().connections() <= 8);
}
