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
            Err(_elapsed) => {}
        }
        // A probe that never waits is never cut off.
        if Instant::now() >= deadline {
            return Err(last).with_context(|| format!("waited {} s for {what}", limit.as_secs()));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_probe_that_never_waits_has_its_deadline_too() {
        let limit = Duration::from_millis(120);
        let waited = until("what never comes", limit, async || Ok(None::<()>)).await;
        assert!(waited.is_err());
    }
}
