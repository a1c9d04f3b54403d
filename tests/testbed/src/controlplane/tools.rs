//! Runs helm and kubectl.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tokio::process::Command;

/// Longer than helm's own default of 5 minutes with `--wait`, so that its message is the one seen.
const LIMIT: Duration = Duration::from_mins(6);

/// Standard output of `program`; its errors go into the error.
pub(super) async fn run<A: AsRef<str>>(
    program: &Path,
    kubeconfig: &Path,
    folder: &Path,
    arguments: impl IntoIterator<Item = A>,
) -> Result<String> {
    let arguments: Vec<String> = arguments
        .into_iter()
        .map(|argument| argument.as_ref().to_owned())
        .collect();
    let name = program.file_name().unwrap_or_default().to_string_lossy();
    let what = format!("{name} {}", arguments.join(" "));
    let home = folder.join("home");
    let running = Command::new(program)
        .args(&arguments)
        .env("KUBECONFIG", kubeconfig)
        .env("HOME", &home)
        .env("KUBECACHEDIR", home.join("kubectl"))
        .env("HELM_CACHE_HOME", home.join("helm-cache"))
        .env("HELM_CONFIG_HOME", home.join("helm-config"))
        .env("HELM_DATA_HOME", home.join("helm-data"))
        .stdin(std::process::Stdio::null())
        .kill_on_drop(true)
        .output();
    let Ok(output) = tokio::time::timeout(LIMIT, running).await else {
        bail!("{what} did not end within {} s", LIMIT.as_secs());
    };
    let output = output.with_context(|| format!("run {what} ({})", program.display()))?;
    if !output.status.success() {
        bail!(
            "{what} ended with {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim_end()
        );
    }
    String::from_utf8(output.stdout).with_context(|| format!("read the output of {what}"))
}
