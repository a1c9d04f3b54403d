//! What a person must mend is said in a condition that says how; meanwhile the last good Secret stays as it is.

use anyhow::Result;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde_json::{Value, json};
use testbed::{
    aws::{KmsKey, documents},
    wait,
};

use crate::harness::{
    Bed, OFTEN, READER, READS, REGION, SOON, STORE, assert_actionable, bed, entry, external_secret, property,
};

/// The secret of these tests.
const KEY: &str = "app/db";
const GOOD: &str = r#"{"user":"app","password":"first"}"#;
const NEXT: &str = r#"{"user":"app","password":"second"}"#;

/// Sees an ExternalSecret good, then broken with one of `reasons`, then mended by what the returned ARN's holder does.
async fn broken(bed: &Bed, reasons: &[&str], named: &[&str]) -> Result<Condition> {
    let before = bed.written("db").await?;
    let said = bed.condition("db", "Ready", reasons).await?;
    assert_eq!(said.status, "False");
    assert_actionable(&said.message, named);
    let after = bed.written("db").await?;
    assert_eq!(
        after.metadata.uid, before.metadata.uid,
        "the Secret was made again"
    );
    assert_eq!(
        after.metadata.resource_version, before.metadata.resource_version,
        "the Secret was written"
    );
    Ok(said)
}

/// An ExternalSecret `db` of `spec` that holds `password`.
async fn good(bed: &Bed, spec: Value) -> Result<()> {
    bed.external_secret("db", spec).await?;
    bed.holds("db", &[("password", "first")]).await?;
    bed.synced("db").await
}

/// After the mend, and only by it, a new value arrives.
async fn mended(bed: &Bed, arn: &str) -> Result<()> {
    bed.aws.put_secret_value(arn, NEXT)?;
    bed.holds("db", &[("password", "second")]).await?;
    bed.synced("db").await
}

fn password() -> Value {
    json!({"data": [property("password", KEY, "password")]})
}

#[tokio::test]
async fn a_missing_secret_keeps_the_last_good_secret() -> Result<()> {
    bed("missing", async |bed| {
        let arn = bed.secret(KEY, GOOD)?;
        good(bed, password()).await?;
        bed.aws.force_delete_secret(&arn)?;
        broken(bed, &["SecretNotFound"], &[KEY, "ResourceNotFoundException"]).await?;
        let arn = bed.secret(KEY, GOOD)?;
        mended(bed, &arn).await
    })
    .await
}

#[tokio::test]
async fn a_secret_that_never_was_is_named() -> Result<()> {
    bed("never", async |bed| {
        bed.plain("db", "app/nobody").await?;
        let said = bed.ready("db", "SecretNotFound").await?;
        assert_actionable(&said.message, &["app/nobody", "ResourceNotFoundException"]);
        assert!(bed.find("db").await?.is_none(), "a Secret without values");
        bed.secret("app/nobody", "here")?;
        bed.holds("db", &[("value", "here")]).await?;
        bed.synced("db").await
    })
    .await
}

#[tokio::test]
async fn a_missing_stage_keeps_the_last_good_secret() -> Result<()> {
    bed("stage", async |bed| {
        let arn = bed.secret(KEY, GOOD)?;
        let version = bed.aws.stages(&arn)?["AWSCURRENT"].clone();
        bed.aws.move_stage(&arn, "BLUE", &version)?;
        let reference = json!({"key": KEY, "property": "password", "version": "BLUE"});
        good(
            bed,
            json!({"data": [{"secretKey": "password", "remoteRef": reference}]}),
        )
        .await?;
        bed.aws.remove_stage(&arn, "BLUE")?;
        broken(bed, &["StageNotFound"], &[KEY, "BLUE"]).await?;
        bed.aws
            .put_secret_version(&arn, "00000000-0000-4000-8000-000000000002", NEXT, &["BLUE"])?;
        bed.holds("db", &[("password", "second")]).await?;
        bed.synced("db").await
    })
    .await
}

#[tokio::test]
async fn a_version_that_never_was_is_named() -> Result<()> {
    bed("version", async |bed| {
        bed.secret(KEY, GOOD)?;
        let reference = json!({"key": KEY, "version": "uuid/00000000-0000-4000-8000-000000000009"});
        bed.external_secret(
            "db",
            json!({"data": [{"secretKey": "password", "remoteRef": reference}]}),
        )
        .await?;
        let said = bed.ready("db", "StageNotFound").await?;
        // The version's id is the user's own word, so it may stand in the message.
        assert!(said.message.contains(KEY), "{}", said.message);
        assert!(bed.find("db").await?.is_none());
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_missing_property_keeps_the_last_good_secret() -> Result<()> {
    bed("property", async |bed| {
        let arn = bed.secret(KEY, GOOD)?;
        good(bed, password()).await?;
        bed.aws
            .put_secret_value(&arn, r#"{"user":"app","passwort":"typo"}"#)?;
        let said = broken(bed, &["PropertyNotFound"], &[KEY, "password", "data[0]"]).await?;
        assert!(
            !said.message.contains("passwort"),
            "a member's name leaks: {}",
            said.message
        );
        mended(bed, &arn).await
    })
    .await
}

#[tokio::test]
async fn a_value_that_is_not_json_keeps_the_last_good_secret() -> Result<()> {
    bed("notjson", async |bed| {
        let arn = bed.secret(KEY, GOOD)?;
        good(bed, password()).await?;
        bed.aws.put_secret_value(&arn, "hunter2 {")?;
        let said = broken(bed, &["InvalidValue"], &[KEY, "JSON"]).await?;
        assert!(!said.message.contains("hunter2"), "{}", said.message);
        mended(bed, &arn).await
    })
    .await
}

#[tokio::test]
async fn an_extract_of_nothing_keeps_the_last_good_secret() -> Result<()> {
    bed("nothing", async |bed| {
        let arn = bed.secret(KEY, r#"{"password":"first"}"#)?;
        good(
            bed,
            json!({"dataFrom": [{"extract": {"key": KEY}}], "target": {"deletionPolicy": "Delete"}}),
        )
        .await?;
        bed.aws.put_secret_value(&arn, "{}")?;
        broken(bed, &["NothingFound"], &[KEY]).await?;
        bed.aws.put_secret_value(&arn, r#"{"password":"second"}"#)?;
        bed.holds("db", &[("password", "second")]).await?;
        bed.synced("db").await
    })
    .await
}

#[tokio::test]
async fn a_secret_marked_for_deletion_keeps_the_last_good_secret() -> Result<()> {
    bed("marked", async |bed| {
        let arn = bed.secret(KEY, GOOD)?;
        good(bed, password()).await?;
        bed.aws.delete_secret(&arn)?;
        broken(bed, &["MarkedForDeletion"], &[KEY, "InvalidRequestException"]).await?;
        bed.aws.restore_secret(&arn)?;
        mended(bed, &arn).await
    })
    .await
}

#[tokio::test]
async fn a_denial_by_iam_keeps_the_last_good_secret() -> Result<()> {
    bed("iam", async |bed| {
        let arn = bed.secret(KEY, GOOD)?;
        good(bed, password()).await?;
        bed.permit(&[&documents::allow(
            &READS,
            &["arn:aws:secretsmanager:*:*:secret:other/*"],
        )])?;
        broken(bed, &["AccessDenied"], &[KEY, "AccessDeniedException"]).await?;
        bed.permit(&[&documents::allow(&READS, &["*"])])?;
        mended(bed, &arn).await
    })
    .await
}

#[tokio::test]
async fn a_denial_by_kms_keeps_the_last_good_secret() -> Result<()> {
    bed("kms", async |bed| {
        let arn = bed.secret(KEY, GOOD)?;
        for (state, code) in [
            (KmsKey::Denied, "AccessDeniedException"),
            (KmsKey::Disabled, "DecryptionFailure"),
        ] {
            bed.aws.put_secret_value(&arn, GOOD)?;
            good(bed, password()).await?;
            bed.aws.set_kms_state(&arn, state)?;
            broken(bed, &["KeyAccessDenied"], &[KEY, "KMS", code]).await?;
            bed.aws.set_kms_state(&arn, KmsKey::Enabled)?;
            mended(bed, &arn).await?;
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_role_that_is_gone_keeps_the_last_good_secret() -> Result<()> {
    bed("role", async |bed| {
        let arn = bed.secret(KEY, GOOD)?;
        good(bed, password()).await?;
        bed.annotate_service_account(READER, Some(&bed.role_arn("nobody")))
            .await?;
        bed.end_session().await?;
        broken(
            bed,
            &["IdentityError", "StoreNotReady"],
            &["AccessDenied", "nobody"],
        )
        .await?;
        bed.annotate_service_account(READER, Some(&bed.role_arn(READER)))
            .await?;
        mended(bed, &arn).await
    })
    .await
}

#[tokio::test]
async fn a_trust_policy_that_refuses_keeps_the_last_good_secret() -> Result<()> {
    bed("trust", async |bed| {
        let arn = bed.secret(KEY, GOOD)?;
        good(bed, password()).await?;
        let rights = documents::allow(&READS, &["*"]);
        bed.role_for(READER, "system:serviceaccount:elsewhere:reader", &[&rights])?;
        bed.end_session().await?;
        broken(
            bed,
            &["IdentityError", "StoreNotReady"],
            &["AccessDenied", &bed.role_arn(READER)],
        )
        .await?;
        bed.role(READER, &[&rights])?;
        mended(bed, &arn).await
    })
    .await
}

#[tokio::test]
async fn a_service_account_without_a_role_keeps_the_last_good_secret() -> Result<()> {
    bed("annotation", async |bed| {
        let arn = bed.secret(KEY, GOOD)?;
        good(bed, password()).await?;
        bed.annotate_service_account(READER, None).await?;
        bed.end_session().await?;
        broken(
            bed,
            &["IdentityError", "StoreNotReady"],
            &[READER, "eks.amazonaws.com/role-arn"],
        )
        .await?;
        bed.annotate_service_account(READER, Some(&bed.role_arn(READER)))
            .await?;
        mended(bed, &arn).await
    })
    .await
}

#[tokio::test]
async fn an_identity_that_cannot_be_had_is_the_stores_trouble() -> Result<()> {
    bed("identity", async |bed| {
        bed.secret(KEY, GOOD)?;
        bed.role_for("refusing", "system:serviceaccount:elsewhere:refusing", &[])?;
        bed.service_account("refusing", Some(&bed.role_arn("refusing")))
            .await?;
        bed.service_account("unknown", Some(&bed.role_arn("unknown")))
            .await?;
        bed.service_account("bare", None).await?;
        for (account, named) in [
            ("refusing", "AccessDenied"),
            ("unknown", "AccessDenied"),
            ("bare", "eks.amazonaws.com/role-arn"),
            ("absent", "absent"),
        ] {
            bed.store(
                account,
                json!({"auth": {"jwt": {"serviceAccountRef": {"name": account}}}}),
            )
            .await?;
            let store = bed.store_ready(account, &["IdentityError"]).await?;
            assert_actionable(&store.message, &[named]);
            let spec = json!({"data": [entry("value", KEY)], "secretStoreRef": {"name": account}});
            bed.external_secret(account, spec).await?;
            let said = bed.ready(account, "StoreNotReady").await?;
            assert_actionable(&said.message, &[&format!("SecretStore {account}")]);
            assert!(bed.find(account).await?.is_none());
        }
        assert!(
            bed.calls().values_read().is_empty(),
            "a value was read without an identity"
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_missing_store_keeps_the_last_good_secret() -> Result<()> {
    bed("storeless", async |bed| {
        let arn = bed.secret(KEY, GOOD)?;
        good(bed, password()).await?;
        bed.delete::<keyturn::api::SecretStore>(STORE).await?;
        broken(bed, &["StoreNotFound"], &[&format!("SecretStore {STORE}")]).await?;
        bed.store(STORE, json!({})).await?;
        mended(bed, &arn).await
    })
    .await
}

#[tokio::test]
async fn a_store_that_is_not_ready_keeps_the_last_good_secret() -> Result<()> {
    bed("notready", async |bed| {
        let arn = bed.secret(KEY, GOOD)?;
        good(bed, password()).await?;
        let foreign =
            json!({"auth": {"jwt": {"serviceAccountRef": {"name": READER, "namespace": "kube-system"}}}});
        bed.store(STORE, foreign).await?;
        let store = bed.store_ready(STORE, &["InvalidSpec"]).await?;
        assert_actionable(&store.message, &["auth.jwt.serviceAccountRef.namespace"]);
        broken(bed, &["StoreNotReady"], &[&format!("SecretStore {STORE}")]).await?;
        bed.store(STORE, json!({})).await?;
        mended(bed, &arn).await
    })
    .await
}

#[tokio::test]
async fn a_namespace_that_is_no_longer_admitted_keeps_the_last_good_secret() -> Result<()> {
    bed("admitted", async |bed| {
        let arn = bed.secret(KEY, GOOD)?;
        let store = bed.cluster_store(json!({})).await?;
        let reference = json!({"kind": "ClusterSecretStore", "name": store});
        good(
            bed,
            json!({"data": [property("password", KEY, "password")], "secretStoreRef": reference}),
        )
        .await?;
        bed.cluster_store(json!({"conditions": [{"namespaceRegexes": ["nobody"]}]}))
            .await?;
        broken(bed, &["NamespaceNotAllowed"], &[&store, &bed.namespace]).await?;
        bed.cluster_store(json!({"conditions": [{"namespaceSelector": {"matchLabels":
            {"kubernetes.io/metadata.name": bed.namespace}}}]}))
            .await?;
        mended(bed, &arn).await
    })
    .await
}

#[tokio::test]
async fn a_key_that_is_no_longer_allowed_keeps_the_last_good_secret() -> Result<()> {
    bed("narrowed", async |bed| {
        let arn = bed.secret(KEY, GOOD)?;
        good(bed, password()).await?;
        bed.store(STORE, json!({"allowedKeys": ["other/**"]})).await?;
        let said = broken(bed, &["KeyNotAllowed"], &[KEY, STORE]).await?;
        assert!(
            !said.message.contains("other/"),
            "patterns are the administrator's: {}",
            said.message
        );
        bed.store(STORE, json!({"allowedKeys": ["other/**", "app/*"]}))
            .await?;
        mended(bed, &arn).await
    })
    .await
}

#[tokio::test]
async fn a_key_that_is_not_allowed_is_never_asked_for() -> Result<()> {
    bed("allowed", async |bed| {
        let namespace = &bed.namespace;
        let mine = format!("team/{namespace}/db");
        let my_arn = bed.secret(&mine, "mine")?;
        let other_arn = bed.secret("team/other/db", "other")?;
        let partial = |arn: &str| arn.rsplit_once('-').map(|(name, _)| name.to_owned()).unwrap();
        let elsewhere = bed
            .aws
            .create_secret("999999999999", REGION, &mine, "of another account")?;
        let other_region = bed
            .aws
            .create_secret(&bed.account, "us-east-1", &mine, "of another region")?;
        bed.store(STORE, json!({"allowedKeys": ["team/{namespace}/**"]}))
            .await?;
        let mark = bed.aws.mark();
        let refused = [
            ("name", "team/other/db".to_owned()),
            ("arn", other_arn.clone()),
            ("partial", partial(&other_arn)),
            ("account", elsewhere.clone()),
            ("account-partial", partial(&elsewhere)),
            ("region", other_region),
            ("dots", format!("team/{namespace}/../other/db")),
            ("case", mine.to_uppercase()),
        ];
        for (name, key) in &refused {
            // `..` is nothing to AWS: the name is simply another one, which the pattern covers.
            if *name != "dots" {
                bed.plain(name, key).await?;
            }
        }
        for (name, key) in &refused {
            if *name != "dots" {
                let said = bed.ready(name, "KeyNotAllowed").await?;
                assert_actionable(&said.message, &[key, STORE]);
                assert!(bed.find(name).await?.is_none(), "{name}");
            }
        }
        let calls = bed.calls_since(mark);
        let about: Vec<_> = calls
            .0
            .iter()
            .filter(|call| call.operation.contains("Secret"))
            .collect();
        assert!(
            about.is_empty(),
            "AWS was asked for what is not allowed: {about:?}"
        );
        for (name, key) in [
            ("own-name", &mine),
            ("own-arn", &my_arn),
            ("own-partial", &partial(&my_arn)),
        ] {
            bed.plain(name, key).await?;
            bed.holds(name, &[("value", "mine")]).await?;
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_target_of_another_external_secret_is_left_to_it() -> Result<()> {
    bed("owned", async |bed| {
        bed.secret("app/one", "one")?;
        bed.secret("app/two", "two")?;
        bed.external_secret(
            "one",
            json!({"data": [entry("value", "app/one")], "target": {"name": "shared"}}),
        )
        .await?;
        bed.holds("shared", &[("value", "one")]).await?;
        bed.external_secret(
            "two",
            json!({"data": [entry("value", "app/two")], "target": {"name": "shared"}}),
        )
        .await?;
        let said = bed.ready("two", "TargetConflict").await?;
        assert_actionable(&said.message, &["shared", "one"]);
        bed.event("two", "TargetConflict").await?;
        bed.rounds(3).await?;
        bed.holds("shared", &[("value", "one")]).await?;
        bed.synced("one").await?;
        // The way out that the message names.
        bed.external_secret(
            "two",
            json!({"data": [entry("value", "app/two")], "target": {"name": "own"}}),
        )
        .await?;
        bed.holds("own", &[("value", "two")]).await?;
        bed.synced("two").await
    })
    .await
}

#[tokio::test]
async fn a_foreign_target_is_never_touched() -> Result<()> {
    bed("foreign", async |bed| {
        bed.secret(KEY, GOOD)?;
        bed.create(
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "db"},
            "stringData": {"theirs": "untouched"}}),
        )
        .await?;
        let before = bed.written("db").await?;
        bed.external_secret("db", password()).await?;
        let said = bed.ready("db", "TargetConflict").await?;
        assert_actionable(&said.message, &["db", "adopt"]);
        bed.rounds(3).await?;
        assert_eq!(bed.written("db").await?, before);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn values_that_are_too_large_keep_the_last_good_secret() -> Result<()> {
    bed("large", async |bed| {
        // 17 values of 64 KiB, AWS's limit, are more than the 1 MiB of a Secret.
        let arns: Vec<_> = (0..17)
            .map(|n| bed.secret(&format!("large/{n}"), "small"))
            .collect::<Result<_>>()?;
        let data: Vec<_> = (0..17)
            .map(|n| entry(&format!("k{n}"), &format!("large/{n}")))
            .collect();
        bed.external_secret("db", json!({"data": data})).await?;
        bed.synced("db").await?;
        let before = bed.written("db").await?;
        let large = "x".repeat(65_536);
        for arn in &arns {
            bed.aws.put_secret_value(arn, large.as_str())?;
        }
        let said = bed.ready("db", "TooLarge").await?;
        assert_actionable(&said.message, &["1048576"]);
        let now = bed.written("db").await?;
        assert_eq!(now.metadata.uid, before.metadata.uid);
        assert!(!now.data.unwrap_or_default().is_empty(), "emptied");
        for arn in &arns {
            bed.aws.put_secret_value(arn, "small again")?;
        }
        bed.synced("db").await?;
        wait::until("all values to be small again", SOON, async || {
            Ok(bed
                .data("db")
                .await?
                .values()
                .all(|value| value == "small again")
                .then_some(()))
        })
        .await
    })
    .await
}

#[tokio::test]
async fn a_write_that_kubernetes_forbids_keeps_the_last_good_secret() -> Result<()> {
    bed("forbidden", async |bed| {
        let arn = bed.secret(KEY, GOOD)?;
        good(bed, password()).await?;
        let name = format!("{}-freeze", bed.namespace);
        let frozen = format!("namespaceObject.metadata.name == '{}'", bed.namespace);
        bed.apply(json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
            "metadata": {"name": name}, "spec": {"failurePolicy": "Fail",
            "matchConstraints": {"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"],
                "operations": ["CREATE", "UPDATE"], "resources": ["secrets"]}]},
            "matchConditions": [{"name": "here", "expression": format!("request.namespace == '{}'", bed.namespace)}],
            "validations": [{"expression": format!("!({frozen})"), "message": "a freeze", "reason": "Forbidden"}]}}))
            .await?;
        bed.apply(json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding",
            "metadata": {"name": name}, "spec": {"policyName": name, "validationActions": ["Deny"]}}))
            .await?;
        wait::until("the policy to be in force", SOON, async || {
            let dry = ["create", "secret", "generic", "probe", "--dry-run=server", "-n", &bed.namespace];
            Ok(bed.cluster.kubectl(dry).await.is_err().then_some(()))
        })
        .await?;
        bed.aws.put_secret_value(&arn, NEXT)?;
        let said = broken(bed, &["Forbidden"], &["db"]).await?;
        assert!(said.message.contains("403") || said.message.to_lowercase().contains("forb"), "{}", said.message);
        for kind in ["validatingadmissionpolicybinding", "validatingadmissionpolicy"] {
            bed.cluster.kubectl(["delete", kind, &name]).await?;
        }
        bed.holds("db", &[("password", "second")]).await?;
        bed.synced("db").await
    })
    .await
}

#[tokio::test]
async fn a_spec_that_cannot_be_followed_names_its_field() -> Result<()> {
    bed("invalid", async |bed| {
        let arn = bed.secret(KEY, GOOD)?;
        good(bed, password()).await?;
        bed.external_secret("db", json!({"data": [property("password", KEY, "#.password")]}))
            .await?;
        broken(bed, &["InvalidSpec"], &["spec.data[0].remoteRef.property"]).await?;
        bed.external_secret("db", password()).await?;
        mended(bed, &arn).await
    })
    .await
}

#[tokio::test]
async fn one_bad_entry_keeps_the_whole_secret() -> Result<()> {
    bed("entries", async |bed| {
        let arn = bed.secret(KEY, GOOD)?;
        let data = |more: Value| json!({"data": [property("password", KEY, "password"), more]});
        bed.external_secret("db", json!({"data": [property("password", KEY, "password")]}))
            .await?;
        bed.holds("db", &[("password", "first")]).await?;
        bed.external_secret("db", data(entry("other", "app/absent")))
            .await?;
        let said = bed.ready("db", "SecretNotFound").await?;
        assert_actionable(&said.message, &["app/absent"]);
        bed.aws.put_secret_value(&arn, NEXT)?;
        bed.rounds(3).await?;
        bed.holds("db", &[("password", "first")]).await?;
        bed.secret("app/absent", "found")?;
        bed.holds("db", &[("other", "found"), ("password", "second")])
            .await?;
        bed.synced("db").await
    })
    .await
}

#[tokio::test]
async fn one_bad_object_harms_no_other() -> Result<()> {
    bed("bad", async |bed| {
        let arn = bed.secret("app/good", "first")?;
        let marked = bed.secret("app/marked", "x")?;
        bed.aws.delete_secret(&marked)?;
        bed.secret("app/text", "no json")?;
        bed.plain("good", "app/good").await?;
        bed.plain("absent", "app/absent").await?;
        bed.plain("marked", "app/marked").await?;
        bed.external_secret("text", json!({"data": [property("v", "app/text", "a.b")]}))
            .await?;
        bed.external_secret(
            "storeless",
            json!({"data": [entry("v", "app/good")], "secretStoreRef": {"name": "no"}}),
        )
        .await?;
        for (name, reason) in [
            ("absent", "SecretNotFound"),
            ("marked", "MarkedForDeletion"),
            ("text", "InvalidValue"),
            ("storeless", "StoreNotFound"),
        ] {
            bed.ready(name, reason).await?;
        }
        bed.holds("good", &[("value", "first")]).await?;
        bed.aws.put_secret_value(&arn, "second")?;
        bed.holds("good", &[("value", "second")]).await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn fields_that_come_later_are_refused_with_a_sentence() -> Result<()> {
    bed("later", async |bed| {
        for (field, spec) in [
            ("template", json!({"data": [entry("v", KEY)], "target": {"template": {"type": "Opaque"}}})),
            ("find", json!({"dataFrom": [{"find": {"name": {"regexp": ".*"}}}]})),
            ("sourceRef", json!({"data": [{"secretKey": "v", "remoteRef": {"key": KEY}, "sourceRef": {"storeRef": {"name": "x"}}}]})),
            ("creationPolicy", json!({"data": [entry("v", KEY)], "target": {"creationPolicy": "Merge"}})),
        ] {
            let refused = bed.create(external_secret("later", spec)).await.unwrap_err();
            let text = format!("{refused:#}");
            assert!(text.contains(field) && text.contains("this version"), "{field}: {text}");
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn an_interval_that_is_nothing_is_refused() -> Result<()> {
    bed("interval", async |bed| {
        for interval in ["soon", "-1m", "1"] {
            let spec = json!({"data": [entry("v", KEY)], "refreshInterval": interval});
            assert!(
                bed.create(external_secret("interval", spec)).await.is_err(),
                "{interval}"
            );
        }
        let spec = json!({"data": [entry("v", KEY)], "refreshInterval": OFTEN});
        bed.create(external_secret("interval", spec)).await
    })
    .await
}
