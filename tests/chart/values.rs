//! Values that are missing, and those that only a chart around this one knows.

use std::process::Command;

use super::*;

/// A copy of the chart with these values as its defaults.
fn chart_with(values: &str) -> Result<tempfile::TempDir> {
    let folder = tempfile::tempdir()?;
    let copied = Command::new("cp")
        .args(["-R", "charts/keyturn"])
        .arg(folder.path())
        .current_dir(root())
        .status()?;
    anyhow::ensure!(copied.success(), "cp ended with {copied}");
    fs::write(folder.path().join("keyturn/values.yaml"), values)?;
    Ok(folder)
}

fn render(chart: &Path, arguments: &[&str]) -> Result<BTreeMap<(String, String), Value>> {
    let chart = chart.to_str().context("a path of text")?;
    let given = ["template", "keyturn", chart, "--namespace", "keyturn"];
    objects(&helm(&[&given, arguments].concat())?)
}

/// A chart that depends on this one, with these values and this entry of `dependencies`.
fn parent(values: &str, dependency: &str) -> Result<tempfile::TempDir> {
    let folder = tempfile::tempdir()?;
    let charts = folder.path().join("charts");
    fs::create_dir(&charts)?;
    std::os::unix::fs::symlink(root().join("charts/keyturn"), charts.join("keyturn"))?;
    let chart = format!(
        "apiVersion: v2\nname: platform\nversion: 1.0.0\ndependencies:\n  - name: keyturn\n    version: \"*\"\n{dependency}"
    );
    fs::write(folder.path().join("Chart.yaml"), chart)?;
    fs::write(folder.path().join("values.yaml"), values)?;
    Ok(folder)
}

fn pod(objects: &BTreeMap<(String, String), Value>, deployment: &str) -> Value {
    objects[&("Deployment".to_owned(), deployment.to_owned())]["spec"]["template"]["spec"].clone()
}

#[test]
fn a_release_whose_values_are_of_an_older_chart_is_upgraded() {
    let whole = render(&root().join("charts/keyturn"), &[]).unwrap();
    // What `helm upgrade --reuse-values` brings of a chart that knew none of today's values.
    let none = chart_with("").unwrap();
    let mut found = render(&none.path().join("keyturn"), &[]).unwrap();
    // They may be taken out on purpose.
    let container = |objects: &mut BTreeMap<(String, String), Value>| {
        let key = ("Deployment".to_owned(), "keyturn".to_owned());
        let deployment = objects.get_mut(&key).unwrap();
        deployment["spec"]["template"]["spec"]["containers"][0]["resources"].take()
    };
    let mut expected = whole.clone();
    assert!(container(&mut expected).is_object());
    assert!(container(&mut found).is_null());
    let deployment = |objects: &mut BTreeMap<(String, String), Value>| {
        let key = ("Deployment".to_owned(), "keyturn".to_owned());
        objects.get_mut(&key).unwrap()["spec"]["template"]["spec"]["containers"][0]
            .as_object_mut()
            .unwrap()
            .remove("resources");
    };
    deployment(&mut expected);
    deployment(&mut found);
    assert_eq!(found, expected);

    // Each value alone, as deep as they go.
    let values: Value = serde_saphyr::from_str(include_str!("../../charts/keyturn/values.yaml")).unwrap();
    let mut paths = Vec::new();
    leaves(&values, "", &mut paths);
    assert!(paths.len() > 50, "{paths:?}");
    for path in paths.iter().filter(|path| !path.starts_with("resources")) {
        let missing = render(
            &root().join("charts/keyturn"),
            &["--set", &format!("{path}=null")],
        );
        assert!(
            missing.unwrap() == whole,
            "without {path} the chart renders other objects"
        );
    }
}

fn leaves(values: &Value, path: &str, paths: &mut Vec<String>) {
    if !path.is_empty() {
        paths.push(path.to_owned());
    }
    for (name, value) in values.as_object().into_iter().flatten() {
        let dot = if path.is_empty() { "" } else { "." };
        leaves(value, &format!("{path}{dot}{name}"), paths);
    }
}

#[test]
fn false_and_empty_values_are_no_missing_ones() {
    let chart = root().join("charts/keyturn");
    let objects = render(
        &chart,
        &[
            "--set",
            "rbac.create=false,crds.install=false,admissionPolicies.enabled=false,replicas=0",
        ],
    )
    .unwrap();
    for kind in [
        "ClusterRole",
        "Role",
        "CustomResourceDefinition",
        "ValidatingAdmissionPolicy",
        "PodDisruptionBudget",
    ] {
        assert_eq!(kinds(&objects, kind), 0, "{kind}");
    }
    let deployment = &objects[&("Deployment".to_owned(), "keyturn".to_owned())];
    assert_eq!(deployment["spec"]["replicas"], 0);
    let unprotected = render(&chart, &["--set-json", "protectedNamespaces=[]"]).unwrap();
    let arguments = pod(&unprotected, "keyturn")["containers"][0]["args"].to_string();
    assert!(!arguments.contains("--protected-namespaces"), "{arguments}");
}

#[test]
fn another_chart_may_depend_on_this_one() {
    let condition = "    condition: keyturn.enabled\n    tags: [secrets]\n";
    let rendered = |values: &str, dependency: &str| {
        let parent = parent(values, dependency).unwrap();
        render(parent.path(), &[])
    };
    let on = rendered("keyturn: {enabled: true, replicas: 1}", condition).unwrap();
    assert_eq!(
        on[&("Deployment".to_owned(), "keyturn".to_owned())]["spec"]["replicas"],
        1
    );
    assert!(
        rendered("keyturn: {enabled: false}", condition)
            .unwrap()
            .is_empty()
    );
    assert!(rendered("tags: {secrets: false}", condition).unwrap().is_empty());
    let anchors = "x-labels: &labels {team: platform}\nglobal: {team: platform}\n\
                   keyturn:\n  x-region: &region eu-central-1\n  _more: 1\n  podLabels: *labels\n  aws: {region: *region}\n";
    let anchored = rendered(anchors, condition).unwrap();
    let environment = pod(&anchored, "keyturn")["containers"][0]["env"].clone();
    assert!(
        environment
            .as_array()
            .unwrap()
            .contains(&json!({"name": "AWS_REGION", "value": "eu-central-1"}))
    );
    let aliased = rendered("kt: {replicas: 1}", "    alias: kt\n").unwrap();
    assert_eq!(kinds(&aliased, "Deployment"), 1);
    // What is neither is a typo.
    let typo = rendered("keyturn: {replica: 1}", condition).unwrap_err();
    assert!(format!("{typo:#}").contains("replica"), "{typo:#}");
}

#[test]
fn names_can_be_chosen() {
    let named = |value: &str, name: &str, label: &str| {
        let objects = render(&root().join("charts/keyturn"), &["--set", value]).unwrap();
        let deployment = &objects[&("Deployment".to_owned(), name.to_owned())];
        let selector = &deployment["spec"]["selector"]["matchLabels"]["app.kubernetes.io/name"];
        assert_eq!(selector, label, "{value}");
        let arguments = pod(&objects, name)["containers"][0]["args"].clone();
        assert!(
            arguments
                .as_array()
                .unwrap()
                .contains(&json!(format!("--lease-name={name}"))),
            "{arguments}"
        );
    };
    named("fullnameOverride=secrets", "secrets", "keyturn");
    named("nameOverride=secrets", "keyturn-secrets", "secrets");
    named("fullnameOverride=a,nameOverride=b", "a", "b");
}

#[test]
fn openshift_gives_ids_of_its_own() {
    let chart = root().join("charts/keyturn");
    let openshift = ["--api-versions", "security.openshift.io/v1"];
    let ids = |arguments: &[&str]| {
        let pod = pod(&render(&chart, arguments).unwrap(), "keyturn");
        let context = pod["securityContext"].clone();
        assert_eq!(context["runAsNonRoot"], true);
        assert_eq!(context["seccompProfile"]["type"], "RuntimeDefault");
        ["runAsUser", "runAsGroup", "fsGroup"].map(|id| context[id].as_i64())
    };
    assert_eq!(ids(&[]), [Some(65532); 3]);
    assert_eq!(ids(&openshift), [None; 3]);
    let set = |value: &'static str| ["--set-json", value];
    let chosen = set(r#"podSecurityContext={"runAsUser":1000,"fsGroup":null}"#);
    assert_eq!(ids(&chosen), [Some(1000), Some(65532), None]);
    assert_eq!(ids(&[openshift, chosen].concat()), [Some(1000), None, None]);
    let container = pod(
        &render(
            &chart,
            &set(r#"containerSecurityContext={"readOnlyRootFilesystem":false}"#),
        )
        .unwrap(),
        "keyturn",
    )["containers"][0]["securityContext"]
        .clone();
    assert_eq!(
        container,
        json!({"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": false, "capabilities": {"drop": ["ALL"]}})
    );
}

#[test]
fn files_can_be_mounted() {
    let values = r#"extraVolumes=[{"name":"ca","configMap":{"name":"ca"}}]"#;
    let mounts = r#"extraVolumeMounts=[{"name":"ca","mountPath":"/ca","readOnly":true}]"#;
    let objects = render(
        &root().join("charts/keyturn"),
        &["--set-json", values, "--set-json", mounts],
    )
    .unwrap();
    let pod = pod(&objects, "keyturn");
    assert_eq!(
        pod["volumes"],
        json!([{"name": "ca", "configMap": {"name": "ca"}}])
    );
    assert_eq!(
        pod["containers"][0]["volumeMounts"],
        json!([{"name": "ca", "mountPath": "/ca", "readOnly": true}])
    );
    let nameless = render(
        &root().join("charts/keyturn"),
        &["--set-json", r#"extraVolumes=[{"configMap":{}}]"#],
    );
    assert!(nameless.is_err());
}
