//! The workloads follow their Secrets: one after another, and no further once one of them fails.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, StatefulSet};
use k8s_openapi::api::batch::v1::CronJob;
use kube::Api;
use testbed::{conditions, manifest, wait};

use super::made_up::{login, login_password, restart_annotation};
use super::{ACCOUNT, LIMIT, REGION, Stage};
use crate::terminal::{Terminal, seconds};

const WORKLOADS: &str = include_str!("../../manifests/demo-workloads.yaml");
const NAMESPACE: &str = "shop";
/// Those that use the database password.
const OF_DB: [&str; 3] = ["DaemonSet/agent", "Deployment/api", "StatefulSet/worker"];
/// Those that use the mail token.
const OF_MAIL: [&str; 2] = ["Deployment/mailer", "Deployment/newsletter"];
/// A restart waits 5 s at least, and each rollout takes its time.
const ROLLED: Duration = Duration::from_mins(3);

/// A workload as the demo looks at it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Look {
    generation: i64,
    /// The token on its pod template, if one is there.
    token: Option<String>,
    /// Whether all of its pods are of the present template, and available.
    rolled: bool,
}

impl Stage {
    /// Starts what uses the Secrets.
    pub(super) async fn workloads(&self, terminal: &mut Terminal) -> Result<()> {
        terminal
            .step("Workloads of shop use the Secrets: a Deployment, a StatefulSet, a DaemonSet, a CronJob");
        let manifest = WORKLOADS.replace("RESTART_OF_MAIL", &restart_annotation("mail"));
        manifest::apply(&self.client, &manifest).await?;
        terminal.command("kubectl apply -f tests/testbed/manifests/demo-workloads.yaml", "");
        for workload in OF_DB.iter().chain(&OF_MAIL) {
            wait::until(&format!("{workload} to run"), LIMIT, async || {
                let look = self.look(workload).await?;
                Ok(look.rolled.then_some(()))
            })
            .await?;
        }
        self.kubectl(
            terminal,
            "--namespace shop get deployments,statefulsets,daemonsets,cronjobs",
        )
        .await
    }

    /// A rotation in four steps; the Secret follows, and the workloads follow the Secret.
    pub(super) async fn rotation(&self, terminal: &mut Terminal) -> Result<()> {
        terminal.step("A rotation of shop's database password, in the four steps of a rotation Lambda");
        let arn = self.arn("k8s/shop/db")?;
        let old = self.password().await?;
        let before = self.looks(&OF_DB).await?;
        let cron_job = self.cron_job().await?;
        let lambda = format!("arn:aws:lambda:{REGION}:{ACCOUNT}:function:rotate");
        self.aws.enable_rotation(arn, &lambda, 30)?;
        let rotation = self.aws.begin_rotation(arn)?;
        rotation.create_secret(login("demo-password-2"))?;
        terminal.say("createSecret: a new version with the new password, labelled AWSPENDING.");
        let mark = self.aws.mark();
        rotation.set_secret()?;
        terminal.say("setSecret:    the database takes it.");
        rotation.test_secret()?;
        terminal.say("testSecret:   a login with it works.");
        wait::until("a check while the rotation is under way", LIMIT, async || {
            Ok((!self.aws.calls_since(mark).readers_of(arn).is_empty()).then_some(()))
        })
        .await?;
        ensure!(
            self.password().await? == old,
            "the pending password reached the Secret"
        );
        ensure!(
            self.looks(&OF_DB).await? == before,
            "a workload changed before the Secret did"
        );
        terminal.say(&format!(
            "Keyturn has looked meanwhile: the Secret still holds {old}, and no workload moved."
        ));
        rotation.finish_secret()?;
        let finished = Instant::now();
        terminal.say("finishSecret: AWSCURRENT moves to the new version.");
        let new = self.password_is(&login_password("demo-password-2")).await?;
        terminal.say(&format!(
            "The Secret holds {new}, {} later (refreshInterval is 10 s here; 1h unless set).",
            seconds(finished.elapsed()),
        ));
        let order = self.timeline(terminal, &OF_DB, &before, finished).await?;
        ensure!(order.len() == OF_DB.len(), "only {order:?} were restarted");
        let done = self.restarts("db", "True", "Complete").await?;
        terminal.say(&format!("RestartsComplete is True: {done}"));
        for (workload, look) in self.looks(&OF_DB).await? {
            let was = before.get(workload).map_or(0, |look| look.generation);
            ensure!(
                look.generation == was + 1,
                "{workload} was changed {} times",
                look.generation - was
            );
        }
        ensure!(self.cron_job().await? == cron_job, "the CronJob was touched");
        terminal
            .say("Each was changed once. The CronJob was left alone: its next run reads the new password.");
        self.kubectl(terminal, "--namespace shop get kes db").await?;
        self.kubectl(
            terminal,
            "--namespace shop get events --field-selector reason=RestartCompleted",
        )
        .await
    }

    /// A workload that does not come up again stops what would follow it.
    pub(super) async fn halt(&self, terminal: &mut Terminal) -> Result<()> {
        terminal.step("A restart that goes wrong: mailer crashes with the new token, newsletter is next");
        let before = self.looks(&OF_MAIL).await?;
        self.aws
            .put_secret_value(self.arn("k8s/shop/mail")?, "demo-mail-token-2")?;
        self.kubectl(
            terminal,
            "--namespace shop annotate kes mail keyturn.dev/refresh=now",
        )
        .await?;
        let halted = self.restarts("mail", "False", "Halted").await?;
        terminal.say("RestartsComplete is False/Halted:");
        terminal.show(&format!("  {halted}"));
        let after = self.looks(&OF_MAIL).await?;
        let (mailer, newsletter) = (OF_MAIL[0], OF_MAIL[1]);
        ensure!(
            after.get(mailer) != before.get(mailer),
            "mailer was not restarted"
        );
        ensure!(
            after.get(newsletter) == before.get(newsletter),
            "newsletter was restarted nevertheless"
        );
        self.kubectl(terminal, "--namespace shop get pods --selector app=mailer")
            .await?;
        terminal.say("mailer's old pod still serves, newsletter was not touched. Somebody mends mailer:");
        let mend = r#"{"spec":{"template":{"metadata":{"annotations":{"testbed.keyturn.dev/crash-loop-with":null}}}}}"#;
        let output = self
            .cluster
            .kubectl([
                "--namespace",
                NAMESPACE,
                "patch",
                "deployment",
                "mailer",
                "--patch",
                mend,
            ])
            .await?;
        let mended = Instant::now();
        terminal.command(
            &format!("kubectl --namespace shop patch deployment mailer --patch '{mend}'"),
            &output,
        );
        self.restarts("mail", "True", "Complete").await?;
        let last = self.look(newsletter).await?;
        ensure!(
            last.token.is_some() && last.rolled,
            "newsletter was not restarted in the end"
        );
        terminal.say(&format!(
            "It recovers, the halt ends by itself, and newsletter follows: complete after {}.",
            seconds(mended.elapsed())
        ));
        Ok(())
    }

    /// Tells of each workload when it is changed and when it has rolled; gives the order in which they were changed, after
    /// which none rolled while another one did.
    async fn timeline(
        &self,
        terminal: &Terminal,
        workloads: &[&'static str],
        before: &BTreeMap<&'static str, Look>,
        since: Instant,
    ) -> Result<Vec<&'static str>> {
        let mut order = Vec::new();
        let mut done = Vec::new();
        wait::until("all workloads to be restarted", ROLLED, async || {
            for workload in workloads {
                let look = self.look(workload).await?;
                let token = before.get(workload).and_then(|look| look.token.as_ref());
                if look.token.is_none() || look.token.as_ref() == token {
                    continue;
                }
                if !order.contains(workload) {
                    if order.len() > done.len() {
                        bail!("{workload} was restarted while {:?} rolled", order.last());
                    }
                    order.push(*workload);
                    terminal.say(&format!(
                        "  {workload:<20} is restarted, {} after the rotation",
                        seconds(since.elapsed())
                    ));
                }
                if look.rolled && !done.contains(workload) {
                    done.push(*workload);
                    terminal.say(&format!(
                        "  {workload:<20} runs with the new password, {}",
                        seconds(since.elapsed())
                    ));
                }
            }
            Ok((done.len() == workloads.len()).then_some(()))
        })
        .await?;
        Ok(order)
    }

    async fn looks(&self, workloads: &[&'static str]) -> Result<BTreeMap<&'static str, Look>> {
        let mut looks = BTreeMap::new();
        for workload in workloads {
            looks.insert(*workload, self.look(workload).await?);
        }
        Ok(looks)
    }

    async fn look(&self, workload: &str) -> Result<Look> {
        let (kind, name) = workload.split_once('/').context("a workload is KIND/NAME")?;
        let client = self.client.clone();
        let (metadata, template, rolled) = match kind {
            "Deployment" => {
                let found = Api::<Deployment>::namespaced(client, NAMESPACE).get(name).await?;
                let spec = found.spec.context("a spec")?;
                let status = found.status.unwrap_or_default();
                let rolled = status.observed_generation == found.metadata.generation
                    && status.updated_replicas == spec.replicas
                    && status.replicas == spec.replicas
                    && status.available_replicas == spec.replicas;
                (found.metadata, spec.template, rolled)
            }
            "StatefulSet" => {
                let found = Api::<StatefulSet>::namespaced(client, NAMESPACE)
                    .get(name)
                    .await?;
                let spec = found.spec.context("a spec")?;
                let status = found.status.unwrap_or_default();
                let rolled = status.observed_generation == found.metadata.generation
                    && status.current_revision == status.update_revision
                    && status.ready_replicas == spec.replicas;
                (found.metadata, spec.template, rolled)
            }
            "DaemonSet" => {
                let found = Api::<DaemonSet>::namespaced(client, NAMESPACE).get(name).await?;
                let spec = found.spec.context("a spec")?;
                let status = found.status.unwrap_or_default();
                let wanted = status.desired_number_scheduled;
                let rolled = status.observed_generation == found.metadata.generation
                    && wanted > 0
                    && status.updated_number_scheduled == Some(wanted)
                    && status.number_available == Some(wanted);
                (found.metadata, spec.template, rolled)
            }
            other => bail!("{other} is no kind that is restarted"),
        };
        let annotations = template
            .metadata
            .and_then(|metadata| metadata.annotations)
            .unwrap_or_default();
        let ours = annotations
            .into_iter()
            .find(|(name, _)| name.starts_with("restart.keyturn.dev/"));
        Ok(Look {
            generation: metadata.generation.unwrap_or_default(),
            token: ours.map(|(_, token)| token),
            rolled,
        })
    }

    /// The generation of the `CronJob` and annotations: both stay.
    async fn cron_job(&self) -> Result<(Option<i64>, Option<BTreeMap<String, String>>)> {
        let found = Api::<CronJob>::namespaced(self.client.clone(), NAMESPACE)
            .get("report")
            .await?;
        Ok((found.metadata.generation, found.metadata.annotations))
    }

    /// Waits until `RestartsComplete` of an ExternalSecret is so, and gives its message.
    async fn restarts(&self, name: &str, status: &str, reason: &str) -> Result<String> {
        self.says(name, "RestartsComplete", status, reason).await
    }

    /// Waits until a condition of an ExternalSecret of shop is so, and gives its message.
    pub(super) async fn says(&self, name: &str, kind: &str, status: &str, reason: &str) -> Result<String> {
        let what = format!("{kind} of {name} to be {status}/{reason}");
        wait::until(&what, ROLLED, async || {
            let object = conditions::external_secrets(&self.client, NAMESPACE)
                .get(name)
                .await?;
            let Some(found) = conditions::condition(&object, kind) else {
                return Ok(None);
            };
            if found.status == status && found.reason == reason {
                return Ok(Some(found.message));
            }
            bail!("it is {}/{}: {}", found.status, found.reason, found.message)
        })
        .await
    }
}
