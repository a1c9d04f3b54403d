//! Waiting for a condition, always with a deadline.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};

/// How long to rest between two looks.
const PAUSE: Duration = Duration::from_millis(50);

/// Asks `probe` until it answers `Some`, for at most `limit`.
///
/// An error of the probe is not the end: it is what the returned error says last when time is up.
/// One look that hangs is cut off at the deadline as well.
pub async fn until<T>(
    what: &str,
    limit: Duration,
    mut probe: impl AsyncFnMut() -> Result<Option<T>>,
) -> Result<T> {
    let deadline = Instant::now() + limit;
    let mut last = anyhow!("it was never so");
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match tokio::time::timeout(left, probe()).await {
            Ok(Ok(Some(found))) => return Ok(found),
            Ok(Ok(None)) => {}
            Ok(Err(error)) => last = error,
            Err(_elapsed) => {
                return Err(last).with_context(|| format!("waited {} s for {what}", limit.as_secs()));
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}
