//! What identities are made from changes: it is noticed in time, and nothing is asked more often than it needs.

use std::time::Duration;

use futures::future::join_all;
use tokio::time::{Instant, advance, timeout};

use super::fake::{ACCOUNT, CANARY, Running, Turn, identity, start, tenant};
use crate::{
    api::{Selector, SourceId},
    aws::{Base, Class, Error, Identity, KeyRef, KubeTokenError},
};

const ACCOUNT_READ: &str = "serviceaccount shop/reader";
const SECRET_READ: &str = "secret shop/aws-keys";
const MINUTE: Duration = Duration::from_mins(1);
const TEN: Duration = Duration::from_secs(10);

async fn read(running: &Running, source: SourceId) -> Result<(), Error> {
    let key = "prod/0".into();
    running
        .reader()
        .check_version(source, &key, &Selector::parse(None))
        .await
        .map(drop)
}

/// Works as the leader does for `span`, or until an identity has changed: gives whose.
async fn changed(running: &Running, span: Duration) -> Vec<SourceId> {
    tokio::select! {
        () = running.aws.look_after_identities() => unreachable!("it never ends"),
        changed = timeout(span, running.aws.renewed()) => changed.unwrap_or_default(),
    }
}

/// The same, until the source can be read.
async fn heals(running: &Running, source: SourceId, within: Duration) {
    let end = Instant::now() + within;
    loop {
        assert_eq!(
            changed(running, end - Instant::now()).await,
            [source],
            "not healed within {within:?}"
        );
        if read(running, source).await.is_ok() {
            return;
        }
    }
}

fn role(name: &str) -> String {
    format!("arn:aws:iam::{ACCOUNT}:role/{name}")
}

fn set_role(running: &Running, name: Option<&str>) {
    running.fake.script().role_arn = name.map(|name| role(name).into());
}

fn reads(running: &Running, object: &str) -> usize {
    running
        .fake
        .script()
        .kube
        .reads
        .get(object)
        .copied()
        .unwrap_or_default()
}

fn fails(running: &Running, object: &str, error: Option<KubeTokenError>) {
    let errors = &mut running.fake.script().kube.errors;
    match error {
        Some(error) => drop(errors.insert(object.into(), error)),
        None => drop(errors.remove(object)),
    }
}

fn roles_assumed(running: &Running) -> Vec<String> {
    let asked = running.fake.asked("AssumeRoleWithWebIdentity");
    asked
        .iter()
        .map(|asked| asked.body["RoleArn"].as_str().unwrap().into())
        .collect()
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
        secrets: "".into(),
    };
    identity("uid-keys", base, &[])
}

fn put_keys(running: &Running, id: &str) {
    let mut script = running.fake.script();
    script.keys = [("id", id), ("secret", CANARY)]
        .map(|(key, value)| (key.into(), value.into()))
        .into();
    script.kube.changed += 1;
}

/// A running fake with one secret and a source that has read it as ServiceAccount shop/reader.
async fn reading() -> (Running, SourceId) {
    let running = start().await;
    running.secrets(1);
    let source = running.source(tenant("uid-1", "shop"));
    read(&running, source).await.unwrap();
    (running, source)
}

#[tokio::test(start_paused = true)]
async fn another_role_of_a_service_account_is_used_within_a_minute() {
    let (running, source) = reading().await;
    for name in ["second", "third"] {
        set_role(&running, Some(name));
        assert_eq!(changed(&running, MINUTE).await, [source]);
        read(&running, source).await.unwrap();
    }
    assert_eq!(
        roles_assumed(&running),
        [role("tenant"), role("second"), role("third")]
    );
    assert_eq!(running.fake.asked("GetSecretValue").pop().unwrap().by, "SESSION3");
}

#[tokio::test(start_paused = true)]
async fn a_denied_read_is_made_again_if_the_role_was_corrected() {
    let (running, source) = reading().await;
    advance(TEN).await;
    set_role(&running, Some("right"));
    let denied = || Turn::Fail(400, "AccessDeniedException", "not authorized");
    running
        .fake
        .script()
        .next
        .insert("GetSecretValue", vec![denied()]);
    read(&running, source).await.unwrap();
    assert_eq!(roles_assumed(&running), [role("tenant"), role("right")]);
    assert_eq!(
        changed(&running, Duration::from_secs(1)).await,
        [source],
        "the others are told"
    );

    // Where nothing was corrected, a storm of denials costs one look.
    advance(TEN).await;
    running.fake.script().always.insert("GetSecretValue", denied());
    let before = reads(&running, ACCOUNT_READ);
    for answer in join_all((0..50).map(|_| read(&running, source))).await {
        assert_eq!(answer.unwrap_err().class(), Class::AccessDenied);
    }
    assert_eq!(reads(&running, ACCOUNT_READ), before + 1);
    assert_eq!(roles_assumed(&running).len(), 2);
    // A correction right after it is seen soon, not after a minute.
    set_role(&running, Some("better"));
    assert_eq!(
        read(&running, source).await.unwrap_err().class(),
        Class::AccessDenied
    );
    assert_eq!(changed(&running, Duration::from_secs(6)).await, [source]);
}

#[tokio::test(start_paused = true)]
async fn a_person_who_asks_for_it_has_a_changed_role_at_once() {
    let (running, source) = reading().await;
    advance(TEN).await;
    set_role(&running, Some("right"));
    running.aws.recheck(source).await;
    read(&running, source).await.unwrap();
    assert_eq!(roles_assumed(&running), [role("tenant"), role("right")]);
    for _ in 0..100 {
        running.aws.recheck(source).await;
    }
    // The first session, the look that was asked for, the second session.
    assert_eq!(reads(&running, ACCOUNT_READ), 3);
}

#[tokio::test(start_paused = true)]
async fn a_deleted_service_account_reads_no_more_and_is_another_one_when_made_again() {
    let (running, source) = reading().await;
    fails(
        &running,
        ACCOUNT_READ,
        Some(KubeTokenError::NotFound("ServiceAccount shop/reader".into())),
    );
    assert_eq!(changed(&running, MINUTE).await, [source]);
    let error = read(&running, source).await.unwrap_err();
    assert_eq!(error.class(), Class::Identity);
    assert!(
        error
            .to_string()
            .contains("ServiceAccount shop/reader does not exist"),
        "{error}"
    );
    assert_eq!(running.fake.count("GetSecretValue"), 1);

    fails(&running, ACCOUNT_READ, None);
    running.fake.script().kube.remade = 1;
    heals(&running, source, TEN).await;
    // Deleted and made again between two looks, with the same role.
    running.fake.script().kube.remade = 2;
    assert_eq!(changed(&running, MINUTE).await, [source]);
    read(&running, source).await.unwrap();
    assert_eq!(
        roles_assumed(&running),
        [role("tenant"), role("tenant"), role("tenant")]
    );
}

#[tokio::test(start_paused = true)]
async fn a_removed_role_ends_the_session_and_a_wrong_one_is_replaced_within_ten_seconds() {
    let (running, source) = reading().await;
    set_role(&running, None);
    assert_eq!(changed(&running, MINUTE).await, [source]);
    let error = read(&running, source).await.unwrap_err().to_string();
    assert!(
        error.contains("has no annotation eks.amazonaws.com/role-arn"),
        "{error}"
    );
    let refused = Turn::Fail(
        403,
        "AccessDenied",
        "Not authorized to perform sts:AssumeRoleWithWebIdentity",
    );
    running
        .fake
        .script()
        .always
        .insert("AssumeRoleWithWebIdentity", refused);
    set_role(&running, Some("wrong"));
    assert_eq!(changed(&running, TEN).await, [source]);
    assert_eq!(read(&running, source).await.unwrap_err().class(), Class::Identity);
    // STS is not asked again while nothing changes.
    assert_eq!(changed(&running, MINUTE).await, []);
    assert_eq!(roles_assumed(&running).len(), 2);
    running.fake.script().always.clear();
    set_role(&running, Some("right"));
    heals(&running, source, TEN).await;
    assert_eq!(roles_assumed(&running).pop(), Some(role("right")));
}

#[tokio::test(start_paused = true)]
async fn keys_that_come_late_or_in_part_or_anew_are_used_within_ten_seconds() {
    let running = start().await;
    running.secrets(1);
    let missing = || Some(KubeTokenError::NotFound("Secret shop/aws-keys".into()));
    fails(&running, SECRET_READ, missing());
    let source = running.source(static_keys());
    assert_eq!(read(&running, source).await.unwrap_err().class(), Class::Identity);
    assert_eq!(
        changed(&running, MINUTE).await,
        [],
        "what is not there is nothing new"
    );
    fails(&running, SECRET_READ, None);
    running.fake.script().keys.insert("id".into(), "AKIAHALF".into());
    assert_eq!(changed(&running, TEN).await, [source]);
    let error = read(&running, source).await.unwrap_err().to_string();
    assert!(
        error.contains("Key secret of Secret shop/aws-keys does not exist"),
        "{error}"
    );
    for id in ["AKIAONE", "AKIATWO"] {
        put_keys(&running, id);
        heals(&running, source, TEN).await;
        assert_eq!(running.fake.asked("GetSecretValue").pop().unwrap().by, id);
    }
    fails(&running, SECRET_READ, missing());
    assert_eq!(changed(&running, TEN).await, [source]);
    assert_eq!(read(&running, source).await.unwrap_err().class(), Class::Identity);
}

#[tokio::test(start_paused = true)]
async fn a_secret_that_is_written_with_the_same_keys_ends_no_session_and_is_no_news() {
    let running = start().await;
    running.secrets(1);
    put_keys(&running, "AKIAONE");
    let on_top = Identity {
        roles: identity("", Base::Own, &[&role("shop")]).roles,
        ..static_keys()
    };
    let sources = [running.source(static_keys()), running.source(on_top)];
    for source in sources {
        read(&running, source).await.unwrap();
    }
    for n in 0..20 {
        // Whatever else a tool writes into it.
        running.fake.script().keys.insert("other".into(), n.to_string());
        running.fake.script().kube.changed += 1;
        assert_eq!(changed(&running, TEN).await, []);
        for source in sources {
            read(&running, source).await.unwrap();
        }
    }
    assert_eq!(running.fake.count("AssumeRole"), 1);
    // The look that follows finds nothing new.
    let before = reads(&running, SECRET_READ);
    assert_eq!(changed(&running, MINUTE).await, []);
    let looks = reads(&running, SECRET_READ) - before;
    assert!((7..=12).contains(&looks), "{looks} looks in a minute");
    put_keys(&running, "AKIATWO");
    assert_eq!(changed(&running, TEN).await, sources);
    read(&running, sources[1]).await.unwrap();
    let by: Vec<_> = running
        .fake
        .asked("AssumeRole")
        .into_iter()
        .map(|asked| asked.by)
        .collect();
    assert_eq!(by, ["AKIAONE", "AKIATWO"]);
}

#[tokio::test(start_paused = true)]
async fn another_audience_makes_another_session_and_is_news_only_where_there_was_none() {
    let (running, source) = reading().await;
    for audience in ["one", "two"] {
        running.fake.script().kube.audience = Some(audience.into());
        assert_eq!(changed(&running, MINUTE).await, []);
        read(&running, source).await.unwrap();
    }
    assert_eq!(roles_assumed(&running).len(), 3);
    let refused = Turn::Fail(400, "InvalidIdentityToken", "Incorrect token audience");
    running
        .fake
        .script()
        .always
        .insert("AssumeRoleWithWebIdentity", refused);
    running.aws.invalidate(source);
    assert_eq!(read(&running, source).await.unwrap_err().class(), Class::Identity);
    running.fake.script().always.clear();
    running.fake.script().kube.audience = None;
    heals(&running, source, TEN).await;
}

#[tokio::test(start_paused = true)]
async fn keys_that_aws_refuses_are_replaced_within_ten_seconds_of_their_correction() {
    let running = start().await;
    running.secrets(1);
    put_keys(&running, "AKIADEAD");
    let source = running.source(static_keys());
    let refused = Turn::Fail(
        400,
        "UnrecognizedClientException",
        "The security token is invalid.",
    );
    running.fake.script().always.insert("GetSecretValue", refused);
    assert_eq!(read(&running, source).await.unwrap_err().class(), Class::Identity);
    running.fake.script().always.clear();
    put_keys(&running, "AKIALIVE");
    heals(&running, source, TEN).await;
}

#[tokio::test(start_paused = true)]
async fn a_right_that_the_operator_gets_late_heals_within_ten_seconds() {
    for (object, told) in [
        (ACCOUNT_READ, "reading ServiceAccount shop/reader"),
        (
            "token shop/reader",
            "a token of ServiceAccount shop/reader for this audience",
        ),
        (SECRET_READ, "reading Secret shop/aws-keys"),
    ] {
        let running = start().await;
        running.secrets(1);
        put_keys(&running, "AKIA");
        fails(&running, object, Some(KubeTokenError::Forbidden(told.into())));
        let who = if object == SECRET_READ {
            static_keys()
        } else {
            tenant("uid-1", "shop")
        };
        let source = running.source(who);
        let error = read(&running, source).await.unwrap_err();
        assert!(
            error.to_string().contains(&format!("Kubernetes forbids {told}")),
            "{error}"
        );
        advance(MINUTE).await;
        fails(&running, object, None);
        heals(&running, source, TEN).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_read_for_a_while_changes_nothing() {
    for error in [
        KubeTokenError::Unavailable("when asked for ServiceAccount shop/reader".into()),
        KubeTokenError::Forbidden("reading ServiceAccount shop/reader".into()),
    ] {
        let (running, source) = reading().await;
        fails(&running, ACCOUNT_READ, Some(error));
        assert_eq!(changed(&running, 10 * MINUTE).await, []);
        read(&running, source).await.unwrap();
        assert_eq!(roles_assumed(&running).len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn the_former_role_reads_no_more_even_if_sts_does_not_answer() {
    let (running, source) = reading().await;
    set_role(&running, Some("other"));
    let trouble = Turn::Fail(500, "InternalFailure", "");
    running
        .fake
        .script()
        .always
        .insert("AssumeRoleWithWebIdentity", trouble);
    assert_eq!(changed(&running, MINUTE).await, [source]);
    assert_eq!(
        read(&running, source).await.unwrap_err().class(),
        Class::Unavailable
    );
    assert_eq!(running.fake.count("GetSecretValue"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_role_on_top_is_assumed_again_when_what_it_rests_on_has_changed() {
    let running = start().await;
    running.secrets(1);
    let on_top = Identity {
        roles: identity("", Base::Own, &[&role("shop")]).roles,
        ..tenant("uid-1", "shop")
    };
    let source = running.source(on_top);
    read(&running, source).await.unwrap();
    set_role(&running, Some("other"));
    assert_eq!(changed(&running, MINUTE).await, [source]);
    read(&running, source).await.unwrap();
    let by: Vec<_> = running
        .fake
        .asked("AssumeRole")
        .into_iter()
        .map(|asked| asked.by)
        .collect();
    assert_eq!(by, ["SESSION1", "SESSION3"]);
    // A refusal of the upper role has the ServiceAccount below looked at soon.
    running
        .fake
        .script()
        .always
        .insert("AssumeRole", Turn::Fail(403, "AccessDenied", "no"));
    running.aws.invalidate(source);
    assert_eq!(read(&running, source).await.unwrap_err().class(), Class::Identity);
    running.fake.script().always.clear();
    set_role(&running, Some("right"));
    heals(&running, source, TEN).await;
}

#[tokio::test(start_paused = true)]
async fn stores_that_share_a_service_account_share_its_looks() {
    let running = start().await;
    running.secrets(1);
    let sources: Vec<_> = (0..20)
        .map(|n| running.source(tenant(&format!("uid-{n}"), "shop")))
        .collect();
    for source in &sources {
        read(&running, *source).await.unwrap();
    }
    let before = reads(&running, ACCOUNT_READ);
    assert_eq!(changed(&running, 10 * MINUTE).await, []);
    let looks = reads(&running, ACCOUNT_READ) - before;
    assert!((9..=16).contains(&looks), "{looks} looks in ten minutes");
    set_role(&running, Some("other"));
    assert_eq!(changed(&running, MINUTE).await, sources);
}

#[tokio::test(start_paused = true)]
async fn many_namespaces_are_looked_at_once_a_minute_each() {
    let running = start().await;
    running.secrets(1);
    let namespaces: Vec<_> = (0..100).map(|n| format!("shop-{n}")).collect();
    let begun = Instant::now();
    for namespace in &namespaces {
        let source = running.source(tenant(&format!("uid of {namespace}"), namespace));
        read(&running, source).await.unwrap();
    }
    assert_eq!(changed(&running, 5 * MINUTE).await, []);
    let span = begun.elapsed().as_secs();
    for namespace in &namespaces {
        let looks = reads(&running, &format!("serviceaccount {namespace}/reader"));
        let most = 2 + usize::try_from(span).unwrap() / 40;
        assert!((5..=most).contains(&looks), "{namespace}: {looks} in {span} s");
    }
    assert_eq!(running.fake.count("AssumeRoleWithWebIdentity"), namespaces.len());
    // The unused are left alone.
    assert_eq!(changed(&running, 90 * MINUTE).await, []);
    let before: Vec<_> = running.fake.script().kube.reads.values().copied().collect();
    assert_eq!(changed(&running, 60 * MINUTE).await, []);
    let after: Vec<_> = running.fake.script().kube.reads.values().copied().collect();
    assert_eq!(before, after);
}

#[tokio::test(start_paused = true)]
async fn in_quiet_times_sts_is_asked_once_for_each_session() {
    let (running, source) = reading().await;
    for _ in 0..110 {
        assert_eq!(changed(&running, MINUTE).await, []);
        read(&running, source).await.unwrap();
    }
    assert_eq!(roles_assumed(&running).len(), 3, "at 0, 55 and 110 minutes");
}

#[tokio::test(start_paused = true)]
async fn a_secret_that_only_looks_changed_is_read_again_and_its_user_is_the_same() {
    let running = start().await;
    running.secrets(1);
    put_keys(&running, "AKIA");
    let source = running.source(static_keys());
    running.aws.prove(source).await.unwrap();
    let before = reads(&running, SECRET_READ);
    running.fake.script().kube.changed += 1;
    assert_eq!(changed(&running, TEN).await, []);
    assert!(
        reads(&running, SECRET_READ) > before + 2,
        "both keys besides the look"
    );
    running.aws.prove(source).await.unwrap();
    assert_eq!(
        running.fake.count("GetCallerIdentity"),
        1,
        "proven of the same keys"
    );
}
