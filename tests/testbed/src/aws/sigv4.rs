//! Checks Signature Version 4: the request must have been signed with the key it names, as it arrived.
//!
//! Source: AWS IAM user guide, "Create a signed AWS API request".

use aws_lc_rs::{constant_time, hmac};
use http::HeaderMap;
use jiff::{SignedDuration, Timestamp, civil::DateTime, tz::TimeZone};

use super::wire::{hex, sha256_hex};

/// How far the clock of a signer may be off.
const MAX_SKEW: SignedDuration = SignedDuration::from_mins(5);

/// What is wrong with a signed request. Each service has its own codes for these.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refusal {
    Missing,
    Incomplete(String),
    UnknownKey,
    ExpiredToken,
    Skewed(String),
    WrongSignature,
    WrongScope(String),
}

/// The parsed `Authorization` header.
#[derive(Debug, Clone, Default)]
pub(super) struct Authorization {
    pub(super) access_key: String,
    pub(super) date: String,
    pub(super) region: String,
    pub(super) service: String,
    signed_headers: String,
    signature: String,
}

/// What was signed, as it arrived.
pub(super) struct Signed<'a> {
    pub(super) method: &'a str,
    pub(super) path: &'a str,
    pub(super) query: &'a str,
    pub(super) headers: &'a HeaderMap,
    pub(super) body: &'a [u8],
}

impl Authorization {
    pub(super) fn parse(headers: &HeaderMap) -> Result<Self, Refusal> {
        let header = headers.get(http::header::AUTHORIZATION).ok_or(Refusal::Missing)?;
        let text = header.to_str().unwrap_or_default();
        let fields = text
            .strip_prefix("AWS4-HMAC-SHA256")
            .ok_or_else(|| Refusal::Incomplete("Unsupported AWS 'algorithm'.".to_owned()))?;
        let mut parsed = Self::default();
        for field in fields.split(',') {
            match field.trim().split_once('=') {
                Some(("Credential", scope)) => {
                    let parts: Vec<&str> = scope.split('/').collect();
                    let [access_key, date, region, service, "aws4_request"] = parts.as_slice() else {
                        return Err(Refusal::Incomplete(
                            "Credential must have exactly 5 slash-delimited elements.".to_owned(),
                        ));
                    };
                    (*access_key).clone_into(&mut parsed.access_key);
                    (*date).clone_into(&mut parsed.date);
                    (*region).clone_into(&mut parsed.region);
                    (*service).clone_into(&mut parsed.service);
                }
                Some(("SignedHeaders", names)) => names.clone_into(&mut parsed.signed_headers),
                Some(("Signature", signature)) => signature.clone_into(&mut parsed.signature),
                _ => {}
            }
        }
        for (name, value) in [
            ("Credential", &parsed.access_key),
            ("SignedHeaders", &parsed.signed_headers),
            ("Signature", &parsed.signature),
        ] {
            if value.is_empty() {
                return Err(Refusal::Incomplete(format!(
                    "Authorization header requires '{name}' parameter."
                )));
            }
        }
        Ok(parsed)
    }

    /// Checks scope, clock and signature. `service` is the one the request asks.
    pub(super) fn verify(
        &self,
        secret_key: &str,
        service: &str,
        signed: &Signed<'_>,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        if self.service != service {
            return Err(Refusal::WrongScope(format!(
                "Credential should be scoped to correct service: '{service}'."
            )));
        }
        let Some(stamp) = header(signed.headers, "x-amz-date") else {
            return Err(Refusal::Incomplete(
                "Authorization header requires existence of either a 'X-Amz-Date' or a 'Date' header."
                    .to_owned(),
            ));
        };
        let time = DateTime::strptime("%Y%m%dT%H%M%SZ", &stamp)
            .and_then(|at| at.to_zoned(TimeZone::UTC))
            .map_err(|_| Refusal::Incomplete("Date must be in ISO-8601 'basic format'.".to_owned()))?
            .timestamp();
        if now.duration_since(time).abs() > MAX_SKEW {
            return Err(Refusal::Skewed(format!(
                "Signature expired: {stamp} is more than 5 minutes from {now}"
            )));
        }
        if !stamp.starts_with(&self.date) {
            return Err(Refusal::WrongScope(
                "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP."
                    .to_owned(),
            ));
        }
        let names: Vec<&str> = self.signed_headers.split(';').collect();
        let must = ["host", "x-amz-date", "x-amz-security-token", "x-amz-target"];
        for name in must.iter().filter(|name| signed.headers.contains_key(**name)) {
            if !names.contains(name) {
                return Err(Refusal::WrongSignature);
            }
        }
        let body_hash = sha256_hex(signed.body);
        if header(signed.headers, "x-amz-content-sha256").is_some_and(|claimed| claimed != body_hash) {
            return Err(Refusal::WrongSignature);
        }
        let mut query: Vec<&str> = signed.query.split('&').filter(|p| !p.is_empty()).collect();
        query.sort_unstable();
        let mut canonical = format!("{}\n{}\n{}\n", signed.method, signed.path, query.join("&"));
        for name in &names {
            let value = header(signed.headers, name).ok_or(Refusal::WrongSignature)?;
            canonical.extend([name, ":", &value, "\n"]);
        }
        canonical.extend(["\n", &self.signed_headers, "\n", &body_hash]);
        let scope = format!("{}/{}/{}/aws4_request", self.date, self.region, self.service);
        let to_sign = format!(
            "AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{}",
            sha256_hex(canonical.as_bytes())
        );

        let mut key = hmac_sha256(format!("AWS4{secret_key}").as_bytes(), self.date.as_bytes());
        for part in [&self.region, &self.service, "aws4_request"] {
            key = hmac_sha256(key.as_ref(), part.as_bytes());
        }
        let expected = hex(hmac_sha256(key.as_ref(), to_sign.as_bytes()).as_ref());
        constant_time::verify_slices_are_equal(expected.as_bytes(), self.signature.as_bytes())
            .map_err(|_| Refusal::WrongSignature)
    }
}

fn hmac_sha256(key: &[u8], data: &[u8]) -> hmac::Tag {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), data)
}

/// A header as it enters the canonical request: values joined by commas, runs of spaces made one.
fn header(headers: &HeaderMap, name: &str) -> Option<String> {
    let mut values = headers.get_all(name).iter().peekable();
    values.peek()?;
    let joined: Vec<String> = values
        .map(|value| {
            String::from_utf8_lossy(value.as_bytes())
                .split_ascii_whitespace()
                .collect::<Vec<_>>()
                .join(" ")
        })
        .collect();
    Some(joined.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The request `get-vanilla-query-order-key-case` of AWS's published signature test suite.
    fn vanilla() -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert("host", "example.amazonaws.com".parse().unwrap());
        headers.insert("x-amz-date", "20150830T123600Z".parse().unwrap());
        headers.insert(
            "authorization",
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, \
             SignedHeaders=host;x-amz-date, \
             Signature=b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500"
                .parse()
                .unwrap(),
        );
        headers
    }

    fn verify(headers: &HeaderMap, query: &str, body: &[u8], now: Timestamp) -> Result<(), Refusal> {
        let signed = Signed {
            method: "GET",
            path: "/",
            query,
            headers,
            body,
        };
        Authorization::parse(headers)?.verify(
            "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY",
            "service",
            &signed,
            now,
        )
    }

    #[test]
    fn the_published_example_verifies_and_any_change_to_it_does_not() {
        let headers = vanilla();
        let (query, now) = (
            "Param2=value2&Param1=value1",
            "2015-08-30T12:36:30Z".parse().unwrap(),
        );
        assert_eq!(verify(&headers, query, b"", now), Ok(()));
        assert_eq!(
            verify(&headers, "Param1=value1", b"", now),
            Err(Refusal::WrongSignature)
        );
        assert_eq!(verify(&headers, query, b"x", now), Err(Refusal::WrongSignature));
        let mut other_host = headers.clone();
        other_host.insert("host", "example.org".parse().unwrap());
        assert_eq!(verify(&other_host, query, b"", now), Err(Refusal::WrongSignature));
        assert!(matches!(
            verify(&headers, query, b"", "2015-08-30T12:46:30Z".parse().unwrap()),
            Err(Refusal::Skewed(_))
        ));
    }

    #[test]
    fn a_header_without_its_parts_is_incomplete() {
        assert_eq!(
            Authorization::parse(&HeaderMap::new()).err(),
            Some(Refusal::Missing)
        );
        for text in [
            "Bearer x",
            "AWS4-HMAC-SHA256 Credential=a/b/c",
            "AWS4-HMAC-SHA256 SignedHeaders=host",
        ] {
            let mut headers = HeaderMap::new();
            headers.insert("authorization", text.parse().unwrap());
            assert!(
                matches!(Authorization::parse(&headers), Err(Refusal::Incomplete(_))),
                "{text}"
            );
        }
    }
}
