//! The API server's clock, as its answers tell it.
//!
//! A `Date` header has a resolution of one second and was written at some moment between sending the request
//! and receiving the answer. So each answer bounds the offset of the server's clock against ours from both
//! sides; bounds are intersected until they contradict, that is until one of the clocks was set.

use std::{
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use futures::future::BoxFuture;
use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;
use tower::{BoxError, Layer, Service};

use super::call::TimeLimit;

/// The API server's clock. Before the first answer it is this machine's. Clones share it.
#[derive(Clone, Debug)]
pub struct ServerTime(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// This machine's time at `started`; counted on from there by the monotonic clock, so that a step of
    /// this machine's clock changes nothing.
    origin: Timestamp,
    started: Instant,
    offset: Mutex<Offset>,
}

impl Default for ServerTime {
    #[expect(clippy::disallowed_methods, reason = "this is the clock")]
    fn default() -> Self {
        Self(Arc::new(Shared {
            origin: Timestamp::now(),
            started: Instant::now(),
            offset: Mutex::new(Offset::default()),
        }))
    }
}

impl ServerTime {
    /// The API server's time now, within about half a second.
    pub fn now(&self) -> Timestamp {
        let offset = self
            .0
            .offset
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .estimate();
        let local = self.local(Instant::now());
        local.saturating_add(offset).unwrap_or(local)
    }

    fn local(&self, at: Instant) -> Timestamp {
        let run = at.saturating_duration_since(self.0.started);
        self.0.origin.saturating_add(run).unwrap_or(self.0.origin)
    }

    fn observe(&self, date: Timestamp, sent: Instant, received: Instant) {
        let (sent, received) = (self.local(sent), self.local(received));
        let mut offset = self.0.offset.lock().unwrap_or_else(PoisonError::into_inner);
        offset.observe(date, sent, received);
    }
}

/// Bounds of the server's clock minus ours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Offset {
    bounds: Option<(SignedDuration, SignedDuration)>,
}

impl Offset {
    fn observe(&mut self, date: Timestamp, sent: Timestamp, received: Timestamp) {
        let low = date.duration_since(received);
        let high = date.duration_since(sent) + SignedDuration::from_secs(1);
        let narrowed = self
            .bounds
            .map(|(l, h)| (l.max(low), h.min(high)))
            .filter(|(l, h)| l <= h);
        self.bounds = Some(narrowed.unwrap_or((low, high)));
    }

    fn estimate(self) -> SignedDuration {
        self.bounds
            .map_or(SignedDuration::ZERO, |(low, high)| low + (high - low) / 2)
    }
}

/// Reads the `Date` of every answer and gives up on an answer that does not begin within the request's [`TimeLimit`].
/// Watches are bound by it too: their headers come at once.
#[derive(Clone, Debug)]
pub(super) struct TimeLayer(pub(super) ServerTime);

impl<S> Layer<S> for TimeLayer {
    type Service = TimeService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        TimeService {
            inner,
            time: self.0.clone(),
        }
    }
}

/// See [`TimeLayer`].
#[derive(Clone, Debug)]
pub(super) struct TimeService<S> {
    inner: S,
    time: ServerTime,
}

impl<S, Q, B> Service<http::Request<Q>> for TimeService<S>
where
    S: Service<http::Request<Q>, Response = http::Response<B>>,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: 'static,
{
    type Response = http::Response<B>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: http::Request<Q>) -> Self::Future {
        let time = self.time.clone();
        let sent = Instant::now();
        let limit = TimeLimit::of(&request).of_answer();
        let answer = self.inner.call(request);
        Box::pin(async move {
            let response = tokio::time::timeout(limit, answer).await?.map_err(Into::into)?;
            if let Some(date) = date(response.headers()) {
                time.observe(date, sent, Instant::now());
            }
            Ok(response)
        })
    }
}

fn date(headers: &http::HeaderMap) -> Option<Timestamp> {
    let text = headers.get(http::header::DATE)?.to_str().ok()?;
    let zoned = jiff::fmt::rfc2822::DateTimeParser::new().parse_zoned(text).ok()?;
    Some(zoned.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millisecond(1_800_000_000_000 + millis).unwrap()
    }

    /// The offset after answers of a server that is `ahead` ms ahead: (ms of sending, ms of the round trip).
    fn estimated(ahead: i64, answers: &[(i64, i64)]) -> i64 {
        let mut offset = Offset::default();
        for (sent, took) in answers {
            let written = sent + took / 2 + ahead;
            let date = at(written.div_euclid(1000) * 1000);
            offset.observe(date, at(*sent), at(sent + took));
        }
        i64::try_from(offset.estimate().as_millis()).unwrap()
    }

    #[test]
    fn one_answer_tells_the_time_within_half_a_second_and_its_own_duration() {
        for ahead in [-90_000, -700, 0, 300, 999, 3_600_000] {
            for sent in [0, 250, 999] {
                let off = estimated(ahead, &[(sent, 10)]) - ahead;
                assert!(off.abs() <= 510, "{ahead} {sent}: {off}");
            }
        }
    }

    #[test]
    fn more_answers_tell_it_better() {
        let answers: Vec<_> = (0..20).map(|i| (i * 1050, 10)).collect();
        let off = estimated(4321, &answers) - 4321;
        assert!(off.abs() <= 50, "{off}");
    }

    #[test]
    fn a_clock_that_was_set_is_believed_at_once() {
        let mut offset = Offset::default();
        offset.observe(at(0), at(0), at(10));
        offset.observe(at(60_000), at(1000), at(1010));
        assert_eq!(offset.estimate().as_secs(), 59);
    }

    #[test]
    fn a_date_is_read_as_http_writes_it() {
        let mut headers = http::HeaderMap::new();
        assert_eq!(date(&headers), None);
        headers.insert("date", "Mon, 23 Nov 2026 20:00:00 GMT".parse().unwrap());
        assert_eq!(date(&headers), Some("2026-11-23T20:00:00Z".parse().unwrap()));
        headers.insert("date", "soon".parse().unwrap());
        assert_eq!(date(&headers), None);
    }
}
