//! The chart: what it renders, what it refuses, and what its roles and policies let the operator do on a real API server;
//! and the health script for Argo CD.

#[path = "chart/health.rs"]
mod health;

#[path = "chart/release.rs"]
mod release;

#[path = "chart/values.rs"]
mod values;

#[path = "chart/workloads.rs"]
mod workloads;

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use k8s_openapi::{
    ByteString,
    api::{
        authentication::v1::{TokenRequest, TokenRequestSpec},
        core::v1::{Secret, ServiceAccount},
    },
};
use keyturn::api::{ClusterSecretStore, crds, to_yaml};
use kube::{
    Api, Client, Config,
    api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::{Value, json};
use testbed::controlplane::{Binaries, ControlPlane};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Runs helm on the chart; what it prints, or an error with what it complains of.
fn helm(arguments: &[&str]) -> Result<String> {
    let binaries = Binaries::ensure(&|_| {})?;
    let output = Command::new(&binaries.helm)
        .args(arguments)
        .current_dir(root())
        .output()
        .context("run helm")?;
    if !output.status.success() {
        bail!("helm: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8(output.stdout)?)
}

fn template(values: &[&str]) -> Result<String> {
    let mut arguments = vec!["template", "keyturn", "charts/keyturn", "--namespace", "keyturn"];
    for value in values {
        arguments.extend(["--set", value]);
    }
    helm(&arguments)
}

/// The objects of a rendering, by kind and name.
fn objects(rendered: &str) -> Result<BTreeMap<(String, String), Value>> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(rendered)?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let named = |object: Value| ((text(&object["kind"]), text(&object["metadata"]["name"])), object);
    Ok(documents
        .into_iter()
        .filter(|document| !document.is_null())
        .map(named)
        .collect())
}

fn kinds(objects: &BTreeMap<(String, String), Value>, kind: &str) -> usize {
    objects.keys().filter(|(of, _)| of == kind).count()
}

#[test]
fn the_chart_passes_its_own_lint() {
    helm(&["lint", "--strict", "charts/keyturn"]).unwrap();
}

#[test]
fn the_kustomize_base_is_fresh() {
    let rendered = template(&["crds.install=false"]).unwrap();
    let path = root().join("deploy/base/keyturn.yaml");
    if env::var_os("UPDATE").is_some() {
        fs::write(&path, &rendered).unwrap();
    }
    let committed = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == rendered,
        "{} is stale: run `make generate`",
        path.display()
    );
}

#[test]
fn a_region_and_a_role_are_enough() {
    let role = "arn:aws:iam::111122223333:role/keyturn";
    let rendered = template(&["aws.region=eu-central-1", &format!("aws.roleArn={role}")]).unwrap();
    let objects = objects(&rendered).unwrap();
    let get = |kind: &str, name: &str| &objects[&(kind.to_owned(), name.to_owned())];

    let account = get("ServiceAccount", "keyturn");
    assert_eq!(
        account["metadata"]["annotations"]["eks.amazonaws.com/role-arn"],
        role
    );
    let container = &get("Deployment", "keyturn")["spec"]["template"]["spec"]["containers"][0];
    let environment = container["env"].as_array().unwrap();
    assert!(environment.contains(&json!({"name": "AWS_REGION", "value": "eu-central-1"})));
    // The name that the operator itself takes in session names when it is given none.
    assert!(environment.contains(&json!({"name": "AWS_ROLE_SESSION_NAME", "value": "keyturn-kubernetes"})));
    for crd in ["externalsecrets", "secretstores", "clustersecretstores"] {
        let crd = get("CustomResourceDefinition", &format!("{crd}.keyturn.dev"));
        assert_eq!(crd["metadata"]["annotations"]["helm.sh/resource-policy"], "keep");
    }
}

#[test]
fn values_reach_the_operators_arguments() {
    let rendered = template(&[
        "clusterName=prod",
        "defaultStore=aws",
        "scope.namespaces={a,b}",
        "aws.periodicReads=false",
        "secretStore.allowOperatorIdentity=true",
        "statusWritesPerSecond=7",
        "tokenAudiences={one,two}",
        "log.level=debug",
        "log.format=text",
        "log.audit=false",
        "restart.default=Automatic",
        "restart.maxConcurrent=30",
        "restart.maxConcurrentPerNamespace=10",
        "restart.evict=true",
        "alerts.url=https://hooks.example.com/keyturn",
    ])
    .unwrap();
    let objects = objects(&rendered).unwrap();
    let container =
        &objects[&("Deployment".into(), "keyturn".into())]["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(
        container["args"],
        json!([
            "run",
            "--cluster-name=prod",
            "--default-store=aws",
            "--namespaces=a,b",
            "--lease-name=keyturn",
            "--min-refresh-interval=30s",
            "--periodic-reads=false",
            "--allow-operator-identity=true",
            "--status-writes-per-second=7",
            "--token-audiences=one,two",
            "--protected-namespaces=kube-system",
            "--restart-default=Automatic",
            "--max-concurrent-restarts=30",
            "--max-concurrent-restarts-per-namespace=10",
            "--allow-evict=true",
            "--alert-url=https://hooks.example.com/keyturn",
            "--listen=[::]:8080",
            "--health-listen=[::]:8081",
            "--log=debug",
            "--log-format=text",
            "--audit=false",
        ])
    );
    let environment = container["env"].as_array().unwrap();
    assert!(environment.contains(&json!({"name": "AWS_ROLE_SESSION_NAME", "value": "keyturn-prod"})));
}

#[test]
fn probes_look_at_health_and_every_port_is_where_the_values_say() {
    let container = |values: &[&str]| -> Value {
        let objects = objects(&template(values).unwrap()).unwrap();
        objects[&("Deployment".into(), "keyturn".into())]["spec"]["template"]["spec"]["containers"][0].clone()
    };
    let listens = |container: &Value| -> Vec<String> {
        let args = container["args"].as_array().unwrap().iter();
        args.filter_map(Value::as_str)
            .filter(|argument| argument.contains("listen="))
            .map(str::to_owned)
            .collect()
    };
    let by_default = container(&[]);
    assert_eq!(
        by_default["ports"],
        json!([{"name": "http", "containerPort": 8080}, {"name": "health", "containerPort": 8081}])
    );
    for (probe, path) in [("livenessProbe", "/livez"), ("readinessProbe", "/readyz")] {
        let get = json!({"path": path, "port": "health"});
        assert_eq!(by_default[probe]["httpGet"], get, "{probe}");
    }
    for (values, address) in [
        // As an upgrade with --reuse-values from a chart without these values has it.
        (&["listen=null", "networkPolicy=null"][..], "[::]"),
        (&["listen.address=0.0.0.0"][..], "0.0.0.0"),
        (&["listen.address=fd00::5"][..], "[fd00::5]"),
    ] {
        let expected = [
            format!("--listen={address}:8080"),
            format!("--health-listen={address}:8081"),
        ];
        assert_eq!(listens(&container(values)), expected, "{values:?}");
    }
}

#[test]
fn a_network_policy_leaves_health_open_and_metrics_to_the_named() {
    let policy = |values: &[&str]| -> Option<Value> {
        let objects = objects(&template(values).unwrap()).unwrap();
        objects.get(&("NetworkPolicy".into(), "keyturn".into())).cloned()
    };
    assert_eq!(policy(&[]), None);
    let enabled = "networkPolicy.enabled=true";
    let health = json!({"ports": [{"port": "health", "protocol": "TCP"}]});
    let closed = policy(&[enabled]).unwrap();
    assert_eq!(closed["spec"]["policyTypes"], json!(["Ingress"]));
    assert_eq!(closed["spec"]["ingress"], json!([health]));
    let label = "networkPolicy.metricsFrom[0].namespaceSelector.matchLabels.team=monitoring";
    let named = json!({
        "ports": [{"port": "http", "protocol": "TCP"}],
        "from": [{"namespaceSelector": {"matchLabels": {"team": "monitoring"}}}],
    });
    assert_eq!(
        policy(&[enabled, label]).unwrap()["spec"]["ingress"],
        json!([health, named])
    );
}

#[test]
fn an_alert_url_may_stay_in_its_secret() {
    let rendered = template(&[
        "alerts.url=https://hooks.example.com/keyturn",
        "alerts.existingSecret.name=alerts",
        "alerts.existingSecret.key=hook",
    ])
    .unwrap();
    // Whoever may read the Deployment would read it otherwise.
    assert!(!rendered.contains("hooks.example.com"));
    let objects = objects(&rendered).unwrap();
    let container =
        &objects[&("Deployment".into(), "keyturn".into())]["spec"]["template"]["spec"]["containers"][0];
    let from = json!({"secretKeyRef": {"name": "alerts", "key": "hook"}});
    let environment = container["env"].as_array().unwrap();
    assert!(environment.contains(&json!({"name": "KEYTURN_ALERT_URL", "valueFrom": from})));
    assert!(!template(&[]).unwrap().contains("KEYTURN_ALERT_URL"));
}

#[test]
fn the_rights_over_workloads_are_the_least() {
    let rules = |values: &[&str], kind: &str, name: &str| -> Vec<Value> {
        let objects = objects(&template(values).unwrap()).unwrap();
        objects[&(kind.to_owned(), name.to_owned())]["rules"]
            .as_array()
            .unwrap()
            .clone()
    };
    let of = |rules: &[Value], resource: &str| -> Vec<Value> {
        let named = rules
            .iter()
            .filter(|rule| rule["resources"].as_array().unwrap().contains(&json!(resource)));
        named.map(|rule| rule["verbs"].clone()).collect()
    };
    let everywhere = rules(&[], "ClusterRole", "keyturn");
    for workload in ["deployments", "statefulsets", "daemonsets", "rollouts"] {
        assert_eq!(
            of(&everywhere, workload),
            [json!(["get", "list", "watch", "patch"])]
        );
    }
    assert_eq!(of(&everywhere, "pods"), [json!(["list"])]);
    assert_eq!(of(&everywhere, "pods/eviction"), Vec::<Value>::new());
    assert_eq!(of(&everywhere, "configmaps"), Vec::<Value>::new());

    let evicting = rules(&["restart.evict=true", "scope.namespaces={a}"], "Role", "keyturn");
    assert_eq!(of(&evicting, "pods/eviction"), [json!(["create"])]);
    assert_eq!(of(&evicting, "deployments").len(), 1);

    let own = rules(&[], "Role", "keyturn-own");
    let control = own.iter().find(|rule| rule["resources"] == json!(["configmaps"]));
    let control = control.unwrap();
    assert_eq!(control["resourceNames"], json!(["keyturn-control"]));
    assert_eq!(control["verbs"], json!(["get", "list", "watch"]));
}

#[test]
fn namespaces_in_scope_need_no_cluster_role() {
    let everywhere = objects(&template(&[]).unwrap()).unwrap();
    assert_eq!(
        (
            kinds(&everywhere, "ClusterRole"),
            kinds(&everywhere, "ClusterRoleBinding")
        ),
        (4, 1)
    );

    let scoped = objects(&template(&["scope.namespaces={a,b}"]).unwrap()).unwrap();
    assert_eq!(
        (
            kinds(&scoped, "ClusterRole"),
            kinds(&scoped, "ClusterRoleBinding")
        ),
        (0, 0)
    );
    let rendered = template(&["scope.namespaces={a,b}", "crds.install=false"]).unwrap();
    let documents: Vec<Value> = serde_saphyr::from_multiple(&rendered).unwrap();
    let of = |kind: &str| {
        let of_kind = documents.iter().filter(|document| document["kind"] == kind);
        let mut namespaces: Vec<_> = of_kind
            .map(|document| document["metadata"]["namespace"].as_str().unwrap_or_default())
            .collect();
        namespaces.sort_unstable();
        namespaces
    };
    assert_eq!(of("Role"), ["a", "b", "keyturn"]);
    assert_eq!(of("RoleBinding"), ["a", "b", "keyturn"]);
    assert!(!rendered.contains("clustersecretstores"));
}

#[test]
fn where_and_how_the_pods_run_can_be_set() {
    let deployment = |values: &[&str]| {
        let rendered = template(values).unwrap();
        let all = objects(&rendered).unwrap();
        all[&("Deployment".to_owned(), "keyturn".to_owned())]["spec"].clone()
    };
    let plain = deployment(&[]);
    let pod = &plain["template"]["spec"];
    assert_eq!(pod["nodeSelector"], json!({"kubernetes.io/os": "linux"}));
    assert_eq!(
        pod["topologySpreadConstraints"][0]["topologyKey"],
        "kubernetes.io/hostname"
    );
    for absent in ["hostAliases", "dnsPolicy", "dnsConfig"] {
        assert_eq!(pod.get(absent), None, "{absent}");
    }
    assert_eq!(plain.get("revisionHistoryLimit"), None);
    let set = deployment(&[
        "nodeSelector.pool=infra",
        "topologySpreadConstraints[0].topologyKey=zone",
        "hostAliases[0].ip=127.0.0.1",
        "dnsPolicy=None",
        "dnsConfig.nameservers={127.0.0.1}",
        "revisionHistoryLimit=3",
    ]);
    let pod = &set["template"]["spec"];
    assert_eq!(
        pod["nodeSelector"],
        json!({"kubernetes.io/os": "linux", "pool": "infra"})
    );
    assert_eq!(pod["topologySpreadConstraints"], json!([{"topologyKey": "zone"}]));
    assert_eq!(pod["hostAliases"], json!([{"ip": "127.0.0.1"}]));
    assert_eq!(
        (&pod["dnsPolicy"], &pod["dnsConfig"]["nameservers"][0]),
        (&json!("None"), &json!("127.0.0.1"))
    );
    assert_eq!(set["revisionHistoryLimit"], 3);
    let budget = template(&["podDisruptionBudget.unhealthyPodEvictionPolicy=AlwaysAllow"]).unwrap();
    assert!(budget.contains("unhealthyPodEvictionPolicy: AlwaysAllow"));
}

#[test]
fn the_right_to_request_tokens_can_be_taken_away() {
    let has_right = |values: &[&str]| template(values).unwrap().contains("serviceaccounts/token");
    assert!(has_right(&["admissionPolicies.enabled=false"]));
    assert!(!has_right(&[
        "admissionPolicies.enabled=false",
        "tokens.enabled=false"
    ]));
}

#[test]
fn values_that_mean_nothing_are_refused() {
    for (value, named) in [
        ("aws.regoin=eu-central-1", "regoin"),
        ("unknown=1", "unknown"),
        ("aws.roleArn=keyturn", "roleArn"),
        ("log.format=xml", "format"),
        ("scope.namespaces={Shop}", "namespaces"),
        ("minRefreshInterval=soon", "minRefreshInterval"),
        // What the operator itself would refuse.
        ("minRefreshInterval=500ms", "minRefreshInterval"),
        ("minRefreshInterval=0s", "minRefreshInterval"),
        ("clusterName=a b", "clusterName"),
        ("clusterName=a+b", "clusterName"),
        (
            "clusterName=a-name-of-more-than-thirty-two-letters",
            "clusterName",
        ),
        ("tokenAudiences={a'b}", "tokenAudiences"),
        ("statusWritesPerSecond=1", "statusWritesPerSecond"),
        ("restart.default=automatic", "default"),
        ("restart.maxConcurrent=0", "maxConcurrent"),
        (
            "restart.maxConcurrentPerNamespace=1001",
            "maxConcurrentPerNamespace",
        ),
        ("restart.evict=maybe", "evict"),
        ("alerts.url=hooks.example.com", "url"),
        ("alerts.existingSecret.name=A", "name"),
    ] {
        let error = template(&[value]).unwrap_err().to_string();
        assert!(error.contains(named), "{value}: {error}");
    }
}

/// Installs the chart with these values.
async fn install(plane: &ControlPlane, namespace: &str, values: &str) -> Result<()> {
    let chart = root().join("charts/keyturn").display().to_string();
    let arguments = [
        "install",
        "keyturn",
        &chart,
        "--namespace",
        namespace,
        "--set",
        values,
    ];
    plane.helm(arguments).await.map(drop)
}

/// A client as the ServiceAccount of the kubeconfig.
async fn client_as(kubeconfig: &Path) -> Result<Client> {
    let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}

fn secret(name: &str, type_: &str, labels: &[(&str, &str)], annotations: &[(&str, &str)]) -> Secret {
    let map = |pairs: &[(&str, &str)]| -> Option<BTreeMap<String, String>> {
        Some(
            pairs
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
        )
    };
    Secret {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            labels: map(labels),
            annotations: map(annotations),
            ..ObjectMeta::default()
        },
        type_: Some(type_.to_owned()),
        data: Some(BTreeMap::from([("a".to_owned(), ByteString(b"b".to_vec()))])),
        ..Secret::default()
    }
}

/// The HTTP status that the API server refused with; 0 if it did not.
fn refused<T>(result: kube::Result<T>) -> Result<u16> {
    match result {
        Ok(_) => Ok(0),
        Err(kube::Error::Api(status)) => Ok(status.code),
        Err(error) => Err(error.into()),
    }
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "one story, in order")]
async fn roles_and_policies_hold_the_operator_to_its_work() -> Result<()> {
    let plane = ControlPlane::shared().await?;
    let own = plane.namespace("chart-own").await?;
    let shop = plane.namespace("chart-shop").await?;
    let protected = plane.namespace("chart-protected").await?;
    let values = format!(
        "crds.install=false,replicas=0,clusterSecretStore.requireScope=false,protectedNamespaces={{kube-system,{protected}}}"
    );
    install(plane, &own, &values).await?;

    let admin = plane.client().await?;
    let operator = client_as(&plane.kubeconfig_for(&own, "keyturn").await?).await?;
    let secrets = |client: &Client, namespace: &str| Api::<Secret>::namespaced(client.clone(), namespace);
    let create = async |namespace: &str, secret: &Secret| {
        refused(
            secrets(&operator, namespace)
                .create(&PostParams::default(), secret)
                .await,
        )
    };
    let managed = [("keyturn.dev/managed", "true")];

    // A policy takes a moment to work after it was made.
    testbed::wait::until(
        "the policies to work",
        std::time::Duration::from_secs(30),
        async || Ok((create(&shop, &secret("probe", "Opaque", &[], &[])).await? == 403).then_some(())),
    )
    .await?;

    for (namespace, object, status) in [
        (&shop, secret("ours", "Opaque", &managed, &[]), 0),
        (&shop, secret("tls", "example.com/own", &managed, &[]), 0),
        (&shop, secret("unlabelled", "Opaque", &[], &[]), 403),
        (&shop, secret("release", "helm.sh/release.v1", &managed, &[]), 403),
        (
            &shop,
            secret(
                "token",
                "kubernetes.io/service-account-token",
                &managed,
                &[("kubernetes.io/service-account.name", "default")],
            ),
            403,
        ),
        (&protected, secret("ours", "Opaque", &managed, &[]), 403),
        (&own, secret("ours", "Opaque", &managed, &[]), 403),
        (
            &own,
            secret(
                "keyturn-token-key",
                "kubernetes.io/service-account-token",
                &[],
                &[("kubernetes.io/service-account.name", "keyturn")],
            ),
            403,
        ),
        (&own, secret("keyturn-token-key", "Opaque", &[], &[]), 0),
    ] {
        let name = object.metadata.name.as_deref().unwrap_or_default();
        assert_eq!(
            create(namespace, &object).await?,
            status,
            "create {namespace}/{name}"
        );
    }

    for (name, annotation) in [
        ("foreign", None),
        ("given", Some("keyturn.dev/adopt")),
        ("stripped", Some("keyturn.dev/owner")),
    ] {
        let annotations: Vec<_> = annotation
            .map(|annotation| (annotation, "db"))
            .into_iter()
            .collect();
        let object = secret(name, "Opaque", &[], &annotations);
        secrets(&admin, &shop)
            .create(&PostParams::default(), &object)
            .await?;
    }
    let labelled = json!({"metadata": {"labels": {"keyturn.dev/managed": "true"}}, "data": {"a": "Yw=="}});
    let stripped = json!({"metadata": {"labels": {"keyturn.dev/managed": null}}});
    for (namespace, name, body, status) in [
        (&shop, "foreign", &labelled, 403),
        (&shop, "given", &labelled, 0),
        (&shop, "stripped", &labelled, 0),
        (&shop, "ours", &labelled, 0),
        (&shop, "ours", &stripped, 403),
        (&own, "keyturn-token-key", &labelled, 403),
    ] {
        let patched = secrets(&operator, namespace)
            .patch(name, &PatchParams::default(), &Patch::Merge(body))
            .await;
        assert_eq!(refused(patched)?, status, "patch {name} {body}");
    }
    for (name, status) in [("foreign", 403), ("ours", 0)] {
        let deleted = secrets(&operator, &shop)
            .delete(name, &DeleteParams::default())
            .await;
        assert_eq!(refused(deleted)?, status, "delete {name}");
    }

    for (audiences, seconds, status) in [
        (vec!["sts.amazonaws.com"], Some(600), 0),
        (vec!["sts.amazonaws.com"], Some(601), 403),
        (vec!["sts.amazonaws.com"], None, 403),
        (vec![], Some(600), 403),
        (
            vec!["sts.amazonaws.com", "https://kubernetes.default.svc"],
            Some(600),
            403,
        ),
    ] {
        let request = TokenRequest {
            spec: TokenRequestSpec {
                audiences: audiences.iter().map(ToString::to_string).collect(),
                expiration_seconds: seconds,
                ..TokenRequestSpec::default()
            },
            ..TokenRequest::default()
        };
        let accounts: Api<ServiceAccount> = Api::namespaced(operator.clone(), &shop);
        let token = accounts
            .create_token_request("default", &PostParams::default(), &request)
            .await;
        assert_eq!(
            refused(token)?,
            status,
            "a token for {audiences:?} of {seconds:?} s"
        );
    }
    plane.helm(["uninstall", "keyturn", "--namespace", &own]).await?;
    Ok(())
}

#[tokio::test]
async fn a_new_cluster_store_says_whom_it_serves() -> Result<()> {
    let plane = ControlPlane::shared().await?;
    plane.define(&root().join("deploy/crds")).await?;
    let own = plane.namespace("chart-stores").await?;
    let stores = Api::<ClusterSecretStore>::all(plane.client().await?);
    let store = |name: &str, spec: &Value| -> Result<ClusterSecretStore> {
        Ok(serde_json::from_value(json!({
            "apiVersion": "keyturn.dev/v1", "kind": "ClusterSecretStore", "metadata": {"name": name}, "spec": spec,
        }))?)
    };
    let aws = |auth: Value| json!({"provider": {"aws": {"region": "eu-central-1", "auth": auth}}});
    let with = |field: &str, value: Value| {
        let mut spec = json!({"provider": {"aws": {"region": "eu-central-1"}}});
        spec[field] = value;
        spec
    };
    let open = json!({"provider": {"aws": {"region": "eu-central-1"}}});
    let shared = aws(json!({"jwt": {"serviceAccountRef": {"name": "reader", "namespace": "keyturn"}}}));
    // It was there before the policy.
    stores
        .create(&PostParams::default(), &store("chart-before", &open)?)
        .await?;
    install(plane, &own, "crds.install=false,replicas=0").await?;
    let create = async |name: &str, spec: &Value| -> Result<Option<String>> {
        let dry = PostParams {
            dry_run: true,
            ..PostParams::default()
        };
        match stores.create(&dry, &store(name, spec)?).await {
            Ok(_) => Ok(None),
            Err(kube::Error::Api(status)) => Ok(Some(status.message)),
            Err(error) => Err(error.into()),
        }
    };
    let refusal = testbed::wait::until(
        "the policy to work",
        std::time::Duration::from_secs(30),
        async || create("chart-open", &open).await,
    )
    .await?;
    assert!(
        refusal.contains("every namespace may read") && refusal.contains("allowedKeys"),
        "{refusal}"
    );
    for (name, spec, refused) in [
        ("shared", &shared, true),
        ("nobody", &with("conditions", json!([])), true),
        (
            "some",
            &with("conditions", json!([{"namespaces": ["shop"]}])),
            false,
        ),
        ("keys", &with("allowedKeys", json!(["shop/**"])), false),
        ("all", &with("allowedKeys", json!(["**"])), false),
        (
            "own",
            &aws(json!({"jwt": {"serviceAccountRef": {"name": "reader"}}})),
            false,
        ),
    ] {
        assert_eq!(
            create(&format!("chart-{name}"), spec).await?.is_some(),
            refused,
            "{name}"
        );
    }
    // One from before may be edited and given a scope, which is not taken away again.
    let patch = async |patch: Value| {
        let parameters = PatchParams::default();
        refused(
            stores
                .patch("chart-before", &parameters, &Patch::Merge(patch))
                .await,
        )
    };
    assert_eq!(
        patch(json!({"spec": {"provider": {"aws": {"region": "eu-west-1"}}}})).await?,
        0
    );
    assert_eq!(patch(json!({"metadata": {"labels": {"a": "b"}}})).await?, 0);
    assert_eq!(patch(json!({"spec": {"allowedKeys": ["**"]}})).await?, 0);
    assert_eq!(patch(json!({"spec": {"allowedKeys": null}})).await?, 403);
    stores.delete("chart-before", &DeleteParams::default()).await?;
    plane.helm(["uninstall", "keyturn", "--namespace", &own]).await?;
    Ok(())
}

#[tokio::test]
async fn the_api_server_accepts_the_definitions_and_refuses_in_sentences() -> Result<()> {
    let plane = ControlPlane::shared().await?;
    plane.define(&root().join("deploy/crds")).await?;
    let namespace = plane.namespace("chart-crds").await?;
    let manifest = plane.folder().join("refused.yaml");
    fs::write(
        &manifest,
        "apiVersion: keyturn.dev/v1\nkind: ExternalSecret\nmetadata: {name: refused}\nspec:\n  \
         refreshInterval: 1d\n  \
         target: {creationPolicy: Merge, template: {type: Opaque}}\n  data:\n  \
         - {secretKey: a, remoteRef: {key: x, property: null, decodingStrategy: Auto}, sourceRef: {generatorRef: {name: x}}}\n  \
         dataFrom:\n  - find: {name: {regexp: x}}\n",
    )?;
    let arguments = [
        "create",
        "--validate=strict",
        "--namespace",
        &namespace,
        "--filename",
    ];
    let refusal = plane
        .kubectl(
            arguments
                .into_iter()
                .chain([manifest.display().to_string().as_str()]),
        )
        .await;
    let refusal = format!(
        "{:#}",
        refusal.expect_err("a manifest full of what this version lacks")
    );
    for sentence in [
        "must be a Go duration such as 90s, 30m or 1h30m; days are not known: write 24h",
        "this version writes whole Secrets only",
        "template is not supported: ",
        "decodingStrategy can only be None: ",
        "sourceRef is not supported: ",
        "find is not supported: ",
    ] {
        assert!(refusal.contains(sentence), "{sentence}: {refusal}");
    }
    plane.kubectl(["create", "namespace", "shop"]).await?;
    for accepted in ["eso.yaml", "restarts.yaml"] {
        let accepted = root().join("src/api/refused").join(accepted);
        plane
            .kubectl([
                "create",
                "--dry-run=server",
                "--validate=strict",
                "--filename",
                &accepted.display().to_string(),
            ])
            .await?;
    }
    plane
        .kubectl(["delete", "namespace", "shop", "--wait=false"])
        .await?;
    Ok(())
}

/// Where each definition lies in the repository, and what lies there.
fn files() -> Result<Vec<(PathBuf, String)>> {
    let root = root();
    let mut files = Vec::new();
    for crd in crds() {
        let yaml = to_yaml(&crd)?;
        let name = format!("{}.yaml", crd.spec.names.plural);
        let chart = in_chart(&yaml);
        files.push((root.join("deploy/crds").join(&name), yaml));
        files.push((root.join("charts/keyturn/templates/crds").join(&name), chart));
    }
    Ok(files)
}

/// As a template: installed by a switch, and kept when the release goes, since its objects and then all their
/// Secrets would go with it.
fn in_chart(yaml: &str) -> String {
    assert!(
        !yaml.contains("{{"),
        "Helm would take a part of the definition for a template"
    );
    let kept = yaml.replacen(
        "metadata:\n",
        "metadata:\n  annotations:\n    helm.sh/resource-policy: keep\n",
        1,
    );
    assert_ne!(kept, yaml);
    format!(
        "{{{{- include \"keyturn.complete\" . -}}}}\n{{{{- if .Values.crds.install }}}}\n{kept}{{{{- end }}}}\n"
    )
}

#[test]
fn committed_definitions_are_fresh() {
    for (path, text) in files().unwrap() {
        if env::var_os("UPDATE").is_some() {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, &text).unwrap();
        }
        let committed = fs::read_to_string(&path).unwrap_or_default();
        assert!(
            committed == text,
            "{} is stale: run `make generate`",
            path.display()
        );
    }
}
