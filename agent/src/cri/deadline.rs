//! The time that a client gives a request (`grpc-timeout`, gRPC over HTTP/2): once it has passed without an answer, the answer is
//! DeadlineExceeded. tonic keeps it too, further out, and would say Cancelled. What the request has begun goes on, or ends, as when
//! its client hangs up (`ops`).

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::HeaderMap;
use tokio::time::{Instant, sleep_until};
use tonic::Status;
use tower::{Layer, Service};

/// As gRPC over HTTP/2 names it.
const HEADER: &str = "grpc-timeout";

/// Keeps the deadlines of a gRPC service's clients. Belongs inside of `Observe`, which tells the answer.
#[derive(Debug, Clone, Copy, Default)]
pub struct Deadlines;

impl<S> Layer<S> for Deadlines {
    type Service = Timely<S>;

    fn layer(&self, inner: S) -> Timely<S> {
        Timely { inner }
    }
}

/// A gRPC service that answers in time.
#[derive(Debug, Clone)]
pub struct Timely<S> {
    inner: S,
}

impl<S, Body, Answer> Service<hyper::Request<Body>> for Timely<S>
where
    S: Service<hyper::Request<Body>, Response = hyper::Response<Answer>>,
    S::Future: Send + 'static,
    Answer: Default,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: hyper::Request<Body>) -> Self::Future {
        let limit = limit(request.headers());
        // Before the timer further out is set, so that it has not rung when this has not.
        let begun = Instant::now();
        let answer = self.inner.call(request);
        let Some(limit) = limit else { return Box::pin(answer) };
        let deadline = begun + limit;
        Box::pin(async move {
            let (mut answer, mut timer) = (pin!(answer), pin!(sleep_until(deadline)));
            poll_fn(|context| {
                if let Poll::Ready(answer) = answer.as_mut().poll(context) {
                    return Poll::Ready(answer);
                }
                // The other timer may be the one that wakes the task: it asks here first, and the clock tells.
                if timer.as_mut().poll(context).is_pending() && Instant::now() < deadline {
                    return Poll::Pending;
                }
                let late = format!("no answer within the {limit:?} that the client gave");
                Poll::Ready(Ok(Status::deadline_exceeded(late).into_http()))
            })
            .await
        })
    }
}

/// None without the header, or with one that is none: at most eight digits and a unit (gRPC over HTTP/2, `TimeoutValue`).
fn limit(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(HEADER)?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if !(1..=8).contains(&digits.len()) || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let value = digits.parse::<u64>().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(value * 3600)),
        "M" => Some(Duration::from_secs(value * 60)),
        "S" => Some(Duration::from_secs(value)),
        "m" => Some(Duration::from_millis(value)),
        "u" => Some(Duration::from_micros(value)),
        "n" => Some(Duration::from_nanos(value)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_digits_and_a_unit() {
        let limit = |text: &str| limit(&HeaderMap::from_iter([(HEADER.parse().unwrap(), text.parse().unwrap())]));
        let hour = Duration::from_secs(3600);
        assert_eq!(["1H", "60M", "3600S"].map(limit), [Some(hour); 3]);
        let second = Duration::from_secs(1);
        assert_eq!(["1000m", "1000000u", "00000001S"].map(limit), [Some(second); 3]);
        assert_eq!(limit("99999999n"), Some(Duration::from_nanos(99_999_999)));
        assert_eq!(limit("99999999H"), Some(hour * 99_999_999));
        for bad in ["", "S", "1", "1s", "-1S", "+1S", " 1S", "1.5S", "100000000n", "1SS"] {
            assert_eq!(limit(bad), None, "{bad:?}");
        }
        assert_eq!(super::limit(&HeaderMap::new()), None);
    }
}
