//! What the chart's admission policies refuse, tried as the operator's own user: rights that RBAC cannot narrow.

use anyhow::Result;
use serde_json::json;

use crate::harness::{READER, bed, common};

/// kubectl as the operator's user, with `stdin` in a file.
async fn as_operator(arguments: &[&str]) -> Result<String> {
    let common = common().await?;
    let user = format!("--as={}", common.operator.user());
    common
        .place
        .cluster
        .kubectl(arguments.iter().copied().chain([user.as_str()]))
        .await
}

/// Waits until `attempt` is refused: a policy is in force a moment after it was made.
async fn refused(what: &str, attempt: impl AsyncFn() -> Result<String>) -> Result<()> {
    testbed::wait::until(
        &format!("{what} to be refused"),
        crate::harness::SOON,
        async || match attempt().await {
            Ok(_) => Ok(None),
            Err(error) if format!("{error:#}").contains("denied request") => Ok(Some(())),
            Err(error) => Err(error),
        },
    )
    .await
}

fn written(object: &serde_json::Value) -> Result<tempfile::NamedTempFile> {
    let file = tempfile::Builder::new().suffix(".json").tempfile()?;
    std::fs::write(file.path(), object.to_string())?;
    Ok(file)
}

#[tokio::test]
async fn tokens_are_for_listed_audiences_and_ten_minutes_only() -> Result<()> {
    bed("audience", async |bed| {
        let request = async |audience: &str, duration: &str| {
            as_operator(&[
                "create",
                "token",
                READER,
                "-n",
                &bed.namespace,
                &format!("--audience={audience}"),
                &format!("--duration={duration}"),
            ])
            .await
        };
        let ask = async |audience: &str| request(audience, "10m").await;
        ask("sts.amazonaws.com").await?;
        for longer in ["601s", "24h"] {
            refused(longer, async || request("sts.amazonaws.com", longer).await).await?;
        }
        for audience in [
            "https://kubernetes.default.svc",
            "vault",
            "sts.amazonaws.com.example.com",
        ] {
            refused(audience, async || ask(audience).await).await?;
        }
        refused("a protected namespace", async || {
            as_operator(&[
                "create",
                "token",
                "default",
                "-n",
                "kube-system",
                "--audience=sts.amazonaws.com",
                "--duration=10m",
            ])
            .await
        })
        .await?;
        // Without an audience the token would be one for the API server itself.
        refused("no audience", async || {
            as_operator(&["create", "token", READER, "-n", &bed.namespace]).await
        })
        .await
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
            let file = written(&object)?;
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
            refused(what, async || create(&bed.namespace, object.clone()).await).await?;
        }
        refused("kube-system", async || create("kube-system", secret("labelled", ours.clone(), "Opaque")).await).await?;
        let own = common().await?.operator.namespace().to_owned();
        refused("the operator's own", async || create(&own, secret("labelled", ours.clone(), "Opaque")).await).await?;
        // The API server would fill it with a token of that ServiceAccount, which never expires.
        let mut token = secret("keyturn-token-key", json!({}), "kubernetes.io/service-account-token");
        token["metadata"]["annotations"] = json!({"kubernetes.io/service-account.name": "keyturn"});
        refused("a token in place of the key", async || create(&own, token.clone()).await).await
    })
    .await
}

#[tokio::test]
async fn somebody_elses_secret_can_be_neither_changed_nor_deleted() -> Result<()> {
    bed("theirs", async |bed| {
        bed.create(json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "theirs"}, "stringData": {"a": "b"}})).await?;
        let patch = r#"{"data":{"a":"eA=="}}"#;
        refused("a patch", async || {
            as_operator(&["patch", "secret", "theirs", "-n", &bed.namespace, "--type=merge", "-p", patch, "--dry-run=server"]).await
        })
        .await?;
        refused("a deletion", async || {
            as_operator(&["delete", "secret", "theirs", "-n", &bed.namespace, "--dry-run=server"]).await
        })
        .await
    })
    .await
}

#[tokio::test]
async fn the_operator_may_do_what_it_needs_and_no_more() -> Result<()> {
    let may = async |verb: &str, resource: &str| {
        let (resource, part) = resource.split_once('/').unwrap_or((resource, ""));
        let part = format!("--subresource={part}");
        let answer = as_operator(&["auth", "can-i", verb, resource, &part, "-n", "default"]).await;
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
        let object = crate::harness::external_secret(
            "keyturn-test-protected",
            json!({"data": [crate::harness::entry("v", "app/db")]}),
        );
        let file = written(&object)?;
        let path = file.path().to_string_lossy().into_owned();
        bed.cluster
            .kubectl(["create", "-n", "kube-system", "-f", &path])
            .await?;
        let told = bed
            .cluster
            .kubectl([
                "wait",
                "-n",
                "kube-system",
                "--for=jsonpath={.status.conditions[?(@.type==\"Ready\")].status}=False",
                "externalsecret.keyturn.dev/keyturn-test-protected",
                "--timeout=60s",
            ])
            .await;
        bed.cluster
            .kubectl(["delete", "-n", "kube-system", "-f", &path])
            .await?;
        told.map(drop)
    })
    .await
}
