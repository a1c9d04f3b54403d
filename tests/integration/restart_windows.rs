//! Which windows of restarts the API server accepts.

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use keyturn::api::ExternalSecret;
use kube::{
    Api,
    api::{ApiResource, DeleteParams, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use testbed::wait;

use crate::harness::{SOON, bed, entry, same};

/// Every form that was accepted before the API server looked at windows is accepted still, and edits of objects that have
/// them with it.
#[tokio::test]
async fn windows_are_refused_only_if_they_can_never_be_read() -> Result<()> {
    bed("windows-form", async |bed| {
        bed.secret("app/db", "first")?;
        let api = bed.all::<ExternalSecret>();
        let attempt = async |cron: &str, duration: &str, zone: &str| -> Result<Option<String>> {
            let object = serde_json::from_value(json!({
                "apiVersion": "keyturn.dev/v1", "kind": "ExternalSecret", "metadata": {"name": "db"},
                "spec": {"data": [entry("value", "app/db")], "restart": {"mode": "Automatic", "windows": [
                    {"cron": "0 2 * * *", "duration": "2h"},
                    {"cron": cron, "duration": duration, "timeZone": zone},
                ]}},
            }))?;
            let parameters = PostParams {
                dry_run: true,
                ..PostParams::default()
            };
            match api.create(&parameters, &object).await {
                Ok(_) => Ok(None),
                Err(kube::Error::Api(status)) if status.code == 422 => Ok(Some(status.message)),
                Err(error) => Err(error.into()),
            }
        };
        for (cron, duration, zone) in [
            ("* * * * *", "1m", "UTC"),
            (" 0\t2  *\n* * ", "168h", "Europe/Vienna"),
            ("00 02 01 01 00", "1h30m", "europe/vienna"),
            (
                "0059 0023 0031 0012 0007",
                "60s",
                "America/Argentina/Buenos_Aires",
            ),
            ("*/59 */23 */31 */12 */7", "90m", "Etc/GMT-14"),
            ("5/10 5/2 5/5 5/2 5/1", "0.5h", "Etc/GMT+12"),
            ("0-59/01 0-23/2 1-31/3 1-12/4 0-7/5", "3600000ms", "EST5EDT"),
            (
                "0,*/15,30-45/5,7 2,*,4-6 L,15W,1W,31 jan,FEB-dec/2,12 SUN,mon-Fri,5L,satL,2#5,tue#01",
                "2h",
                "GMT",
            ),
            ("0 0 30 2 *", "2h", "UTC"),
            ("0 2 * * SUN-SAT", "2h", "UTC"),
            ("0 2 * * MON-5,1-SAT,SAT-7", "2h", "UTC"),
            ("0 22-23,0-6 * * 5-7", "2h", "UTC"),
        ] {
            let window =
                serde_json::from_value(json!({"cron": cron, "duration": duration, "timeZone": zone}))?;
            let read = keyturn::api::Window::parse(&window);
            ensure!(read.is_ok(), "{cron:?} {duration} {zone}: {read:?}");
            same(cron, &attempt(cron, duration, zone).await?, &None)?;
        }
        for (cron, duration, zone, says) in [
            ("60 2 * * *", "2h", "UTC", "the minute of cron (field 1)"),
            ("0 24 * * *", "2h", "UTC", "the hour of cron (field 2)"),
            ("0 2 32 * *", "2h", "UTC", "the day of month of cron (field 3)"),
            ("0 2 * JANUARY *", "2h", "UTC", "the month of cron (field 4)"),
            ("0 2 * * MONDAY", "2h", "UTC", "the day of week of cron (field 5)"),
            ("*/0 2 * * *", "2h", "UTC", "the minute of cron (field 1)"),
            ("0 2 ? * *", "2h", "UTC", "the day of month of cron (field 3)"),
            ("0 0 2 * * *", "2h", "UTC", "cron needs five fields"),
            ("@midnight", "2h", "UTC", "cron needs five fields"),
            ("0 22-6 * * *", "2h", "UTC", "ranges in cron must ascend"),
            ("0 2 * * FRI-MON", "2h", "UTC", "ranges in cron must ascend"),
            ("0 2 * * *", "30s", "UTC", "duration of a window must be"),
            ("0 2 * * *", "169h", "UTC", "duration of a window must be"),
            ("0 2 * * *", "2h", "Europe Vienna", "timeZone must be"),
        ] {
            let window =
                serde_json::from_value(json!({"cron": cron, "duration": duration, "timeZone": zone}))?;
            ensure!(keyturn::api::Window::parse(&window).is_err(), "{cron}");
            let refused = attempt(cron, duration, zone).await?.unwrap_or_default();
            ensure!(
                refused.contains(says) && refused.contains("spec.restart.windows[1]"),
                "{cron} {duration} {zone}: {refused}"
            );
        }
        // What no rule can see is said by the condition, with value and field.
        bed.external_secret(
            "db",
            json!({"data": [entry("value", "app/db")], "restart": {"mode": "Automatic", "windows": [
                {"cron": "0 2 * * *", "duration": "2h"},
                {"cron": "0 2 * * *", "duration": "2h", "timeZone": "Europe/Viena"},
            ]}}),
        )
        .await?;
        let said = bed.condition("db", "RestartsComplete", &["InvalidSpec"]).await?;
        let expected = "spec.restart.windows[1].timeZone is \"Europe/Viena\"";
        ensure!(said.message.starts_with(expected), "{}", said.message);
        bed.synced("db").await
    })
    .await
}

/// The rules came later than objects that violate them, and operators write the status of these too.
#[tokio::test]
async fn windows_that_were_stored_before_the_rules_stop_no_other_edit_and_no_status() -> Result<()> {
    bed("windows-stored", async |bed| {
        let group = format!("{}.test.keyturn.dev", bed.namespace);
        let name = format!("externalsecrets.{group}");
        // The definition under another group, so that no operator and no other test has to do with it.
        let definition = keyturn::api::crds()
            .into_iter()
            .find(|definition| definition.spec.names.kind == "ExternalSecret")
            .context("the definition")?;
        let mut with_rules = serde_json::to_value(definition)?;
        with_rules["metadata"] = json!({"name": name});
        with_rules["spec"]["group"] = json!(group);
        let mut without_rules = with_rules.clone();
        let windows = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/restart/properties/windows/items";
        let fields = without_rules
            .pointer_mut(&format!("{windows}/properties"))
            .and_then(Value::as_object_mut)
            .context("the fields of a window")?;
        for field in fields.values_mut().filter_map(Value::as_object_mut) {
            field.remove("x-kubernetes-validations");
        }

        let definitions = Api::<CustomResourceDefinition>::all(bed.client.clone());
        let apply = async |definition: &Value| {
            let parameters = PatchParams::apply("tests").force();
            definitions.patch(&name, &parameters, &Patch::Apply(definition)).await
        };
        apply(&without_rules).await?;
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(&group, "v1", "ExternalSecret"));
        let api = Api::<DynamicObject>::namespaced_with(bed.client.clone(), &bed.namespace, &resource);
        let windows = |cron: &str| json!([{"cron": cron, "duration": "2h"}]);
        let create = async |name: &str, parameters: PostParams| {
            let object = DynamicObject::new(name, &resource).data(json!({"spec": {
                "data": [entry("value", "app/db")], "restart": {"windows": windows("0 25 * * *")},
            }}));
            match api.create(&parameters, &object).await {
                Ok(_) => Ok(true),
                Err(kube::Error::Api(status)) if status.code == 422 => Ok(false),
                Err(error) => Err(error),
            }
        };
        wait::until("the object to be stored", SOON, async || {
            Ok(create("stored", PostParams::default()).await?.then_some(()))
        })
        .await?;
        apply(&with_rules).await?;
        wait::until("the rules to hold", SOON, async || {
            let parameters = PostParams {
                dry_run: true,
                ..PostParams::default()
            };
            Ok((!create("new", parameters).await?).then_some(()))
        })
        .await?;

        let merge = |patch: Value| Patch::Merge(patch);
        let parameters = PatchParams::default();
        let label = merge(json!({"metadata": {"labels": {"team": "a"}}}));
        api.patch("stored", &parameters, &label).await?;
        let policy = merge(json!({"spec": {"refreshInterval": "2h", "restart": {"mode": "Manual"}}}));
        api.patch("stored", &parameters, &policy).await?;
        let status = merge(json!({"status": {"observedGeneration": 2}}));
        api.patch_status("stored", &parameters, &status).await?;
        let worse = merge(json!({"spec": {"restart": {"windows": windows("0 26 * * *")}}}));
        ensure!(api.patch("stored", &parameters, &worse).await.is_err());
        let right = merge(json!({"spec": {"restart": {"windows": windows("0 2 * * *")}}}));
        api.patch("stored", &parameters, &right).await?;
        definitions.delete(&name, &DeleteParams::default()).await?;
        Ok(())
    })
    .await
}
