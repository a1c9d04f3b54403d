//! So many at once and no more, in the order that was asked for, and in its time.

use anyhow::{Context as _, Result, ensure};
use jiff::{SignedDuration, Timestamp, ToSpan as _};
use serde_json::{Value, json};
use testbed::workloads::{Use, workload};

use crate::{
    harness::{API_SERVER, Bed, STORE, bed, quarry, same},
    operator::Operator,
    rolling::{Anchor, COALESCE, SETTLE, restarted, web, with},
};

/// A Deployment whose rollout takes some seconds, so that others would overlap with it.
fn slow(name: &str, secret: &str) -> Value {
    with(web(name, secret), &["minReadySeconds"], json!(3))
}

fn names(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("web-{n}")).collect()
}

#[tokio::test]
async fn no_more_roll_out_at_once_than_the_pacing_says() -> Result<()> {
    bed("pacing", async |bed| {
        let source = bed
            .restarting("db", json!({"pacing": {"maxConcurrent": 2}}))
            .await?;
        let names = names(5);
        bed.run_workloads(names.iter().map(|name| slow(name, "db")))
            .await?;
        let history = bed.history().await?;
        let token = bed.rotate(&source, "second").await?;
        for name in &names {
            bed.follows(("Deployment", name), "db", &token).await?;
        }
        same("templates", &history.arrivals().await?.len(), &5)?;
        same("in flight at once", &history.most_in_flight(|_| true).await?, &2)?;
        bed.restarts("db", &["Complete"]).await.map(drop)
    })
    .await
}

#[tokio::test]
async fn who_uses_two_secrets_waits_for_the_turn_of_both_and_is_restarted_once() -> Result<()> {
    bed("both", async |bed| {
        let (one, two) = (
            bed.restarting("one", json!({})).await?,
            bed.restarting("two", json!({})).await?,
        );
        let both = workload("Deployment", "both", &[("one", Use::Env), ("two", Use::Env)])?;
        // Long enough for both changes to be known and to settle meanwhile.
        let alone = with(web("alone", "one"), &["minReadySeconds"], json!(12));
        bed.run_workloads([alone, both]).await?;
        let history = bed.history().await?;
        let former = bed.rollout("two").await?;
        // The older change goes first, and the turn of its workloads by name: "alone" has the slot of "one".
        let first = bed.rotate(&one, "second").await?;
        bed.aws.put_secret_value(&two.arn, "second")?;
        let second = bed.rotated(&two, "second", &former).await?;
        for (name, secret, token) in [
            ("alone", "one", &first),
            ("both", "one", &first),
            ("both", "two", &second),
        ] {
            bed.follows(("Deployment", name), secret, token).await?;
        }
        let arrivals = history.arrivals().await?;
        let order: Vec<_> = arrivals
            .iter()
            .map(|arrival| (arrival.workload.name.as_str(), arrival.tokens.len()))
            .collect();
        same(
            "templates and their new tokens",
            &order,
            &vec![("alone", 1), ("both", 2)],
        )?;
        same("in flight at once", &history.most_in_flight(|_| true).await?, &1)
    })
    .await
}

#[tokio::test]
async fn urgent_work_goes_sooner_and_with_more_at_once() -> Result<()> {
    bed("urgent", async |bed| {
        // A window that is never open: 30 February.
        let restart = json!({"mode": "Automatic", "pacing": {"maxConcurrent": 1, "urgentMaxConcurrent": 3},
            "windows": [never()]});
        let source = bed
            .restarting_with(
                "db",
                json!({"restart": restart, "rotation": {"strategy": "SingleUser"}}),
            )
            .await?;
        let names = names(4);
        bed.run_workloads(names.iter().map(|name| slow(name, "db")))
            .await?;
        let history = bed.history().await?;
        let token = bed.rotate(&source, "second").await?;
        let changed_at = bed.changed_at("db").await?.context("it changed")?;
        for name in &names {
            bed.follows(("Deployment", name), "db", &token).await?;
        }
        same("in flight at once", &history.most_in_flight(|_| true).await?, &3)?;
        let first = history.arrivals().await?[0].patched.context("it was patched")?;
        let second = SignedDuration::from_secs(1);
        ensure!(
            first >= changed_at + SETTLE - second && first < changed_at + COALESCE,
            "changed at {changed_at}, patched at {first}"
        );
        Ok(())
    })
    .await
}

/// A window that is open in half a year.
fn never() -> Value {
    let month = (Timestamp::now() + SignedDuration::from_hours(24 * 180))
        .to_zoned(jiff::tz::TimeZone::UTC)
        .month();
    json!({"cron": format!("0 0 1 {month} *"), "duration": "1m"})
}

#[tokio::test]
async fn what_is_not_urgent_waits_for_its_window() -> Result<()> {
    bed("windows", async |bed| {
        let closed = json!({"windows": [never()]});
        let source = bed.restarting("db", closed.clone()).await?;
        let wait = json!({"windows": [never()], "deadline": {"policy": "Wait"}, "mode": "Automatic"});
        let strict = bed
            .restarting_with(
                "strict",
                json!({"restart": wait, "rotation": {"strategy": "SingleUser"}}),
            )
            .await?;
        bed.run_workloads([web("web", "db"), web("web-strict", "strict")])
            .await?;
        let history = bed.history().await?;
        let token = bed.rotate(&source, "second").await?;
        bed.rotate(&strict, "second").await?;
        for name in ["db", "strict"] {
            bed.restarts(name, &["WaitingForWindow"]).await?;
        }
        let mut anchor = Anchor::drop(bed).await?;
        anchor.holds().await?;
        restarted(&history, &[]).await?;
        // One that is open now: since the minute before, for two hours.
        let before = (Timestamp::now() - 60.seconds()).to_zoned(jiff::tz::TimeZone::UTC);
        let cron = format!("{} {} * * *", before.minute(), before.hour());
        let open = json!({"windows": [never(), {"cron": cron, "duration": "2h"}]});
        bed.re_restarting("db", open).await?;
        bed.follows(("Deployment", "web"), "db", &token).await?;
        restarted(&history, &[("Deployment web", 1)]).await
    })
    .await
}

#[tokio::test]
async fn waves_go_one_after_another() -> Result<()> {
    bed("waves", async |bed| {
        let targets = json!([
            {"kind": "Deployment", "name": "first", "wave": -1},
            {"kind": "Deployment", "selector": {"matchLabels": {"wave": "last"}}, "wave": 5},
        ]);
        let restart = json!({"targets": targets, "pacing": {"maxConcurrent": 5}});
        let source = bed.restarting("db", restart).await?;
        let last = |name: &str| {
            let mut object = slow(name, "db");
            object["metadata"]["labels"]["wave"] = json!("last");
            object
        };
        bed.run_workloads([
            last("a-last"),
            last("b-last"),
            slow("first", "db"),
            slow("second-a", "db"),
            slow("second-b", "db"),
        ])
        .await?;
        let history = bed.history().await?;
        let token = bed.rotate(&source, "second").await?;
        for name in ["a-last", "b-last", "first", "second-a", "second-b"] {
            bed.follows(("Deployment", name), "db", &token).await?;
        }
        // Between two waves nothing is in flight.
        let mut waves: Vec<Vec<String>> = vec![Vec::new()];
        let arrivals = history.arrivals().await?;
        let mut flying = std::collections::BTreeSet::new();
        for moment in history.moments().await? {
            if arrivals.iter().any(|arrival| arrival.revision == moment.revision) {
                if flying.is_empty() && waves.last().is_some_and(|wave| !wave.is_empty()) {
                    waves.push(Vec::new());
                }
                flying.insert(moment.workload.name.clone());
                if let Some(wave) = waves.last_mut() {
                    wave.push(moment.workload.name);
                    wave.sort();
                }
            } else if moment.complete {
                flying.remove(&moment.workload.name);
            }
        }
        let expected = vec![
            vec!["first"],
            vec!["second-a", "second-b"],
            vec!["a-last", "b-last"],
        ];
        same(
            "waves",
            &waves,
            &expected
                .into_iter()
                .map(|wave| wave.into_iter().map(ToOwned::to_owned).collect::<Vec<_>>())
                .collect(),
        )
    })
    .await
}

#[tokio::test]
async fn restarts_keep_their_interval() -> Result<()> {
    bed("interval", async |bed| {
        let pacing = json!({"pacing": {"maxConcurrent": 5, "minInterval": "6s"}});
        let source = bed.restarting("db", pacing).await?;
        let names = names(3);
        bed.run_workloads(names.iter().map(|name| web(name, "db")))
            .await?;
        let history = bed.history().await?;
        let token = bed.rotate(&source, "second").await?;
        for name in &names {
            bed.follows(("Deployment", name), "db", &token).await?;
        }
        let times: Vec<_> = history
            .arrivals()
            .await?
            .iter()
            .filter_map(|arrival| arrival.patched)
            .collect();
        same("patches", &times.len(), &3)?;
        for pair in times.windows(2) {
            // Whole seconds.
            ensure!(pair[1] >= pair[0] + SignedDuration::from_secs(5), "{times:?}");
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_namespace_and_the_cluster_have_their_limits() -> Result<()> {
    let _api_server = API_SERVER.read().await;
    let place = quarry().await?;
    let mut beds = Vec::new();
    for name in ["share-a", "share-b", "share-c"] {
        let bed = Bed::make(place, name).await?;
        bed.store(STORE, json!({})).await?;
        beds.push(bed);
    }
    let limits = [
        // One is reserved for rotations that AWS shows.
        "--max-concurrent-restarts=5",
        "--max-concurrent-restarts-per-namespace=2",
    ];
    let all: Vec<&Bed> = beds.iter().collect();
    let mut operator = Operator::confined_to(place, &all, &limits).await?;
    operator.start().await?;
    let mut sources = Vec::new();
    for bed in &beds {
        for object in ["one", "two"] {
            sources.push((
                bed,
                bed.restarting(object, json!({"pacing": {"maxConcurrent": 10}}))
                    .await?,
            ));
            let names = (0..3).map(|n| format!("{object}-{n}"));
            bed.run_workloads(names.map(|name| slow(&name, object))).await?;
        }
    }
    let namespaces: Vec<&str> = beds.iter().map(|bed| bed.namespace.as_str()).collect();
    let history = testbed::history::History::begin(&beds[0].client, &namespaces).await?;
    let mut tokens = Vec::new();
    for (bed, source) in &sources {
        let former = bed.rollout(&source.name).await?;
        bed.aws.put_secret_value(&source.arn, "second")?;
        tokens.push(former);
    }
    let outcome = async {
        for ((bed, source), former) in sources.iter().zip(tokens) {
            let token = bed.rotated(source, "second", &former).await?;
            for n in 0..3 {
                let name = format!("{}-{n}", source.name);
                bed.follows(("Deployment", &name), &source.name, &token).await?;
            }
        }
        same("in the cluster", &history.most_in_flight(|_| true).await?, &4)?;
        for namespace in &namespaces {
            let most = history
                .most_in_flight(|workload| workload.namespace == *namespace)
                .await?;
            same(namespace, &most, &2)?;
        }
        same("templates", &history.arrivals().await?.len(), &18)
    }
    .await;
    for bed in beds {
        let failed = outcome.as_ref().err().map(ToString::to_string);
        bed.run(Some(&operator), async |_| match failed {
            None => Ok(()),
            Some(_) => anyhow::bail!("see the others"),
        })
        .await
        .or_else(|error| if outcome.is_err() { Ok(()) } else { Err(error) })?;
    }
    outcome
}
