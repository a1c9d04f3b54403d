//! No value leaves: not in a log at any level, an event, a status, a metric, an annotation, an error.

use anyhow::{Result, ensure};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use k8s_openapi::api::{
    core::v1::{Pod, Secret},
    events::v1::Event,
};
use keyturn::api::{ExternalSecret, SecretStore};
use kube::api::ListParams;
use serde_json::json;
use testbed::aws::{Fault, SecretValue};

use crate::{
    harness::{API_SERVER, entry, property, quarried},
    operator::Operator,
    rolling::web,
};

/// Found nowhere else.
const CANARY: &str = "kanarienvogel-4b1d7c";

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "one story, in order")]
async fn no_value_leaves_the_operator() -> Result<()> {
    let _api_server = API_SERVER.read().await;
    quarried("canary", &["--log=trace"], async |bed, operator| {
        // In values, in the names of members, in text that is no JSON, in bytes.
        let object =
            json!({CANARY: CANARY, "username": CANARY, "password": CANARY, "nested": {CANARY: CANARY}})
                .to_string();
        let whole = bed.secret("app/json", &object)?;
        let text = bed.secret("app/text", CANARY)?;
        let broken = bed.secret("app/broken", &format!("{{\"{CANARY}\": {CANARY}"))?;
        bed.aws.create_secret(
            &bed.account,
            "eu-central-1",
            "app/bytes",
            SecretValue::Binary([CANARY.as_bytes(), &[0, 255, 254]].concat()),
        )?;
        let denied = bed.secret("app/denied", CANARY)?;
        bed.aws.set_kms_state(&denied, testbed::aws::KmsKey::Denied)?;
        bed.aws.set_description(&whole, CANARY)?;

        let extract =
            json!({"dataFrom": [{"extract": {"key": "app/json"}}], "restart": {"mode": "Automatic"}});
        bed.external_secret("extract", extract).await?;
        bed.run_workloads([web("web", "extract")]).await?;
        bed.external_secret("bytes", json!({"data": [entry("value", "app/bytes")]}))
            .await?;
        bed.external_secret(
            "property",
            json!({"data": [property("p", "app/json", "password")]}),
        )
        .await?;
        bed.external_secret(
            "none",
            json!({"data": [entry("value", "app/text")], "target": {"creationPolicy": "None"}}),
        )
        .await?;
        bed.external_secret(
            "immutable",
            json!({"data": [entry("value", "app/text")], "target": {"immutable": true}}),
        )
        .await?;
        for name in ["extract", "bytes", "property", "none", "immutable"] {
            bed.synced(name).await?;
        }
        bed.external_secret(
            "absent",
            json!({"data": [property("p", "app/json", "nothing.here")]}),
        )
        .await?;
        bed.ready("absent", "PropertyNotFound").await?;
        bed.external_secret("text", json!({"data": [property("p", "app/text", "password")]}))
            .await?;
        bed.external_secret("notext", json!({"dataFrom": [{"extract": {"key": "app/text"}}]}))
            .await?;
        bed.external_secret(
            "broken",
            json!({"dataFrom": [{"extract": {"key": "app/broken"}}]}),
        )
        .await?;
        bed.external_secret("binary", json!({"dataFrom": [{"extract": {"key": "app/bytes"}}]}))
            .await?;
        for name in ["text", "notext", "broken", "binary"] {
            bed.ready(name, "InvalidValue").await?;
        }
        bed.external_secret("denied", json!({"data": [entry("value", "app/denied")]}))
            .await?;
        bed.ready("denied", "KeyAccessDenied").await?;

        // A key that Kubernetes accepts only after its letters were replaced, twice the same: an error about names.
        let clash = json!({format!("{CANARY} one"): "1", format!("{CANARY}_one"): "2"}).to_string();
        bed.secret("app/clash", &clash)?;
        bed.external_secret("clash", json!({"dataFrom": [{"extract": {"key": "app/clash"}}]}))
            .await?;
        bed.condition("clash", "Ready", &["Synced", "InvalidValue"])
            .await?;

        // A foreign Secret with the canary as key, value, label and annotation: a conflict.
        bed.create(
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "foreign",
            "labels": {CANARY: CANARY}, "annotations": {CANARY: CANARY}}, "stringData": {CANARY: CANARY}}),
        )
        .await?;
        bed.external_secret("foreign", json!({"data": [entry("value", "app/text")]}))
            .await?;
        bed.ready("foreign", "TargetConflict").await?;

        // Drift by hand, with the canary in a label, an annotation and a key.
        bed.patch::<Secret>(
            "extract",
            json!({"metadata": {"labels": {CANARY: CANARY}, "annotations": {"note": CANARY}},
            "stringData": {format!("{CANARY}-more"): CANARY, "password": "x"}}),
        )
        .await?;
        bed.event("extract", "DriftRepaired").await?;

        // Changes, refusals, outages with the values in flight.
        bed.aws.put_secret_value(&text, format!("{CANARY}-2"))?;
        bed.ready("immutable", "TargetImmutable").await?;
        bed.aws
            .put_secret_value(&whole, format!("{{\"other\": \"{CANARY}\"}}"))?;
        bed.ready("property", "PropertyNotFound").await?;
        bed.aws.put_secret_value(&broken, CANARY)?;
        let fault = bed.aws.add_fault(
            bed.here(),
            Fault::Error {
                status: 400,
                code: "AccessDeniedException".to_owned(),
                message: "denied".to_owned(),
                probability: 0.5,
            },
        );
        bed.rounds(5).await?;
        bed.aws.remove_fault(fault);
        let large = CANARY.repeat(65_536 / CANARY.len());
        let mut entries = Vec::new();
        for n in 0..17 {
            bed.secret(&format!("large/{n}"), &large)?;
            entries.push(entry(&format!("k{n}"), &format!("large/{n}")));
        }
        bed.external_secret("large", json!({"data": entries})).await?;
        bed.ready("large", "TooLarge").await?;
        bed.refresh("extract").await?;
        bed.rounds(5).await?;
        // Its change restarts.
        let token = bed.rollout("extract").await?;
        bed.follows(("Deployment", "web"), "extract", &token).await?;
        bed.restarts("extract", &["Complete"]).await?;

        // Everything that others may see.
        let mut seen = vec![
            ("metrics", metrics(operator).await?),
            (
                "events",
                text_of(&bed.all::<Event>().list(&ListParams::default()).await?)?,
            ),
            (
                "ExternalSecrets",
                text_of(&bed.all::<ExternalSecret>().list(&ListParams::default()).await?)?,
            ),
            (
                "workloads",
                text_of(&bed.workloads("Deployment").list(&ListParams::default()).await?)?,
            ),
            (
                "pods",
                text_of(&bed.all::<Pod>().list(&ListParams::default()).await?)?,
            ),
            (
                "SecretStores",
                text_of(&bed.all::<SecretStore>().list(&ListParams::default()).await?)?,
            ),
        ];
        for secret in bed.all::<Secret>().list(&ListParams::default()).await? {
            let ours = secret.metadata.annotations.clone().unwrap_or_default();
            let ours: Vec<_> = ours
                .into_iter()
                .filter(|(name, _)| name.starts_with("keyturn.dev/"))
                .collect();
            seen.push(("annotations", format!("{ours:?}")));
        }
        operator.terminate().await?;
        let log = operator.log()?;
        ensure!(
            log.lines().count() > 50,
            "little was logged: the test proves nothing"
        );
        seen.push(("logs", log));
        for (place, text) in &seen {
            for form in forms() {
                if let Some(at) = text.find(&form) {
                    let from = text[..at].rfind('\n').map_or(0, |line| line + 1);
                    let line: String = text[from..].chars().take(600).collect();
                    anyhow::bail!("a value is in the {place}: {line}");
                }
            }
        }
        Ok(())
    })
    .await
}

/// The canary as it might be written: as it is, in base64 at any of its three offsets, in hexadecimal, as a list of bytes.
fn forms() -> Vec<String> {
    let mut forms = vec![CANARY.to_owned(), CANARY.to_uppercase()];
    for offset in 0..3 {
        let shifted = [&vec![b' '; offset][..], CANARY.as_bytes()].concat();
        let encoded = BASE64_STANDARD.encode(shifted);
        // The ends depend on what stands beside it.
        forms.push(encoded[4..encoded.len() - 4].to_owned());
    }
    let hexadecimal: Vec<_> = CANARY.bytes().map(|byte| format!("{byte:02x}")).collect();
    forms.push(hexadecimal.concat());
    let bytes: Vec<_> = CANARY.bytes().take(8).map(|byte| byte.to_string()).collect();
    forms.push(bytes.join(", "));
    forms.push(bytes.join(","));
    forms
}

async fn metrics(operator: &mut Operator) -> Result<String> {
    Ok(format!("{:?}", operator.metrics().await?))
}

fn text_of(objects: &impl serde::Serialize) -> Result<String> {
    Ok(serde_json::to_string(objects)?)
}
