//! One POST to the webhook: bounded in time, classified when it fails, silent about the URL.

use std::{fmt, io::Cursor, time::Duration};

use http::{
    HeaderMap, Method, Request, StatusCode, Uri,
    header::{CONTENT_TYPE, DATE, RETRY_AFTER, USER_AGENT},
    uri::Scheme,
};
use http_body_util::Full;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use jiff::{SignedDuration, Timestamp};
use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs};
use tokio::time::timeout;

/// The longest URL, in bytes.
const LONGEST: usize = 4096;

/// Where alerts go. What it shows is its scheme and host: the rest may be a token.
#[derive(Clone)]
pub struct Webhook(Uri);

/// Why alerts cannot be sent there. Says nothing of the URL.
#[derive(Debug, thiserror::Error)]
pub enum WebhookError {
    /// It is no URL.
    #[error("the URL for alerts is not one: http:// or https:// and a host are expected")]
    NoUrl,
    /// It holds credentials, which would have to go into a header.
    #[error(
        "the URL for alerts holds a user name or password, which is not supported: put a token into its path"
    )]
    Credentials,
    /// Nobody is trusted.
    #[error("the URL for alerts needs TLS, and the certificates that this machine trusts cannot be read")]
    Roots(#[source] std::io::Error),
    /// TLS cannot be set up.
    #[error("TLS for alerts cannot be set up")]
    Tls(#[source] rustls::Error),
}

impl Webhook {
    /// Reads a URL.
    pub fn parse(url: &str) -> Result<Self, WebhookError> {
        let url = url.trim();
        let uri: Uri = Some(url)
            .filter(|url| url.len() <= LONGEST)
            .and_then(|url| url.parse().ok())
            .ok_or(WebhookError::NoUrl)?;
        let schemes = [Scheme::HTTP, Scheme::HTTPS];
        if !uri.scheme().is_some_and(|scheme| schemes.contains(scheme)) {
            return Err(WebhookError::NoUrl);
        }
        let authority = uri.authority().ok_or(WebhookError::NoUrl)?;
        if authority.host().is_empty() {
            return Err(WebhookError::NoUrl);
        }
        if authority.as_str().contains('@') {
            return Err(WebhookError::Credentials);
        }
        Ok(Self(uri))
    }

    fn is_https(&self) -> bool {
        self.0.scheme() == Some(&Scheme::HTTPS)
    }
}

impl fmt::Display for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = self.0.scheme_str().unwrap_or_default();
        write!(f, "{scheme}://{}", self.0.host().unwrap_or_default())
    }
}

impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a POST was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PostError {
    /// In words of ours: an error of a client may quote the URL.
    pub(super) why: &'static str,
    /// Whether the same may be taken later.
    pub(super) again: bool,
    /// For how long the receiver asks to wait.
    pub(super) retry_after: Option<Duration>,
}

/// Sends to one webhook, over one connection at a time. Redirects are not followed: they would carry the alert elsewhere.
pub(super) struct WebhookClient {
    webhook: Webhook,
    client: Client<HttpsConnector<HttpConnector>, Full<Cursor<Vec<u8>>>>,
}

impl WebhookClient {
    pub(super) fn new(webhook: Webhook) -> Result<Self, WebhookError> {
        let provider = aws_lc_rs::default_provider();
        let connector = if webhook.is_https() {
            HttpsConnectorBuilder::new()
                .with_provider_and_native_roots(provider)
                .map_err(WebhookError::Roots)?
        } else {
            // Without TLS it does not matter whom this machine trusts, or whether it says so.
            let config = ClientConfig::builder_with_provider(provider.into())
                .with_safe_default_protocol_versions()
                .map_err(WebhookError::Tls)?
                .with_root_certificates(RootCertStore::empty())
                .with_no_client_auth();
            HttpsConnectorBuilder::new().with_tls_config(config)
        };
        let client = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(Duration::from_secs(30))
            .pool_max_idle_per_host(1)
            .build(connector.https_or_http().enable_http1().build());
        Ok(Self { webhook, client })
    }

    pub(super) fn webhook(&self) -> &Webhook {
        &self.webhook
    }

    /// Sends `body`, and waits for the head of the answer; nothing in its body matters.
    pub(super) async fn post(&self, body: Vec<u8>, patience: Duration) -> Result<(), PostError> {
        let request = Request::builder()
            .method(Method::POST)
            .uri(self.webhook.0.clone())
            .header(CONTENT_TYPE, "application/json")
            .header(USER_AGENT, concat!("keyturn/", env!("CARGO_PKG_VERSION")))
            .body(Full::new(Cursor::new(body)))
            .map_err(|_| PostError {
                why: "the request cannot be built",
                again: false,
                retry_after: None,
            })?;
        let again = |why| PostError {
            why,
            again: true,
            retry_after: None,
        };
        match timeout(patience, self.client.request(request)).await {
            Err(_) => Err(again("no answer in time")),
            Ok(Err(err)) if err.is_connect() => Err(again("no connection")),
            Ok(Err(_)) => Err(again("the connection broke")),
            Ok(Ok(answer)) => judge(answer.status(), answer.headers()),
        }
    }
}

fn judge(status: StatusCode, headers: &HeaderMap) -> Result<(), PostError> {
    let (why, again) = match status {
        status if status.is_success() => return Ok(()),
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => ("the receiver is busy", true),
        status if status.is_server_error() => ("the receiver failed", true),
        status if status.is_redirection() => ("the receiver redirects, which is not followed", false),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => ("the receiver does not admit us", false),
        StatusCode::NOT_FOUND | StatusCode::GONE => ("the receiver has no such path", false),
        _ => ("the receiver refuses it", false),
    };
    Err(PostError {
        why,
        again,
        retry_after: retry_after(headers),
    })
}

/// `Retry-After` in seconds, or as a date, which counts from the answer's own.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let asked = headers.get(RETRY_AFTER)?.to_str().ok()?;
    if let Ok(seconds) = asked.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let now = date(headers.get(DATE)?.to_str().ok()?)?;
    let wait = date(asked)?.duration_since(now).max(SignedDuration::ZERO);
    wait.try_into().ok()
}

fn date(text: &str) -> Option<Timestamp> {
    let zoned = jiff::fmt::rfc2822::DateTimeParser::new().parse_zoned(text).ok()?;
    Some(zoned.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_webhook_shows_its_scheme_and_host_only() {
        let webhook =
            Webhook::parse(" https://hooks.example.com:8443/services/T0/canary?token=canary\n").unwrap();
        assert_eq!(webhook.to_string(), "https://hooks.example.com");
        assert_eq!(format!("{webhook:?}"), "https://hooks.example.com");
    }

    #[test]
    fn what_is_no_url_is_refused_without_quoting_it() {
        for url in [
            "",
            "hooks.example.com/canary",
            "/canary",
            "ftp://canary",
            "https://",
            "https:///canary",
            "https://user:canary@example.com/",
            "https://exa mple/canary",
        ] {
            let error = Webhook::parse(url).unwrap_err();
            assert!(!error.to_string().contains("canary"), "{url}: {error}");
        }
    }

    #[test]
    fn what_a_status_means_for_the_next_attempt() {
        for (status, again) in [
            (200, None),
            (204, None),
            (301, Some(false)),
            (307, Some(false)),
            (400, Some(false)),
            (401, Some(false)),
            (404, Some(false)),
            (408, Some(true)),
            (413, Some(false)),
            (429, Some(true)),
            (500, Some(true)),
            (503, Some(true)),
        ] {
            let judged = judge(StatusCode::from_u16(status).unwrap(), &HeaderMap::new());
            assert_eq!(judged.err().map(|refused| refused.again), again, "{status}");
        }
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let mut headers = HeaderMap::new();
        assert_eq!(retry_after(&headers), None);
        headers.insert(DATE, "Mon, 23 Nov 2026 20:00:00 GMT".parse().unwrap());
        for (asked, wait) in [
            ("7", Some(7)),
            ("Mon, 23 Nov 2026 20:01:30 GMT", Some(90)),
            ("Mon, 23 Nov 2026 19:00:00 GMT", Some(0)),
            ("soon", None),
            ("-1", None),
        ] {
            headers.insert(RETRY_AFTER, asked.parse().unwrap());
            assert_eq!(retry_after(&headers), wait.map(Duration::from_secs), "{asked}");
        }
    }
}
