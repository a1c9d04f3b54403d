//! Rotations as AWS plays them: what is seen of them, and what a Secret says of its content afterwards.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::core::v1::Secret;
use keyturn::api::RotationStatus;
use serde_json::{Value, json};
use testbed::wait;

use crate::harness::{Bed, SELDOM, SOON, STORE, annotation, bed, entry, from_now, property, same, stays};

const CHANGED_AT: &str = "keyturn.dev/changed-at";
const SINCE: &str = "keyturn.dev/restart-since";
const ROLLOUT: &str = "keyturn.dev/rollout";

fn login(user: &str, password: &str) -> String {
    json!({"username": user, "password": password}).to_string()
}

/// A bed whose secrets are described each time, so that stages are seen soon.
async fn watchful(name: &str, test: impl AsyncFnOnce(&Bed) -> Result<()>) -> Result<()> {
    bed(name, async |bed| {
        bed.store(STORE, json!({"changeDetection": "Describe"})).await?;
        test(bed).await
    })
    .await
}

async fn rotation(bed: &Bed, name: &str) -> Result<RotationStatus> {
    let status = bed.get(name).await?.status.unwrap_or_default();
    status.rotation.context("it says nothing of the rotation")
}

/// Waits until the status says of the rotation what `done` waits for.
async fn rotates(
    bed: &Bed,
    name: &str,
    what: &str,
    done: impl Fn(&RotationStatus) -> bool,
) -> Result<RotationStatus> {
    wait::until(what, SOON, async || {
        let found = rotation(bed, name).await?;
        if done(&found) {
            return Ok(Some(found));
        }
        bail!("it says {}", json!(found))
    })
    .await
}

async fn strategy(bed: &Bed, expected: &str) -> Result<RotationStatus> {
    let is = |found: &RotationStatus| found.strategy.as_deref() == Some(expected);
    rotates(bed, "db", &format!("strategy {expected}"), is).await
}

/// A whole rotation to this value.
fn rotate(bed: &Bed, arn: &str, value: &str) -> Result<()> {
    let rotation = bed.aws.begin_rotation(arn)?;
    rotation.create_secret(value)?;
    rotation.set_secret()?;
    rotation.test_secret()?;
    Ok(rotation.finish_secret()?)
}

fn credentials() -> Value {
    json!([
        property("username", "app/db", "username"),
        property("password", "app/db", "password")
    ])
}

#[tokio::test]
async fn a_rotation_tells_one_user_from_two_that_take_turns() -> Result<()> {
    watchful("strategy", async |bed| {
        let arn = bed.secret("app/db", &login("app", "1"))?;
        bed.aws.enable_rotation(&arn, "arn:aws:lambda:x", 30)?;
        bed.external_secret("db", json!({"data": credentials(), "rotation": {}}))
            .await?;
        bed.holds("db", &[("username", "app"), ("password", "1")]).await?;
        bed.condition("db", "RotationHealthy", &["Idle"]).await?;
        let found = rotation(bed, "db").await?;
        assert_eq!(
            (found.strategy.as_deref(), found.deadline),
            (Some("Opaque"), None)
        );
        let events = bed.events("ExternalSecret", "db").await?;
        assert!(events.iter().all(|(reason, _)| reason != "RotationCommitted"));

        rotate(bed, &arn, &login("app", "2"))?;
        bed.holds("db", &[("username", "app"), ("password", "2")]).await?;
        let found = strategy(bed, "SingleUser").await?;
        ensure!(found.last_rotated.is_some() && found.deadline.is_none());
        bed.event("db", "RotationCommitted").await?;

        // Two rotations in one second are one to who sees whole seconds.
        tokio::time::sleep(Duration::from_secs(1)).await;
        rotate(bed, &arn, &login("app_clone", "3"))?;
        bed.holds("db", &[("username", "app_clone"), ("password", "3")])
            .await?;
        let found = strategy(bed, "AlternatingUsers").await?;
        let (next, deadline) = (
            found.next_rotation.context("next")?,
            found.deadline.context("deadline")?,
        );
        // By days: it may begin with its UTC day.
        assert_eq!(
            deadline.0,
            next.0.strftime("%Y-%m-%dT00:00:00Z").to_string().parse()?
        );
        bed.condition("db", "RotationHealthy", &["Idle"]).await.map(drop)
    })
    .await
}

#[tokio::test]
async fn a_rotation_that_does_not_end_is_stuck_until_it_goes_on_and_reaches_no_secret() -> Result<()> {
    watchful("stuck", async |bed| {
        let arn = bed.secret("app/db", "first")?;
        let spec = json!({"data": [entry("value", "app/db")], "rotation": {"pendingTimeout": "1m"}});
        bed.external_secret("db", spec).await?;
        bed.holds("db", &[("value", "first")]).await?;
        bed.condition("db", "RotationHealthy", &["Idle"]).await?;
        // Who names the stage asks for it.
        let early = json!({"secretKey": "value", "remoteRef": {"key": "app/db", "version": "AWSPENDING"}});
        bed.external_secret("early", json!({"data": [early]})).await?;

        let begun = bed.aws.begin_rotation(&arn)?;
        let said = bed.condition("db", "RotationHealthy", &["InProgress"]).await?;
        assert_eq!(said.status, "True");
        let found = rotation(bed, "db").await?;
        assert_eq!(found.pending_version_id.as_deref(), Some(begun.version_id()));
        begun.create_secret("pending")?;
        bed.refresh("early").await?;
        bed.holds("early", &[("value", "pending")]).await?;

        let said = bed.condition("db", "RotationHealthy", &["RotationStuck"]).await?;
        assert_eq!(said.status, "False");
        crate::harness::assert_actionable(&said.message, &["app/db"]);
        bed.event("db", "RotationStuck").await?;
        bed.synced("db").await?;
        same(
            "the Secret meanwhile",
            &bed.data("db").await?["value"],
            &"first".to_owned(),
        )?;

        // The old function leaves AWSPENDING where AWSCURRENT is: that is the end.
        begun.finish_secret_keeping_pending()?;
        bed.holds("db", &[("value", "pending")]).await?;
        bed.condition("db", "RotationHealthy", &["Idle"]).await?;
        let stuck = bed.events("ExternalSecret", "db").await?;
        let stuck = stuck
            .iter()
            .filter(|(reason, _)| reason == "RotationStuck")
            .count();
        same("events of it", &stuck, &1)
    })
    .await
}

#[tokio::test]
async fn nothing_is_said_of_rotations_that_nobody_asks_about() -> Result<()> {
    watchful("unasked", async |bed| {
        bed.secret("app/db", "first")?;
        bed.plain("db", "app/db").await?;
        bed.synced("db").await?;
        bed.rounds(4).await?;
        assert!(bed.said("db", "RotationHealthy").await?.is_none());
        let spec = json!({"data": [entry("value", "app/db")], "rotation": {"strategy": "Overlap"}});
        bed.external_secret("db", spec).await?;
        bed.condition("db", "RotationHealthy", &["Idle"]).await?;
        assert_eq!(rotation(bed, "db").await?.strategy.as_deref(), Some("Overlap"));
        bed.plain("db", "app/db").await?;
        wait::until("what was said to go", SOON, async || {
            let gone = bed.said("db", "RotationHealthy").await?.is_none();
            Ok((gone && rotation(bed, "db").await.is_err()).then_some(()))
        })
        .await
    })
    .await
}

fn stamps(secret: &Secret) -> (Option<&str>, Option<&str>, Option<&str>) {
    (
        annotation(secret, CHANGED_AT),
        annotation(secret, SINCE),
        annotation(secret, ROLLOUT),
    )
}

fn restarting(trigger: &[&str], more: Value) -> Value {
    let mut spec = json!({
        "data": credentials(),
        "restart": {"mode": "Automatic", "discovery": "OptIn", "trigger": {"keys": trigger}},
    });
    for (field, value) in more.as_object().into_iter().flatten() {
        spec[field] = value.clone();
    }
    spec
}

#[tokio::test]
async fn only_new_content_of_the_chosen_keys_is_a_change() -> Result<()> {
    watchful("changes", async |bed| {
        let arn = bed.secret("app/db", &login("app", "1"))?;
        let spec = restarting(&["password"], json!({}));
        bed.external_secret("db", spec.clone()).await?;
        let first = bed.holds("db", &[("username", "app"), ("password", "1")]).await?;
        let (changed, since, rollout) = stamps(&first);
        assert_eq!(changed, None, "a creation is no change");
        assert!(since.is_some() && rollout.is_some());
        bed.synced("db").await?;
        let unchanged = async |what: &str| {
            bed.synced("db").await?;
            let secret = bed.written("db").await?;
            same(what, &stamps(&secret), &(None, since, rollout))
        };

        let versions = |secret: &Secret| annotation(secret, "keyturn.dev/versions").map(str::to_owned);
        bed.aws.put_secret_value(&arn, login("app", "1"))?;
        wait::until("the new version to be recorded", SOON, async || {
            Ok((versions(&bed.written("db").await?) != versions(&first)).then_some(()))
        })
        .await?;
        unchanged("the same value put again").await?;

        bed.aws.put_secret_value(&arn, login("other", "1"))?;
        bed.holds("db", &[("username", "other"), ("password", "1")])
            .await?;
        unchanged("a key that does not count").await?;

        bed.patch::<Secret>("db", json!({"stringData": {"password": "by hand", "more": "x"}}))
            .await?;
        bed.holds("db", &[("username", "other"), ("password", "1")])
            .await?;
        unchanged("drift").await?;

        for name in [ROLLOUT, "keyturn.dev/scope", "keyturn.dev/content"] {
            bed.patch::<Secret>("db", json!({"metadata": {"annotations": {name: "x"}}}))
                .await?;
            wait::until(&format!("{name} to be put right"), SOON, async || {
                let secret = bed.written("db").await?;
                Ok((annotation(&secret, name) != Some("x")).then_some(()))
            })
            .await?;
            unchanged(name).await?;
        }

        bed.external_secret(
            "db",
            restarting(&["password"], json!({"metadata": {"labels": {"a": "b"}}})),
        )
        .await?;
        unchanged("a label").await?;

        bed.aws.put_secret_value(&arn, login("other", "2"))?;
        let second = bed
            .holds("db", &[("username", "other"), ("password", "2")])
            .await?;
        let (changed, after, _) = stamps(&second);
        ensure!(
            changed.is_some() && changed >= since && after == since,
            "{:?}",
            stamps(&second)
        );
        bed.synced("db").await?;

        // Made again, it remembers what is still to be done.
        bed.delete::<Secret>("db").await?;
        let again = wait::until("the Secret to be made again", SOON, async || bed.find("db").await).await?;
        let (remembered, since_again, _) = stamps(&again);
        assert_eq!(remembered, changed);
        assert!(since_again <= changed);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn restarts_are_enabled_and_their_keys_chosen_without_a_read() -> Result<()> {
    bed("enabled", async |bed| {
        bed.secret("app/db", &login("app", "1"))?;
        bed.external_secret("db", json!({"data": credentials(), "refreshInterval": SELDOM}))
            .await?;
        let first = bed.holds("db", &[("username", "app"), ("password", "1")]).await?;
        assert_eq!(
            (annotation(&first, CHANGED_AT), annotation(&first, SINCE)),
            (None, None)
        );
        bed.synced("db").await?;
        let mark = bed.aws.mark();
        let mut rollouts = vec![annotation(&first, ROLLOUT).map(str::to_owned)];
        let mut since = None;
        for trigger in [&["password"][..], &["username"], &[]] {
            bed.external_secret("db", restarting(trigger, json!({"refreshInterval": SELDOM})))
                .await?;
            let what = format!("the tokens of {trigger:?}");
            let secret = wait::until(&what, SOON, async || {
                let secret = bed.written("db").await?;
                let new = annotation(&secret, ROLLOUT) != rollouts.last().and_then(Option::as_deref);
                Ok(new.then_some(secret))
            })
            .await?;
            assert_eq!(annotation(&secret, CHANGED_AT), None);
            let said = annotation(&secret, SINCE).map(str::to_owned);
            ensure!(said.is_some() && (since.is_none() || since == said), "{said:?}");
            since = said;
            rollouts.push(annotation(&secret, ROLLOUT).map(str::to_owned));
            bed.synced("db").await?;
        }
        assert_eq!(rollouts.first(), rollouts.last(), "all keys again");
        same("values read", &bed.values_since(mark), &0)
    })
    .await
}

#[tokio::test]
async fn a_new_value_that_somebody_wrote_by_hand_before_us_is_a_change() -> Result<()> {
    watchful("before-us", async |bed| {
        let arn = bed.secret("app/db", &login("app", "1"))?;
        bed.external_secret("db", restarting(&[], json!({}))).await?;
        bed.holds("db", &[("username", "app"), ("password", "1")]).await?;
        bed.synced("db").await?;
        let suspend = "keyturn.dev/suspend-sync-until";
        bed.annotate("db", suspend, Some(&from_now(600))).await?;
        bed.condition("db", "Current", &["Suspended"]).await?;
        bed.aws.put_secret_value(&arn, login("app", "2"))?;
        bed.patch::<Secret>("db", json!({"stringData": {"password": "2"}}))
            .await?;
        bed.annotate("db", suspend, None).await?;
        wait::until("the change to be dated", SOON, async || {
            let secret = bed.written("db").await?;
            Ok(annotation(&secret, CHANGED_AT).is_some().then_some(()))
        })
        .await?;
        let dated = bed.written("db").await?;
        stays(Duration::from_secs(2), async || {
            let now = bed.written("db").await?;
            same("the Secret", &stamps(&now), &stamps(&dated))
        })
        .await
    })
    .await
}
