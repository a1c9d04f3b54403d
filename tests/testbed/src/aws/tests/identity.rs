//! STS: web identities, roles assumed from roles, and the limits of sessions.

use aws_lc_rs::{
    rand::SystemRandom,
    rsa::{KeyPair, KeySize},
    signature::{KeyPair as _, RSA_PKCS1_SHA256},
};
use aws_sdk_sts::types::Tag;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    super::{AwsEmulator, Keys, documents},
    ACCOUNT, OTHER, bed, code, message, secrets, sts,
};

const ISSUER: &str = "https://127.0.0.1:6443/cluster";
const SUBJECT: &str = "system:serviceaccount:shop:api";

/// A cluster's token issuer.
struct Issuer {
    key: KeyPair,
    id: &'static str,
}

impl Issuer {
    fn new(id: &'static str) -> Self {
        Self {
            key: KeyPair::generate(KeySize::Rsa2048).unwrap(),
            id,
        }
    }

    fn jwks(&self) -> String {
        // PKCS #1 of a key of 2048 bits: two headers and a sign byte, 256 bytes of n, a header, three bytes of e.
        let der = self.key.public_key().as_ref();
        assert_eq!((der.len(), &der[4..9]), (270, [2, 0x82, 1, 1, 0].as_slice()));
        let [n, e] = [&der[9..265], &der[267..]].map(|bytes| URL_SAFE_NO_PAD.encode(bytes));
        json!({"keys": [{"use": "sig", "kty": "RSA", "kid": self.id, "alg": "RS256", "n": n, "e": e}]})
            .to_string()
    }

    fn sign(&self, header: &Value, claims: &Value) -> String {
        let [header, claims] = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string()));
        let signed = format!("{header}.{claims}");
        let mut signature = vec![0; self.key.public_modulus_len()];
        self.key
            .sign(
                &RSA_PKCS1_SHA256,
                &SystemRandom::new(),
                signed.as_bytes(),
                &mut signature,
            )
            .unwrap();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    /// A token as Kubernetes makes them, with some claims replaced.
    fn token(&self, changes: &Value) -> String {
        let now = Timestamp::now().as_second();
        let mut claims = json!({
            "iss": ISSUER, "sub": SUBJECT, "aud": ["sts.amazonaws.com"],
            "iat": now, "nbf": now, "exp": now + 600,
        });
        claims
            .as_object_mut()
            .unwrap()
            .extend(changes.as_object().unwrap().clone());
        self.sign(&json!({"alg": "RS256", "kid": self.id}), &claims)
    }
}

fn role(name: &str) -> String {
    format!("arn:aws:iam::{ACCOUNT}:role/{name}")
}

#[tokio::test]
async fn a_web_identity_is_checked_to_the_last_claim() {
    let bed = bed();
    let (issuer, forger) = (Issuer::new("k1"), Issuer::new("k1"));
    bed.aws.set_oidc_provider(ISSUER, &issuer.jwks()).unwrap();
    let trust = documents::trust_service_account(ACCOUNT, ISSUER, SUBJECT);
    bed.aws.create_role(&role("api"), &trust, &[]).unwrap();
    let foreign = documents::trust_service_account(OTHER, ISSUER, SUBJECT);
    bed.aws
        .create_role(&role("foreign-provider"), &foreign, &[])
        .unwrap();
    let wild = documents::trust_service_account(ACCOUNT, ISSUER, "system:serviceaccount:shop:*");
    bed.aws.create_role(&role("wild"), &wild, &[]).unwrap();
    bed.aws
        .create_role(
            &role("users"),
            &documents::trust_principal(&role("api"), None),
            &[],
        )
        .unwrap();
    let past = Timestamp::now().as_second() - 10;
    let none = json!({});
    let fine = issuer.token(&none);
    for (name, token, expected) in [
        ("api", fine.clone(), "ok"),
        ("api", issuer.token(&json!({"aud": "sts.amazonaws.com"})), "ok"),
        (
            "api",
            issuer.token(&json!({"aud": ["other", "sts.amazonaws.com"]})),
            "ok",
        ),
        (
            "wild",
            issuer.token(&json!({"sub": "system:serviceaccount:shop:web"})),
            "ok",
        ),
        (
            "api",
            issuer.token(&json!({"sub": "system:serviceaccount:shop:web"})),
            "AccessDenied",
        ),
        (
            "wild",
            issuer.token(&json!({"sub": "system:serviceaccount:other:api"})),
            "AccessDenied",
        ),
        ("foreign-provider", fine.clone(), "AccessDenied"),
        ("users", fine.clone(), "AccessDenied"),
        ("no-such-role", fine.clone(), "AccessDenied"),
        (
            "api",
            issuer.token(&json!({"aud": ["kubernetes"]})),
            "InvalidIdentityToken",
        ),
        (
            "api",
            issuer.token(&json!({"iss": "https://elsewhere"})),
            "InvalidIdentityToken",
        ),
        (
            "api",
            issuer.token(&json!({"exp": past})),
            "ExpiredTokenException",
        ),
        ("api", issuer.token(&json!({"exp": null})), "InvalidIdentityToken"),
        ("api", forger.token(&none), "InvalidIdentityToken"),
        ("api", Issuer::new("k2").token(&none), "InvalidIdentityToken"),
        (
            "api",
            issuer.sign(&json!({"alg": "none"}), &json!({"iss": ISSUER})),
            "InvalidIdentityToken",
        ),
        ("api", "nonsense".to_owned(), "InvalidIdentityToken"),
        ("api", "x".repeat(20_001), "ValidationError"),
    ] {
        let got = sts(&bed.aws, None)
            .assume_role_with_web_identity()
            .role_arn(role(name))
            .role_session_name("session")
            .web_identity_token(token)
            .send()
            .await;
        assert_eq!(code(&got), expected, "{name}: {}", message(&got));
    }
}

#[tokio::test]
async fn a_web_identity_session_reads_with_the_rights_of_its_role_and_is_recorded_by_name() {
    let bed = bed();
    let arn = bed.create("a", "x");
    bed.create("b", "x");
    let issuer = Issuer::new("k1");
    bed.aws.set_oidc_provider(ISSUER, &issuer.jwks()).unwrap();
    let trust = documents::trust_service_account(ACCOUNT, ISSUER, SUBJECT);
    let policy = documents::allow(&["secretsmanager:GetSecretValue"], &[&arn]);
    bed.aws.create_role(&role("api"), &trust, &[&policy]).unwrap();
    let got = sts(&bed.aws, None)
        .assume_role_with_web_identity()
        .role_arn(role("api"))
        .role_session_name("shop.api")
        .web_identity_token(issuer.token(&json!({})))
        .send()
        .await
        .unwrap();
    assert_eq!(got.subject_from_web_identity_token(), Some(SUBJECT));
    assert_eq!(got.audience(), Some("sts.amazonaws.com"));
    let keys = keys(got.credentials().unwrap());
    let client = secrets(&bed.aws, &keys);
    assert_eq!(code(&client.get_secret_value().secret_id("a").send().await), "ok");
    assert_eq!(
        code(&client.get_secret_value().secret_id("b").send().await),
        "AccessDeniedException"
    );
    let who = sts(&bed.aws, Some(&keys))
        .get_caller_identity()
        .send()
        .await
        .unwrap();
    let session = format!("arn:aws:sts::{ACCOUNT}:assumed-role/api/shop.api");
    assert_eq!(
        (who.arn(), who.account()),
        (Some(session.as_str()), Some(ACCOUNT))
    );
    let calls = bed.aws.calls();
    assert_eq!(calls.count("AssumeRoleWithWebIdentity"), 1);
    assert_eq!(
        calls.readers_of(&arn).iter().map(|r| &**r).collect::<Vec<_>>(),
        [session.as_str()]
    );
    let read = calls.0.iter().find(|c| c.operation == "GetSecretValue").unwrap();
    assert_eq!(read.session_name.as_deref(), Some("shop.api"));
    assert_eq!(read.role.as_deref(), Some(role("api").as_str()));
    assert_eq!(
        calls.0[0].session_name.as_deref(),
        Some("shop.api"),
        "also of the call that asked for the session"
    );

    bed.aws.expire_credentials(&role("api"));
    assert_eq!(
        code(&client.get_secret_value().secret_id("a").send().await),
        "ExpiredTokenException"
    );
}

fn keys(credentials: &aws_sdk_sts::types::Credentials) -> Keys {
    Keys {
        access_key_id: credentials.access_key_id().to_owned(),
        secret_access_key: credentials.secret_access_key().to_owned(),
        session_token: Some(credentials.session_token().to_owned()),
    }
}

fn operator(aws: &AwsEmulator, policies: &[&str]) -> Keys {
    aws.create_role(
        &role("operator"),
        &documents::trust_principal(&role("operator"), None),
        policies,
    )
    .unwrap();
    aws.session(&role("operator"), "keyturn").unwrap()
}

#[tokio::test]
async fn a_role_is_assumed_only_as_both_sides_allow() {
    let bed = bed();
    let everything = documents::allow(&["*"], &["*"]);
    let operator_role = role("operator");
    let foreign = |name: &str| format!("arn:aws:iam::{OTHER}:role/{name}");
    for (name, trust) in [
        ("direct", documents::trust_principal(&operator_role, None)),
        (
            "account",
            documents::trust_principal(&format!("arn:aws:iam::{ACCOUNT}:root"), None),
        ),
        (
            "external",
            documents::trust_principal(&operator_role, Some("ext-1")),
        ),
        ("stranger", documents::trust_principal(&role("stranger"), None)),
    ] {
        bed.aws.create_role(&role(name), &trust, &[]).unwrap();
        bed.aws.create_role(&foreign(name), &trust, &[]).unwrap();
    }
    let session = |keys: &Keys, role: &str, external: Option<&str>| {
        sts(&bed.aws, Some(keys))
            .assume_role()
            .role_arn(role)
            .role_session_name("s")
            .set_external_id(external.map(Into::into))
    };
    // A session name of one character is too short.
    let keys = operator(&bed.aws, &[]);
    assert_eq!(
        code(&session(&keys, &role("direct"), None).send().await),
        "ValidationError"
    );
    for (policies, target, external, expected) in [
        (vec![], role("direct"), None, "ok"),
        (vec![], role("account"), None, "AccessDenied"),
        (vec![], foreign("direct"), None, "AccessDenied"),
        (vec![everything.as_str()], role("account"), None, "ok"),
        (vec![everything.as_str()], foreign("direct"), None, "ok"),
        (vec![everything.as_str()], foreign("account"), None, "ok"),
        (vec![everything.as_str()], role("stranger"), None, "AccessDenied"),
        (vec![everything.as_str()], role("missing"), None, "AccessDenied"),
        (
            vec![everything.as_str()],
            foreign("external"),
            None,
            "AccessDenied",
        ),
        (
            vec![everything.as_str()],
            foreign("external"),
            Some("ext-2"),
            "AccessDenied",
        ),
        (
            vec![everything.as_str()],
            foreign("external"),
            Some("ext-1"),
            "ok",
        ),
        (
            vec![everything.as_str()],
            foreign("external"),
            Some("x"),
            "ValidationError",
        ),
    ] {
        let keys = operator(&bed.aws, &policies);
        let got = session(&keys, &target, external)
            .role_session_name("session")
            .send()
            .await;
        assert_eq!(
            code(&got),
            expected,
            "{target} {external:?} {policies:?}: {}",
            message(&got)
        );
    }
    let keys = operator(&bed.aws, &[]);
    let denied = session(&keys, &role("stranger"), None)
        .role_session_name("session")
        .send()
        .await;
    assert_eq!(
        message(&denied),
        format!(
            "User: arn:aws:sts::{ACCOUNT}:assumed-role/operator/keyturn is not authorized to perform: sts:AssumeRole on \
             resource: {}",
            role("stranger")
        )
    );
}

#[tokio::test]
async fn sessions_keep_to_names_and_lengths() {
    let bed = bed();
    let target = role("target");
    bed.aws
        .create_role(
            &target,
            &documents::trust_principal(&format!("arn:aws:iam::{ACCOUNT}:root"), None),
            &[],
        )
        .unwrap();
    bed.aws.set_max_session(&target, 7200).unwrap();
    let everything = documents::allow(&["*"], &["*"]);
    let user = bed
        .aws
        .create_user(&format!("arn:aws:iam::{ACCOUNT}:user/u"), &[&everything])
        .unwrap();
    let chained = operator(&bed.aws, &[&everything]);
    let long = "x".repeat(65);
    for (keys, name, seconds, expected) in [
        (&user, "ok.name_+=,@-", Some(900), "ok"),
        (&user, "with space", None, "ValidationError"),
        (&user, "with:colon", None, "ValidationError"),
        (&user, long.as_str(), None, "ValidationError"),
        (&user, "session", Some(899), "ValidationError"),
        (&user, "session", Some(7200), "ok"),
        (&user, "session", Some(7201), "ValidationError"),
        (&user, "session", Some(43_201), "ValidationError"),
        (&chained, "session", Some(3600), "ok"),
        (&chained, "session", Some(3601), "ValidationError"),
    ] {
        let got = sts(&bed.aws, Some(keys))
            .assume_role()
            .role_arn(&target)
            .role_session_name(name)
            .set_duration_seconds(seconds)
            .send()
            .await;
        assert_eq!(code(&got), expected, "{name} {seconds:?}: {}", message(&got));
        if let (Ok(got), Some(seconds)) = (got, seconds) {
            let left = got.credentials().unwrap().expiration().secs() - Timestamp::now().as_second();
            assert!(
                (i64::from(seconds) - 60..=i64::from(seconds)).contains(&left),
                "{left}"
            );
        }
    }
}

#[tokio::test]
async fn session_tags_need_their_right_decide_reads_and_travel_if_transitive() {
    let bed = bed();
    let arn = bed.create("a", "x");
    bed.aws.tag_secret(&arn, "team", "blue").unwrap();
    let abac = json!({"Statement": [
        {"Effect": "Allow", "Action": "secretsmanager:GetSecretValue", "Resource": "*",
         "Condition": {"StringEquals": {"secretsmanager:ResourceTag/team": "${aws:PrincipalTag/team}"}}},
        {"Effect": "Allow", "Action": ["sts:AssumeRole", "sts:TagSession"], "Resource": "*"}]})
    .to_string();
    let account = format!("arn:aws:iam::{ACCOUNT}:root");
    bed.aws
        .create_role(
            &role("abac"),
            &documents::trust_principal(&account, None),
            &[&abac],
        )
        .unwrap();
    bed.aws
        .create_role(
            &role("next"),
            &documents::trust_principal(&account, None),
            &[&abac],
        )
        .unwrap();
    let untagged = json!({"Statement": [{"Effect": "Allow", "Principal": {"AWS": account}, "Action": "sts:AssumeRole"}]});
    bed.aws
        .create_role(&role("untagged"), &untagged.to_string(), &[])
        .unwrap();
    let user = bed
        .aws
        .create_user(
            &format!("arn:aws:iam::{ACCOUNT}:user/u"),
            &[&documents::allow(&["sts:*"], &["*"])],
        )
        .unwrap();
    let assume = |keys: &Keys, name: &str, team: Option<&str>, transitive: bool| {
        let tags = team.map(|team| vec![Tag::builder().key("team").value(team).build().unwrap()]);
        sts(&bed.aws, Some(keys))
            .assume_role()
            .role_arn(role(name))
            .role_session_name("session")
            .set_tags(tags)
            .set_transitive_tag_keys(transitive.then(|| vec!["team".to_owned()]))
            .send()
    };
    let denied = assume(&user, "untagged", Some("blue"), false).await;
    assert_eq!(code(&denied), "AccessDenied");
    assert!(message(&denied).contains("sts:TagSession"));
    assert_eq!(code(&assume(&user, "untagged", None, false).await), "ok");
    assert_eq!(
        code(&assume(&user, "abac", None, true).await),
        "ValidationError",
        "a transitive key needs its tag"
    );

    let read = async |keys: &Keys| {
        code(
            &secrets(&bed.aws, keys)
                .get_secret_value()
                .secret_id("a")
                .send()
                .await,
        )
    };
    for (team, transitive, here, next) in [
        (Some("blue"), true, "ok", "ok"),
        (Some("blue"), false, "ok", "AccessDeniedException"),
        (
            Some("red"),
            true,
            "AccessDeniedException",
            "AccessDeniedException",
        ),
        (None, false, "AccessDeniedException", "AccessDeniedException"),
    ] {
        let first = keys(
            assume(&user, "abac", team, transitive)
                .await
                .unwrap()
                .credentials()
                .unwrap(),
        );
        assert_eq!(read(&first).await, here, "{team:?}");
        let second = keys(
            assume(&first, "next", None, false)
                .await
                .unwrap()
                .credentials()
                .unwrap(),
        );
        assert_eq!(read(&second).await, next, "{team:?} {transitive}");
        if transitive {
            assert_eq!(
                code(&assume(&first, "next", Some("green"), false).await),
                "ValidationError"
            );
        }
    }
}

#[tokio::test]
async fn a_session_policy_only_takes_rights_away() {
    let bed = bed();
    let arn = bed.create("a", "x");
    bed.create("b", "x");
    let account = format!("arn:aws:iam::{ACCOUNT}:root");
    bed.aws
        .create_role(
            &role("r"),
            &documents::trust_principal(&account, None),
            &[&documents::allow(&["secretsmanager:GetSecretValue"], &["*"])],
        )
        .unwrap();
    let user = bed
        .aws
        .create_user(
            &format!("arn:aws:iam::{ACCOUNT}:user/u"),
            &[&documents::allow(&["sts:*"], &["*"])],
        )
        .unwrap();
    let got = sts(&bed.aws, Some(&user))
        .assume_role()
        .role_arn(role("r"))
        .role_session_name("session")
        .policy(documents::allow(&["secretsmanager:*"], &[&arn]))
        .send()
        .await
        .unwrap();
    let client = secrets(&bed.aws, &keys(got.credentials().unwrap()));
    assert_eq!(code(&client.get_secret_value().secret_id("a").send().await), "ok");
    assert_eq!(
        code(&client.get_secret_value().secret_id("b").send().await),
        "AccessDeniedException"
    );
    assert_eq!(
        code(&client.describe_secret().secret_id("a").send().await),
        "AccessDeniedException"
    );
}
