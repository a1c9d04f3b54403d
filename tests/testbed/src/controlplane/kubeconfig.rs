//! Kubeconfig files.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use kube::config::{AuthInfo, Cluster, Context, Kubeconfig, NamedAuthInfo, NamedCluster, NamedContext};

use super::certs::Identity;

const NAME: &str = "testbed";

/// For a client with a certificate.
pub(super) fn write_with_certificate(path: &Path, url: &str, ca: &Path, identity: &Identity) -> Result<()> {
    let cluster = Cluster {
        server: Some(url.to_owned()),
        certificate_authority: Some(ca.display().to_string()),
        ..Cluster::default()
    };
    let user = AuthInfo {
        client_certificate: Some(identity.certificate.display().to_string()),
        client_key: Some(identity.key.display().to_string()),
        ..AuthInfo::default()
    };
    write(path, cluster, user)
}

/// For the cluster that `other` leads to, or for `server`, with the token in `token_file`, which clients read again now
/// and then.
pub(super) fn write_with_token(
    path: &Path,
    other: &Path,
    token_file: &Path,
    server: Option<&str>,
) -> Result<()> {
    let config = Kubeconfig::read_from(other).with_context(|| format!("read {}", other.display()))?;
    let context = config
        .contexts
        .iter()
        .find(|named| Some(&named.name) == config.current_context.as_ref());
    let name = context
        .and_then(|named| named.context.as_ref())
        .map(|context| context.cluster.as_str());
    let mut cluster = config
        .clusters
        .iter()
        .find(|named| Some(named.name.as_str()) == name)
        .and_then(|named| named.cluster.clone())
        .with_context(|| format!("find the cluster of the current context in {}", other.display()))?;
    if let Some(server) = server {
        cluster = Cluster {
            server: Some(server.to_owned()),
            ..Cluster::default()
        };
    }
    let user = AuthInfo {
        token_file: Some(token_file.display().to_string()),
        ..AuthInfo::default()
    };
    write(path, cluster, user)
}

fn write(path: &Path, cluster: Cluster, user: AuthInfo) -> Result<()> {
    let context = Context {
        cluster: NAME.to_owned(),
        user: Some(NAME.to_owned()),
        ..Context::default()
    };
    let config = Kubeconfig {
        api_version: Some("v1".to_owned()),
        kind: Some("Config".to_owned()),
        clusters: vec![NamedCluster {
            name: NAME.to_owned(),
            cluster: Some(cluster),
            ..NamedCluster::default()
        }],
        auth_infos: vec![NamedAuthInfo {
            name: NAME.to_owned(),
            auth_info: Some(user),
            ..NamedAuthInfo::default()
        }],
        contexts: vec![NamedContext {
            name: NAME.to_owned(),
            context: Some(context),
            ..NamedContext::default()
        }],
        current_context: Some(NAME.to_owned()),
        ..Kubeconfig::default()
    };
    // JSON is YAML.
    let text = serde_json::to_string_pretty(&config).context("serialize a kubeconfig")?;
    fs::write(path, text).with_context(|| format!("write {}", path.display()))
}
