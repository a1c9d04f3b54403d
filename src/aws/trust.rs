//! Whose certificates are trusted: the platform's authorities, or those in the file that `AWS_CA_BUNDLE` names.
//!
//! The AWS CLI and SDKs that know this variable trust the file *instead* of the platform's authorities, and so does this:
//! one bundle serves all of them, and nothing is trusted that it leaves out.

use std::{error::Error as StdError, io, path::PathBuf};

use aws_smithy_http_client::tls::{TlsContext, TrustStore};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use rustls::{
    CertificateError, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject as _},
};

/// The environment variable.
const CA_BUNDLE: &str = "AWS_CA_BUNDLE";
/// A bundle of all public authorities has a quarter of a megabyte.
const LARGEST: u64 = 16 << 20;

/// Why there is nothing to trust.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// The file cannot be read.
    #[error(
        "{CA_BUNDLE} names the file {path}, which cannot be read: {error}; mount it there, or correct or remove the variable"
    )]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The file holds no certificates.
    #[error(
        "{CA_BUNDLE} names the file {path}, which {problem}; put the certificates of the authorities into it in PEM form, \
         or correct or remove the variable"
    )]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: &'static str,
    },
}

/// The authorities whose certificates are trusted.
#[derive(Clone, Debug, Default)]
pub(super) struct Trust(TlsContext);

impl Trust {
    /// What the environment says.
    pub(super) async fn from_environment() -> Result<Self, TrustError> {
        match std::env::var_os(CA_BUNDLE).filter(|path| !path.is_empty()) {
            Some(path) => Self::from_file(path.into()).await,
            None => Ok(Self::default()),
        }
    }

    /// The authorities in this file, and no others.
    pub(super) async fn from_file(path: PathBuf) -> Result<Self, TrustError> {
        let read = async {
            let size = tokio::fs::metadata(&path).await?.len();
            if size > LARGEST {
                return Err(io::Error::other("it is larger than 16 MiB"));
            }
            tokio::fs::read(&path).await
        };
        let pem = match read.await {
            Ok(pem) => pem,
            Err(error) => return Err(TrustError::Unreadable { path, error }),
        };
        let context = usable(&pem).and_then(|bundle| {
            let store = TrustStore::empty().with_pem_certificate(bundle);
            let context = TlsContext::builder().with_trust_store(store).build();
            context.map_err(|_| "the TLS library refuses")
        });
        match context {
            Ok(context) => Ok(Self(context)),
            Err(problem) => Err(TrustError::Unusable { path, problem }),
        }
    }

    /// The same for the SDK.
    pub(super) fn context(&self) -> TlsContext {
        self.0.clone()
    }
}

/// The certificates of a bundle that can be used, since the SDK panics at one that cannot. Like the bundles of platforms
/// it may hold some that are too odd for TLS, but not only such.
fn usable(pem: &[u8]) -> Result<String, &'static str> {
    let mut roots = RootCertStore::empty();
    let mut bundle = String::new();
    let mut odd = 0;
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|_| "is no PEM, or was cut off")?;
        let text = BASE64_STANDARD.encode(&certificate);
        if roots.add(certificate).is_err() {
            odd += 1;
            continue;
        }
        bundle += "-----BEGIN CERTIFICATE-----\n";
        bundle += &text;
        bundle += "\n-----END CERTIFICATE-----\n";
    }
    if roots.is_empty() {
        return Err(if odd > 0 {
            "holds no certificate that can be used"
        } else {
            "holds no certificate"
        });
    }
    if odd > 0 {
        tracing::warn!(
            odd,
            "some certificates in the file that {CA_BUNDLE} names cannot be used"
        );
    }
    Ok(bundle)
}

/// What is wrong with the certificate that was shown, if that is why there is no connection.
pub(super) fn distrust(error: &(dyn StdError + 'static)) -> Option<&'static str> {
    let rustls::Error::InvalidCertificate(invalid) = tls_error(error)? else {
        return None;
    };
    Some(match invalid {
        CertificateError::UnknownIssuer => {
            "the certificate of the endpoint is not trusted: none of the known authorities has signed it"
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "the certificate of the endpoint has expired, or the node's clock is wrong"
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "the certificate of the endpoint is not valid yet, or the node's clock is wrong"
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "the certificate of the endpoint is for another name"
        }
        _ => "the certificate of the endpoint cannot be accepted",
    })
}

fn tls_error<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        // The source of an `io::Error` is that of the error in it.
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = match inner {
            Some(inner) => Some(inner as &'a (dyn StdError + 'static)),
            None => error.source(),
        };
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_bundle_that_cannot_be_used_is_named_with_its_variable() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let nonsense = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        for (path, problem) in [
            (folder.path().join("missing"), "cannot be read"),
            (folder.path().to_owned(), "cannot be read"),
            (file("empty", ""), "holds no certificate;"),
            (file("text", "not a certificate"), "holds no certificate;"),
            (
                file("nonsense", nonsense),
                "holds no certificate that can be used",
            ),
            (file("cut", "-----BEGIN CERTIFICATE-----\nAAAA\n"), "cut off"),
            (
                file(
                    "key",
                    "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
                ),
                "no certificate;",
            ),
        ] {
            let error = Trust::from_file(path.clone()).await.unwrap_err().to_string();
            for part in [CA_BUNDLE, path.to_str().unwrap(), problem] {
                assert!(error.contains(part), "{part:?} is not in {error}");
            }
        }
    }
}
