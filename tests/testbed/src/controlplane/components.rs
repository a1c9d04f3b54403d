//! The command line of each component, and why it is so.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::Options;
use super::certs::{Authority, Identity, service_account_key};
use super::kubeconfig;
use super::ports;

/// The issuer of `ServiceAccount` tokens unless a cluster is given.
pub(super) const ISSUER: &str = "https://kubernetes.default.svc";

/// Controllers that run; the rest (volumes, certificates, quotas, endpoints, ...) would only cost time.
const CONTROLLERS: &[&str] = &[
    "clusterrole-aggregation-controller",
    "daemonset-controller",
    "deployment-controller",
    "disruption-controller",
    "garbage-collector-controller",
    "namespace-controller",
    // Takes the not-ready taint from new nodes.
    "node-lifecycle-controller",
    "pod-garbage-collector-controller",
    "replicaset-controller",
    "root-ca-certificate-publisher-controller",
    "serviceaccount-controller",
    "serviceaccount-token-controller",
    "statefulset-controller",
    "taint-eviction-controller",
    "validatingadmissionpolicy-status-controller",
];

/// Who did what, without bodies: tests and the bench count requests per user, agent and verb.
const AUDIT_POLICY: &str = "\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Metadata
";

/// Stages of our own beside kwok's.
const STAGES: &str = include_str!("../../controlplane/kwok/stages.yaml");

/// Everything that the command lines name: files written, ports chosen.
pub(super) struct Layout {
    folder: PathBuf,
    etcd_client: u16,
    etcd_peer: u16,
    api: u16,
    ca: PathBuf,
    serving: Identity,
    service_account_key: PathBuf,
    pub(super) admin: PathBuf,
    pub(super) audit_log: Option<PathBuf>,
    controller_manager: PathBuf,
    scheduler: PathBuf,
    kwok: PathBuf,
    apiserver_arguments: Vec<String>,
}

impl Layout {
    /// Chooses ports and writes certificates, kubeconfigs and settings into `folder`.
    pub(super) fn write(folder: &Path, kwok_stages: &Path, options: Options) -> Result<Self> {
        let [etcd_client, etcd_peer, api] = ports::free()?;
        let certs = folder.join("certs");
        let authority = Authority::new(&certs)?;
        let serving = authority.server(
            "kube-apiserver",
            &[
                "127.0.0.1",
                "localhost",
                "kubernetes",
                "kubernetes.default",
                "kubernetes.default.svc",
                "10.96.0.1",
            ],
        )?;
        let url = format!("https://127.0.0.1:{api}");
        let kubeconfig = |name: &str, user: &str, group: Option<&str>| -> Result<PathBuf> {
            let path = folder.join(format!("{name}.kubeconfig"));
            kubeconfig::write_with_certificate(
                &path,
                &url,
                &authority.certificate,
                &authority.client(user, group)?,
            )?;
            Ok(path)
        };
        let admin = kubeconfig("admin", "admin", Some("system:masters"))?;
        let controller_manager = kubeconfig("controller-manager", "system:kube-controller-manager", None)?;
        let scheduler = kubeconfig("scheduler", "system:kube-scheduler", None)?;
        // kwok writes nodes, pods and leases; there is no built-in role for it.
        let kwok = kubeconfig("kwok", "kwok", Some("system:masters"))?;

        fs::write(folder.join("audit-policy.yaml"), AUDIT_POLICY).context("write the audit policy")?;
        let stages = fs::read_to_string(kwok_stages)
            .with_context(|| format!("read kwok's stages from {}", kwok_stages.display()))?;
        fs::write(folder.join("stages.yaml"), stages + STAGES).context("write the stages for kwok")?;
        Ok(Self {
            etcd_client,
            etcd_peer,
            api,
            ca: authority.certificate.clone(),
            serving,
            service_account_key: service_account_key(&certs)?,
            admin,
            audit_log: options.audit.then(|| folder.join("audit.log")),
            controller_manager,
            scheduler,
            kwok,
            apiserver_arguments: options.apiserver_arguments,
            folder: folder.to_owned(),
        })
    }

    pub(super) fn etcd(&self) -> Vec<String> {
        let (client, peer) = (self.etcd_client, self.etcd_peer);
        vec![
            "--name=testbed".into(),
            flag("data-dir", self.folder.join("etcd")),
            format!("--listen-client-urls=http://127.0.0.1:{client}"),
            format!("--advertise-client-urls=http://127.0.0.1:{client}"),
            format!("--listen-peer-urls=http://127.0.0.1:{peer}"),
            format!("--initial-advertise-peer-urls=http://127.0.0.1:{peer}"),
            format!("--initial-cluster=testbed=http://127.0.0.1:{peer}"),
            // What a power cut would lose is of no use to anybody.
            "--unsafe-no-fsync".into(),
            "--log-level=warn".into(),
        ]
    }

    pub(super) fn apiserver(&self) -> Vec<String> {
        let mut arguments = vec![
            format!("--etcd-servers=http://127.0.0.1:{}", self.etcd_client),
            "--bind-address=127.0.0.1".into(),
            "--advertise-address=127.0.0.1".into(),
            format!("--secure-port={}", self.api),
            // An endpoint of the loopback address is refused by validation; nothing here needs it.
            "--endpoint-reconciler-type=none".into(),
            flag("cert-dir", self.folder.join("certs")),
            flag("tls-cert-file", &self.serving.certificate),
            flag("tls-private-key-file", &self.serving.key),
            flag("client-ca-file", &self.ca),
            format!("--service-account-issuer={ISSUER}"),
            flag("service-account-key-file", &self.service_account_key),
            flag("service-account-signing-key-file", &self.service_account_key),
            "--authorization-mode=Node,RBAC".into(),
            "--service-cluster-ip-range=10.96.0.0/16".into(),
            "--allow-privileged=true".into(),
            "--profiling=false".into(),
        ];
        if let Some(log) = &self.audit_log {
            arguments.push(flag("audit-policy-file", self.folder.join("audit-policy.yaml")));
            arguments.push(flag("audit-log-path", log));
            // Never rotated: a reader would miss what was moved away.
            arguments.push("--audit-log-maxsize=0".into());
        }
        arguments.extend(self.apiserver_arguments.iter().cloned());
        arguments
    }

    pub(super) fn controller_manager(&self) -> Vec<String> {
        vec![
            flag("kubeconfig", &self.controller_manager),
            format!("--controllers={}", CONTROLLERS.join(",")),
            // As in a cluster: each controller acts under its own role.
            "--use-service-account-credentials=true".into(),
            flag("service-account-private-key-file", &self.service_account_key),
            flag("root-ca-file", &self.ca),
            "--leader-elect=false".into(),
            "--secure-port=0".into(),
            // The default of 20 a second makes tests wait.
            "--kube-api-qps=500".into(),
            "--kube-api-burst=1000".into(),
        ]
    }

    pub(super) fn scheduler(&self) -> Vec<String> {
        vec![
            flag("kubeconfig", &self.scheduler),
            "--leader-elect=false".into(),
            "--secure-port=0".into(),
            "--kube-api-qps=500".into(),
            "--kube-api-burst=1000".into(),
        ]
    }

    pub(super) fn kwok(&self) -> Vec<String> {
        vec![
            flag("kubeconfig", &self.kwok),
            flag("config", self.folder.join("stages.yaml")),
            "--manage-all-nodes=true".into(),
            // Without leases the nodes turn NotReady.
            "--node-lease-duration-seconds=40".into(),
        ]
    }
}

fn flag(name: &str, value: impl AsRef<Path>) -> String {
    format!("--{name}={}", value.as_ref().display())
}
