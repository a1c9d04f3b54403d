//! Clients of the API server, and plain reads through them.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

/// For reads that are made again when they fail: a server that just starts may accept and never answer.
pub(super) const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// The read timeout must be longer than the quiet times of a watch, if one is made with this client.
pub(super) async fn from(path: &Path, read_timeout: Duration) -> Result<Client> {
    let kubeconfig = Kubeconfig::read_from(path).with_context(|| format!("read {}", path.display()))?;
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .with_context(|| format!("use {}", path.display()))?;
    config.read_timeout = Some(read_timeout);
    // A failure is for the test to see or for a wait to repeat.
    config.default_retry = false;
    Client::try_from(config).with_context(|| format!("make a client from {}", path.display()))
}

/// The body of the answer to a `GET` of a path that is no resource.
pub(super) async fn get(client: &Client, path: &str) -> Result<String> {
    let request = http::Request::get(path)
        .body(Vec::new())
        .with_context(|| format!("ask for {path}"))?;
    client
        .request_text(request)
        .await
        .with_context(|| format!("GET {path}"))
}
