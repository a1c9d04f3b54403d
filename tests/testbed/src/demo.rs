//! `testbed demo`: the main job, step by step, on a real control plane and the AWS emulator. Every sentence that says
//! something happened comes after a check that it did.

mod account;
mod made_up;
mod restarts;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::core::v1::{Event, Secret};
use kube::{Api, Client, api::ListParams};
use serde_json::json;
use testbed::aws::{AwsEmulator, Options as AwsOptions, documents};
use testbed::conditions::is_ready;
use testbed::controlplane::{Binaries, ControlPlane, Options};
use testbed::operator::{Install, Installed, Operator, StartOptions};
use testbed::{manifest, requests, wait};
use tokio::signal::unix::{SignalKind, signal};

use self::made_up::{fingerprint, login, login_password, reader};
use crate::terminal::{self, Terminal, seconds};

const ACCOUNT: &str = "111122223333";
const REGION: &str = "eu-central-1";
const NAMESPACES: &str = "\
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Namespace
metadata: {name: bank}
";
const OBJECTS: &str = include_str!("../manifests/demo.yaml");
const DENIED: &str = include_str!("../manifests/demo-denied.yaml");
/// `refreshInterval` in the manifests.
const INTERVAL: Duration = Duration::from_secs(10);
/// For what takes a second, on a machine that is busy with something else.
const LIMIT: Duration = Duration::from_mins(1);

/// The ExternalSecrets of the manifest: namespace, name, entries in `data` and `dataFrom`.
const SYNCED: [(&str, &str, u64); 6] = [
    ("bank", "ledger", 1),
    ("bank", "payments", 1),
    ("shop", "db", 2),
    ("shop", "mail", 1),
    ("shop", "payments", 1),
    ("shop", "payments-worker", 1),
];

/// The main job, shown: no cluster, no AWS account, no Docker.
#[derive(clap::Args)]
pub(crate) struct Demo {
    /// End after the last step instead of leaving it running; so it is without a terminal.
    #[arg(long)]
    exit: bool,
}

impl Demo {
    pub(crate) fn run(self) -> Result<()> {
        let mut terminal = Terminal::new();
        terminal.line(
            "Keyturn keeps Kubernetes Secrets equal to what AWS Secrets Manager says, and restarts what uses them. At work:",
        );
        terminal.line("the API server, controllers and scheduler are real; AWS is an emulator that refuses what AWS would.");
        terminal.step("A Kubernetes control plane");
        let binaries = Binaries::ensure(&terminal::progress)?;
        let runtime = tokio::runtime::Runtime::new().context("start the runtime")?;
        runtime.block_on(async {
            let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
            let story = async {
                let stage = Stage::set(&mut terminal, &binaries).await?;
                stage
                    .play(&mut terminal, !self.exit && Terminal::is_interactive())
                    .await
            };
            tokio::select! {
                outcome = story => outcome,
                interrupted = tokio::signal::ctrl_c() => interrupted.context("listen for Ctrl-C"),
                _ = terminate.recv() => Ok(()),
            }
        })
    }
}

/// What the story plays on. Dropped in the order of the fields.
struct Stage {
    operator: Operator,
    aws: AwsEmulator,
    arns: BTreeMap<&'static str, String>,
    client: Client,
    cluster: ControlPlane,
    kubectl: String,
}

impl Stage {
    async fn set(terminal: &mut Terminal, binaries: &Binaries) -> Result<Self> {
        let started = Instant::now();
        let cluster = ControlPlane::start(binaries, Options::default()).await?;
        let client = cluster.client().await?;
        let version = client.apiserver_version().await.context("ask for the version")?;
        terminal.say(&format!(
            "Kubernetes {} runs, started in {}.",
            version.git_version,
            seconds(started.elapsed())
        ));

        terminal.step("Secrets in AWS");
        let aws = AwsEmulator::start(AwsOptions::default())?;
        let mut arns = BTreeMap::new();
        for (name, value) in [
            ("k8s/shop/db", login("demo-password-1")),
            ("k8s/shop/mail", "demo-mail-token".to_owned()),
            (
                "k8s/bank/ledger",
                json!({"url": "ledger.bank.example", "key": "demo-ledger-key"}).to_string(),
            ),
            (
                "shop/payments",
                json!({"apiKey": "demo-shop-key", "account": "shop"}).to_string(),
            ),
            (
                "bank/payments",
                json!({"apiKey": "demo-bank-key", "account": "bank"}).to_string(),
            ),
        ] {
            arns.insert(name, aws.create_secret(ACCOUNT, REGION, name, value)?);
        }
        for tenant in ["shop", "bank"] {
            let trust = documents::trust_service_account(
                ACCOUNT,
                cluster.issuer(),
                &format!("system:serviceaccount:{tenant}:reader"),
            );
            let policies = reader(&format!("{tenant}/*"));
            let policies: Vec<&str> = policies.iter().map(String::as_str).collect();
            aws.create_role(
                &format!("arn:aws:iam::{ACCOUNT}:role/{tenant}"),
                &trust,
                &policies,
            )?;
        }
        terminal.say(&format!(
            "{} secrets, and roles by IAM: \"shop\" may read shop/*, \"bank\" bank/*, the operator k8s/*.",
            arns.len()
        ));

        terminal.step("Keyturn, installed by its Helm chart");
        let install = Install {
            policies: reader("k8s/*"),
            // Shorter than anybody would want it, so that the story goes on.
            set: vec!["minRefreshInterval=10s".into(), "clusterName=demo".into()],
            ..Install::new("keyturn", "keyturn")
        };
        let (role, set) = (install.role.clone(), install.set.join(" --set "));
        let installed = Installed::install(&cluster, &aws, install).await?;
        terminal.command(
            &format!(
                "helm install keyturn charts/keyturn --namespace keyturn --create-namespace --set \
                 aws.region={REGION} --set aws.roleArn={role} --set {set}"
            ),
            "",
        );
        let mut operator = installed.start(&cluster, StartOptions::default()).await?;
        let started = Instant::now();
        operator.wait_ready().await?;
        terminal.say(&format!(
            "The operator is ready {} after its start. It is process {}, with the chart's arguments and as",
            seconds(started.elapsed()),
            operator.id()
        ));
        terminal.show(&format!(
            "{}, so that the chart's roles and admission policies bind it.",
            operator.user()
        ));
        let kubectl = binaries.kubectl.display().to_string();
        Ok(Self {
            operator,
            aws,
            arns,
            client,
            cluster,
            kubectl,
        })
    }

    async fn play(mut self, terminal: &mut Terminal, stay: bool) -> Result<()> {
        let before = self.aws.mark();
        let applied = Instant::now();
        self.first_sync(terminal).await?;
        self.denials(terminal).await?;
        self.quiet(terminal).await?;
        self.workloads(terminal).await?;
        self.rotation(terminal).await?;
        self.halt(terminal).await?;
        self.on_demand(terminal).await?;
        self.drift(terminal).await?;
        account::who_read_what(terminal, &self.arns, &self.aws.calls_since(before))?;
        account::bill(terminal, &self.aws.calls_since(before), applied.elapsed())?;
        if let Some(status) = self.operator.ended()? {
            bail!("the operator ended with {status}");
        }
        if stay {
            self.stay(terminal).await?;
        }
        terminal.line("");
        terminal.line("That was all: every step was checked. Everything that was started ends now.");
        Ok(())
    }

    async fn first_sync(&self, terminal: &mut Terminal) -> Result<()> {
        terminal.step("Two tenants, shop and bank, each with its own role, and what they want");
        manifest::apply(&self.client, NAMESPACES).await?;
        let mark = self.aws.mark();
        let started = Instant::now();
        manifest::apply(&self.client, OBJECTS).await?;
        for (namespace, name, _) in SYNCED {
            self.reaches(namespace, name, "True", "Synced").await?;
        }
        for name in ["db", "mail"] {
            self.says(name, "RestartsComplete", "True", "NothingPending")
                .await?;
            self.says(name, "RotationHealthy", "True", "Idle").await?;
        }
        terminal.command("kubectl apply -f tests/testbed/manifests/demo.yaml", "");
        terminal.say(&format!(
            "{} ExternalSecrets are synced {} after their manifest was sent:",
            SYNCED.len(),
            seconds(started.elapsed())
        ));
        self.kubectl(terminal, "get kes --all-namespaces").await?;
        self.kubectl(
            terminal,
            "get secrets --all-namespaces --selector keyturn.dev/managed=true",
        )
        .await?;
        let reads = self.aws.calls_since(mark);
        for (secret, arn) in &self.arns {
            let readers = reads.readers_of(arn);
            ensure!(
                readers.len() == 1,
                "{secret} was read by {} identities",
                readers.len()
            );
        }
        terminal.say(&format!(
            "shop's password has the fingerprint {}: values are never printed.",
            self.password().await?
        ));
        Ok(())
    }

    async fn denials(&self, terminal: &mut Terminal) -> Result<()> {
        terminal.step("shop tries to read what is the bank's");
        let mark = self.aws.mark();
        manifest::apply(&self.client, DENIED).await?;
        let by_rule = self.reaches("shop", "curious", "False", "KeyNotAllowed").await?;
        let by_aws = self
            .reaches("shop", "curious-by-role", "False", "AccessDenied")
            .await?;
        self.kubectl(terminal, "--namespace shop get kes").await?;
        terminal.say("Through the store of all, Keyturn refuses before it asks AWS:");
        terminal.show(&format!("  {by_rule}"));
        terminal.say("With shop's own role, AWS refuses:");
        terminal.show(&format!("  {by_aws}"));
        let calls = self.aws.calls_since(mark);
        for bank in ["k8s/bank/ledger", "bank/payments"] {
            let arn = self.arn(bank)?;
            let readers = calls.readers_of(arn);
            ensure!(
                !readers.iter().any(|reader| reader.contains("role/shop/")),
                "shop read {bank}"
            );
        }
        let secrets = Api::<Secret>::namespaced(self.client.clone(), "shop");
        for name in ["curious", "curious-by-role"] {
            self.has_event("shop", name).await?;
            let made = secrets.get_opt(name).await.context("look for a Secret")?;
            ensure!(made.is_none(), "a Secret {name} was made");
        }
        Ok(())
    }

    async fn quiet(&self, terminal: &mut Terminal) -> Result<()> {
        terminal.step("Nothing happens");
        let time = INTERVAL * 2;
        let (calls, asked) = (self.aws.mark(), requests::mark(&self.cluster)?);
        tokio::time::sleep(time).await;
        let calls = self.aws.calls_since(calls);
        let asked = requests::since(&self.cluster, asked)?.of(self.operator.user());
        let writes = asked.only(|request| request.writes() && request.resource != "leases");
        ensure!(
            writes.0.is_empty(),
            "it wrote without a reason: {:?}",
            writes.counts()
        );
        terminal.say(&format!(
            "In {} of {} checks each, Keyturn made {} calls to AWS and wrote nothing to Kubernetes but its Lease.",
            seconds(time),
            time.as_secs() / INTERVAL.as_secs(),
            calls.requests().count(),
        ));
        Ok(())
    }

    async fn on_demand(&self, terminal: &mut Terminal) -> Result<()> {
        terminal.step("A new password that shall be there at once");
        self.aws
            .put_secret_value(self.arn("k8s/shop/db")?, login("demo-password-3"))?;
        let asked = Instant::now();
        self.kubectl(
            terminal,
            "--namespace shop annotate kes db keyturn.dev/refresh=now",
        )
        .await?;
        self.password_is(&login_password("demo-password-3")).await?;
        terminal.say(&format!(
            "The Secret holds it {} after the command began.",
            seconds(asked.elapsed())
        ));
        Ok(())
    }

    async fn drift(&self, terminal: &mut Terminal) -> Result<()> {
        terminal.step("Somebody edits the Secret by hand");
        let patch = r#"{"stringData":{"password":"wrong","more":"x"}}"#;
        let edit = [
            "--namespace",
            "shop",
            "patch",
            "secret",
            "db-credentials",
            "--patch",
            patch,
        ];
        let mark = requests::mark(&self.cluster)?;
        let output = self.cluster.kubectl(edit).await?;
        let edited = Instant::now();
        terminal.command(
            &format!("kubectl --namespace shop patch secret db-credentials --patch '{patch}'"),
            &output,
        );
        self.password_is(&login_password("demo-password-3")).await?;
        let taken = edited.elapsed();
        let secret = self.secret("shop", "db-credentials").await?;
        let keys: Vec<String> = secret.data.unwrap_or_default().into_keys().collect();
        ensure!(
            keys == ["password", "username"],
            "keys stayed that are not of the ExternalSecret: {keys:?}"
        );
        let writes = requests::since(&self.cluster, mark)?
            .of(self.operator.user())
            .only(|request| request.writes() && request.resource == "secrets");
        terminal.say(&format!(
            "Repaired {} later by {} write, the foreign key removed.",
            seconds(taken),
            writes.0.len()
        ));
        Ok(())
    }

    async fn stay(&self, terminal: &mut Terminal) -> Result<()> {
        terminal.step("Yours to explore, until Ctrl-C");
        let keys = self.aws.create_user(
            &format!("arn:aws:iam::{ACCOUNT}:user/you"),
            &[&documents::allow(&["secretsmanager:*"], &["*"])],
        )?;
        terminal.show(&format!(
            "export KUBECONFIG={}\nalias kubectl={}\nkubectl get kes -A\n",
            self.cluster.kubeconfig().display(),
            self.kubectl
        ));
        terminal.say(
            "If you have the AWS command line, change a secret and watch (made-up keys of the emulator):",
        );
        terminal.show(&format!(
            "export AWS_ENDPOINT_URL={} AWS_REGION={REGION} AWS_ACCESS_KEY_ID={} AWS_SECRET_ACCESS_KEY={}\n\
             aws secretsmanager put-secret-value --secret-id k8s/shop/mail --secret-string another-token",
            self.aws.url(),
            keys.access_key_id,
            keys.secret_access_key
        ));
        terminal.say(&format!(
            "The operator logs to {}, its audit log is {}.",
            self.operator.log().display(),
            self.operator.audit().display()
        ));
        tokio::signal::ctrl_c().await.context("listen for Ctrl-C")
    }

    /// Waits until `Ready` is so, and gives its message.
    async fn reaches(&self, namespace: &str, name: &str, status: &str, reason: &str) -> Result<String> {
        let what = format!("the ExternalSecret {namespace}/{name} to be {status}/{reason}");
        let ready = wait::until(&what, LIMIT, async || {
            is_ready(&self.client, namespace, name, status, reason).await
        })
        .await?;
        Ok(ready.message)
    }

    /// Waits for an event about the ExternalSecret, which follows its status.
    async fn has_event(&self, namespace: &str, name: &str) -> Result<()> {
        let api = Api::<Event>::namespaced(self.client.clone(), namespace);
        let of = ListParams::default().fields(&format!("involvedObject.name={name}"));
        wait::until(&format!("an event about {namespace}/{name}"), LIMIT, async || {
            let found = api.list(&of).await.context("list events")?;
            Ok((!found.items.is_empty()).then_some(()))
        })
        .await
    }

    async fn kubectl(&self, terminal: &Terminal, arguments: &str) -> Result<()> {
        let output = self.cluster.kubectl(arguments.split(' ')).await?;
        terminal.command(&format!("kubectl {arguments}"), &output);
        Ok(())
    }

    async fn secret(&self, namespace: &str, name: &str) -> Result<Secret> {
        let api = Api::<Secret>::namespaced(self.client.clone(), namespace);
        let secret = api.get(name).await;
        secret.with_context(|| format!("get the Secret {namespace}/{name}"))
    }

    /// The fingerprint of shop's database password.
    async fn password(&self) -> Result<String> {
        let secret = self.secret("shop", "db-credentials").await?;
        let data = secret.data.unwrap_or_default();
        let password = data.get("password").context("the Secret has no password")?;
        Ok(fingerprint(&password.0))
    }

    async fn password_is(&self, wanted: &str) -> Result<String> {
        wait::until("the password in the Secret", LIMIT, async || {
            let found = self.password().await?;
            Ok((found == wanted).then_some(found))
        })
        .await
    }

    fn arn(&self, name: &str) -> Result<&str> {
        let arn = self.arns.get(name);
        Ok(arn.with_context(|| format!("there is no secret {name}"))?)
    }
}
