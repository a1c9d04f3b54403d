//! Stores prove their identity, say so, and wake those who wait for them.

use anyhow::Result;
use serde_json::{Value, json};

use crate::harness::{READER, SELDOM, STORE, assert_actionable, bed, entry};

fn through(kind: &str, name: &str) -> Value {
    json!({"data": [entry("value", "app/db")], "refreshInterval": SELDOM, "secretStoreRef": {"kind": kind, "name": name}})
}

#[tokio::test]
async fn a_store_that_appears_wakes_those_who_wait_for_it() -> Result<()> {
    bed("appears", async |bed| {
        bed.secret("app/db", "first")?;
        for n in 0..5 {
            bed.external_secret(&format!("db-{n}"), through("SecretStore", "late"))
                .await?;
        }
        for n in 0..5 {
            bed.ready(&format!("db-{n}"), "StoreNotFound").await?;
        }
        bed.store("late", json!({})).await?;
        for n in 0..5 {
            bed.holds(&format!("db-{n}"), &[("value", "first")]).await?;
            bed.synced(&format!("db-{n}")).await?;
            bed.event(&format!("db-{n}"), "Recovered").await?;
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_mended_store_wakes_those_who_wait_for_it() -> Result<()> {
    bed("mends", async |bed| {
        bed.secret("app/db", "first")?;
        bed.store(
            "bad",
            json!({"auth": {"jwt": {"serviceAccountRef": {"name": "nobody"}}}}),
        )
        .await?;
        bed.store_ready("bad", &["IdentityError"]).await?;
        bed.external_secret("db", through("SecretStore", "bad")).await?;
        bed.ready("db", "StoreNotReady").await?;
        bed.store("bad", json!({})).await?;
        bed.store_ready("bad", &["Valid"]).await?;
        bed.holds("db", &[("value", "first")]).await?;
        bed.synced("db").await
    })
    .await
}

#[tokio::test]
async fn a_store_says_what_it_is_good_for() -> Result<()> {
    bed("says", async |bed| {
        let valid = bed.store_ready(STORE, &["Valid"]).await?;
        assert_eq!(valid.status, "True");
        let own = json!({"jwt": {"serviceAccountRef": {"name": READER, "namespace": bed.namespace}}});
        let open = bed
            .cluster_store(json!({"auth": own, "conditions": null}))
            .await?;
        let said = bed.cluster_store_ready(&open, &["Unrestricted"]).await?;
        assert_eq!(said.status, "True");
        assert_actionable(&said.message, &["conditions", "allowedKeys"]);
        bed.cluster_store(json!({"auth": own})).await?;
        bed.cluster_store_ready(&open, &["Valid"]).await?;
        bed.cluster_store(json!({})).await?;
        bed.cluster_store_ready(&open, &["PerNamespace"]).await?;
        bed.cluster
            .kubectl(["delete", "clustersecretstore.keyturn.dev", &open])
            .await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn proving_a_store_reads_no_secret() -> Result<()> {
    bed("proves", async |bed| {
        bed.secret("app/db", "first")?;
        let mark = bed.aws.mark();
        bed.store("other", json!({})).await?;
        bed.store_ready("other", &["Valid"]).await?;
        let calls = bed.calls_since(mark);
        let of_secrets: Vec<_> = calls
            .requests()
            .filter(|call| call.operation.contains("Secret"))
            .collect();
        assert!(of_secrets.is_empty(), "{of_secrets:?}");
        assert!(calls.requests().count() <= 2, "{:?}", calls.counts());
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_store_whose_spec_cannot_be_followed_names_the_field() -> Result<()> {
    bed("fields", async |bed| {
        for (more, field) in [
            (
                json!({"conditions": [{"namespaceRegexes": ["("]}]}),
                "spec.conditions[0].namespaceRegexes[0]",
            ),
            (
                json!({"allowedKeys": ["ok", "{tenant}/**"]}),
                "spec.allowedKeys[1]",
            ),
        ] {
            let store = bed.cluster_store(more).await?;
            let said = bed.cluster_store_ready(&store, &["InvalidSpec"]).await?;
            assert_actionable(&said.message, &[field]);
        }
        bed.cluster
            .kubectl(["delete", "clustersecretstore.keyturn.dev", &bed.namespace])
            .await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn denied_reads_belong_to_the_external_secret_and_not_to_the_store() -> Result<()> {
    bed("denied", async |bed| {
        bed.secret("app/db", "first")?;
        bed.permit(&[])?;
        bed.plain("db", "app/db").await?;
        bed.ready("db", "AccessDenied").await?;
        let store = bed.store_ready(STORE, &["Valid"]).await?;
        assert_eq!(store.status, "True");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn regular_expressions_of_conditions_are_anchored() -> Result<()> {
    bed("anchored", async |bed| {
        bed.secret("app/db", "first")?;
        let name = bed.namespace.clone();
        let (first, _) = name.split_at(name.len() - 1);
        for (regex, admitted) in [(first.to_owned(), false), (format!("{first}."), true)] {
            let store = bed
                .cluster_store(json!({"conditions": [{"namespaceRegexes": [regex]}]}))
                .await?;
            bed.external_secret("db", through("ClusterSecretStore", &store))
                .await?;
            if admitted {
                bed.holds("db", &[("value", "first")]).await?;
            } else {
                bed.ready("db", "NamespaceNotAllowed").await?;
            }
        }
        bed.cluster
            .kubectl(["delete", "clustersecretstore.keyturn.dev", &name])
            .await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_label_on_the_namespace_admits_it() -> Result<()> {
    bed("labelled", async |bed| {
        bed.secret("app/db", "first")?;
        let store = bed
            .cluster_store(
                json!({"conditions": [{"namespaceSelector": {"matchLabels": {"tests": bed.namespace}}}]}),
            )
            .await?;
        bed.external_secret("db", through("ClusterSecretStore", &store))
            .await?;
        bed.ready("db", "NamespaceNotAllowed").await?;
        bed.cluster
            .kubectl([
                "label",
                "namespace",
                &bed.namespace,
                &format!("tests={}", bed.namespace),
            ])
            .await?;
        bed.holds("db", &[("value", "first")]).await?;
        bed.synced("db").await?;
        bed.cluster
            .kubectl(["delete", "clustersecretstore.keyturn.dev", &store])
            .await?;
        Ok(())
    })
    .await
}
