//! Whose a Secret is, what is written on it, and what is never touched.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Secret;
use keyturn::api::ExternalSecret;
use serde_json::{Value, json};
use testbed::wait;

use crate::harness::{Bed, OFTEN, SELDOM, SOON, annotation, assert_actionable, bed, data, entry, property};

/// All that `api.md` writes on a Secret that was made and never changed.
const ALWAYS: [&str; 7] = [
    "keyturn.dev/owner",
    "keyturn.dev/content",
    "keyturn.dev/inputs",
    "keyturn.dev/versions",
    "keyturn.dev/rollout",
    "keyturn.dev/scope",
    "keyturn.dev/source",
];

fn targeted(target: Value) -> Value {
    json!({"data": [entry("value", "app/db")], "target": target})
}

#[tokio::test]
async fn an_owned_secret_goes_with_its_external_secret_and_others_stay() -> Result<()> {
    bed("ends", async |bed| {
        bed.secret("app/db", "first")?;
        bed.external_secret("owner", targeted(json!({}))).await?;
        bed.external_secret("orphan", targeted(json!({"creationPolicy": "Orphan"})))
            .await?;
        for name in ["owner", "orphan"] {
            bed.holds(name, &[("value", "first")]).await?;
            bed.synced(name).await?;
        }
        let object = bed.get("owner").await?;
        let owners = bed
            .written("owner")
            .await?
            .metadata
            .owner_references
            .unwrap_or_default();
        let [owner] = owners.as_slice() else {
            panic!("{owners:?}")
        };
        assert_eq!(Some(&owner.uid), object.metadata.uid.as_ref());
        assert_eq!(
            (owner.controller, owner.kind.as_str()),
            (Some(true), "ExternalSecret")
        );
        assert!(bed.written("orphan").await?.metadata.owner_references.is_none());
        assert!(object.metadata.finalizers.is_none(), "no finalizers");
        bed.delete::<ExternalSecret>("owner").await?;
        bed.delete::<ExternalSecret>("orphan").await?;
        bed.gone("owner").await?;
        bed.holds("orphan", &[("value", "first")]).await?;
        // Who is made again finds its own Secret.
        bed.external_secret("orphan", targeted(json!({"creationPolicy": "Orphan"})))
            .await?;
        bed.synced("orphan").await
    })
    .await
}

#[tokio::test]
async fn an_owner_becomes_an_orphan_and_an_owner_again() -> Result<()> {
    bed("policy", async |bed| {
        bed.secret("app/db", "first")?;
        for (policy, count) in [("Owner", 1), ("Orphan", 0), ("Owner", 1)] {
            bed.external_secret("db", targeted(json!({"creationPolicy": policy})))
                .await?;
            wait::until(&format!("{count} owners"), SOON, async || {
                let owners = bed
                    .written("db")
                    .await?
                    .metadata
                    .owner_references
                    .unwrap_or_default();
                Ok((owners.len() == count).then_some(()))
            })
            .await?;
            bed.synced("db").await?;
        }
        bed.holds("db", &[("value", "first")]).await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn with_none_nothing_is_written() -> Result<()> {
    bed("none", async |bed| {
        bed.secret("app/db", "first")?;
        bed.external_secret("db", targeted(json!({"creationPolicy": "None"})))
            .await?;
        bed.synced("db").await?;
        bed.rounds(3).await?;
        assert!(bed.find("db").await?.is_none());
        bed.external_secret(
            "absent",
            json!({"data": [entry("v", "app/absent")], "target": {"creationPolicy": "None"}}),
        )
        .await?;
        bed.ready("absent", "SecretNotFound").await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_made_secret_carries_every_annotation_and_no_time_of_change() -> Result<()> {
    bed("annotations", async |bed| {
        let arn = bed.secret("app/db", r#"{"username":"app","password":"first"}"#)?;
        bed.secret("app/text", "no user")?;
        let spec = json!({"dataFrom": [{"extract": {"key": "app/db"}}], "metadata": {
            "labels": {"team": "blue", "app.kubernetes.io/instance": "argo", "app.kubernetes.io/managed-by": "Helm",
                "owner": "helm", "applyset.kubernetes.io/part-of": "applyset-x", "kapp.k14s.io/app": "1",
                "argocd.argoproj.io/secret-type": "repository"},
            "annotations": {"note": "carried", "argocd.argoproj.io/sync-wave": "1", "keyturn.dev/refresh": "1",
                "kubectl.kubernetes.io/x": "y", "meta.helm.sh/release-name": "r", "a.keyturn.dev/b": "c"}}});
        bed.external_secret("db", spec).await?;
        bed.holds("db", &[("username", "app"), ("password", "first")]).await?;
        bed.synced("db").await?;
        let made = bed.written("db").await?;
        for name in ALWAYS.into_iter().chain(["keyturn.dev/user"]) {
            assert!(annotation(&made, name).is_some_and(|value| !value.is_empty()), "{name}");
        }
        assert_eq!(annotation(&made, "keyturn.dev/owner"), Some("db"));
        assert_eq!(annotation(&made, "keyturn.dev/changed-at"), None, "a first Secret is no change");
        assert_eq!(annotation(&made, "note"), Some("carried"));
        let carried: BTreeSet<_> = made.metadata.annotations.iter().flatten().map(|(name, _)| name.as_str()).collect();
        let expected: BTreeSet<_> = ALWAYS.into_iter().chain(["keyturn.dev/user", "note"]).collect();
        assert_eq!(carried, expected);
        let labels: BTreeMap<_, _> = made.metadata.labels.clone().unwrap_or_default();
        assert_eq!(labels, crate::harness::pairs(&[("team", "blue"), ("keyturn.dev/managed", "true"), ("argocd.argoproj.io/secret-type", "repository")]));
        let versions: BTreeMap<String, String> =
            serde_json::from_str(annotation(&made, "keyturn.dev/versions").unwrap_or_default())?;
        assert_eq!(versions.into_values().collect::<Vec<_>>(), [bed.aws.stages(&arn)?["AWSCURRENT"].clone()]);
        assert_eq!(made.type_.as_deref(), Some("Opaque"));

        bed.aws.put_secret_value(&arn, r#"{"username":"app","password":"second"}"#)?;
        let changed = bed.holds("db", &[("username", "app"), ("password", "second")]).await?;
        assert!(annotation(&changed, "keyturn.dev/changed-at").is_some());
        for name in ["keyturn.dev/content", "keyturn.dev/rollout", "keyturn.dev/versions"] {
            assert_ne!(annotation(&changed, name), annotation(&made, name), "{name}");
        }
        for name in ["keyturn.dev/inputs", "keyturn.dev/user", "keyturn.dev/owner"] {
            assert_eq!(annotation(&changed, name), annotation(&made, name), "{name}");
        }
        bed.aws.put_secret_value(&arn, r#"{"username":"app2","password":"third"}"#)?;
        let other = bed.holds("db", &[("username", "app2"), ("password", "third")]).await?;
        assert_ne!(annotation(&other, "keyturn.dev/user"), annotation(&changed, "keyturn.dev/user"));
        Ok(())
    })
    .await
}

#[tokio::test]
async fn equal_data_elsewhere_give_other_tokens() -> Result<()> {
    bed("tokens", async |bed| {
        bed.secret("app/db", "same")?;
        bed.plain("one", "app/db").await?;
        bed.plain("two", "app/db").await?;
        let one = bed.holds("one", &[("value", "same")]).await?;
        let two = bed.holds("two", &[("value", "same")]).await?;
        assert_ne!(
            annotation(&one, "keyturn.dev/content"),
            annotation(&two, "keyturn.dev/content")
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn equal_data_written_anew_keep_the_time_of_change() -> Result<()> {
    bed("equal", async |bed| {
        let arn = bed.secret("app/db", "first")?;
        bed.plain("db", "app/db").await?;
        bed.holds("db", &[("value", "first")]).await?;
        bed.aws.put_secret_value(&arn, "second")?;
        let before = bed.holds("db", &[("value", "second")]).await?;
        let version = bed.aws.put_secret_value(&arn, "second")?;
        let after = wait::until("the new version to be noted", SOON, async || {
            let secret = bed.written("db").await?;
            let noted = annotation(&secret, "keyturn.dev/versions").is_some_and(|all| all.contains(&version));
            Ok(noted.then_some(secret))
        })
        .await?;
        for name in [
            "keyturn.dev/changed-at",
            "keyturn.dev/rollout",
            "keyturn.dev/content",
        ] {
            assert_eq!(annotation(&after, name), annotation(&before, name), "{name}");
        }
        // Drift repair is no change either.
        bed.patch::<Secret>("db", json!({"stringData": {"value": "by hand"}}))
            .await?;
        let repaired = bed.holds("db", &[("value", "second")]).await?;
        assert_eq!(
            annotation(&repaired, "keyturn.dev/changed-at"),
            annotation(&before, "keyturn.dev/changed-at")
        );
        // Nor is a Secret made again.
        bed.all::<Secret>()
            .delete("db", &kube::api::DeleteParams::default())
            .await?;
        let again = bed.holds("db", &[("value", "second")]).await?;
        assert_eq!(
            annotation(&again, "keyturn.dev/rollout"),
            annotation(&before, "keyturn.dev/rollout")
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_deleted_secret_is_made_again() -> Result<()> {
    bed("again", async |bed| {
        bed.secret("app/db", "first")?;
        bed.external_secret(
            "db",
            json!({"data": [entry("value", "app/db")], "refreshInterval": SELDOM}),
        )
        .await?;
        let first = bed.holds("db", &[("value", "first")]).await?;
        bed.synced("db").await?;
        bed.all::<Secret>()
            .delete("db", &kube::api::DeleteParams::default())
            .await?;
        wait::until("the Secret to be made again", SOON, async || {
            let secret = bed.find("db").await?;
            Ok(secret.filter(|secret| secret.metadata.uid != first.metadata.uid))
        })
        .await?;
        bed.holds("db", &[("value", "first")]).await?;
        bed.event("db", "DriftRepaired").await?;
        bed.synced("db").await
    })
    .await
}

#[tokio::test]
async fn edits_by_hand_are_undone_and_what_others_add_stays() -> Result<()> {
    bed("drift", async |bed| {
        bed.secret("app/db", "first")?;
        let spec = json!({"data": [entry("value", "app/db")], "refreshInterval": SELDOM, "metadata": {"labels": {"team": "blue"}}});
        bed.external_secret("db", spec).await?;
        bed.holds("db", &[("value", "first")]).await?;
        bed.synced("db").await?;
        bed.patch::<Secret>("db", json!({"metadata": {"labels": {"extra": "mine"}, "annotations": {"extra": "mine"}}})).await?;
        for edit in [
            json!({"stringData": {"value": "by hand"}}),
            json!({"stringData": {"more": "by hand"}}),
            json!({"data": {"value": null}}),
            json!({"metadata": {"labels": {"keyturn.dev/managed": null}}}),
            json!({"metadata": {"labels": {"keyturn.dev/managed": "no"}}}),
            json!({"metadata": {"annotations": {"keyturn.dev/content": "x"}}}),
            json!({"metadata": {"annotations": {"keyturn.dev/versions": null}}}),
            json!({"metadata": {"annotations": {"keyturn.dev/owner": null}}}),
        ] {
            bed.patch::<Secret>("db", edit.clone()).await?;
            wait::until(&format!("{edit} to be undone"), SOON, async || {
                let secret = bed.written("db").await?;
                ensure!(data(&secret) == crate::harness::pairs(&[("value", "first")]), "{:?}", data(&secret));
                let labels = secret.metadata.labels.clone().unwrap_or_default();
                let expected = crate::harness::pairs(&[("extra", "mine"), ("keyturn.dev/managed", "true"), ("team", "blue")]);
                ensure!(labels == expected, "{labels:?}");
                for name in ALWAYS {
                    let value = annotation(&secret, name).with_context(|| format!("no {name}"))?;
                    ensure!(value != "x", "{name} is {value}");
                }
                ensure!(annotation(&secret, "extra") == Some("mine"), "the annotation of others is gone");
                Ok(Some(()))
            })
            .await?;
        }
        bed.event("db", "DriftRepaired").await?;
        bed.synced("db").await
    })
    .await
}

#[tokio::test]
async fn a_label_that_goes_from_the_external_secret_goes_from_the_secret() -> Result<()> {
    bed("label", async |bed| {
        bed.secret("app/db", "first")?;
        let spec = |labels: Value| json!({"data": [entry("value", "app/db")], "refreshInterval": SELDOM, "metadata": {"labels": labels}});
        bed.external_secret("db", spec(json!({"one": "1", "two": "2"}))).await?;
        bed.holds("db", &[("value", "first")]).await?;
        bed.patch::<Secret>("db", json!({"metadata": {"labels": {"extra": "mine"}}})).await?;
        bed.external_secret("db", spec(json!({"two": "3"}))).await?;
        let expected = crate::harness::pairs(&[("extra", "mine"), ("keyturn.dev/managed", "true"), ("two", "3")]);
        wait::until("the label to be gone", SOON, async || {
            let labels = bed.written("db").await?.metadata.labels.unwrap_or_default();
            ensure!(labels == expected, "{labels:?}");
            Ok(Some(()))
        })
        .await
    })
    .await
}

#[tokio::test]
async fn a_renamed_target_is_written_first_and_the_former_one_goes() -> Result<()> {
    bed("rename", async |bed| {
        bed.secret("app/db", "first")?;
        bed.external_secret("db", targeted(json!({"name": "one"})))
            .await?;
        bed.holds("one", &[("value", "first")]).await?;
        bed.synced("db").await?;
        bed.external_secret("db", targeted(json!({"name": "two"})))
            .await?;
        bed.holds("two", &[("value", "first")]).await?;
        bed.gone("one").await?;
        bed.synced("db").await?;
        // A former target that somebody else has by now is left alone.
        let uid = bed.written("two").await?.metadata.uid;
        bed.delete_secret_and_make_foreign("two").await?;
        bed.external_secret("db", targeted(json!({"name": "three"})))
            .await?;
        bed.holds("three", &[("value", "first")]).await?;
        bed.synced("db").await?;
        bed.rounds(3).await?;
        let left = bed.written("two").await?;
        assert_ne!(left.metadata.uid, uid);
        assert_eq!(data(&left), crate::harness::pairs(&[("theirs", "untouched")]));
        Ok(())
    })
    .await
}

impl Bed {
    /// Replaces a Secret by one of somebody else.
    async fn delete_secret_and_make_foreign(&self, name: &str) -> Result<()> {
        // The operator may make it again in between; somebody wins.
        wait::until("a foreign Secret", SOON, async || {
            let secrets = self.all::<Secret>();
            drop(secrets.delete(name, &kube::api::DeleteParams::default()).await);
            let foreign = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name},
                "stringData": {"theirs": "untouched"}});
            Ok(self.create(foreign).await.is_ok().then_some(()))
        })
        .await
    }
}

#[tokio::test]
async fn a_secret_is_adopted_when_both_sides_agree() -> Result<()> {
    bed("adopt", async |bed| {
        bed.secret("app/db", "first")?;
        let foreign = |name: &str, value: &str, annotations: Value, type_: &str| {
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "annotations": annotations},
                "type": type_, "stringData": {"value": value}})
        };
        let adopt = json!({"adoptExisting": true});
        let spec = |target: &Value| json!({"data": [entry("value", "app/db")], "target": target});
        // One side alone is not enough.
        bed.create(foreign("ours", "theirs", json!({}), "Opaque")).await?;
        bed.external_secret("ours", spec(&adopt)).await?;
        let said = bed.ready("ours", "TargetConflict").await?;
        assert_actionable(&said.message, &["ours", "keyturn.dev/adopt"]);
        bed.create(foreign("theirs", "theirs", json!({"keyturn.dev/adopt": "theirs"}), "Opaque")).await?;
        bed.external_secret("theirs", spec(&json!({}))).await?;
        bed.ready("theirs", "TargetConflict").await?;
        bed.create(foreign("other", "theirs", json!({"keyturn.dev/adopt": "somebody"}), "Opaque")).await?;
        bed.external_secret("other", spec(&adopt)).await?;
        bed.ready("other", "TargetConflict").await?;
        bed.create(foreign("helm", "theirs", json!({"keyturn.dev/adopt": "helm"}), "helm.sh/release.v1")).await?;
        bed.external_secret("helm", spec(&adopt)).await?;
        bed.ready("helm", "TargetConflict").await?;
        for name in ["ours", "theirs", "other", "helm"] {
            bed.holds(name, &[("value", "theirs")]).await?;
        }
        // Both sides.
        bed.create(foreign("equal", "first", json!({"keyturn.dev/adopt": "equal"}), "Opaque")).await?;
        bed.create(foreign("unequal", "old", json!({"keyturn.dev/adopt": "unequal"}), "Opaque")).await?;
        for (name, changed) in [("equal", false), ("unequal", true)] {
            bed.external_secret(name, spec(&adopt)).await?;
            bed.holds(name, &[("value", "first")]).await?;
            bed.synced(name).await?;
            let adopted = bed.written(name).await?;
            assert_eq!(annotation(&adopted, "keyturn.dev/changed-at").is_some(), changed, "{name}");
            assert_eq!(annotation(&adopted, "keyturn.dev/owner"), Some(name));
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_secret_with_a_controller_is_never_adopted() -> Result<()> {
    bed("controlled", async |bed| {
        bed.secret("app/db", "first")?;
        bed.create(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "boss"}})).await?;
        let boss = bed.all::<k8s_openapi::api::core::v1::ConfigMap>().get("boss").await?;
        bed.create(json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "db",
            "annotations": {"keyturn.dev/adopt": "db"}, "ownerReferences": [{"apiVersion": "v1", "kind": "ConfigMap",
            "name": "boss", "uid": boss.metadata.uid, "controller": true}]}, "stringData": {"theirs": "untouched"}}))
            .await?;
        bed.external_secret("db", targeted(json!({"adoptExisting": true}))).await?;
        let said = bed.ready("db", "TargetConflict").await?;
        assert_actionable(&said.message, &["db", "controlled"]);
        assert_eq!(bed.data("db").await?, crate::harness::pairs(&[("theirs", "untouched")]));
        Ok(())
    })
    .await
}

#[tokio::test]
async fn an_immutable_secret_is_made_and_never_changed() -> Result<()> {
    bed("immutable", async |bed| {
        let arn = bed.secret("app/db", "first")?;
        bed.external_secret("db", targeted(json!({"immutable": true})))
            .await?;
        let made = bed.holds("db", &[("value", "first")]).await?;
        assert_eq!(made.immutable, Some(true));
        bed.synced("db").await?;
        bed.aws.put_secret_value(&arn, "second")?;
        let said = bed.ready("db", "TargetImmutable").await?;
        assert_actionable(&said.message, &["db"]);
        bed.holds("db", &[("value", "first")]).await?;
        // The way out that the message names.
        bed.all::<Secret>()
            .delete("db", &kube::api::DeleteParams::default())
            .await?;
        bed.holds("db", &[("value", "second")]).await?;
        bed.synced("db").await
    })
    .await
}

#[tokio::test]
async fn a_refused_version_of_an_immutable_secret_is_not_read_again() -> Result<()> {
    bed("refused", async |bed| {
        let arn = bed.secret("app/db", "first")?;
        bed.store(crate::harness::STORE, json!({"changeDetection": "Describe"}))
            .await?;
        bed.external_secret("db", targeted(json!({"immutable": true})))
            .await?;
        bed.holds("db", &[("value", "first")]).await?;
        bed.aws.put_secret_value(&arn, "second")?;
        bed.ready("db", "TargetImmutable").await?;
        let mark = bed.aws.mark();
        bed.called("three looks", mark, |calls| calls.count("DescribeSecret") >= 3)
            .await?;
        assert_eq!(bed.values_since(mark), 0);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn keys_that_go_from_the_spec_go_from_the_secret() -> Result<()> {
    bed("keys", async |bed| {
        bed.secret("app/db", r#"{"a":"1","b":"2"}"#)?;
        let spec = |data: Value| json!({"data": data, "refreshInterval": SELDOM});
        bed.external_secret(
            "db",
            spec(json!([
                property("a", "app/db", "a"),
                property("b", "app/db", "b")
            ])),
        )
        .await?;
        bed.holds("db", &[("a", "1"), ("b", "2")]).await?;
        bed.external_secret("db", spec(json!([property("b", "app/db", "b")])))
            .await?;
        bed.holds("db", &[("b", "2")]).await?;
        bed.synced("db").await
    })
    .await
}

#[tokio::test]
async fn two_hands_on_one_secret_end_in_what_aws_says() -> Result<()> {
    bed("hands", async |bed| {
        let arn = bed.secret("app/db", "0")?;
        bed.external_secret(
            "db",
            json!({"data": [entry("value", "app/db")], "refreshInterval": OFTEN}),
        )
        .await?;
        bed.holds("db", &[("value", "0")]).await?;
        for n in 1..=20 {
            bed.aws.put_secret_value(&arn, n.to_string())?;
            bed.patch::<Secret>(
                "db",
                json!({"stringData": {"value": "by hand"}, "metadata": {"labels": {"n": n.to_string()}}}),
            )
            .await?;
        }
        bed.holds("db", &[("value", "20")]).await?;
        assert_eq!(
            bed.written("db").await?.metadata.labels.unwrap_or_default()["n"],
            "20"
        );
        Ok(())
    })
    .await
}
