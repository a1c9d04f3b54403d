//! The two wire formats: form fields in (STS), JSON and XML out; and the small encodings they need.

use std::fmt::Write as _;

use aws_lc_rs::{digest, rand};
use axum::body::Body;
use http::{HeaderValue, Response, StatusCode, header};
use serde_json::{Value, json};

use super::error::ApiError;

/// Lower-case hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}

pub(super) fn sha256_hex(bytes: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, bytes).as_ref())
}

/// `len` random characters of `alphabet`, for ids and suffixes.
pub(super) fn random(alphabet: &[u8], len: usize) -> String {
    let mut bytes = vec![0_u8; len];
    // Ids need to be distinct, not secret: without entropy they would only collide, and loudly.
    let _ = rand::fill(&mut bytes);
    bytes
        .iter()
        .filter_map(|b| alphabet.get(usize::from(*b) % alphabet.len()))
        .map(|b| char::from(*b))
        .collect()
}

/// A random UUID (version 4).
pub(super) fn uuid() -> String {
    let h = random(b"0123456789abcdef", 31);
    let part = |from: usize, to: usize| h.get(from..to).unwrap_or_default();
    format!(
        "{}-{}-4{}-a{}-{}",
        part(0, 8),
        part(8, 12),
        part(12, 15),
        part(15, 18),
        part(18, 30)
    )
}

/// The fields of an `application/x-www-form-urlencoded` body.
pub(super) fn form(body: &[u8]) -> Vec<(String, String)> {
    body.split(|b| *b == b'&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let mut halves = pair.splitn(2, |b| *b == b'=');
            (
                decode(halves.next().unwrap_or_default()),
                decode(halves.next().unwrap_or_default()),
            )
        })
        .collect()
}

fn decode(text: &[u8]) -> String {
    let digit = |b: Option<&u8>| {
        b.and_then(|b| char::from(*b).to_digit(16))
            .and_then(|d| u8::try_from(d).ok())
    };
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        bytes.push(match first {
            b'+' => b' ',
            b'%' => match (digit(tail.first()), digit(tail.get(1))) {
                (Some(high), Some(low)) => {
                    rest = tail.get(2..).unwrap_or_default();
                    high * 16 + low
                }
                _ => b'%',
            },
            other => *other,
        });
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Text made safe for XML.
pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

fn response(status: u16, content_type: &'static str, body: String) -> Response<Body> {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    if let Ok(id) = HeaderValue::from_str(&uuid()) {
        headers.insert("x-amzn-requestid", id);
    }
    response
}

/// An answer of Secrets Manager (awsJson1.1).
pub(super) fn json(result: Result<Value, ApiError>) -> Response<Body> {
    const JSON: &str = "application/x-amz-json-1.1";
    match result {
        Ok(value) => response(200, JSON, value.to_string()),
        Err(error) => {
            // AWS is not consistent about the case of this member, clients must take both.
            let member = if error.status >= 500 || error.code.starts_with("AccessDenied") {
                "Message"
            } else {
                "message"
            };
            response(
                error.status,
                JSON,
                json!({"__type": error.code, member: error.message}).to_string(),
            )
        }
    }
}

/// An answer of STS (awsQuery). `body` is the inside of `<ActionResult>`.
pub(super) fn xml(action: &str, result: Result<String, ApiError>) -> Response<Body> {
    const SPACE: &str = "https://sts.amazonaws.com/doc/2011-06-15/";
    let id = uuid();
    let (status, body) = match result {
        Ok(body) => (
            200,
            format!(
                "<{action}Response xmlns=\"{SPACE}\"><{action}Result>{body}</{action}Result>\
                 <ResponseMetadata><RequestId>{id}</RequestId></ResponseMetadata></{action}Response>"
            ),
        ),
        Err(error) => (
            error.status,
            format!(
                "<ErrorResponse xmlns=\"{SPACE}\"><Error><Type>{}</Type><Code>{}</Code><Message>{}</Message>\
                 </Error><RequestId>{id}</RequestId></ErrorResponse>",
                if error.status < 500 { "Sender" } else { "Receiver" },
                escape(&error.code),
                escape(&error.message)
            ),
        ),
    };
    response(status, "text/xml", body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn form_fields_are_decoded() {
        let fields = form(b"Action=AssumeRole&RoleArn=arn%3Aaws%3Aiam&x=a+b%2&empty");
        let expected = [
            ("Action", "AssumeRole"),
            ("RoleArn", "arn:aws:iam"),
            ("x", "a b%2"),
            ("empty", ""),
        ];
        assert_eq!(fields, expected.map(|(k, v)| (k.to_owned(), v.to_owned())));
    }

    #[test]
    fn a_uuid_has_a_uuids_shape() {
        let id = uuid();
        assert_eq!(
            id.split('-').map(str::len).collect::<Vec<_>>(),
            [8, 4, 4, 4, 12],
            "{id}"
        );
        assert_ne!(id, uuid());
    }
}
