//! What comes out of AWS and how it becomes the keys of a Secret.

use anyhow::Result;
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Secret;
use kube::api::ListParams;
use serde_json::{Value, json};
use testbed::{aws::SecretValue, wait};

use crate::harness::{Bed, SELDOM, SOON, STORE, bed, data, entry, external_secret, property};

#[tokio::test]
async fn a_secret_is_made_of_whole_values_properties_and_extracts() -> Result<()> {
    bed("parts", async |bed| {
        bed.secret("app/text", "as it is\n")?;
        bed.secret(
            "app/json",
            r#"{"user":"app","nested":{"deep":"found"},"number":5432,"yes":true,"dotted.key":"dots","list":[1,2]}"#,
        )?;
        bed.external_secret(
            "db",
            json!({
                "dataFrom": [{"extract": {"key": "app/json"}}],
                "data": [
                    entry("text", "app/text"),
                    property("deep", "app/json", "nested.deep"),
                    property("port", "app/json", "number"),
                    property("flag", "app/json", "yes"),
                    property("user", "app/text", ""),
                ],
            }),
        )
        .await?;
        bed.synced("db").await?;
        let data = bed.data("db").await?;
        for (key, value) in [
            ("text", "as it is\n"),
            ("deep", "found"),
            ("port", "5432"),
            ("number", "5432"),
            ("flag", "true"),
            ("yes", "true"),
            ("dotted.key", "dots"),
            ("user", "as it is\n"),
        ] {
            assert_eq!(data.get(key).map(String::as_str), Some(value), "{key}");
        }
        let nested: Value = serde_json::from_str(&data["nested"])?;
        assert_eq!(nested, json!({"deep": "found"}));
        let list: Value = serde_json::from_str(&data["list"])?;
        assert_eq!(list, json!([1, 2]));
        Ok(())
    })
    .await
}

#[tokio::test]
async fn binary_values_stay_as_they_are() -> Result<()> {
    bed("binary", async |bed| {
        let bytes = vec![0_u8, 159, 146, 150, 255, 10];
        bed.aws.create_secret(
            &bed.account,
            "eu-central-1",
            "app/binary",
            SecretValue::Binary(bytes.clone()),
        )?;
        bed.plain("db", "app/binary").await?;
        bed.synced("db").await?;
        let secret = bed.written("db").await?;
        assert_eq!(secret.data.unwrap_or_default()["value"].0, bytes);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn later_entries_win() -> Result<()> {
    bed("order", async |bed| {
        bed.secret("one", r#"{"a":"one","b":"one","c":"one"}"#)?;
        bed.secret("two", r#"{"b":"two","c":"two"}"#)?;
        bed.secret("three", "three")?;
        bed.external_secret(
            "db",
            json!({"dataFrom": [{"extract": {"key": "one"}}, {"extract": {"key": "two"}}], "data": [entry("c", "three")]}),
        )
        .await?;
        bed.holds("db", &[("a", "one"), ("b", "two"), ("c", "three")]).await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn versions_are_chosen_by_stage_and_by_id() -> Result<()> {
    bed("versions", async |bed| {
        let arn = bed.secret("app/db", "first")?;
        let first = bed.aws.stages(&arn)?["AWSCURRENT"].clone();
        let versioned = |version: &str| {
            json!({"data": [{"secretKey": "value", "remoteRef": {"key": "app/db", "version": version}}]})
        };
        bed.aws.put_secret_value(&arn, "second")?;
        bed.external_secret("current", versioned("AWSCURRENT")).await?;
        bed.external_secret("previous", versioned("AWSPREVIOUS")).await?;
        bed.external_secret("pinned", versioned(&format!("uuid/{first}"))).await?;
        bed.holds("current", &[("value", "second")]).await?;
        bed.holds("previous", &[("value", "first")]).await?;
        bed.holds("pinned", &[("value", "first")]).await?;
        bed.aws.put_secret_value(&arn, "third")?;
        bed.holds("current", &[("value", "third")]).await?;
        bed.holds("previous", &[("value", "second")]).await?;
        bed.rounds(2).await?;
        bed.holds("pinned", &[("value", "first")]).await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_rotation_arrives_when_it_is_finished_and_not_before() -> Result<()> {
    bed("rotation", async |bed| {
        let arn = bed.secret("app/db", "first")?;
        bed.plain("db", "app/db").await?;
        bed.holds("db", &[("value", "first")]).await?;
        bed.aws.enable_rotation(
            &arn,
            "arn:aws:lambda:eu-central-1:111122223333:function:rotate",
            30,
        )?;
        let rotation = bed.aws.begin_rotation(&arn)?;
        rotation.create_secret("second")?;
        rotation.set_secret()?;
        bed.rounds(3).await?;
        bed.holds("db", &[("value", "first")]).await?;
        rotation.test_secret()?;
        rotation.finish_secret()?;
        bed.holds("db", &[("value", "second")]).await?;
        wait::until("the status to name the new version", SOON, async || {
            let status = bed.get("db").await?.status.unwrap_or_default();
            let source = status.sources.unwrap_or_default().pop().unwrap_or_default();
            Ok((source.version_id == rotation.version_id()).then_some(()))
        })
        .await
    })
    .await
}

#[tokio::test]
async fn a_prefix_stands_before_every_key() -> Result<()> {
    bed("prefix", async |bed| {
        bed.secret("prod/app/db", "prod")?;
        bed.store(STORE, json!({"prefix": "prod/", "allowedKeys": ["prod/app/*"]}))
            .await?;
        bed.plain("db", "app/db").await?;
        bed.holds("db", &[("value", "prod")]).await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn names_and_arns_mean_the_same_secret() -> Result<()> {
    bed("names", async |bed| {
        let arn = bed.secret("app/db", "first")?;
        let partial = arn.rsplit_once('-').map_or("", |(name, _)| name);
        for (name, key) in [("name", "app/db"), ("arn", &arn), ("partial", partial)] {
            bed.plain(name, key).await?;
        }
        for name in ["name", "arn", "partial"] {
            bed.holds(name, &[("value", "first")]).await?;
        }
        bed.aws.put_secret_value(&arn, "second")?;
        for name in ["name", "arn", "partial"] {
            bed.holds(name, &[("value", "second")]).await?;
        }
        Ok(())
    })
    .await
}

/// To AWS a hyphen and six characters at the end of an ARN are its suffix, so that the partial ARN of such a name means
/// nothing. That is the trouble of who wrote it, and of nobody who names the secret rightly.
#[tokio::test]
async fn a_partial_arn_that_looks_whole_harms_nobody_else() -> Result<()> {
    bed("trap", async |bed| {
        let arn = bed.secret("app/db-secret", "first")?;
        let partial = arn.rsplit_once('-').map_or("", |(name, _)| name);
        let spec = |key: &str| json!({"data": [entry("value", key)], "target": {"deletionPolicy": "Delete"}});
        for (name, key) in [("name", "app/db-secret"), ("arn", &arn)] {
            bed.external_secret(name, spec(key)).await?;
            bed.holds(name, &[("value", "first")]).await?;
        }
        let uid = bed.written("name").await?.metadata.uid;
        bed.external_secret("partial", spec(partial)).await?;
        bed.condition("partial", "Ready", &["SecretNotFound", "Deleted"])
            .await?;
        bed.rounds(10).await?;
        for name in ["name", "arn"] {
            bed.synced(name).await?;
            assert!(
                bed.events("ExternalSecret", name).await?.is_empty(),
                "{name} was harmed"
            );
        }
        assert_eq!(
            bed.written("name").await?.metadata.uid,
            uid,
            "deleted for another one's mistake"
        );
        bed.aws.put_secret_value(&arn, "second")?;
        for name in ["name", "arn"] {
            bed.holds(name, &[("value", "second")]).await?;
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn however_many_objects_share_a_secret_it_is_read_once() -> Result<()> {
    const OBJECTS: usize = 500;
    bed("shared", async |bed| {
        bed.delete::<keyturn::api::SecretStore>(STORE).await?;
        let arn = bed.secret("app/shared", "first")?;
        let api = bed.all::<keyturn::api::ExternalSecret>();
        let posts = (0..OBJECTS).map(|n| {
            let spec = json!({"data": [entry("value", "app/shared")], "refreshInterval": "2s"});
            let object = serde_json::from_value(external_secret(&format!("db-{n}"), spec)).unwrap();
            let api = api.clone();
            async move { api.create(&kube::api::PostParams::default(), &object).await }
        });
        let posted: Vec<_> = futures::stream::iter(posts).buffer_unordered(16).collect().await;
        posted.into_iter().collect::<Result<Vec<_>, _>>()?;
        let mark = bed.aws.mark();
        bed.store(STORE, json!({"changeDetection": "Describe"})).await?;
        all_hold(bed, OBJECTS, "first").await?;
        assert_eq!(
            bed.values_since(mark),
            1,
            "reads for {OBJECTS} objects on one secret"
        );
        let (mark, begun) = (bed.aws.mark(), std::time::Instant::now());
        bed.aws.put_secret_value(&arn, "second")?;
        all_hold(bed, OBJECTS, "second").await?;
        // A value answers for 10 s; a busy machine may need longer for all the writes.
        let allowed = 1 + usize::try_from(begun.elapsed().as_secs() / 10)?;
        let reads = bed.values_since(mark);
        assert!(
            reads <= allowed,
            "{reads} reads for a change that {OBJECTS} objects wait for"
        );
        Ok(())
    })
    .await
}

async fn all_hold(bed: &Bed, count: usize, value: &str) -> Result<()> {
    wait::until(&format!("{count} Secrets to hold {value}"), SOON, async || {
        let secrets = bed.all::<Secret>().list(&ListParams::default()).await?;
        let right = secrets
            .iter()
            .filter(|secret| data(secret).get("value").is_some_and(|is| is == value))
            .count();
        anyhow::ensure!(right == count, "{right} of {count} do");
        Ok(Some(()))
    })
    .await
}

#[tokio::test]
async fn what_is_read_is_one_version_also_while_it_moves() -> Result<()> {
    bed("whole", async |bed| {
        let value = |n: usize| format!(r#"{{"a":"{n}","b":"{n}"}}"#);
        let arn = bed.secret("app/db", &value(0))?;
        let spec =
            json!({"data": [property("a", "app/db", "a")], "dataFrom": [{"extract": {"key": "app/db"}}]});
        bed.external_secret("db", spec).await?;
        bed.holds("db", &[("a", "0"), ("b", "0")]).await?;
        for n in 1..=30 {
            bed.aws.put_secret_value(&arn, value(n))?;
            let data = bed.data("db").await?;
            assert_eq!(
                data.get("a"),
                data.get("b"),
                "half of one version, half of another"
            );
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
        bed.holds("db", &[("a", "30"), ("b", "30")]).await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn without_an_interval_nothing_is_read_again() -> Result<()> {
    bed("seldom", async |bed| {
        let arn = bed.secret("app/db", "first")?;
        for (name, spec) in [
            ("seldom", json!({"refreshInterval": SELDOM})),
            ("zero", json!({"refreshInterval": "0"})),
            ("once", json!({"refreshPolicy": "CreatedOnce"})),
            ("onchange", json!({"refreshPolicy": "OnChange"})),
        ] {
            let mut spec = spec;
            spec["data"] = json!([entry("value", "app/db")]);
            bed.external_secret(name, spec).await?;
            bed.holds(name, &[("value", "first")]).await?;
            bed.synced(name).await?;
        }
        let mark = bed.aws.mark();
        bed.aws.put_secret_value(&arn, "second")?;
        // Another object is read often meanwhile, of another secret.
        bed.secret("app/other", "other")?;
        bed.plain("other", "app/other").await?;
        bed.holds("other", &[("value", "other")]).await?;
        bed.rounds(4).await?;
        let about = |call: &&testbed::aws::Call| call.resource.as_deref() == Some(arn.as_str());
        assert_eq!(bed.calls_since(mark).0.iter().filter(about).count(), 0);
        for name in ["seldom", "zero", "once", "onchange"] {
            bed.holds(name, &[("value", "first")]).await?;
        }
        Ok(())
    })
    .await
}
