#![expect(
    clippy::needless_pass_by_value,
    reason = "JSON is written in place, where it is read"
)]

use serde_json::{Value, json};

use super::*;

fn rules() -> Rules {
    Rules {
        cluster: "prod".into(),
        region: Some("eu-west-1".into()),
        allow_operator_identity: false,
    }
}

fn spec(aws: Value) -> StoreSpec {
    serde_json::from_value(json!({"provider": {"aws": aws}})).unwrap()
}

fn store(kind: StoreKind) -> StoreRef {
    StoreRef {
        kind,
        name: "aws".into(),
    }
}

/// What a SecretStore of namespace `shop` gives to `shop`.
fn namespaced(rules: &Rules, aws: Value) -> Result<Source, Refusal> {
    asked(&store(StoreKind::SecretStore), Some("shop"), &spec(aws)).source(rules, "shop")
}

/// What a ClusterSecretStore gives to `namespace`.
fn cluster(rules: &Rules, aws: Value, namespace: &str) -> Result<Source, Refusal> {
    asked(&store(StoreKind::ClusterSecretStore), None, &spec(aws)).source(rules, namespace)
}

fn asked<'a>(store: &'a StoreRef, namespace: Option<&'a str>, spec: &'a StoreSpec) -> Asked<'a> {
    Asked {
        store,
        uid: "store-uid",
        namespace,
        spec,
    }
}

fn account(namespace: Value) -> Value {
    json!({"auth": {"jwt": {"serviceAccountRef": {"name": "reader", "namespace": namespace, "audiences": ["extra"]}}}})
}

fn keys(namespace: Value) -> Value {
    let key = |key: &str| json!({"name": "keys", "key": key, "namespace": namespace});
    json!({"auth": {"secretRef": {
        "accessKeyIDSecretRef": key("id"),
        "secretAccessKeySecretRef": key("secret"),
        "sessionTokenSecretRef": key("token"),
    }}})
}

/// The namespaces of the objects that the identity is made from.
fn namespaces(source: &Source) -> Vec<&str> {
    match &source.identity.base {
        Base::Own => Vec::new(),
        Base::ServiceAccount { namespace, .. } => vec![namespace],
        Base::StaticKeys {
            access_key_id,
            secret_access_key,
            session_token,
            ..
        } => [
            Some(access_key_id),
            Some(secret_access_key),
            session_token.as_ref(),
        ]
        .into_iter()
        .flatten()
        .map(|key| &*key.namespace)
        .collect(),
    }
}

#[test]
fn a_secret_store_never_reads_as_the_operator_unless_that_is_allowed() {
    for aws in [json!({}), json!({"role": "arn:aws:iam::111122223333:role/r"})] {
        let refusal = namespaced(&rules(), aws.clone()).unwrap_err();
        assert_eq!(refusal.reason, Reason::InvalidSpec);
        assert!(refusal.message.contains("spec.provider.aws.auth"), "{refusal}");

        let allowing = Rules {
            allow_operator_identity: true,
            ..rules()
        };
        assert_eq!(
            namespaced(&allowing, aws.clone()).unwrap().identity.base,
            Base::Own
        );
        assert_eq!(cluster(&rules(), aws, "shop").unwrap().identity.base, Base::Own);
    }
}

#[test]
fn a_secret_store_borrows_from_no_other_namespace() {
    for foreign in [account(json!("kube-system")), keys(json!("kube-system"))] {
        let refusal = namespaced(&rules(), foreign.clone()).unwrap_err();
        assert_eq!(refusal.reason, Reason::InvalidSpec);
        assert!(refusal.message.contains("another namespace"), "{refusal}");
        let foreign = cluster(&rules(), foreign, "shop").unwrap();
        assert!(
            namespaces(&foreign)
                .iter()
                .all(|namespace| *namespace == "kube-system")
        );
    }
    // Each of the three is checked for itself.
    for field in [
        "accessKeyIDSecretRef",
        "secretAccessKeySecretRef",
        "sessionTokenSecretRef",
    ] {
        let mut aws = keys(json!("shop"));
        aws["auth"]["secretRef"][field]["namespace"] = json!("other");
        let refusal = namespaced(&rules(), aws).unwrap_err();
        assert!(refusal.message.contains(field), "{refusal}");
    }
}

#[test]
fn a_namespace_left_out_is_the_stores_or_the_askers() {
    for left_out in [Value::Null, json!("")] {
        for aws in [account(left_out.clone()), keys(left_out.clone())] {
            let own = namespaced(&rules(), aws.clone()).unwrap();
            assert!(
                namespaces(&own).iter().all(|namespace| *namespace == "shop"),
                "{aws}"
            );
            for asker in ["bank", "shop"] {
                let source = cluster(&rules(), aws.clone(), asker).unwrap();
                assert!(!namespaces(&source).is_empty());
                assert!(
                    namespaces(&source).iter().all(|namespace| *namespace == asker),
                    "{aws}"
                );
            }
        }
    }
}

#[test]
fn namespaces_share_an_identity_only_if_it_is_the_same() {
    for (aws, per_namespace) in [
        (json!({}), false),
        (account(json!("platform")), false),
        (account(Value::Null), true),
        (keys(json!("platform")), false),
        (keys(json!("")), true),
    ] {
        let (spec, store) = (spec(aws.clone()), store(StoreKind::ClusterSecretStore));
        let asked = asked(&store, None, &spec);
        assert_eq!(asked.is_per_namespace(), per_namespace, "{aws}");
        let [one, other] = ["bank", "shop"].map(|namespace| asked.source(&rules(), namespace).unwrap());
        assert_eq!(one != other, per_namespace, "{aws}");
    }
    let (spec, store) = (spec(account(Value::Null)), store(StoreKind::SecretStore));
    assert!(!asked(&store, Some("shop"), &spec).is_per_namespace());
}

#[test]
fn sessions_are_named_after_the_store_and_who_decides() {
    let named = |source: Result<Source, Refusal>| source.unwrap().identity.session_name.to_string();
    assert_eq!(
        named(namespaced(&rules(), account(Value::Null))),
        "keyturn-prod=shop,aws"
    );
    assert_eq!(named(cluster(&rules(), json!({}), "shop")), "keyturn-prod,aws");
    assert_eq!(
        named(cluster(&rules(), account(Value::Null), "shop")),
        "keyturn-prod,aws@shop"
    );
}

#[test]
fn auth_is_one_of_two() {
    let mut both = account(Value::Null);
    both["auth"]["secretRef"] = keys(Value::Null)["auth"]["secretRef"].clone();
    for aws in [both, json!({"auth": {}})] {
        let refusal = cluster(&rules(), aws, "shop").unwrap_err();
        assert_eq!(refusal.reason, Reason::InvalidSpec);
    }
}

#[test]
fn the_region_is_the_stores_else_the_operators() {
    for (aws, operator, region) in [
        (
            json!({"region": "us-east-1"}),
            Some("eu-west-1"),
            Some("us-east-1"),
        ),
        (json!({"region": "us-east-1"}), None, Some("us-east-1")),
        (json!({}), Some("eu-west-1"), Some("eu-west-1")),
        (json!({"region": ""}), Some("eu-west-1"), Some("eu-west-1")),
        (json!({}), None, None),
    ] {
        let rules = Rules {
            region: operator.map(Into::into),
            ..rules()
        };
        let source = cluster(&rules, aws, "shop");
        assert_eq!(source.as_ref().ok().map(|source| &*source.region), region);
        if let Err(refusal) = source {
            assert_eq!(refusal.reason, Reason::InvalidSpec);
        }
    }
}

#[test]
fn roles_are_assumed_with_their_external_id() {
    let arn = "arn:aws:iam::111122223333:role/read-shop";
    let role = |external_id: Option<&str>| {
        vec![Role {
            arn: arn.into(),
            external_id: external_id.map(Into::into),
        }]
    };
    for (aws, roles) in [
        (json!({}), Vec::new()),
        (json!({"role": ""}), Vec::new()),
        (json!({"externalID": "id"}), Vec::new()),
        (json!({"role": arn}), role(None)),
        (json!({"role": arn, "externalID": ""}), role(None)),
        (json!({"role": arn, "externalID": "id"}), role(Some("id"))),
    ] {
        let source = cluster(&rules(), aws.clone(), "shop").unwrap();
        assert_eq!(source.identity.roles, roles, "{aws}");
    }
}

#[test]
fn the_prefix_goes_in_front_of_every_key() {
    let need = Need {
        key: "db".into(),
        selector: crate::api::Selector::parse(None),
    };
    for (prefix, key) in [
        (Value::Null, "db"),
        (json!(""), "db"),
        (json!("prod/"), "prod/db"),
        (json!("x"), "xdb"),
    ] {
        let (spec, store) = (
            spec(json!({"prefix": prefix})),
            store(StoreKind::ClusterSecretStore),
        );
        assert_eq!(&*asked(&store, None, &spec).key(&need), key);
    }
}

#[test]
fn a_denial_names_the_key_and_no_pattern() {
    let mut spec = spec(json!({}));
    spec.allowed_keys = Some(vec!["k8s/hidden/**".into()]);
    let store = store(StoreKind::ClusterSecretStore);
    let refusal = asked(&store, None, &spec).denied("shop", "prod/db");
    assert_eq!(refusal.reason, Reason::KeyNotAllowed);
    for part in ["ClusterSecretStore aws", "shop", "prod/db"] {
        assert!(refusal.message.contains(part), "{refusal}");
    }
    assert!(!refusal.message.contains("hidden"), "{refusal}");
}

#[test]
fn what_gives_the_same_values_has_one_fingerprint() {
    let print = |aws: Value, namespace: &str| {
        let spec = spec(aws);
        let store = store(StoreKind::ClusterSecretStore);
        let source = asked(&store, None, &spec).source(&rules(), namespace).unwrap();
        fingerprint(&source, spec.aws().prefix())
    };
    let arn = "arn:aws:iam::111122223333:role/read-shop";
    let same = print(json!({"role": arn}), "shop");
    assert_eq!(print(json!({"role": arn, "region": "eu-west-1"}), "bank"), same);
    assert_eq!(
        print(json!({"role": arn, "changeDetection": "List"}), "shop"),
        same
    );
    for (aws, namespace) in [
        (json!({}), "shop"),
        (json!({"role": arn, "region": "us-east-1"}), "shop"),
        (json!({"role": arn, "prefix": "x"}), "shop"),
        (json!({"role": arn, "externalID": "id"}), "shop"),
        (account(Value::Null), "shop"),
        (account(Value::Null), "bank"),
        (keys(json!("shop")), "shop"),
    ] {
        assert_ne!(print(aws.clone(), namespace), same, "{aws}");
    }

    // A store made again, in another cluster's name, gives the same values.
    let spec = spec(json!({"role": arn}));
    let store = store(StoreKind::ClusterSecretStore);
    let other = Rules {
        cluster: "other".into(),
        ..rules()
    };
    let source = Asked {
        uid: "other-uid",
        ..asked(&store, None, &spec)
    }
    .source(&other, "shop")
    .unwrap();
    assert_eq!(fingerprint(&source, ""), same);
    let service = &crate::aws::tests::notebook::NOTEBOOK;
    assert_ne!(fingerprint(&Source { service, ..source }, ""), same);
}

/// The text is in `keyturn.dev/inputs` of every Secret: another one reads every value again.
#[test]
fn fingerprints_are_those_that_earlier_versions_wrote() {
    let store = store(StoreKind::ClusterSecretStore);
    let print = |aws: Value| {
        let spec = spec(aws);
        let source = asked(&store, None, &spec).source(&rules(), "shop").unwrap();
        fingerprint(&source, spec.aws().prefix())
    };
    let arn = "arn:aws:iam::111122223333:role/read-shop";
    let account = |reference: Value| json!({"auth": {"jwt": {"serviceAccountRef": reference}}, "role": arn});
    let mut keys_without_session = keys(json!("platform"));
    keys_without_session["auth"]["secretRef"]
        .as_object_mut()
        .unwrap()
        .remove("sessionTokenSecretRef");
    for (aws, earlier) in [
        (json!({}), r#"SecretsManager eu-west-1 "" Own []"#),
        (
            json!({"region": "us-east-1", "prefix": "k8s/\"a\\'\n"}),
            r#"SecretsManager us-east-1 "k8s/\"a\\'\n" Own []"#,
        ),
        (
            json!({"role": arn}),
            r#"SecretsManager eu-west-1 "" Own [Role { arn: "arn:aws:iam::111122223333:role/read-shop", external_id: None }]"#,
        ),
        (
            json!({"role": arn, "externalID": "id"}),
            r#"SecretsManager eu-west-1 "" Own [Role { arn: "arn:aws:iam::111122223333:role/read-shop", external_id: Some("id") }]"#,
        ),
        (
            account(json!({"name": "reader"})),
            r#"SecretsManager eu-west-1 "" ServiceAccount { namespace: "shop", name: "reader", uid: None, audiences: [] } [Role { arn: "arn:aws:iam::111122223333:role/read-shop", external_id: None }]"#,
        ),
        (
            account(json!({"name": "reader", "namespace": "platform", "audiences": []})),
            r#"SecretsManager eu-west-1 "" ServiceAccount { namespace: "platform", name: "reader", uid: None, audiences: [] } [Role { arn: "arn:aws:iam::111122223333:role/read-shop", external_id: None }]"#,
        ),
        (
            account(json!({"name": "reader", "audiences": ["one", "two"]})),
            r#"SecretsManager eu-west-1 "" ServiceAccount { namespace: "shop", name: "reader", uid: None, audiences: ["one", "two"] } [Role { arn: "arn:aws:iam::111122223333:role/read-shop", external_id: None }]"#,
        ),
        (
            keys(Value::Null),
            r#"SecretsManager eu-west-1 "" StaticKeys { access_key_id: KeyRef { namespace: "shop", name: "keys", key: "id" }, secret_access_key: KeyRef { namespace: "shop", name: "keys", key: "secret" }, session_token: Some(KeyRef { namespace: "shop", name: "keys", key: "token" }), secrets: "" } []"#,
        ),
        (
            keys_without_session,
            r#"SecretsManager eu-west-1 "" StaticKeys { access_key_id: KeyRef { namespace: "platform", name: "keys", key: "id" }, secret_access_key: KeyRef { namespace: "platform", name: "keys", key: "secret" }, session_token: None, secrets: "" } []"#,
        ),
    ] {
        assert_eq!(print(aws.clone()), earlier, "{aws}");
    }
}

#[test]
fn a_service_account_made_again_gives_the_same_values() {
    let spec = spec(account(json!("shop")));
    let store = store(StoreKind::ClusterSecretStore);
    let known = |known: Option<&str>| {
        let source = asked(&store, None, &spec).source(&rules(), "shop").unwrap();
        let mut identity = (*source.identity).clone();
        if let Base::ServiceAccount { uid, .. } = &mut identity.base {
            *uid = known.map(Into::into);
        }
        let identity = Arc::new(identity);
        fingerprint(&Source { identity, ..source }, "")
    };
    assert_eq!(known(Some("uid")), known(None));
}
