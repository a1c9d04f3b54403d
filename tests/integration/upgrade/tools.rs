//! The same by the tools that users upgrade with: Helm 3, Helm 4 and kubectl, from the earlier chart to this one and back.

use std::{
    env,
    panic::AssertUnwindSafe,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use futures::FutureExt as _;
use testbed::{
    controlplane::Options,
    operator::{self as testbed_operator, Values},
};

use super::{EARLIER, Left, REMOTE, furnished, put};
use crate::{
    harness::{Place, empty, same},
    operator::Operator,
    rolling::Anchor,
};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Tool {
    Helm3,
    Helm4,
    Kubectl,
}

/// A step of a release.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// To this version, with values from there.
    Upgrade(Values),
    RollBack,
    /// What the chart renders, of this version or of the earlier one.
    Apply(Version),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Version {
    Earlier,
    Today,
}

impl Tool {
    async fn place(self) -> Result<Place> {
        let helm_3 = self == Self::Helm3;
        empty(Options::default(), move |binaries| {
            if helm_3 {
                binaries.with_helm_3(&|line| println!("{line}"))
            } else {
                Ok(binaries)
            }
        })
        .await
    }

    /// Each upgrade is followed by the way back.
    fn steps(self) -> Vec<Step> {
        if self == Self::Kubectl {
            return vec![Step::Apply(Version::Today), Step::Apply(Version::Earlier)];
        }
        [Values::Reused, Values::ResetThenReused, Values::Given]
            .into_iter()
            .flat_map(|values| [Step::Upgrade(values), Step::RollBack])
            .collect()
    }
}

impl Step {
    fn version(self) -> Version {
        match self {
            Self::Upgrade(_) => Version::Today,
            Self::RollBack => Version::Earlier,
            Self::Apply(version) => version,
        }
    }
}

#[tokio::test]
#[ignore = "needs the program and the chart of an earlier version: make upgrade"]
async fn helm_3_changes_nothing_there_and_back() -> Result<()> {
    there_and_back(Tool::Helm3).await
}

#[tokio::test]
#[ignore = "needs the program and the chart of an earlier version: make upgrade"]
async fn helm_4_changes_nothing_there_and_back() -> Result<()> {
    there_and_back(Tool::Helm4).await
}

#[tokio::test]
#[ignore = "needs the program and the chart of an earlier version: make upgrade"]
async fn kubectl_changes_nothing_there_and_back() -> Result<()> {
    there_and_back(Tool::Kubectl).await
}

/// Takes a release of the earlier version, with all that it left in the cluster, through the steps of a tool.
async fn there_and_back(tool: Tool) -> Result<()> {
    let path = |name: &str| env::var_os(name).map(PathBuf::from).context(name.to_owned());
    let earlier = (path("KEYTURN_EARLIER_CHART")?, path("KEYTURN_EARLIER_BIN")?);
    let today = (PathBuf::from(testbed_operator::CHART), testbed_operator::built()?);
    let of = |version| -> (&Path, &Path) {
        let (chart, binary) = if version == Version::Today {
            &today
        } else {
            &earlier
        };
        (chart, binary)
    };
    let place = tool.place().await?;
    let bed = furnished(&place).await?;
    // The chart brings the CRDs, too.
    let mut operator = Operator::installed_of(&place, &earlier.0).await?;
    let outcome = AssertUnwindSafe(async {
        for (name, versions) in REMOTE {
            put(&bed, name, versions)?;
        }
        let left = Left {
            bed: &bed,
            objects: serde_json::from_str(EARLIER)?,
        };
        left.load(&operator).await?;
        let before = left.state().await?;
        operator.change(&earlier.1, async |_, _| Ok(())).await?;
        operator.start().await?;
        let mut anchor = Anchor::drop(&bed).await?;
        anchor.holds().await?;
        let history = bed.history().await?;
        for step in tool.steps() {
            operator.terminate().await?;
            let (chart, binary) = of(step.version());
            operator
                .change(binary, async |installed, cluster| match step {
                    Step::Upgrade(values) => installed.upgrade_as(cluster, chart, values).await,
                    Step::RollBack => installed.roll_back(cluster).await,
                    Step::Apply(_) => installed.apply(cluster, chart).await,
                })
                .await
                .with_context(|| format!("{tool:?}: {step:?}"))?;
            let mark = bed.aws.mark();
            operator.start().await?;
            // Once these have been followed, whatever else was to be restarted has been.
            anchor.holds().await?;
            anchor.holds().await?;
            let values = bed.calls_since(mark).values_read();
            let others: Vec<_> = values
                .iter()
                .filter(|(_, secret)| !secret.contains("app/anchor"))
                .collect();
            ensure!(
                others.is_empty(),
                "{tool:?}: {step:?}: values were read of {others:?}"
            );
            let after = left.state().await?;
            for (object, was) in &before {
                same(
                    &format!("{tool:?}: {step:?}: {object}"),
                    &after.get(object),
                    &Some(was),
                )?;
            }
        }
        let restarts = history.of("Deployment", "anchored").await?;
        same(
            "restarts of what followed",
            &restarts.len(),
            &(2 * tool.steps().len()),
        )
    })
    .catch_unwind()
    .await;
    bed.finish(Some(&operator), outcome).await
}
