//! The certificates and keys of one control plane, made for it and gone with it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, PKCS_RSA_SHA256, RsaKeySize,
};

/// A certificate authority that signs both the API server and its clients.
pub(super) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: PathBuf,
    pub(super) certificate: PathBuf,
}

/// A certificate and its private key, as PEM files.
pub(super) struct Identity {
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
}

impl Authority {
    pub(super) fn new(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        params.distinguished_name.push(DnType::CommonName, "testbed");
        let key = KeyPair::generate().context("make the authority's key")?;
        let issuer = CertifiedIssuer::self_signed(params, key).context("sign the authority's certificate")?;
        let certificate = folder.join("ca.crt");
        write(&certificate, &issuer.pem())?;
        Ok(Self {
            issuer,
            folder: folder.to_owned(),
            certificate,
        })
    }

    /// For a server reached by these DNS names and IP addresses.
    pub(super) fn server(&self, name: &str, reached_by: &[&str]) -> Result<Identity> {
        let names: Vec<String> = reached_by.iter().map(ToString::to_string).collect();
        let params = CertificateParams::new(names).with_context(|| format!("name the server {name}"))?;
        self.sign(name, params, ExtendedKeyUsagePurpose::ServerAuth)
    }

    /// For a client: the API server takes the common name as the user, the organization as its group.
    pub(super) fn client(&self, user: &str, group: Option<&str>) -> Result<Identity> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, user);
        if let Some(group) = group {
            params.distinguished_name.push(DnType::OrganizationName, group);
        }
        self.sign(
            &user.replace(':', "-"),
            params,
            ExtendedKeyUsagePurpose::ClientAuth,
        )
    }

    fn sign(
        &self,
        file: &str,
        mut params: CertificateParams,
        usage: ExtendedKeyUsagePurpose,
    ) -> Result<Identity> {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate().with_context(|| format!("make the key of {file}"))?;
        let certificate = params
            .signed_by(&key, &self.issuer)
            .with_context(|| format!("sign the certificate of {file}"))?;
        let identity = Identity {
            certificate: self.folder.join(format!("{file}.crt")),
            key: self.folder.join(format!("{file}.key")),
        };
        write(&identity.certificate, &certificate.pem())?;
        write(&identity.key, &key.serialize_pem())?;
        Ok(identity)
    }
}

/// The key that signs `ServiceAccount` tokens: RSA, so that tokens say RS256 as those of EKS do.
pub(super) fn service_account_key(folder: &Path) -> Result<PathBuf> {
    let key = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048)
        .context("make the key that signs ServiceAccount tokens")?;
    let path = folder.join("service-accounts.key");
    write(&path, &key.serialize_pem())?;
    Ok(path)
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("write {}", path.display()))
}
