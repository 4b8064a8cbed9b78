//! A client whose questions do not stay open for ever.

use std::time::Duration;

use kube::Client;
use tower::timeout::Timeout;

/// How long the API server may take to begin its answer: a little longer than it gives itself
/// (`--request-timeout`, one minute by default), so that its own answer comes first.
const PATIENCE: Duration = Duration::from_secs(65);

/// The same client, whose requests fail when no answer begins in time. A connection that has gone silent would
/// otherwise keep whoever asked waiting for ever. Watches are not cut short: their answer begins at once.
pub(crate) fn impatient(client: Client) -> Client {
    let namespace = client.default_namespace().to_owned();
    let service = tower::service_fn(move |request| {
        let client = client.clone();
        async move { client.send(request).await }
    });
    Client::new(Timeout::new(service, PATIENCE), namespace)
}

#[cfg(test)]
mod tests {
    use http::{Request, Response};
    use kube::client::Body;
    use tokio::time::{Instant, sleep};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_question_that_stays_open_fails_after_its_time() {
        let silent = tower::service_fn(|_: Request<Body>| async {
            sleep(Duration::from_hours(1)).await;
            Ok::<_, std::convert::Infallible>(Response::new(Body::empty()))
        });
        let client = impatient(Client::new(silent, "default"));
        let began = Instant::now();
        let error = client.send(Request::new(Body::empty())).await.expect_err("nobody answers");
        assert_eq!(began.elapsed(), PATIENCE);
        assert!(matches!(error, kube::Error::Service(_)), "{error:?}");
        assert_eq!(client.default_namespace(), "default");
    }
}
