//! What the chart's admission policies refuse, tried as the operator's own user: rights that RBAC cannot narrow.

use anyhow::Result;
use serde_json::json;

use crate::harness::{READER, bed, common};

/// kubectl as the operator's user, with `stdin` in a file.
async fn as_operator(arguments: &[&str]) -> Result<String> {
    let common = common().await?;
    let user = format!("--as={}", common.operator.user());
    common.place.cluster.kubectl(arguments.iter().copied().chain([user.as_str()])).await
}

async fn written(object: &serde_json::Value) -> Result<tempfile::NamedTempFile> {
    let file = tempfile::Builder::new().suffix(".json").tempfile()?;
    std::fs::write(file.path(), object.to_string())?;
    Ok(file)
}

#[tokio::test]
async fn tokens_are_for_listed_audiences_only() -> Result<()> {
    bed("audience", async |bed| {
        let ask = async |audience: &str| {
            as_operator(&["create", "token", READER, "-n", &bed.namespace, &format!("--audience={audience}")]).await
        };
        ask("sts.amazonaws.com").await?;
        for audience in ["https://kubernetes.default.svc", "vault", "sts.amazonaws.com.example.com"] {
            let refused = ask(audience).await.expect_err("a token for any audience");
            assert!(format!("{refused:#}").contains("audience"), "{refused:#}");
        }
        // Without an audience the token would be one for the API server itself.
        as_operator(&["create", "token", READER, "-n", &bed.namespace]).await.expect_err("a token for the API server");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn secrets_are_written_with_our_label_only() -> Result<()> {
    bed("label", async |bed| {
        let secret = |name: &str, labels: serde_json::Value, type_: &str| {
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "labels": labels}, "type": type_,
                "stringData": {"a": "b"}})
        };
        let ours = json!({"keyturn.dev/managed": "true"});
        let create = async |namespace: &str, object: serde_json::Value| {
            let file = written(&object).await?;
            let path = file.path().to_string_lossy().into_owned();
            as_operator(&["create", "--dry-run=server", "-n", namespace, "-f", &path]).await
        };
        create(&bed.namespace, secret("labelled", ours.clone(), "Opaque")).await?;
        for (what, object) in [
            ("no label", secret("bare", json!({}), "Opaque")),
            ("another value", secret("no", json!({"keyturn.dev/managed": "no"}), "Opaque")),
            ("a release of helm", secret("helm", ours.clone(), "helm.sh/release.v1")),
            ("a bootstrap token", secret("boot", ours.clone(), "bootstrap.kubernetes.io/token")),
        ] {
            let refused = create(&bed.namespace, object).await.err();
            assert!(refused.is_some(), "{what} was accepted");
        }
        let refused = create("kube-system", secret("labelled", ours.clone(), "Opaque")).await;
        assert!(refused.is_err(), "kube-system was written");
        let own = common().await?.operator.namespace().to_owned();
        let refused = create(&own, secret("labelled", ours, "Opaque")).await;
        assert!(refused.is_err(), "the operator's own namespace was written");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn somebody_elses_secret_can_be_neither_changed_nor_deleted() -> Result<()> {
    bed("theirs", async |bed| {
        bed.create(json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "theirs"}, "stringData": {"a": "b"}})).await?;
        let delete = as_operator(&["delete", "secret", "theirs", "-n", &bed.namespace, "--dry-run=server"]).await;
        assert!(delete.is_err(), "a Secret without our label was deleted");
        let patch = r#"{"data":{"a":"eA=="}}"#;
        let patched =
            as_operator(&["patch", "secret", "theirs", "-n", &bed.namespace, "--type=merge", "-p", patch, "--dry-run=server"]).await;
        assert!(patched.is_err(), "a Secret without our label was changed");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn the_operator_may_do_what_it_needs_and_no_more() -> Result<()> {
    let may = async |verb: &str, resource: &str| {
        let answer = as_operator(&["auth", "can-i", verb, resource, "-n", "default"]).await;
        answer.is_ok_and(|answer| answer.trim().starts_with("yes"))
    };
    for (verb, resource) in [
        ("list", "externalsecrets.keyturn.dev"),
        ("patch", "externalsecrets.keyturn.dev/status"),
        ("create", "secrets"),
        ("patch", "secrets"),
        ("create", "serviceaccounts/token"),
    ] {
        assert!(may(verb, resource).await, "may not {verb} {resource}");
    }
    for (verb, resource) in [
        ("create", "pods"),
        ("get", "pods/exec"),
        ("create", "clusterrolebindings"),
        ("escalate", "clusterroles"),
        ("impersonate", "users"),
        ("update", "serviceaccounts"),
        ("delete", "externalsecrets.keyturn.dev"),
        ("patch", "secretstores.keyturn.dev"),
        ("patch", "nodes"),
        ("*", "*"),
    ] {
        assert!(!may(verb, resource).await, "may {verb} {resource}");
    }
    Ok(())
}

#[tokio::test]
async fn protected_namespaces_are_refused_with_a_sentence() -> Result<()> {
    bed("protected", async |bed| {
        let object = crate::harness::external_secret("keyturn-test-protected", json!({"data": [crate::harness::entry("v", "app/db")]}));
        let file = written(&object).await?;
        let path = file.path().to_string_lossy().into_owned();
        bed.cluster.kubectl(["create", "-n", "kube-system", "-f", &path]).await?;
        let told = bed
            .cluster
            .kubectl([
                "wait", "-n", "kube-system", "--for=jsonpath={.status.conditions[?(@.type==\"Ready\")].status}=False",
                "externalsecret.keyturn.dev/keyturn-test-protected", "--timeout=60s",
            ])
            .await;
        bed.cluster.kubectl(["delete", "-n", "kube-system", "-f", &path]).await?;
        told.map(drop)
    })
    .await
}
