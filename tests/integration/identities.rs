//! What identities are made from changes: Keyturn notices, by itself and in time.

use anyhow::{Result, bail};
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use keyturn::api::SecretStore;
use kube::Api;
use serde_json::{Value, json};
use testbed::{
    aws::{Calls, documents},
    wait,
};

use crate::harness::{Bed, READER, READS, SELDOM, SOON, STORE, assert_actionable, bed, entry};

/// An ExternalSecret that is read once a day, and whatever fails every 5 minutes: only what is noticed heals it sooner.
fn seldom(key: &str) -> Value {
    json!({"data": [entry("value", key)], "refreshInterval": SELDOM})
}

/// A role that [`READER`] may assume and that may do nothing else.
fn powerless(bed: &Bed) -> Result<String> {
    let subject = format!("system:serviceaccount:{}:{READER}", bed.namespace);
    bed.role_for("powerless", &subject, &[])
}

#[tokio::test]
async fn a_role_that_is_corrected_after_a_denial_heals_by_itself() -> Result<()> {
    bed("corrected", async |bed| {
        bed.secret("app/db", "first")?;
        bed.annotate_service_account(READER, Some(&powerless(bed)?))
            .await?;
        bed.store("own", json!({})).await?;
        bed.store_ready("own", &["Valid"]).await?;
        let mut spec = seldom("app/db");
        spec["secretStoreRef"] = json!({"name": "own"});
        bed.external_secret("db", spec).await?;
        bed.ready("db", "AccessDenied").await?;
        bed.annotate_service_account(READER, Some(&bed.role_arn(READER)))
            .await?;
        bed.holds("db", &[("value", "first")]).await?;
        bed.synced("db").await
    })
    .await
}

#[tokio::test]
async fn a_deleted_service_account_reads_no_more_until_it_is_made_again() -> Result<()> {
    bed("orphaned", async |bed| {
        let arn = bed.secret("app/db", "first")?;
        bed.plain("db", "app/db").await?;
        bed.external_secret("seldom", seldom("app/db")).await?;
        for name in ["db", "seldom"] {
            bed.holds(name, &[("value", "first")]).await?;
        }
        bed.delete::<ServiceAccount>(READER).await?;
        let said = bed.store_ready(STORE, &["IdentityError"]).await?;
        assert_actionable(
            &said.message,
            &[&format!("ServiceAccount {}/{READER}", bed.namespace)],
        );
        for name in ["db", "seldom"] {
            bed.ready(name, "StoreNotReady").await?;
        }
        let mark = bed.aws.mark();
        bed.aws.put_secret_value(&arn, "second")?;
        bed.refresh("db").await?;
        tokio::time::sleep(std::time::Duration::from_secs(5)).await;
        assert_eq!(
            bed.values_since(mark),
            0,
            "read with a session of who is there no more"
        );
        bed.holds("db", &[("value", "first")]).await?;
        bed.service_account(READER, Some(&bed.role_arn(READER))).await?;
        bed.holds("db", &[("value", "second")]).await?;
        bed.store_ready(STORE, &["Valid"]).await?;
        bed.synced("seldom").await
    })
    .await
}

#[tokio::test]
async fn where_the_identity_is_the_namespaces_own_its_external_secrets_say_that_it_is_gone() -> Result<()> {
    bed("ownless", async |bed| {
        bed.secret("app/db", "first")?;
        let store = bed.cluster_store(json!({})).await?;
        let mut spec = seldom("app/db");
        spec["secretStoreRef"] = json!({"kind": "ClusterSecretStore", "name": store});
        bed.external_secret("db", spec).await?;
        bed.synced("db").await?;
        bed.delete::<ServiceAccount>(READER).await?;
        let said = bed.ready("db", "IdentityError").await?;
        assert_actionable(
            &said.message,
            &[&format!("ServiceAccount {}/{READER}", bed.namespace)],
        );
        bed.holds("db", &[("value", "first")]).await?;
        bed.service_account(READER, Some(&bed.role_arn(READER))).await?;
        bed.synced("db").await?;
        bed.cluster
            .kubectl(["delete", "clustersecretstore.keyturn.dev", &store])
            .await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn keys_that_come_after_their_store_and_new_keys_are_used_by_themselves() -> Result<()> {
    bed("latekeys", async |bed| {
        let arn = bed.secret("app/db", "first")?;
        let user = format!("arn:aws:iam::{}:user/late", bed.account);
        let rights = documents::allow(&READS, &["*"]);
        let key = |key: &str| json!({"name": "late", "key": key});
        let auth = json!({"secretRef": {"accessKeyIDSecretRef": key("id"), "secretAccessKeySecretRef": key("secret")}});
        bed.store(STORE, json!({"auth": auth})).await?;
        bed.store_ready(STORE, &["IdentityError"]).await?;
        bed.external_secret("db", seldom("app/db")).await?;
        bed.ready("db", "StoreNotReady").await?;
        // In part at first, then whole.
        let keys = bed.aws.create_user(&user, &[&rights])?;
        let secret = |data: Value| {
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "late"}, "stringData": data})
        };
        bed.apply(secret(json!({"id": keys.access_key_id}))).await?;
        let said = wait::until("the store to name the missing key", SOON, async || {
            let said = bed.store_ready(STORE, &["IdentityError"]).await?;
            if said.message.contains("Key secret of Secret") {
                return Ok(Some(said));
            }
            bail!("it says {}", said.message)
        });
        assert_actionable(&said.await?.message, &["late"]);
        bed.apply(secret(json!({"id": keys.access_key_id, "secret": keys.secret_access_key}))).await?;
        bed.holds("db", &[("value", "first")]).await?;
        bed.store_ready(STORE, &["Valid"]).await?;
        // A key that AWS no longer takes, and then its successor.
        bed.aws.put_secret_value(&arn, "second")?;
        bed.aws.expire_credentials(&user);
        bed.refresh("db").await?;
        bed.ready("db", "IdentityError").await?;
        let keys = bed.aws.create_user(&user, &[&rights])?;
        bed.apply(secret(json!({"id": keys.access_key_id, "secret": keys.secret_access_key}))).await?;
        bed.holds("db", &[("value", "second")]).await?;
        Api::<Secret>::namespaced(bed.client.clone(), &bed.namespace)
            .delete("late", &kube::api::DeleteParams::default())
            .await?;
        bed.store_ready(STORE, &["IdentityError"]).await.map(drop)
    })
    .await
}

#[tokio::test]
async fn a_refresh_has_a_store_that_is_not_ready_tried_again() -> Result<()> {
    bed("retried", async |bed| {
        bed.secret("app/db", "first")?;
        // A trust policy that names somebody else: nothing in Kubernetes shows that it was corrected.
        let stranger = format!("system:serviceaccount:{}:stranger", bed.namespace);
        let rights = documents::allow(&READS, &["*"]);
        bed.role_for("late", &stranger, &[&rights])?;
        bed.service_account("late", Some(&bed.role_arn("late"))).await?;
        bed.store(
            STORE,
            json!({"auth": {"jwt": {"serviceAccountRef": {"name": "late"}}}}),
        )
        .await?;
        bed.store_ready(STORE, &["IdentityError"]).await?;
        bed.external_secret("db", seldom("app/db")).await?;
        bed.ready("db", "StoreNotReady").await?;
        bed.role("late", &[&rights])?;
        // A failure answers all who ask within 5 s.
        tokio::time::sleep(std::time::Duration::from_secs(6)).await;
        bed.refresh("db").await?;
        bed.holds("db", &[("value", "first")]).await?;
        bed.store_ready(STORE, &["Valid"]).await.map(drop)
    })
    .await
}

/// Waits until the status of [`STORE`] says whether it may read in batches.
async fn may_batch(bed: &Bed, expected: bool) -> Result<()> {
    let stores = bed.all::<SecretStore>();
    wait::until(
        &format!("batches to be known as permitted: {expected}"),
        SOON,
        async || {
            let status = stores.get(STORE).await?.status.unwrap_or_default();
            match status.capabilities.and_then(|capabilities| capabilities.batch) {
                Some(batch) if batch == expected => Ok(Some(())),
                other => bail!("it says {other:?}"),
            }
        },
    )
    .await
}

/// Two ExternalSecrets that are read often, in batches as soon as that is permitted.
async fn without_batches(bed: &Bed) -> Result<()> {
    bed.permit(&[&documents::allow(&["secretsmanager:GetSecretValue"], &["*"])])?;
    for name in ["a", "b"] {
        bed.secret(&format!("app/{name}"), "first")?;
        bed.plain(name, &format!("app/{name}")).await?;
    }
    may_batch(bed, false).await
}

#[tokio::test]
async fn what_was_denied_is_tried_again_by_an_edit_of_the_store() -> Result<()> {
    bed("undenied", async |bed| {
        without_batches(bed).await?;
        bed.permit(&[&documents::allow(&READS, &["*"])])?;
        bed.store(STORE, json!({"allowedKeys": ["app/**"]})).await?;
        may_batch(bed, true).await
    })
    .await
}

#[tokio::test]
async fn what_was_denied_is_tried_again_by_a_refresh_and_a_denial_changes_nothing() -> Result<()> {
    bed("asked", async |bed| {
        without_batches(bed).await?;
        let mark = bed.aws.mark();
        let denied = |calls: &Calls| {
            calls
                .0
                .iter()
                .filter(|call| call.operation == "BatchGetSecretValue")
                .count()
        };
        bed.refresh("a").await?;
        bed.called("a trial", mark, |calls| denied(calls) == 1).await?;
        bed.refresh("b").await?;
        bed.rounds(6).await?;
        assert_eq!(denied(&bed.calls_since(mark)), 1, "one trial in five minutes");
        may_batch(bed, false).await
    })
    .await
}

#[tokio::test]
async fn a_right_that_was_granted_is_used_after_a_refresh() -> Result<()> {
    bed("granted", async |bed| {
        without_batches(bed).await?;
        bed.permit(&[&documents::allow(&READS, &["*"])])?;
        bed.refresh("a").await?;
        may_batch(bed, true).await
    })
    .await
}
