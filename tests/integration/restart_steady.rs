//! Restarts cost nothing where nothing changes.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Result, ensure};
use serde_json::json;
use testbed::requests;

use crate::{
    harness::{Bed, bed, common, same, stays},
    rolling::web,
};

/// Watched for as long; at an interval of a second.
const SPAN: Duration = Duration::from_secs(20);

async fn settle(bed: &Bed, workloads: usize) -> Result<crate::rolling::Source> {
    let source = bed
        .restarting("db", json!({"pacing": {"maxConcurrent": 5}}))
        .await?;
    bed.run_workloads((0..workloads).map(|n| web(&format!("web-{n}"), "db")))
        .await?;
    bed.restarts("db", &["NothingPending", "Complete"]).await?;
    Ok(source)
}

#[tokio::test]
async fn pods_are_read_only_where_something_changed() -> Result<()> {
    let common = common().await?;
    let still = Bed::make(&common.place, "still").await?;
    still.store(crate::harness::STORE, json!({})).await?;
    let mark = requests::mark(still.cluster)?;
    let outcome = bed("moved", async |moved| {
        settle(&still, 4).await?;
        let source = settle(moved, 4).await?;
        let token = moved.rotate(&source, "second").await?;
        for n in 0..4 {
            moved
                .follows(("Deployment", &format!("web-{n}")), "db", &token)
                .await?;
        }
        moved.restarts("db", &["Complete"]).await?;
        let pods = |bed: &Bed| -> Result<usize> {
            let asked = bed.asked(&common.operator, mark)?;
            Ok(asked.only(|request| request.resource == "pods").0.len())
        };
        same("looks at pods where nothing changed", &pods(&still)?, &0)?;
        let looks = pods(moved)?;
        // A few for each workload, while it is judged and while it rolls.
        ensure!((4..=80).contains(&looks), "{looks} looks at pods for 4 workloads");
        // Looked at are those of a namespace or of a workload, never all.
        let everywhere = requests::since(moved.cluster, mark)?
            .of(common.operator.user())
            .only(|request| request.resource == "pods" && request.namespace.is_empty());
        same("looks at all pods", &everywhere.0.len(), &0)?;
        Ok(())
    })
    .await;
    still.run(Some(&common.operator), async |_| outcome).await
}

#[tokio::test]
async fn after_restarts_nothing_is_written_and_nothing_asked() -> Result<()> {
    let operator = &common().await?.operator;
    bed("still-after", async |bed| {
        let source = settle(bed, 10).await?;
        let mark = requests::mark(bed.cluster)?;
        let token = bed.rotate(&source, "second").await?;
        for n in 0..10 {
            bed.follows(("Deployment", &format!("web-{n}")), "db", &token)
                .await?;
        }
        bed.restarts("db", &["Complete"]).await?;
        let asked = bed.asked(operator, mark)?;
        let count = |verb: &str, resource: &str| asked.count(verb, resource);
        same("patches of workloads", &count("patch", "deployments"), &10)?;
        // At most one in 5 s, and those of the sync.
        let statuses = count("patch", "externalsecrets/status");
        ensure!(statuses <= 20, "{statuses} writes of status");
        // Events and the last of the watches are on their way.
        bed.event("db", "RestartCompleted").await?;
        bed.rounds(5).await?;
        let mark = requests::mark(bed.cluster)?;
        stays(SPAN, async || {
            // The ServiceAccount that makes a session is looked at once a minute, whatever happens.
            let is_look = |verb: &str, resource: &str| (verb, resource) == ("get", "serviceaccounts");
            let all = bed.asked(operator, mark)?.only(|request| request.verb != "watch");
            let looks = all.count("get", "serviceaccounts");
            ensure!(looks <= 2, "{looks} looks at a ServiceAccount");
            let asked = all.only(|request| !is_look(&request.verb, &request.resource));
            same(
                "requests about a namespace at rest",
                &asked.counts(),
                &BTreeMap::new(),
            )
        })
        .await
    })
    .await
}
