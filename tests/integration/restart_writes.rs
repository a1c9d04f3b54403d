//! The patch of a restart rests on what decides over it, and on nothing else.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use anyhow::{Result, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};

use crate::{
    harness::bed,
    rolling::{restarted, web},
};

/// Writes the status of a Deployment all the time, until it is dropped: as its controller does where many pods come and go.
struct Flapping {
    writes: Arc<AtomicUsize>,
    tasks: tokio::task::JoinSet<()>,
}

impl Flapping {
    fn begin(api: &Api<Deployment>, name: &'static str) -> Self {
        let writes = Arc::new(AtomicUsize::new(0));
        let mut tasks = tokio::task::JoinSet::new();
        for writer in 0..4 {
            let (api, writes) = (api.clone(), Arc::clone(&writes));
            tasks.spawn(async move {
                for round in 0_u64.. {
                    let condition = json!({"type": format!("Flapping{writer}"), "status": "True",
                        "message": round.to_string()});
                    let status: Value = json!({"status": {"conditions": [condition]}});
                    let patch = Patch::Strategic(&status);
                    let written = api.patch_status(name, &PatchParams::default(), &patch).await;
                    writes.fetch_add(usize::from(written.is_ok()), Ordering::Relaxed);
                }
            });
        }
        Self { writes, tasks }
    }

    async fn end(mut self) -> usize {
        self.tasks.shutdown().await;
        self.writes.load(Ordering::Relaxed)
    }
}

#[tokio::test]
async fn a_workload_whose_status_is_written_all_the_time_is_restarted_once() -> Result<()> {
    bed("flapping", async |bed| {
        let source = bed.restarting("db", json!({})).await?;
        bed.run_workloads([web("web", "db")]).await?;
        let history = bed.history().await?;
        let flapping = Flapping::begin(&bed.all(), "web");
        let token = bed.rotate(&source, "second").await?;
        bed.follows(("Deployment", "web"), "db", &token).await?;
        let writes = flapping.end().await;
        ensure!(writes > 100, "its status was written {writes} times only");
        bed.restarts("db", &["Complete"]).await?;
        restarted(&history, &[("Deployment web", 1)]).await
    })
    .await
}
