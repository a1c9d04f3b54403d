//! Verifies a web identity token as STS does: RS256 by the issuer's JWKS, issuer, audience, expiry.

use aws_lc_rs::signature::{RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::Timestamp;
use serde::Deserialize;

use super::error::ApiError;

/// A provider of web identities (OIDC) as registered in IAM.
#[derive(Debug, Clone)]
pub(super) struct Provider {
    keys: Vec<Jwk>,
    pub(super) audiences: Vec<String>,
}

#[derive(Debug, Clone)]
struct Jwk {
    id: Option<String>,
    modulus: Vec<u8>,
    exponent: Vec<u8>,
}

/// What a verified token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Claims {
    pub(super) issuer: String,
    pub(super) subject: String,
    /// The registered audience the token was made for.
    pub(super) audience: String,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
}

#[derive(Deserialize)]
struct Payload {
    iss: Option<String>,
    sub: Option<String>,
    aud: Option<Audience>,
    exp: Option<f64>,
    nbf: Option<f64>,
}

/// Kubernetes writes a list, others a string.
#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

impl Provider {
    /// Reads a JWKS document. Keys that are not RSA are left out: IAM cannot use them here.
    pub(super) fn new(jwks: &str, audiences: Vec<String>) -> anyhow::Result<Self> {
        #[derive(Deserialize)]
        struct Document {
            keys: Vec<Entry>,
        }
        #[derive(Deserialize)]
        struct Entry {
            kty: String,
            kid: Option<String>,
            n: Option<String>,
            e: Option<String>,
        }
        let document: Document = serde_json::from_str(jwks)?;
        let mut keys = Vec::new();
        for entry in document.keys.into_iter().filter(|k| k.kty == "RSA") {
            keys.push(Jwk {
                id: entry.kid,
                modulus: URL_SAFE_NO_PAD.decode(entry.n.unwrap_or_default())?,
                exponent: URL_SAFE_NO_PAD.decode(entry.e.unwrap_or_default())?,
            });
        }
        anyhow::ensure!(!keys.is_empty(), "the JWKS holds no RSA key");
        Ok(Self { keys, audiences })
    }
}

/// The issuer a token claims, unverified: it only chooses the provider.
pub(super) fn issuer(token: &str) -> Result<String, ApiError> {
    parts(token)
        .and_then(|(_, payload, _)| payload.iss)
        .ok_or_else(malformed)
}

/// Verifies `token` against `provider` at `now`.
pub(super) fn verify(token: &str, provider: &Provider, now: Timestamp) -> Result<Claims, ApiError> {
    let (header, payload, signature) = parts(token).ok_or_else(malformed)?;
    let (signed, _) = token.rsplit_once('.').ok_or_else(malformed)?;
    if header.alg != "RS256" {
        return Err(invalid(format!(
            "The token's algorithm {} is not supported",
            header.alg
        )));
    }
    let mut known = provider
        .keys
        .iter()
        .filter(|key| header.kid.is_none() || key.id == header.kid)
        .peekable();
    if known.peek().is_none() {
        return Err(invalid(
            "Couldn't retrieve verification key from your identity provider, please reference \
             AssumeRoleWithWebIdentity documentation for requirements",
        ));
    }
    let genuine = known.any(|key| {
        RsaPublicKeyComponents {
            n: &key.modulus,
            e: &key.exponent,
        }
        .verify(&RSA_PKCS1_2048_8192_SHA256, signed.as_bytes(), &signature)
        .is_ok()
    });
    if !genuine {
        return Err(invalid(
            "The web identity token's signature could not be verified",
        ));
    }
    #[expect(clippy::cast_precision_loss, reason = "seconds since 1970 are far below 2^52")]
    let seconds = now.as_second() as f64;
    let expires = payload
        .exp
        .ok_or_else(|| invalid("Missing a required claim: exp"))?;
    if expires <= seconds {
        return Err(ApiError::new(
            "ExpiredTokenException",
            format!(
                "Token expired: current date/time {seconds} must be before the expiration date/time {expires}"
            ),
        ));
    }
    if payload.nbf.is_some_and(|from| from > seconds) {
        return Err(invalid("The token is not valid yet"));
    }
    let issuer = payload.iss.ok_or_else(malformed)?;
    let subject = payload
        .sub
        .filter(|s| !s.is_empty())
        .ok_or_else(|| invalid("Missing a required claim: sub"))?;
    let audiences = match payload
        .aud
        .ok_or_else(|| invalid("Missing a required claim: aud"))?
    {
        Audience::One(one) => vec![one],
        Audience::Many(many) => many,
    };
    let audience = audiences
        .into_iter()
        .find(|audience| provider.audiences.contains(audience))
        .ok_or_else(|| invalid("Incorrect token audience"))?;
    Ok(Claims {
        issuer,
        subject,
        audience,
    })
}

fn parts(token: &str) -> Option<(Header, Payload, Vec<u8>)> {
    let mut parts = token.split('.');
    let (header, payload, signature) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    Some((
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(header).ok()?).ok()?,
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()?,
        URL_SAFE_NO_PAD.decode(signature).ok()?,
    ))
}

fn malformed() -> ApiError {
    invalid("The ID Token provided is not a valid JWT. (You may see this error if you sent an Access Token)")
}

fn invalid(message: impl Into<String>) -> ApiError {
    ApiError::new("InvalidIdentityToken", message)
}
