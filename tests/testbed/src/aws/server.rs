//! The listener: one port for every service. Faults of the wire, signatures and the record are its business.

use std::{
    net::Ipv4Addr,
    ops::Deref,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use axum::{
    Router,
    body::Body,
    extract::{ConnectInfo, Request, State as Shared},
    response::Response,
};
use http::{HeaderMap, header};
use jiff::Timestamp;
use tokio::{net::TcpListener, runtime::Runtime};

use super::{
    State,
    connection::{Gate, Peer},
    control::Control,
    error::ApiError,
    faults::{Faults, Site},
    iam::{Iam, Key, Principal},
    operations,
    record::{Call, Record},
    sigv4::{Authorization, Refusal, Signed},
    sts, wire,
};

/// Largest request body, in bytes.
const MAX_BODY: usize = 1024 * 1024;

/// How the emulator runs.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Threads that serve calls.
    pub threads: usize,
    /// Lines the record keeps; older ones are dropped and counted.
    pub max_recorded: usize,
    /// Seed of the faults' dice.
    pub seed: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            threads: 2,
            max_recorded: 200_000,
            seed: 1,
        }
    }
}

/// A running emulator on a free port of 127.0.0.1. Dropping it stops it and forgets everything it held.
///
/// It is its own [`Control`]: every method of that is at hand here. Clone the control for a task that outlives the
/// borrow.
pub struct AwsEmulator {
    control: Control,
    runtime: Option<Runtime>,
}

impl AwsEmulator {
    /// Starts on its own threads, so it may be called from anywhere. Fails if no port or thread is to be had.
    pub fn start(options: Options) -> anyhow::Result<Self> {
        let Options {
            threads,
            max_recorded,
            seed,
        } = options;
        let listener =
            std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("binding the AWS emulator")?;
        listener
            .set_nonblocking(true)
            .context("setting up the AWS emulator's listener")?;
        let address = listener.local_addr().context("reading the AWS emulator's port")?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads.max(1))
            .thread_name("aws-emulator")
            .enable_all()
            .build()
            .context("starting the AWS emulator's threads")?;
        let unreachable = Arc::new(AtomicBool::new(false));
        let state = Arc::new(State {
            url: format!("http://{address}"),
            stores: super::secrets::Stores::default(),
            iam: Iam::default(),
            providers: std::sync::RwLock::default(),
            faults: Faults::new(seed),
            record: Record::new(max_recorded),
            unreachable: unreachable.clone(),
        });
        let router = Router::new().fallback(handle).with_state(state.clone());
        let entered = runtime.enter();
        let listener = Gate {
            listener: TcpListener::from_std(listener).context("handing the listener to the AWS emulator")?,
            unreachable,
        };
        runtime
            .spawn(axum::serve(listener, router.into_make_service_with_connect_info::<Peer>()).into_future());
        drop(entered);
        Ok(Self {
            control: Control::new(state),
            runtime: Some(runtime),
        })
    }

    /// A handle that may be cloned and moved.
    pub fn control(&self) -> Control {
        self.control.clone()
    }
}

impl Deref for AwsEmulator {
    type Target = Control;

    fn deref(&self) -> &Control {
        &self.control
    }
}

impl Drop for AwsEmulator {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Never blocks, so that it may be dropped inside another runtime.
            runtime.shutdown_background();
        }
    }
}

/// Which service a request asks, and for what.
enum Asked {
    Secrets { operation: String },
    Sts { action: String, fields: sts::Fields },
}

impl Asked {
    fn of(headers: &HeaderMap, body: &[u8]) -> Option<Self> {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        if let Some(target) = text("x-amz-target") {
            let operation = target.strip_prefix("secretsmanager.")?.to_owned();
            return Some(Self::Secrets { operation });
        }
        if !text(header::CONTENT_TYPE.as_str())?.starts_with("application/x-www-form-urlencoded") {
            return None;
        }
        let fields = sts::Fields::parse(body);
        let action = fields.get("Action")?.to_owned();
        Some(Self::Sts { action, fields })
    }

    fn operation(&self) -> &str {
        match self {
            Self::Secrets { operation } => operation,
            Self::Sts { action, .. } => action,
        }
    }
}

#[expect(clippy::too_many_lines, reason = "one answer for each operation")]
async fn handle(
    Shared(state): Shared<Arc<State>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    request: Request,
) -> Response {
    let (parts, body) = request.into_parts();
    let Ok(body) = axum::body::to_bytes(body, MAX_BODY).await else {
        return wire::json(Err(ApiError::with_status(
            413,
            "RequestEntityTooLarge",
            "The request is too large.",
        )));
    };
    let Some(asked) = Asked::of(&parts.headers, &body) else {
        return wire::json(Err(ApiError::with_status(404, "UnknownOperationException", "")));
    };
    let authorization = Authorization::parse(&parts.headers);
    let scope = authorization.clone().unwrap_or_default();
    let key = state.iam.key(&scope.access_key);
    let nobody = Principal::default();
    let principal = key.as_ref().map_or(&nobody, |key| &key.principal);
    let (ids, account) = match &asked {
        Asked::Secrets { .. } => (operations::ids(&body), principal.account.clone()),
        Asked::Sts { fields, .. } => {
            let account = fields.account().filter(|_| key.is_none());
            (
                Vec::new(),
                account.map_or_else(|| principal.account.clone(), Arc::from),
            )
        }
    };
    let mut line = Call {
        time: Timestamp::now(),
        operation: asked.operation().to_owned(),
        principal: principal.arn.clone(),
        role: principal.role_arn(),
        session_name: principal.session_name.clone(),
        access_key: key.as_ref().map(|key| key.id.clone()),
        user_agent: parts
            .headers
            .get(header::USER_AGENT)
            .map_or_else(String::new, |agent| {
                String::from_utf8_lossy(agent.as_bytes()).into_owned()
            }),
        resource: ids.first().filter(|_| ids.len() == 1).map(|id| Arc::from(&**id)),
        error: None,
        account: account.clone(),
        region: scope.region.clone(),
        port: peer.port,
        in_batch: false,
    };
    let operation = line.operation.clone();
    let site = Site {
        operation: &operation,
        ids: &ids,
        principal: &principal.arn,
        owner: &principal.owner_arn,
        account: &account,
        region: &scope.region,
    };

    let weather = state.faults.weather(&site);
    if weather.latency > Duration::ZERO {
        tokio::time::sleep(weather.latency).await;
    }
    if weather.hang || weather.reset {
        line.error = Some(
            if weather.hang {
                "NoAnswer"
            } else {
                "ConnectionReset"
            }
            .to_owned(),
        );
        state.record.add([line]);
        if weather.hang {
            std::future::pending::<()>().await;
        }
        peer.reset.store(true, Ordering::Relaxed);
        return Response::new(Body::empty());
    }

    let signed = Signed {
        method: parts.method.as_str(),
        path: parts.uri.path(),
        query: parts.uri.query().unwrap_or_default(),
        headers: &parts.headers,
        body: &body,
    };
    let now = Timestamp::now();
    let verify = |service| authenticate(authorization.as_ref(), key.as_deref(), service, &signed, now);
    line.time = now;
    match &asked {
        Asked::Secrets { operation } => {
            let request = operations::Request {
                state: &state,
                operation,
                principal,
                region: &scope.region,
            };
            let outcome = verify("secretsmanager")
                .map_err(|refusal| secrets_refusal(&refusal))
                .and_then(|()| state.faults.refusal(&site, "ThrottlingException"))
                .map_or_else(
                    |error| Err(error).into(),
                    |()| operations::dispatch(&request, &body),
                );
            line.resource = outcome.resource.or(line.resource);
            line.error = outcome.result.as_ref().err().map(|e| e.code.to_string());
            let reads: Vec<Call> = outcome
                .reads
                .into_iter()
                .map(|(resource, error)| Call {
                    operation: "GetSecretValue".to_owned(),
                    resource: Some(resource),
                    error,
                    in_batch: true,
                    ..line.clone()
                })
                .collect();
            state.record.add([line].into_iter().chain(reads));
            wire::json(outcome.result)
        }
        Asked::Sts { action, fields } => {
            // The one action that proves itself by a token instead of a signature.
            let unsigned = action == "AssumeRoleWithWebIdentity";
            let checked = if unsigned {
                Ok(())
            } else {
                verify("sts").map_err(|refusal| sts_refusal(&refusal))
            };
            let result = checked
                .and_then(|()| state.faults.refusal(&site, "Throttling"))
                .and_then(|()| sts::work(&state, action, fields, principal, now));
            if let Some(role) = fields.get("RoleArn") {
                line.resource = Some(role.into());
                if unsigned {
                    line.role = Some(role.into());
                    line.session_name = fields.get("RoleSessionName").map(Arc::from);
                }
            }
            line.error = result.as_ref().err().map(|e| e.code.to_string());
            state.record.add([line]);
            wire::xml(action, result)
        }
    }
}

fn authenticate(
    authorization: Result<&Authorization, &Refusal>,
    key: Option<&Key>,
    service: &str,
    signed: &Signed<'_>,
    now: Timestamp,
) -> Result<(), Refusal> {
    let authorization = authorization.map_err(Clone::clone)?;
    let key = key.ok_or(Refusal::UnknownKey)?;
    let token = signed
        .headers
        .get("x-amz-security-token")
        .map(http::HeaderValue::as_bytes);
    if token != key.token.as_deref().map(str::as_bytes) {
        return Err(Refusal::UnknownKey);
    }
    if key.expires.is_some_and(|at| at <= now) {
        return Err(Refusal::ExpiredToken);
    }
    authorization.verify(&key.secret, service, signed, now)
}

const WRONG_SIGNATURE: &str = "The request signature we calculated does not match the signature you provided. Check \
    your AWS Secret Access Key and signing method. Consult the service documentation for details.";

fn secrets_refusal(refusal: &Refusal) -> ApiError {
    match refusal {
        Refusal::Missing => ApiError::new(
            "MissingAuthenticationTokenException",
            "Missing Authentication Token",
        ),
        Refusal::Incomplete(why) => ApiError::new("IncompleteSignatureException", why),
        Refusal::UnknownKey => ApiError::new(
            "UnrecognizedClientException",
            "The security token included in the request is invalid.",
        ),
        Refusal::ExpiredToken => ApiError::new(
            "ExpiredTokenException",
            "The security token included in the request is expired",
        ),
        Refusal::Skewed(why) | Refusal::WrongScope(why) => ApiError::new("InvalidSignatureException", why),
        Refusal::WrongSignature => ApiError::new("InvalidSignatureException", WRONG_SIGNATURE),
    }
}

fn sts_refusal(refusal: &Refusal) -> ApiError {
    let (code, message): (&'static str, &str) = match refusal {
        Refusal::Missing => (
            "MissingAuthenticationToken",
            "Request is missing Authentication Token",
        ),
        Refusal::Incomplete(why) => ("IncompleteSignature", why),
        Refusal::UnknownKey => (
            "InvalidClientTokenId",
            "The security token included in the request is invalid",
        ),
        Refusal::ExpiredToken => (
            "ExpiredToken",
            "The security token included in the request is expired",
        ),
        Refusal::Skewed(why) | Refusal::WrongScope(why) => ("SignatureDoesNotMatch", why),
        Refusal::WrongSignature => ("SignatureDoesNotMatch", WRONG_SIGNATURE),
    };
    ApiError::with_status(403, code, message)
}
