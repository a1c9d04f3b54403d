//! A scripted AWS: it answers by rule and records who asked for what. Strictness is the emulator's affair.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, SystemTime},
};

use aws_config::{Region, SdkConfig, timeout::TimeoutConfig};
use aws_credential_types::{Credentials, provider::SharedCredentialsProvider};
use axum::{
    Router,
    body::Bytes,
    extract::{ConnectInfo, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::post,
};
use secrecy::SecretString;
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::AbortHandle};

use crate::{
    api::{ObjectKey, SourceId},
    aws::{
        Aws, AwsConfig, Base, Identity, KubeTokenError, KubeTokens, Metrics, Reader, Role, SECRETS_MANAGER,
        SecretKeyValue, ServiceAccountFacts, ServiceAccountToken, Source, TokenFuture,
        client::{ClientSettings, Subscribers, http_client},
        trust::Trust,
    },
};

pub(super) const CANARY: &str = "canary-7f3a";
pub(super) const ACCOUNT: &str = "111122223333";

/// One call that was made.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) operation: String,
    pub(super) body: Value,
    /// The access key id in the signature; empty for a call that is not signed.
    pub(super) by: String,
    pub(super) user_agent: String,
}

/// An answer that is not the usual one.
#[derive(Clone, Debug)]
pub(super) enum Turn {
    Fail(u16, &'static str, &'static str),
    /// Never answers.
    Hang,
    /// As usual, but later.
    Late(Duration),
    Json(Value),
}

#[derive(Default)]
pub(super) struct Script {
    pub(super) asked: Vec<Asked>,
    pub(super) connections: BTreeSet<SocketAddr>,
    /// By operation: the next answers.
    pub(super) next: BTreeMap<&'static str, Vec<Turn>>,
    /// By operation: the answer to each call that has no other.
    pub(super) always: BTreeMap<&'static str, Turn>,
    /// Values by name.
    pub(super) secrets: BTreeMap<String, String>,
    /// Names that a batch answers with an error, or leaves out.
    pub(super) batch_errors: BTreeMap<String, (&'static str, &'static str)>,
    pub(super) batch_omits: BTreeSet<String>,
    /// By operation: names for which every call fails as a whole, a batch for all of its ids.
    pub(super) broken: BTreeMap<&'static str, BTreeSet<String>>,
    /// How long sessions last, in seconds.
    pub(super) session: Option<u64>,
    sessions: u32,
    pub(super) role_arn: Option<Arc<str>>,
    pub(super) tokens: Vec<Vec<String>>,
    /// What Kubernetes holds and answers.
    pub(super) kube: Kube,
    pub(super) keys: BTreeMap<String, String>,
}

/// What is special about the objects in Kubernetes.
#[derive(Default)]
pub(super) struct Kube {
    /// How often each ServiceAccount or Secret was read, and each token asked for: `serviceaccount shop/reader`.
    pub(super) reads: BTreeMap<String, usize>,
    /// Errors by the same names.
    pub(super) errors: BTreeMap<String, KubeTokenError>,
    /// The ServiceAccounts were made again so often.
    pub(super) remade: usize,
    /// The ServiceAccounts' annotation.
    pub(super) audience: Option<Arc<str>>,
    /// The Secret of `keys` was changed so often.
    pub(super) changed: usize,
}

impl Kube {
    fn read(&mut self, object: String) -> Result<(), KubeTokenError> {
        let error = self.errors.get(&object).cloned();
        *self.reads.entry(object).or_default() += 1;
        error.map_or(Ok(()), Err)
    }

    fn version(&self) -> Arc<str> {
        format!("uid/{}", self.changed).into()
    }
}

#[derive(Clone, Default)]
pub(super) struct Fake(Arc<Mutex<Script>>);

/// A fake that listens until it is dropped.
pub(super) struct Running {
    pub(super) fake: Fake,
    pub(super) aws: Arc<Aws>,
    pub(super) endpoint: String,
    server: AbortHandle,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.server.abort();
    }
}

pub(super) async fn start() -> Running {
    start_with(crate::aws::client::timeouts()).await
}

pub(super) async fn start_with(timeouts: TimeoutConfig) -> Running {
    let fake = Fake::default();
    fake.script().role_arn = Some(format!("arn:aws:iam::{ACCOUNT}:role/tenant").into());
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let app = Router::new().route("/", post(answer)).with_state(fake.clone());
    let app = app.into_make_service_with_connect_info::<SocketAddr>();
    let server = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() }).abort_handle();
    let own = Credentials::new("OWN", CANARY, None, None, "test");
    let aws = aws_at(&endpoint, timeouts, own, fake.clone());
    Running {
        fake,
        aws,
        endpoint,
        server,
    }
}

/// The room without anything that listens, for services that need no network.
pub(crate) fn aws_without_network(subscribers: Subscribers) -> Arc<Aws> {
    let own = SharedCredentialsProvider::new(Credentials::new("OWN", CANARY, None, None, "test"));
    let sdk = SdkConfig::builder()
        .region(Region::from_static("eu-central-1"))
        .build();
    let config = AwsConfig {
        region: None,
        instance_metadata: false,
        tokens: Arc::new(Fake::default()),
        subscribers,
    };
    let settings = ClientSettings::new(&sdk, crate::aws::client::timeouts(), own);
    Arc::new(Aws::new(settings, config, Metrics::default()))
}

/// The room, for what listens there.
pub(super) fn aws_at(
    endpoint: &str,
    timeouts: TimeoutConfig,
    own: Credentials,
    tokens: impl KubeTokens,
) -> Arc<Aws> {
    aws_that_trusts(&Trust::default(), endpoint, timeouts, own, tokens)
}

/// The same with other authorities than the platform's.
pub(super) fn aws_that_trusts(
    trust: &Trust,
    endpoint: &str,
    timeouts: TimeoutConfig,
    own: Credentials,
    tokens: impl KubeTokens,
) -> Arc<Aws> {
    let sdk = SdkConfig::builder()
        .endpoint_url(endpoint)
        .region(Region::from_static("eu-central-1"))
        .http_client(http_client(trust))
        .build();
    let settings = ClientSettings::new(&sdk, timeouts, SharedCredentialsProvider::new(own));
    let config = AwsConfig {
        region: None,
        instance_metadata: false,
        tokens: Arc::new(tokens),
        subscribers: Arc::new(|_, _, _| vec![ObjectKey::new("shop", "subscriber")]),
    };
    Arc::new(Aws::new(settings, config, Metrics::default()))
}

impl Running {
    /// A reader without anything in its memory.
    pub(super) fn reader(&self) -> Reader {
        Reader::new(self.aws.clone())
    }

    /// Ends the fake: nothing listens any more.
    pub(super) async fn stop(&self) {
        self.server.abort();
        while !self.server.is_finished() {
            tokio::task::yield_now().await;
        }
    }

    /// A source with the operator's own identity.
    pub(super) fn own(&self) -> SourceId {
        self.source(identity("uid-own", Base::Own, &[]))
    }

    /// A source with a role over the operator's own identity, so that its account is known.
    pub(super) fn role(&self) -> SourceId {
        self.source(identity(
            "uid-role",
            Base::Own,
            &[&format!("arn:aws:iam::{ACCOUNT}:role/shop")],
        ))
    }

    pub(super) fn source(&self, identity: Identity) -> SourceId {
        self.aws.intern(Source {
            identity: Arc::new(identity),
            region: "eu-central-1".into(),
            service: &SECRETS_MANAGER,
        })
    }

    /// From now on every batch takes so long.
    pub(super) fn slow_batches(&self, wait: Duration) {
        let mut script = self.fake.script();
        script.always.insert("BatchGetSecretValue", Turn::Late(wait));
    }

    pub(super) fn secrets(&self, count: usize) -> Vec<Arc<str>> {
        let names: Vec<Arc<str>> = (0..count).map(|n| format!("prod/{n}").into()).collect();
        let mut script = self.fake.script();
        script.secrets.extend(
            names
                .iter()
                .map(|name| (name.to_string(), format!("{CANARY} of {name}"))),
        );
        names
    }
}

pub(crate) fn identity(store: &str, base: Base, roles: &[&str]) -> Identity {
    Identity {
        store: store.into(),
        base,
        roles: roles
            .iter()
            .map(|arn| Role {
                arn: (*arn).into(),
                external_id: Some("x-1".into()),
            })
            .collect(),
        namespace: None,
        session_name: format!("keyturn-test-{store}").into(),
    }
}

pub(super) fn tenant(store: &str, namespace: &str) -> Identity {
    let (namespace, name) = (namespace.into(), "reader".into());
    identity(
        store,
        Base::ServiceAccount {
            namespace,
            name,
            uid: None,
            audiences: vec!["extra".into()],
        },
        &[],
    )
}

impl Fake {
    pub(super) fn script(&self) -> MutexGuard<'_, Script> {
        self.0.lock().unwrap()
    }

    /// How often an operation was asked for.
    pub(super) fn count(&self, operation: &str) -> usize {
        self.script()
            .asked
            .iter()
            .filter(|asked| asked.operation == operation)
            .count()
    }

    pub(super) fn asked(&self, operation: &str) -> Vec<Asked> {
        let script = self.script();
        script
            .asked
            .iter()
            .filter(|asked| asked.operation == operation)
            .cloned()
            .collect()
    }
}

#[expect(clippy::too_many_lines, reason = "one answer for each operation")]
async fn answer(
    State(fake): State<Fake>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let header = |name: &str| {
        headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    };
    let target = header("x-amz-target")
        .strip_prefix("secretsmanager.")
        .map(str::to_owned);
    let is_sts = target.is_none();
    let body = if is_sts {
        form(&body)
    } else {
        serde_json::from_slice(&body).unwrap()
    };
    let operation = target.unwrap_or_else(|| body["Action"].as_str().unwrap().to_owned());
    let by = header("authorization")
        .split_once("Credential=")
        .and_then(|(_, rest)| rest.split('/').next());
    let turn = {
        let mut script = fake.script();
        script.connections.insert(peer);
        script.asked.push(Asked {
            operation: operation.clone(),
            body: body.clone(),
            by: by.unwrap_or_default().into(),
            user_agent: header("user-agent").into(),
        });
        let next = script
            .next
            .get_mut(&*operation)
            .filter(|next| !next.is_empty())
            .map(|next| next.remove(0));
        let broken = script.broken.get(&*operation);
        let is_broken = |name: &String| {
            body["SecretId"] == **name
                || body["SecretIdList"]
                    .as_array()
                    .is_some_and(|ids| ids.iter().any(|id| *id == **name))
        };
        let is_broken = broken.is_some_and(|broken| broken.iter().any(is_broken));
        let broken = is_broken.then_some(Turn::Fail(500, "InternalServiceError", ""));
        next.or_else(|| script.always.get(&*operation).cloned())
            .or(broken)
    };
    match turn {
        Some(Turn::Hang) => std::future::pending::<()>().await,
        Some(Turn::Late(wait)) => tokio::time::sleep(wait).await,
        Some(Turn::Json(answer)) => return json_answer(200, &answer),
        Some(Turn::Fail(status, code, text)) if is_sts => {
            let text = format!(
                "<ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code><Message>{text}</Message></Error>\
                 <RequestId>r-1</RequestId></ErrorResponse>"
            );
            return (StatusCode::from_u16(status).unwrap(), text).into_response();
        }
        Some(Turn::Fail(status, code, text)) => {
            return json_answer(status, &json!({"__type": code, "message": text}));
        }
        None => {}
    }
    let mut script = fake.script();
    match &*operation {
        "GetSecretValue" => match script.value(body["SecretId"].as_str().unwrap()) {
            Some(value) => json_answer(200, &value),
            None => json_answer(
                400,
                &json!({"__type": "ResourceNotFoundException",
                    "Message": "Secrets Manager can't find the specified secret."}),
            ),
        },
        "BatchGetSecretValue" => {
            let (mut values, mut errors) = (Vec::new(), Vec::new());
            for id in body["SecretIdList"].as_array().unwrap() {
                let id = id.as_str().unwrap();
                if let Some((code, text)) = script.batch_errors.get(id) {
                    errors.push(json!({"SecretId": id, "ErrorCode": code, "Message": text}));
                } else if !script.batch_omits.contains(id)
                    && let Some(value) = script.value(id)
                {
                    values.push(value);
                }
            }
            values.reverse();
            json_answer(200, &json!({"SecretValues": values, "Errors": errors}))
        }
        "AssumeRole" | "AssumeRoleWithWebIdentity" => {
            script.sessions += 1;
            let number = script.sessions;
            let life = Duration::from_secs(script.session.unwrap_or(3600));
            let ends = jiff::Timestamp::try_from(now() + life).unwrap();
            let (role, name) = (body["RoleArn"].as_str().unwrap(), body["RoleSessionName"].as_str().unwrap());
            let arn = role.replace(":iam:", ":sts:").replace(":role/", ":assumed-role/");
            (
                StatusCode::OK,
                format!(
                    "<{operation}Response><{operation}Result><Credentials><AccessKeyId>SESSION{number}</AccessKeyId>\
                     <SecretAccessKey>s</SecretAccessKey><SessionToken>t{number}</SessionToken>\
                     <Expiration>{ends:.0}</Expiration></Credentials><AssumedRoleUser><AssumedRoleId>A:b</AssumedRoleId>\
                     <Arn>{arn}/{name}</Arn></AssumedRoleUser></{operation}Result></{operation}Response>"
                ),
            )
                .into_response()
        }
        "GetCallerIdentity" => (
            StatusCode::OK,
            format!(
                "<GetCallerIdentityResponse><GetCallerIdentityResult><Arn>arn:aws:iam::{ACCOUNT}:user/own</Arn>\
                 <UserId>U</UserId><Account>{ACCOUNT}</Account></GetCallerIdentityResult></GetCallerIdentityResponse>"
            ),
        )
            .into_response(),
        other => panic!("{other} has no script"),
    }
}

#[expect(clippy::disallowed_methods, reason = "sessions end by the clock")]
fn now() -> SystemTime {
    SystemTime::now()
}

fn json_answer(status: u16, body: &Value) -> Response {
    let headers = [
        ("content-type", "application/x-amz-json-1.1"),
        ("x-amzn-requestid", "r-1"),
    ];
    (StatusCode::from_u16(status).unwrap(), headers, body.to_string()).into_response()
}

/// A form, percent-decoded.
fn form(body: &[u8]) -> Value {
    let text = std::str::from_utf8(body).unwrap();
    let decode = |text: &str| {
        let mut bytes = Vec::new();
        let mut rest = text.bytes();
        while let Some(byte) = rest.next() {
            bytes.push(match byte {
                b'%' => {
                    let digits = [rest.next().unwrap(), rest.next().unwrap()];
                    u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap()
                }
                b'+' => b' ',
                other => other,
            });
        }
        String::from_utf8(bytes).unwrap()
    };
    let pairs = text.split('&').filter_map(|pair| pair.split_once('='));
    Value::Object(
        pairs
            .map(|(key, value)| (decode(key), decode(value).into()))
            .collect(),
    )
}

impl Script {
    fn value(&self, id: &str) -> Option<Value> {
        let name = id.split_once(":secret:").map_or(id, |(_, name)| name);
        let name = name.strip_suffix("-AbCdEf").unwrap_or(name);
        let value = self.secrets.get(name)?;
        let account = crate::aws::error::account_of(id).unwrap_or(ACCOUNT);
        Some(json!({
            "ARN": format!("arn:aws:secretsmanager:eu-central-1:{account}:secret:{name}-AbCdEf"),
            "Name": name,
            "VersionId": format!("version-of-{name}"),
            "VersionStages": ["AWSCURRENT"],
            "CreatedDate": 1_700_000_000,
            "SecretString": value,
        }))
    }
}

impl KubeTokens for Fake {
    fn service_account<'a>(
        &'a self,
        namespace: &'a str,
        name: &'a str,
    ) -> TokenFuture<'a, ServiceAccountFacts> {
        let mut script = self.script();
        let read = script.kube.read(format!("serviceaccount {namespace}/{name}"));
        let role_arn = script.role_arn.clone();
        let audience = script.kube.audience.clone();
        let uid = match script.kube.remade {
            0 => format!("uid of {name}"),
            remade => format!("uid of {name}, made again {remade} times"),
        };
        Box::pin(async {
            read?;
            Ok(ServiceAccountFacts {
                uid: uid.into(),
                role_arn,
                audience,
            })
        })
    }

    fn token<'a>(
        &'a self,
        namespace: &'a str,
        name: &'a str,
        audiences: &'a [String],
    ) -> TokenFuture<'a, ServiceAccountToken> {
        let mut script = self.script();
        script.tokens.push(audiences.to_vec());
        let read = script.kube.read(format!("token {namespace}/{name}"));
        Box::pin(async {
            read?;
            Ok(ServiceAccountToken {
                token: SecretString::from(CANARY),
            })
        })
    }

    fn secret_key<'a>(
        &'a self,
        namespace: &'a str,
        name: &'a str,
        key: &'a str,
    ) -> TokenFuture<'a, SecretKeyValue> {
        let mut script = self.script();
        let read = script.kube.read(format!("secret {namespace}/{name}"));
        let (value, version) = (script.keys.get(key).cloned(), script.kube.version());
        Box::pin(async move {
            read?;
            let missing =
                || KubeTokenError::NotFound(format!("key {key} of Secret {namespace}/{name}").into());
            let value = value.ok_or_else(missing)?;
            Ok(SecretKeyValue {
                value: value.into(),
                version,
            })
        })
    }

    fn secret_version<'a>(&'a self, namespace: &'a str, name: &'a str) -> TokenFuture<'a, Arc<str>> {
        let mut script = self.script();
        let read = script.kube.read(format!("secret {namespace}/{name}"));
        let version = script.kube.version();
        Box::pin(async move { read.map(|()| version) })
    }
}
