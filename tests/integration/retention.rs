//! What takes a Secret with it, and what does not: a secret that was deleted in AWS, and a mistake that only looks so.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures::future::try_join_all;
use keyturn::api::SecretStore;
use serde_json::{Value, json};
use testbed::{aws::documents, wait};

use crate::harness::{
    API_SERVER, Bed, DELETION, OFTEN, READER, READS, SOON, STORE, annotation, bed, data, entry, pairs,
    quarried, same, stays,
};

/// Longer than the minute after which AWS is asked again whether a secret is gone.
const MINUTE: Duration = Duration::from_secs(75);
/// An account in which there is nothing.
const EMPTY: &str = "999999999999";

fn spec(store: &str, policy: &str, data: Value) -> Value {
    json!({"secretStoreRef": {"name": store}, "refreshInterval": OFTEN, "data": data,
        "target": {"deletionPolicy": policy}})
}

/// A role of another account, for the ServiceAccount `name` of this namespace.
fn foreign_role(bed: &Bed, name: &str) -> Result<String> {
    let arn = format!("arn:aws:iam::{EMPTY}:role/{}-{name}", bed.namespace);
    let subject = format!("system:serviceaccount:{}:{name}", bed.namespace);
    let trust = documents::trust_service_account(EMPTY, bed.cluster.issuer(), &subject);
    bed.aws
        .create_role(&arn, &trust, &[&documents::allow(&READS, &["*"])])?;
    Ok(arn)
}

#[tokio::test]
async fn a_mistake_in_a_key_or_a_store_takes_nothing_with_it() -> Result<()> {
    for policy in ["Delete", "Merge"] {
        bed("mistake", async |bed| {
            let mistakes = ["key", "prefix", "account", "assumed", "moved", "region"];
            bed.secret("app/db", "first")?;
            bed.secret("app/other", "other")?;
            for name in ["account", "moved"] {
                let arn = bed.role(name, &[&documents::allow(&READS, &["*"])])?;
                bed.service_account(name, Some(&arn)).await?;
            }
            bed.store("key", json!({})).await?;
            bed.store("prefix", json!({"prefix": "app/"})).await?;
            bed.store("account", json!({})).await?;
            bed.store("assumed", json!({})).await?;
            let moved = json!({"jwt": {"serviceAccountRef": {"name": "moved"}}});
            bed.store("moved", json!({"auth": moved})).await?;
            bed.store("region", json!({})).await?;
            for name in mistakes {
                let (key, other) = if name == "prefix" {
                    ("db", "other")
                } else {
                    ("app/db", "app/other")
                };
                let data = json!([entry("one", key), entry("two", other)]);
                bed.external_secret(name, spec(name, policy, data)).await?;
            }
            let mut made = Vec::new();
            for name in mistakes {
                made.push(bed.holds(name, &[("one", "first"), ("two", "other")]).await?);
                bed.synced(name).await?;
            }

            // One entry of two, and all of them.
            let data = json!([entry("one", "app/bd"), entry("two", "app/other")]);
            bed.external_secret("key", spec("key", policy, data)).await?;
            bed.store("prefix", json!({"prefix": "apps/"})).await?;
            foreign_role(bed, "account")?;
            let other = json!({"jwt": {"serviceAccountRef": {"name": "stranger"}}});
            let stranger = foreign_role(bed, "stranger")?;
            bed.service_account("stranger", Some(&stranger)).await?;
            bed.store("account", json!({"auth": other})).await?;
            let assumed = foreign_role(bed, "assumed")?;
            let trust = documents::trust_principal(&bed.role_arn(READER), None);
            bed.aws
                .create_role(&assumed, &trust, &[&documents::allow(&READS, &["*"])])?;
            bed.permit(&[
                &documents::allow(&READS, &["*"]),
                &documents::allow(&["sts:AssumeRole"], &[&assumed]),
            ])?;
            bed.store("assumed", json!({"role": assumed})).await?;
            bed.store("region", json!({"region": "eu-west-1"})).await?;
            // The same ServiceAccount with a role of another account: the store is as it was.
            let arn = foreign_role(bed, "moved")?;
            bed.annotate_service_account("moved", Some(&arn)).await?;
            bed.aged().await?;
            bed.aws.expire_credentials(&bed.role_arn("moved"));

            for name in mistakes {
                let ready = bed.condition(name, "Ready", &["Retained"]).await?;
                same("status", &ready.status.as_str(), &"True")?;
                let wrong = match name {
                    "key" => "app/bd",
                    "prefix" => "apps/db",
                    "region" => "eu-west-1",
                    _ => EMPTY,
                };
                ensure!(ready.message.contains(wrong), "{wrong}: {}", ready.message);
            }
            stays(MINUTE, async || {
                for (name, made) in mistakes.iter().zip(&made) {
                    let now = bed.written(name).await?;
                    same(
                        name,
                        &now.metadata.resource_version,
                        &made.metadata.resource_version,
                    )?;
                }
                Ok(())
            })
            .await?;

            // What is corrected goes on, and follows what AWS deletes.
            let data = json!([entry("one", "app/db"), entry("two", "app/other")]);
            bed.external_secret("key", spec("key", policy, data)).await?;
            bed.synced("key").await
        })
        .await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_secret_that_was_deleted_goes_a_minute_after_it_was_seen_to_be_gone() -> Result<()> {
    bed("deleted", async |bed| {
        let names = ["marked", "forced", "edited", "refreshed"];
        let mut arns = Vec::new();
        for name in names {
            arns.push(bed.secret(&format!("app/{name}"), "1")?);
            bed.secret(&format!("app/2/{name}"), "2")?;
        }
        let both = |name: &str| {
            json!([
                entry("one", &format!("app/{name}")),
                entry("two", &format!("app/2/{name}"))
            ])
        };
        for name in names {
            bed.external_secret(name, spec("aws", "Merge", both(name)))
                .await?;
        }
        // Enough of others that these are no mass deletion.
        bed.secret("app/kept", "1")?;
        for n in 0..20 {
            let data = json!([entry("one", "app/kept")]);
            bed.external_secret(&format!("kept-{n}"), spec("aws", "Merge", data))
                .await?;
        }
        for name in names {
            bed.synced(name).await?;
        }
        for n in 0..20 {
            bed.synced(&format!("kept-{n}")).await?;
        }
        let mark = bed.aws.mark();
        for (name, arn) in names.iter().zip(&arns) {
            if *name == "marked" {
                bed.aws.delete_secret(arn)?;
            } else {
                bed.aws.force_delete_secret(arn)?;
            }
        }
        // What else was edited meanwhile says nothing of what the Secret was made from.
        let mut edited = spec("aws", "Merge", both("edited"));
        edited["metadata"] = json!({"labels": {"team": "shop"}});
        bed.external_secret("edited", edited).await?;
        bed.refresh("refreshed").await?;
        try_join_all(
            names
                .iter()
                .map(|name| bed.holds_within(DELETION, name, &[("two", "2")])),
        )
        .await?;
        let calls = bed.calls_since(mark);
        for name in names {
            let key = format!("app/{name}");
            let times: Vec<_> = calls
                .requests()
                .filter(|call| call.operation == "DescribeSecret")
                .filter(|call| call.resource.as_deref().is_some_and(|shown| shown.contains(&key)))
                .map(|call| call.time)
                .collect();
            let (first, last) = (times.first().copied(), times.last().copied());
            ensure!(
                first
                    .zip(last)
                    .is_some_and(|(first, last)| last.duration_since(first).as_secs() >= 59),
                "{name}: {times:?}"
            );
            // The status follows the Secret.
            testbed::wait::until(
                "the status to name what is gone",
                crate::harness::SOON,
                async || {
                    let ready = bed.ready(name, "Synced").await?;
                    Ok(ready.message.contains(&key).then_some(()))
                },
            )
            .await?;
            let secret = bed.written(name).await?;
            let recorded = annotation(&secret, "keyturn.dev/source").unwrap_or_default();
            ensure!(recorded.contains(','), "{recorded}");
        }
        // It is decided: nothing more is written, and what comes back is there again.
        let before = bed.written("marked").await?.metadata.resource_version;
        bed.rounds(20).await?;
        same(
            "marked",
            &bed.written("marked").await?.metadata.resource_version,
            &before,
        )?;
        bed.aws.restore_secret(&arns[0])?;
        bed.holds("marked", &[("one", "1"), ("two", "2")]).await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_secret_that_is_back_within_the_minute_takes_nothing_with_it() -> Result<()> {
    bed("back", async |bed| {
        let arn = bed.secret("app/db", "1")?;
        bed.external_secret("db", spec("aws", "Delete", json!([entry("one", "app/db")])))
            .await?;
        bed.synced("db").await?;
        let made = bed.written("db").await?;
        bed.aws.delete_secret(&arn)?;
        bed.rounds(4).await?;
        tokio::time::sleep(Duration::from_secs(20)).await;
        bed.aws.restore_secret(&arn)?;
        stays(MINUTE, async || {
            let now = bed.written("db").await?;
            same(
                "db",
                &now.metadata.resource_version,
                &made.metadata.resource_version,
            )
        })
        .await?;
        bed.synced("db").await
    })
    .await
}

#[tokio::test]
async fn where_there_is_no_secret_a_key_that_leads_nowhere_is_no_deletion() -> Result<()> {
    bed("nowhere", async |bed| {
        bed.secret("app/db", "1")?;
        for (name, policy) in [("delete", "Delete"), ("merge", "Merge")] {
            bed.external_secret(name, spec("aws", policy, json!([entry("one", "app/typo")])))
                .await?;
            let ready = bed.ready(name, "SecretNotFound").await?;
            ensure!(
                ready.status == "False" && ready.message.contains("app/typo"),
                "{ready:?}"
            );
            ensure!(bed.find(name).await?.is_none(), "{name} was made of nothing");
        }
        // An entry that was never there keeps nothing else from being written, and is named.
        let some = json!([entry("one", "app/db"), entry("two", "app/typo")]);
        bed.external_secret("some", spec("aws", "Merge", some)).await?;
        bed.holds("some", &[("one", "1")]).await?;
        let ready = bed.ready("some", "Synced").await?;
        ensure!(ready.message.contains("app/typo"), "{ready:?}");
        let secret = bed.written("some").await?;
        same("data", &data(&secret), &pairs(&[("one", "1")]))
    })
    .await
}

/// Waits until the deletion of each is held, and gives its token.
async fn held(bed: &Bed, names: &[&str]) -> Result<Vec<String>> {
    let mut tokens = Vec::new();
    for name in names {
        let message = wait::until(&format!("{name} to be held"), DELETION, async || {
            let ready = bed.said(name, "Ready").await?;
            Ok(ready
                .filter(|ready| ready.status == "True" && ready.reason == "DeletionHeld")
                .map(|ready| ready.message))
        })
        .await?;
        tokens.push(token(&message)?);
    }
    Ok(tokens)
}

/// The token in the command of a message.
fn token(message: &str) -> Result<String> {
    let after = message.split_once("keyturn.dev/confirm-deletion=");
    let (_, after) = after.with_context(|| format!("no token in {message}"))?;
    Ok(after.chars().take_while(char::is_ascii_hexdigit).collect())
}

/// Events about the store of this reason that `fits`.
async fn told(bed: &Bed, reason: &str, fits: impl Fn(&str) -> bool) -> Result<String> {
    wait::until(&format!("an event {reason} on the store"), SOON, async || {
        let events = bed.events("SecretStore", STORE).await?;
        let found = events.into_iter().find(|(is, note)| is == reason && fits(note));
        Ok(found.map(|(_, note)| note))
    })
    .await
}

async fn confirm_store(bed: &Bed, token: &str) -> Result<()> {
    let annotations = json!({"keyturn.dev/confirm-deletion": token});
    bed.patch::<SecretStore>(STORE, json!({"metadata": {"annotations": annotations}}))
        .await
}

#[tokio::test]
async fn an_account_that_was_emptied_waits_for_one_confirmation_that_is_used_up() -> Result<()> {
    bed("emptied", async |bed| {
        let names = ["a", "b", "c", "d", "e", "f"];
        let policy = |name: &str| {
            if matches!(name, "e" | "f") {
                "Merge"
            } else {
                "Delete"
            }
        };
        let fill = async || {
            let mut arns = Vec::new();
            for name in names {
                arns.push(bed.secret(&format!("app/{name}"), "1")?);
            }
            for name in names {
                let data = json!([entry("one", &format!("app/{name}"))]);
                bed.external_secret(name, spec(STORE, policy(name), data)).await?;
            }
            for name in names {
                bed.holds(name, &[("one", "1")]).await?;
                bed.synced(name).await?;
            }
            Ok::<_, anyhow::Error>(arns)
        };
        let empty = |arns: &[String]| {
            arns.iter()
                .try_for_each(|arn| bed.aws.force_delete_secret(arn).map(drop))
        };
        let arns = fill().await?;
        empty(&arns)?;
        let tokens = held(bed, &names).await?;
        for name in names {
            bed.holds(name, &[("one", "1")]).await?;
        }
        let note = told(bed, "DeletionHeld", |note| note.contains("6 of 6")).await?;
        let all = token(&note)?;
        ensure!(!tokens.contains(&all), "{note}");

        // A token of something else is said to be one.
        confirm_store(bed, "0123456789abcdef").await?;
        let wrong = told(bed, "ConfirmationRejected", |note| {
            note.contains("0123456789abcdef")
        })
        .await?;
        ensure!(wrong.contains(&all), "{wrong}");
        bed.annotate("b", "keyturn.dev/confirm-deletion", Some(&tokens[0]))
            .await?;
        wait::until("the wrong token to be told", SOON, async || {
            let said = bed.said("b", "Ready").await?;
            Ok(said.filter(|said| said.message.contains(&tokens[0])).map(drop))
        })
        .await?;

        // One of them by its own token, then the rest.
        bed.annotate("a", "keyturn.dev/confirm-deletion", Some(&tokens[0]))
            .await?;
        bed.gone("a").await?;
        bed.ready("a", "Deleted").await?;
        for name in &names[1..] {
            bed.holds(name, &[("one", "1")]).await?;
        }
        confirm_store(bed, &all).await?;
        for name in ["b", "c", "d"] {
            bed.gone(name).await?;
            bed.ready(name, "Deleted").await?;
        }
        for name in ["e", "f"] {
            bed.holds(name, &[]).await?;
        }

        // Both tokens are used up.
        let arns = fill().await?;
        empty(&arns)?;
        let again = held(bed, &names).await?;
        ensure!(
            again.iter().all(|token| !tokens.contains(token)),
            "{again:?} {tokens:?}"
        );
        told(bed, "ConfirmationRejected", |note| note.contains(&all)).await?;
        for name in names {
            bed.holds(name, &[("one", "1")]).await?;
        }
        // What is restored is not held any more.
        fill().await.map(drop)
    })
    .await
}

#[tokio::test]
async fn a_restart_neither_forgets_deletions_nor_lets_held_ones_go() -> Result<()> {
    let _api_server = API_SERVER.read().await;
    quarried("limits", &[], async |bed, operator| {
        let names: Vec<String> = (0..10).map(|n| format!("db-{n}")).collect();
        let mut arns = Vec::new();
        for name in &names {
            arns.push(bed.secret(&format!("app/{name}"), "1")?);
            let data = json!([entry("one", &format!("app/{name}"))]);
            bed.external_secret(name, spec(STORE, "Delete", data)).await?;
        }
        for name in &names {
            bed.synced(name).await?;
        }
        for arn in &arns[..3] {
            bed.aws.force_delete_secret(arn)?;
        }
        for name in &names[..3] {
            bed.gone_within(DELETION, name).await?;
            bed.ready(name, "Deleted").await?;
        }
        operator.kill()?;
        operator.expire_lease(&bed.client).await?;
        operator.launch().await?;
        bed.aws.force_delete_secret(&arns[3])?;
        let tokens = held(bed, &["db-3"]).await?;
        operator.kill()?;
        operator.expire_lease(&bed.client).await?;
        operator.launch().await?;
        stays(MINUTE, async || {
            ensure!(bed.find("db-3").await?.is_some(), "the held deletion went");
            Ok(())
        })
        .await?;
        same("token", &held(bed, &["db-3"]).await?, &tokens)?;
        bed.annotate("db-3", "keyturn.dev/confirm-deletion", Some(&tokens[0]))
            .await?;
        bed.gone_within(DELETION, "db-3").await?;
        bed.ready("db-3", "Deleted").await.map(drop)
    })
    .await
}
