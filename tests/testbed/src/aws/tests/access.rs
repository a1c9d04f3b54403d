//! Rights and signatures.

use serde_json::json;

use super::{
    super::{KmsKey, documents},
    ACCOUNT, OTHER, REGION, bed, code, message, secrets, sts,
};

const GET: &str = "secretsmanager:GetSecretValue";

#[tokio::test]
async fn a_denial_names_principal_action_and_resource() {
    let bed = bed();
    let arn = bed.create("a", "x");
    let role = format!("arn:aws:iam::{ACCOUNT}:role/reader");
    bed.aws
        .create_role(&role, &documents::trust_principal(&role, None), &[])
        .unwrap();
    let reader = secrets(&bed.aws, &bed.aws.session(&role, "one").unwrap());
    let got = reader.get_secret_value().secret_id("a").send().await;
    assert_eq!(code(&got), "AccessDeniedException");
    assert_eq!(
        message(&got),
        format!(
            "User: arn:aws:sts::{ACCOUNT}:assumed-role/reader/one is not authorized to perform: {GET} on resource: {arn} \
             because no identity-based policy allows the {GET} action"
        )
    );
    let missing = reader.get_secret_value().secret_id("missing").send().await;
    assert_eq!(
        code(&missing),
        "AccessDeniedException",
        "what does not exist is denied as well"
    );
    assert!(message(&missing).contains("on resource: missing because"));
}

#[tokio::test]
async fn policies_decide_by_resource_action_and_tags() {
    let bed = bed();
    let ours = bed.create("k8s/c1/db", "x");
    bed.create("k8s/c1/db-other", "x");
    bed.create("other", "x");
    bed.aws.tag_secret(&ours, "team", "blue").unwrap();
    let scoped = |resource: &str| {
        documents::allow(
            &["secretsmanager:Get*"],
            &[&format!(
                "arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret:{resource}"
            )],
        )
    };
    let by_tag = |team: &str| {
        json!({"Statement": [{"Effect": "Allow", "Action": GET, "Resource": "*",
            "Condition": {"StringEquals": {"secretsmanager:ResourceTag/team": team}}}]})
        .to_string()
    };
    let denying = json!({"Statement": [
        {"Effect": "Allow", "Action": "*", "Resource": "*"},
        {"Effect": "Deny", "Action": GET, "Resource": "*:secret:k8s/*"}]})
    .to_string();
    for (n, (policy, allowed)) in [
        (scoped("k8s/c1/*"), vec!["k8s/c1/db", "k8s/c1/db-other"]),
        (scoped("k8s/c1/db-??????"), vec!["k8s/c1/db"]),
        (scoped("k8s/c1/db*"), vec!["k8s/c1/db", "k8s/c1/db-other"]),
        (by_tag("blue"), vec!["k8s/c1/db"]),
        (by_tag("red"), vec![]),
        (denying, vec!["other"]),
    ]
    .into_iter()
    .enumerate()
    {
        let user = bed.user(&format!("u{n}"), &policy);
        for name in ["k8s/c1/db", "k8s/c1/db-other", "other"] {
            let got = user.get_secret_value().secret_id(name).send().await;
            let expected = if allowed.contains(&name) {
                "ok"
            } else {
                "AccessDeniedException"
            };
            assert_eq!(code(&got), expected, "{name} with {policy}");
        }
    }
}

#[tokio::test]
async fn a_batch_needs_its_own_right_and_one_per_secret() {
    let bed = bed();
    let a = bed.create("a", "x");
    bed.create("b", "x");
    let only_get = bed.user("only-get", &documents::allow(&[GET], &["*"]));
    let batch = async |user: &aws_sdk_secretsmanager::Client| {
        user.batch_get_secret_value()
            .secret_id_list("a")
            .secret_id_list("b")
            .send()
            .await
    };
    let refused = batch(&only_get).await;
    assert_eq!(code(&refused), "AccessDeniedException");
    assert!(
        message(&refused).contains("secretsmanager:BatchGetSecretValue on resource: *"),
        "{}",
        message(&refused)
    );
    let policy = json!({"Statement": [
        {"Effect": "Allow", "Action": "secretsmanager:BatchGetSecretValue", "Resource": "*"},
        {"Effect": "Allow", "Action": GET, "Resource": a}]})
    .to_string();
    let got = batch(&bed.user("batch", &policy)).await.unwrap();
    assert_eq!(got.secret_values()[0].name(), Some("a"));
    assert_eq!(
        (got.errors()[0].secret_id(), got.errors()[0].error_code()),
        (Some("b"), Some("AccessDeniedException"))
    );
    assert_eq!(
        code(&bed.user("batch2", &policy).list_secrets().send().await),
        "AccessDeniedException"
    );
}

#[tokio::test]
async fn another_account_reads_by_full_arn_with_both_policies_and_a_customer_key() {
    let bed = bed();
    let arn = bed.aws.create_secret(OTHER, REGION, "shared", "x").unwrap();
    let reader = bed.user("reader", &documents::allow(&["secretsmanager:*"], &["*"]));
    let powerless = bed.user("powerless", &documents::allow(&["sts:*"], &["*"]));
    let get = async |user: &aws_sdk_secretsmanager::Client, id: &str| {
        user.get_secret_value().secret_id(id).send().await
    };
    assert_eq!(code(&get(&reader, "shared").await), "ResourceNotFoundException");
    let denied = get(&reader, &arn).await;
    assert_eq!(code(&denied), "AccessDeniedException");
    assert!(message(&denied).contains("no resource-based policy"));
    let account = format!("arn:aws:iam::{ACCOUNT}:root");
    bed.aws
        .set_resource_policy(&arn, Some(&documents::share_with(&account)))
        .unwrap();
    assert_eq!(
        code(&get(&reader, &arn).await),
        "InvalidRequestException",
        "the default key cannot be shared"
    );
    bed.aws
        .set_kms_key_id(&arn, &format!("arn:aws:kms:{REGION}:{OTHER}:key/1"))
        .unwrap();
    assert_eq!(code(&get(&reader, &arn).await), "ok");
    assert_eq!(code(&reader.describe_secret().secret_id(&arn).send().await), "ok");
    assert_eq!(code(&get(&powerless, &arn).await), "AccessDeniedException");
    let partial = arn.rsplit_once('-').unwrap().0;
    assert_eq!(code(&get(&reader, partial).await), "ResourceNotFoundException");
    let batch = reader
        .batch_get_secret_value()
        .secret_id_list(&arn)
        .send()
        .await
        .unwrap();
    assert_eq!(batch.errors()[0].error_code(), Some("ResourceNotFoundException"));
    assert!(
        reader
            .list_secrets()
            .send()
            .await
            .unwrap()
            .secret_list()
            .is_empty()
    );
}

#[tokio::test]
async fn a_key_out_of_use_keeps_the_value_back() {
    let bed = bed();
    let arn = bed.create("a", "x");
    for (key, expected, text) in [
        (
            KmsKey::Disabled,
            "DecryptionFailure",
            "Secrets Manager can't decrypt the protected secret text using the provided KMS key.",
        ),
        (
            KmsKey::Denied,
            "AccessDeniedException",
            "Access to KMS is not allowed",
        ),
        (KmsKey::Enabled, "ok", ""),
    ] {
        bed.aws.set_kms_state(&arn, key).unwrap();
        let got = bed.admin.get_secret_value().secret_id("a").send().await;
        assert_eq!((code(&got).as_str(), message(&got).as_str()), (expected, text));
        let batch = bed
            .admin
            .batch_get_secret_value()
            .secret_id_list("a")
            .send()
            .await
            .unwrap();
        let in_batch = batch.errors().first().map_or("ok", |e| e.error_code().unwrap());
        assert_eq!(in_batch, expected);
        assert_eq!(
            code(&bed.admin.describe_secret().secret_id("a").send().await),
            "ok",
            "Describe needs no key"
        );
    }
}

#[tokio::test]
async fn keys_that_are_unknown_changed_or_expired_are_refused_in_each_services_words() {
    let bed = bed();
    bed.create("a", "x");
    let role = format!("arn:aws:iam::{ACCOUNT}:role/reader");
    bed.aws
        .create_role(
            &role,
            &documents::trust_principal(&role, None),
            &[&documents::allow(&["*"], &["*"])],
        )
        .unwrap();
    let good = bed.aws.session(&role, "s").unwrap();
    let mut unknown = good.clone();
    unknown.access_key_id = "ASIAUNKNOWN".to_owned();
    let mut wrong_secret = good.clone();
    wrong_secret.secret_access_key.push('x');
    let mut wrong_token = good.clone();
    wrong_token.session_token = Some("other".to_owned());
    let mut no_token = good.clone();
    no_token.session_token = None;
    let other = format!("arn:aws:iam::{ACCOUNT}:role/other");
    bed.aws
        .create_role(&other, &documents::trust_principal(&role, None), &[])
        .unwrap();
    let expired = bed.aws.session(&other, "s").unwrap();
    bed.aws.expire_credentials(&other);
    for (keys, in_secrets, in_sts) in [
        (good, "ok", "ok"),
        (unknown, "UnrecognizedClientException", "InvalidClientTokenId"),
        (wrong_secret, "InvalidSignatureException", "SignatureDoesNotMatch"),
        (wrong_token, "UnrecognizedClientException", "InvalidClientTokenId"),
        (no_token, "UnrecognizedClientException", "InvalidClientTokenId"),
        (expired, "ExpiredTokenException", "ExpiredToken"),
    ] {
        let got = secrets(&bed.aws, &keys)
            .get_secret_value()
            .secret_id("a")
            .send()
            .await;
        assert_eq!(code(&got), in_secrets);
        assert_eq!(
            code(&sts(&bed.aws, Some(&keys)).get_caller_identity().send().await),
            in_sts
        );
    }
}

#[tokio::test]
async fn a_request_changed_after_signing_is_refused() {
    use axum::body::Bytes;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    /// Takes one request down and answers nothing.
    async fn capture(listener: tokio::net::TcpListener) -> Bytes {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut bytes = Vec::new();
        while !String::from_utf8_lossy(&bytes).ends_with('}') {
            let mut chunk = [0; 4096];
            let n = stream.read(&mut chunk).await.unwrap();
            assert!(n > 0, "the client went away");
            bytes.extend_from_slice(&chunk[..n]);
        }
        bytes.into()
    }

    let bed = bed();
    bed.create("a", "x");
    bed.create("b", "x");
    // What the SDK signed is caught on its way and sent on by hand, as it was or changed.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let caught_at = format!("http://{}", listener.local_addr().unwrap());
    let config = bed.admin.config().to_builder().endpoint_url(caught_at).build();
    let client = aws_sdk_secretsmanager::Client::from_conf(config);
    let call = tokio::spawn(async move { client.get_secret_value().secret_id("a").send().await });
    let request = String::from_utf8(capture(listener).await.to_vec()).unwrap();
    call.abort();
    for (from, to, expected) in [
        ("", "", "HTTP/1.1 200"),
        (
            "\"SecretId\":\"a\"",
            "\"SecretId\":\"b\"",
            "InvalidSignatureException",
        ),
        (
            "secretsmanager.GetSecretValue",
            "secretsmanager.ListSecrets",
            "InvalidSignatureException",
        ),
        (
            "/secretsmanager/aws4_request",
            "/sts/aws4_request",
            "InvalidSignatureException",
        ),
        ("eu-central-1/", "us-east-1/", "InvalidSignatureException"),
        (
            "authorization: AWS4-HMAC-SHA256",
            "authorization: none",
            "IncompleteSignatureException",
        ),
        (
            "authorization:",
            "x-nothing:",
            "MissingAuthenticationTokenException",
        ),
    ] {
        let changed = request.replace(from, to);
        assert!(
            from.is_empty() || changed != request,
            "{from} is not in the request"
        );
        let address = bed.aws.url().trim_start_matches("http://").to_owned();
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let closing = changed.replacen("\r\n", "\r\nconnection: close\r\n", 1);
        stream.write_all(closing.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.contains(expected), "{from} -> {to}: {answer}");
    }
}
