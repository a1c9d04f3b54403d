//! A tenant can never read with another's identity: proved by AWS's own record of who asked.

use std::collections::BTreeSet;

use anyhow::Result;
use serde_json::{Value, json};
use testbed::aws::{Calls, documents};

use crate::harness::{Bed, READER, READS, REGION, STORE, assert_actionable, bed, common, entry, of_account};

/// The names of the roles that read values of `arn`.
fn roles_that_read(calls: &Calls, arn: &str) -> BTreeSet<String> {
    let roles = calls.0.iter().filter(|call| {
        call.operation == "GetSecretValue" && call.error.is_none() && call.resource.as_deref() == Some(arn)
    });
    roles
        .filter_map(|call| call.role.as_deref().map(ToOwned::to_owned))
        .collect()
}

/// The names of the sessions of an account's calls.
fn sessions(calls: &Calls) -> BTreeSet<String> {
    calls
        .0
        .iter()
        .filter_map(|call| call.session_name.as_deref().map(ToOwned::to_owned))
        .collect()
}

#[tokio::test]
async fn stores_of_one_name_in_two_namespaces_read_as_their_own() -> Result<()> {
    bed("tenant-a", async |one| {
        bed("tenant-b", async |two| {
            for bed in [one, two] {
                bed.secret("app/db", &format!("of {}", bed.account))?;
                bed.plain("db", "app/db").await?;
            }
            for bed in [one, two] {
                bed.holds("db", &[("value", &format!("of {}", bed.account))])
                    .await?;
                let calls = bed.calls();
                // Whoever asks this account is its own role, in a session that names store and namespace.
                for call in &calls.0 {
                    assert_eq!(
                        call.role.as_deref(),
                        Some(bed.role_arn(READER).as_str()),
                        "{call:?}"
                    );
                }
                for session in sessions(&calls) {
                    assert!(
                        session.starts_with("keyturn-") && session.ends_with(STORE),
                        "{session}"
                    );
                    assert!(session.contains(&bed.namespace), "{session}");
                }
                let agents: BTreeSet<_> = calls
                    .0
                    .iter()
                    .map(|call| call.user_agent.contains("keyturn/"))
                    .collect();
                assert_eq!(agents, BTreeSet::from([true]), "the user agent names us");
            }
            Ok(())
        })
        .await
    })
    .await
}

#[tokio::test]
async fn a_secret_of_another_tenants_account_is_denied_as_oneself() -> Result<()> {
    bed("thief", async |thief| {
        bed("victim", async |victim| {
            let arn = victim.secret("app/db", "private")?;
            victim.plain("db", "app/db").await?;
            victim.holds("db", &[("value", "private")]).await?;
            thief.plain("db", &arn).await?;
            let said = thief
                .condition("db", "Ready", &["AccessDenied", "SecretNotFound"])
                .await?;
            assert_actionable(&said.message, &[&arn]);
            assert!(thief.find("db").await?.is_none());
            assert_eq!(
                roles_that_read(&victim.calls(), &arn),
                BTreeSet::from([victim.role_arn(READER)])
            );
            Ok(())
        })
        .await
    })
    .await
}

#[tokio::test]
async fn a_store_made_again_forgets_its_former_identity() -> Result<()> {
    bed("remade", async |bed| {
        let arn = bed.secret("app/db", "first")?;
        bed.role("other", &[&documents::allow(&READS, &["*"])])?;
        bed.service_account("other", Some(&bed.role_arn("other"))).await?;
        bed.plain("db", "app/db").await?;
        bed.holds("db", &[("value", "first")]).await?;
        bed.delete::<keyturn::api::SecretStore>(STORE).await?;
        bed.ready("db", "StoreNotFound").await?;
        bed.store(
            STORE,
            json!({"auth": {"jwt": {"serviceAccountRef": {"name": "other"}}}}),
        )
        .await?;
        bed.store_ready(STORE, &["Valid"]).await?;
        let mark = bed.aws.mark();
        bed.aws.put_secret_value(&arn, "second")?;
        bed.holds("db", &[("value", "second")]).await?;
        assert_eq!(
            roles_that_read(&bed.calls_since(mark), &arn),
            BTreeSet::from([bed.role_arn("other")])
        );
        // And one that may not read: the former identity is of no help.
        bed.role("nothing", &[])?;
        bed.service_account("nothing", Some(&bed.role_arn("nothing")))
            .await?;
        bed.delete::<keyturn::api::SecretStore>(STORE).await?;
        bed.store(
            STORE,
            json!({"auth": {"jwt": {"serviceAccountRef": {"name": "nothing"}}}}),
        )
        .await?;
        bed.store_ready(STORE, &["Valid"]).await?;
        let mark = bed.aws.mark();
        bed.aws.put_secret_value(&arn, "third")?;
        bed.ready("db", "AccessDenied").await?;
        assert!(roles_that_read(&bed.calls_since(mark), &arn).is_empty());
        bed.holds("db", &[("value", "second")]).await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn an_edited_role_is_the_one_that_reads() -> Result<()> {
    bed("edited", async |bed| {
        let arn = bed.secret("app/db", "first")?;
        let rights = documents::allow(&READS, &["*"]);
        let assume = documents::allow(&["sts:AssumeRole", "sts:TagSession"], &["*"]);
        bed.permit(&[&rights, &assume])?;
        for role in ["blue", "green"] {
            let trust =
                documents::trust_principal(&bed.role_arn(READER), (role == "green").then_some("shibboleth"));
            bed.aws.create_role(&bed.role_arn(role), &trust, &[&rights])?;
        }
        bed.store(STORE, json!({"role": bed.role_arn("blue")})).await?;
        bed.plain("db", "app/db").await?;
        bed.holds("db", &[("value", "first")]).await?;
        assert_eq!(
            roles_that_read(&bed.calls(), &arn),
            BTreeSet::from([bed.role_arn("blue")])
        );
        // Without its external id the other role cannot be had, and nobody else reads instead.
        bed.store(STORE, json!({"role": bed.role_arn("green")})).await?;
        let said = bed.store_ready(STORE, &["IdentityError"]).await?;
        assert_actionable(&said.message, &["AccessDenied", "green"]);
        bed.ready("db", "StoreNotReady").await?;
        let mark = bed.aws.mark();
        bed.aws.put_secret_value(&arn, "second")?;
        bed.store(
            STORE,
            json!({"role": bed.role_arn("green"), "externalID": "shibboleth"}),
        )
        .await?;
        bed.holds("db", &[("value", "second")]).await?;
        assert_eq!(
            roles_that_read(&bed.calls_since(mark), &arn),
            BTreeSet::from([bed.role_arn("green")])
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_secret_store_may_not_borrow_from_another_namespace() -> Result<()> {
    bed("borrower", async |bed| {
        let lender = Bed::make(&common().await?.place, "lender").await?;
        lender
            .run(None, async |lender| {
                lender.secret("app/db", "private")?;
                let keys = lender.aws.create_user(
                    &format!("arn:aws:iam::{}:user/static", lender.account),
                    &[&documents::allow(&READS, &["*"])],
                )?;
                lender.apply(key_secret(&keys)).await?;
                let mark = bed.aws.mark();
                let account = json!({"name": READER, "namespace": lender.namespace});
                let key = |key: &str| json!({"name": "keys", "key": key, "namespace": lender.namespace});
                for (name, auth) in [
                    ("jwt", json!({"jwt": {"serviceAccountRef": account}})),
                    ("keys", json!({"secretRef": {"accessKeyIDSecretRef": key("id"), "secretAccessKeySecretRef": key("secret")}})),
                ] {
                    bed.store(name, json!({"auth": auth})).await?;
                    let said = bed.store_ready(name, &["InvalidSpec"]).await?;
                    assert_actionable(&said.message, &["namespace"]);
                    bed.external_secret(name, json!({"data": [entry("v", "app/db")], "secretStoreRef": {"name": name}})).await?;
                    bed.ready(name, "StoreNotReady").await?;
                    assert!(bed.find(name).await?.is_none());
                }
                let asked = of_account(bed.aws.calls_since(mark), &lender.account);
                assert!(asked.0.is_empty(), "AWS was asked: {asked:?}");
                Ok(())
            })
            .await
    })
    .await
}

#[tokio::test]
async fn a_secret_store_may_not_use_the_operators_identity() -> Result<()> {
    bed("authless", async |bed| {
        let mark = bed.aws.mark();
        bed.store("bare", json!({"auth": null})).await?;
        let said = bed.store_ready("bare", &["InvalidSpec"]).await?;
        assert_actionable(&said.message, &["auth"]);
        bed.external_secret(
            "db",
            json!({"data": [entry("v", "app/db")], "secretStoreRef": {"name": "bare"}}),
        )
        .await?;
        bed.ready("db", "StoreNotReady").await?;
        let bare = |call: &&testbed::aws::Call| {
            call.session_name
                .as_deref()
                .is_some_and(|name| name.contains("-bare"))
        };
        assert_eq!(bed.aws.calls_since(mark).0.iter().filter(bare).count(), 0);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn through_one_cluster_store_each_namespace_reads_as_itself() -> Result<()> {
    bed("each-a", async |one| {
        bed("each-b", async |two| {
            let store = one
                .cluster_store(json!({"conditions": [{"namespaces": [one.namespace, two.namespace]}]}))
                .await?;
            let said = one.cluster_store_ready(&store, &["PerNamespace"]).await?;
            assert_eq!(said.status, "True");
            let reference = json!({"kind": "ClusterSecretStore", "name": store});
            for bed in [one, two] {
                let arn = bed.secret("app/db", &format!("of {}", bed.account))?;
                bed.external_secret(
                    "db",
                    json!({"data": [entry("value", "app/db")], "secretStoreRef": reference}),
                )
                .await?;
                bed.holds("db", &[("value", &format!("of {}", bed.account))])
                    .await?;
                assert_eq!(
                    roles_that_read(&bed.calls(), &arn),
                    BTreeSet::from([bed.role_arn(READER)])
                );
                let named = sessions(&bed.calls());
                assert!(
                    named
                        .iter()
                        .all(|name| name.contains(&bed.namespace) || name.len() == 64),
                    "{named:?}"
                );
            }
            one.cluster
                .kubectl(["delete", "clustersecretstore.keyturn.dev", &store])
                .await?;
            Ok(())
        })
        .await
    })
    .await
}

#[tokio::test]
async fn allowed_keys_keep_tenants_of_one_cluster_store_apart() -> Result<()> {
    bed("apart-a", async |one| {
        bed("apart-b", async |two| {
            // One identity for both: only allowedKeys tells them apart.
            let shared = json!({"jwt": {"serviceAccountRef": {"name": READER, "namespace": one.namespace}}});
            let store = one
                .cluster_store(json!({"auth": shared, "allowedKeys": ["k8s/{namespace}/**"],
                    "conditions": [{"namespaces": [one.namespace, two.namespace]}]}))
                .await?;
            one.cluster_store_ready(&store, &["Valid"]).await?;
            let reference = json!({"kind": "ClusterSecretStore", "name": store});
            let spec = |key: &str| json!({"data": [entry("value", key)], "secretStoreRef": reference});
            for bed in [one, two] {
                let key = format!("k8s/{}/db", bed.namespace);
                one.secret(&key, &format!("of {}", bed.namespace))?;
                bed.external_secret("own", spec(&key)).await?;
                bed.holds("own", &[("value", &format!("of {}", bed.namespace))])
                    .await?;
            }
            one.external_secret("theirs", spec(&format!("k8s/{}/db", two.namespace)))
                .await?;
            let said = one.ready("theirs", "KeyNotAllowed").await?;
            assert_actionable(&said.message, &[&two.namespace, &store]);
            assert!(one.find("theirs").await?.is_none());
            // It is looked at every second, and audited once.
            one.rounds(4).await?;
            let log = common().await?.operator.log()?;
            let refused = format!("{}/theirs", one.namespace);
            let audited = log
                .lines()
                .filter(|line| line.contains("\"refusal\"") && line.contains(&refused))
                .count();
            assert_eq!(audited, 1);
            one.cluster
                .kubectl(["delete", "clustersecretstore.keyturn.dev", &store])
                .await?;
            Ok(())
        })
        .await
    })
    .await
}

/// Patterns that nearly match, and keys that make each of them look at all of the key.
#[tokio::test]
async fn costly_patterns_of_one_tenant_hold_up_no_other() -> Result<()> {
    bed("costly", async |costly| {
        bed("unhurt", async |other| {
            let periodic = "/a".repeat(900);
            let mut patterns: Vec<_> = (0..99).map(|number| format!("**{periodic}{number}**")).collect();
            patterns.push("/a**".to_owned());
            let keys = (0..40)
                .map(|number| format!("{}/{number}", "/a".repeat(1000)))
                .chain(["refused".to_owned()]);
            let data: Vec<_> = keys
                .enumerate()
                .map(|(number, key)| entry(&format!("k{number}"), &key))
                .collect();
            let auth = json!({"jwt": {"serviceAccountRef": {"name": READER}}});
            costly
                .apply(json!({
                    "apiVersion": "keyturn.dev/v1", "kind": "SecretStore",
                    "metadata": {"name": "costly", "namespace": costly.namespace},
                    "spec": {"provider": {"aws": {"region": REGION, "auth": auth}}, "allowedKeys": patterns},
                }))
                .await?;
            let spec = json!({"data": data, "secretStoreRef": {"name": "costly"}});
            for name in ["first", "second", "third"] {
                costly.external_secret(name, spec.clone()).await?;
            }
            other.secret("app/db", "value")?;
            other.plain("db", "app/db").await?;
            other.holds("db", &[("value", "value")]).await?;
            for name in ["first", "second", "third"] {
                costly.ready(name, "KeyNotAllowed").await?;
            }
            Ok(())
        })
        .await
    })
    .await
}

#[tokio::test]
async fn static_keys_read_as_their_user_and_a_new_key_is_taken_up() -> Result<()> {
    bed("static", async |bed| {
        let arn = bed.secret("app/db", "first")?;
        let user = format!("arn:aws:iam::{}:user/reader", bed.account);
        let rights = documents::allow(&READS, &["*"]);
        bed.apply(key_secret(&bed.aws.create_user(&user, &[&rights])?)).await?;
        let key = |key: &str| json!({"name": "keys", "key": key});
        let auth = json!({"secretRef": {"accessKeyIDSecretRef": key("id"), "secretAccessKeySecretRef": key("secret")}});
        bed.store(STORE, json!({"auth": auth})).await?;
        bed.store_ready(STORE, &["Valid"]).await?;
        bed.plain("db", "app/db").await?;
        bed.holds("db", &[("value", "first")]).await?;
        let readers: Vec<_> = bed.calls().readers_of(&arn).into_iter().collect();
        assert_eq!(readers.iter().map(AsRef::as_ref).collect::<Vec<&str>>(), [user.as_str()]);
        // The key is rotated: the old one is refused from now on.
        bed.aged().await?;
        bed.aws.expire_credentials(&user);
        bed.apply(key_secret(&bed.aws.create_user(&user, &[&rights])?)).await?;
        bed.aws.put_secret_value(&arn, "second")?;
        bed.holds("db", &[("value", "second")]).await?;
        bed.synced("db").await
    })
    .await
}

#[tokio::test]
async fn a_key_secret_that_is_missing_is_named() -> Result<()> {
    bed("keyless", async |bed| {
        let key = |key: &str| json!({"name": "nokeys", "key": key});
        let auth = json!({"secretRef": {"accessKeyIDSecretRef": key("id"), "secretAccessKeySecretRef": key("secret")}});
        bed.store(STORE, json!({"auth": auth})).await?;
        let said = bed.store_ready(STORE, &["IdentityError"]).await?;
        assert_actionable(&said.message, &["nokeys"]);
        Ok(())
    })
    .await
}

fn key_secret(keys: &testbed::aws::Keys) -> Value {
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keys"},
        "stringData": {"id": keys.access_key_id, "secret": keys.secret_access_key}})
}

#[tokio::test]
async fn a_region_is_a_store_of_its_own() -> Result<()> {
    bed("regions", async |bed| {
        bed.secret("app/db", "here")?;
        bed.aws
            .create_secret(&bed.account, "us-east-1", "app/db", "there")?;
        bed.store("there", json!({"region": "us-east-1"})).await?;
        bed.plain("here", "app/db").await?;
        bed.external_secret(
            "there",
            json!({"data": [entry("value", "app/db")], "secretStoreRef": {"name": "there"}}),
        )
        .await?;
        bed.holds("here", &[("value", "here")]).await?;
        bed.holds("there", &[("value", "there")]).await?;
        assert!(bed.calls().0.iter().any(|call| call.region == REGION));
        Ok(())
    })
    .await
}

#[tokio::test]
async fn one_session_serves_many_reads() -> Result<()> {
    bed("session", async |bed| {
        for n in 0..10 {
            bed.secret(&format!("app/{n}"), "x")?;
            bed.plain(&format!("db-{n}"), &format!("app/{n}")).await?;
        }
        for n in 0..10 {
            bed.holds(&format!("db-{n}"), &[("value", "x")]).await?;
        }
        bed.rounds(5).await?;
        let calls = bed.calls();
        assert_eq!(
            calls.count("AssumeRoleWithWebIdentity"),
            1,
            "{:?}",
            calls.counts()
        );
        Ok(())
    })
    .await
}
