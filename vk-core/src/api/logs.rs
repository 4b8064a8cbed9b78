//! `GET /containerLogs/{namespace}/{pod}/{container}`.

mod body;
mod query;

use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use futures::{FutureExt as _, StreamExt as _};
use http::StatusCode;
use k8s_openapi::api::core::v1::Pod;

use self::body::LogBody;
use self::query::BadQuery;
use super::request::Call;
use super::{KubeletApi, containers, reply};
use crate::provider::{Error, LogOptions, PodRef};

/// How long a provider may take to open a log.
const OPEN: Duration = Duration::from_secs(30);

/// Answers with the log, or says why there is none.
pub(super) async fn container_logs(api: &KubeletApi, call: &Call) -> Response {
    let mut options = match query::parse(&call.query) {
        Ok(options) => options,
        Err(BadQuery::Undecodable) => {
            return reply::text(StatusCode::BAD_REQUEST, r#"{"message": "Unable to decode query."}"#);
        }
        Err(BadQuery::Invalid) => {
            return reply::text(StatusCode::UNPROCESSABLE_ENTITY, r#"{"message": "Invalid request."}"#);
        }
    };
    let (name, container) = (call.param("pod"), call.param("container"));
    let pod = api.pods.find(call.param("namespace"), name);
    let Some((pod, reference)) = pod.and_then(|pod| PodRef::of(&pod).map(|reference| (pod, reference)))
    else {
        return reply::text(StatusCode::NOT_FOUND, format!("pod {name:?} does not exist"));
    };
    if !containers::names(&pod).any(|known| known == container) {
        let body = format!("container {container:?} not found in pod {name:?}");
        return reply::text(StatusCode::NOT_FOUND, body);
    }
    let Some(logs) = api.provider.logs() else {
        return reply::not_implemented(format!(
            "provider {:?} does not keep container logs",
            api.provider.name()
        ));
    };
    match run_to_read(&pod, name, container, options.previous) {
        Ok(previous) => options.previous = previous,
        Err(reason) => return bare(reason),
    }
    let container = reference.container(container);
    let opened = tokio::time::timeout(OPEN, logs.container_logs(&container, &options)).await;
    let log = opened.unwrap_or_else(|_| {
        Err(Error::unavailable(format!("the backend did not open the log within {} s", OPEN.as_secs())))
    });
    let mut log = match log {
        Ok(log) => log.peekable(),
        Err(error) => return failed(&container, &options, &error),
    };
    // A log that breaks off before its first byte can still be answered with a status.
    let first = std::pin::Pin::new(&mut log).peek().now_or_never().flatten();
    if let Some(Err(error)) = first {
        return failed(&container, &options, error);
    }
    let closing = call.connection.as_ref().map(|connection| {
        // Logs are read into pagers, too.
        connection.be_patient();
        connection.closing().clone()
    });
    let open = api.metrics.port().stream("log");
    let body = LogBody::new(log.boxed(), &options, closing);
    // Counted for as long as the body lives.
    Response::new(Body::from_stream(body.inspect(move |_| _ = &open)))
}

fn failed(container: &crate::provider::ContainerRef, options: &LogOptions, error: &Error) -> Response {
    tracing::info!(%container, uid = %container.pod.uid, error = error.chain(), "kubelet API: no log");
    if options.previous && matches!(error, Error::NotFound { .. }) {
        return bare(no_previous(&container.name, &container.pod.name));
    }
    reply::provider_error(error)
}

/// Which run of a container to ask the provider for: whether it is the one before the latest.
///
/// While a container waits for its next start, the run that ended is both "the log" and "the previous log", as
/// with the kubelet; for a provider it is the latest one.
fn run_to_read(pod: &Pod, name: &str, container: &str, previous: bool) -> Result<bool, String> {
    let Some(status) = containers::status(pod, container) else {
        return Err(format!("container {container:?} in pod {name:?} is not available"));
    };
    let ended_before = status.last_state.as_ref().is_some_and(|state| state.terminated.is_some());
    if previous && !ended_before {
        return Err(no_previous(container, name));
    }
    let state = status.state.as_ref();
    if state.is_some_and(|state| state.running.is_some() || state.terminated.is_some()) {
        return Ok(previous);
    }
    if ended_before {
        return Ok(false);
    }
    let waiting =
        state.and_then(|state| state.waiting.as_ref()).and_then(|waiting| waiting.reason.as_deref());
    let why = match waiting {
        Some("ErrImagePull") => ": image can't be pulled",
        Some("ImagePullBackOff") => ": trying and failing to pull image",
        Some(reason) => &format!(": {reason}"),
        None => " - no logs yet",
    };
    Err(format!("container {container:?} in pod {name:?} is waiting to start{why}"))
}

fn no_previous(container: &str, name: &str) -> String {
    format!("previous terminated container {container:?} in pod {name:?} not found")
}

/// A 400 as the kubelet gives it once it has begun a log: chunked, without a content type.
fn bare(reason: String) -> Response {
    let body = futures::stream::once(async { Ok::<_, std::convert::Infallible>(reason) });
    let mut response = Response::new(Body::from_stream(body));
    *response.status_mut() = StatusCode::BAD_REQUEST;
    response
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures::stream;
    use serde_json::json;
    use tokio::sync::mpsc;
    use tokio_util::sync::CancellationToken;

    use super::super::Access;
    use super::super::testing::{self, Backend, container_status, line, pod, running};
    use super::*;
    use crate::provider::{LogEntry, LogOutput, LogStream, Result};

    fn lines() -> Vec<LogEntry> {
        let out = LogOutput::Stdout;
        vec![line(0, out, "out 1\n"), line(1, LogOutput::Stderr, "err 1\n"), line(2, out, "out 2\n")]
    }

    fn backend(log: impl Fn() -> Result<LogStream> + Send + Sync + 'static) -> Backend {
        Backend { log: Some(Box::new(log)), ..Backend::default() }
    }

    fn with_lines() -> Backend {
        backend(|| Ok(stream::iter(lines().into_iter().map(Ok)).boxed()))
    }

    async fn logs(query: &str) -> testing::Answer {
        let api = testing::api(with_lines(), vec![running("lines")]);
        testing::get(&api, &format!("/containerLogs/default/lines/a{query}")).await
    }

    #[tokio::test(start_paused = true)]
    async fn a_log_is_its_bytes_with_no_content_type_and_no_length() {
        let answer = logs("").await;
        answer.is(200, "out 1\nerr 1\nout 2\n");
        assert_eq!((answer.header("content-type"), answer.header("content-length")), (None, None));
    }

    #[tokio::test(start_paused = true)]
    async fn a_byte_limit_cuts_in_the_middle_of_a_line() {
        logs("?limitBytes=10").await.is(200, "out 1\nerr ");
        logs("?limitBytes=1").await.is(200, "o");
        logs("?limitBytes=1000").await.is(200, "out 1\nerr 1\nout 2\n");
        logs("?limitBytes=33&timestamps=true").await.is(200, "2026-11-23T10:00:00.000000000Z ou");
    }

    #[tokio::test(start_paused = true)]
    async fn timestamps_have_nine_digits_and_stand_before_each_line() {
        let expected = "2026-11-23T10:00:00.000000000Z out 1\n2026-11-23T10:00:01.000000000Z err 1\n\
                        2026-11-23T10:00:02.000000000Z out 2\n";
        logs("?timestamps=true").await.is(200, expected);
    }

    #[tokio::test(start_paused = true)]
    async fn a_line_in_pieces_is_stamped_once() {
        let log = || {
            let out = LogOutput::Stdout;
            let pieces = [line(0, out, "on"), line(1, out, "e\n"), line(2, out, "two")];
            Ok(stream::iter(pieces.map(Ok)).boxed())
        };
        let api = testing::api(backend(log), vec![running("lines")]);
        let answer = testing::get(&api, "/containerLogs/default/lines/a?timestamps=true").await;
        answer.is(200, "2026-11-23T10:00:00.000000000Z one\n2026-11-23T10:00:02.000000000Z two");
    }

    #[tokio::test(start_paused = true)]
    async fn one_of_the_two_outputs_can_be_asked_for() {
        logs("?stream=Stdout").await.is(200, "out 1\nout 2\n");
        logs("?stream=Stderr").await.is(200, "err 1\n");
        logs("?stream=All").await.is(200, "out 1\nerr 1\nout 2\n");
    }

    #[tokio::test(start_paused = true)]
    async fn the_provider_gets_the_container_and_the_options() {
        let backend = Arc::new(with_lines());
        let api =
            testing::guarded(Arc::clone(&backend), vec![running("lines")], Access::insecure_allow_all());
        testing::get(&api, "/containerLogs/default/lines/a?tailLines=0&follow=true&sinceSeconds=7")
            .await
            .is(200, "out 1\nerr 1\nout 2\n");
        let (container, options) = backend.opened.lock().unwrap().remove(0);
        assert_eq!((&*container.name, container.pod.uid.as_str()), ("a", "uid-lines"));
        let start = Some(crate::provider::LogStart::Ago(Duration::from_secs(7)));
        assert_eq!(options, LogOptions { tail: Some(0), follow: true, start, ..LogOptions::default() });
    }

    /// Bodies and codes as recorded from a kubelet.
    #[tokio::test(start_paused = true)]
    async fn what_cannot_be_answered_is_refused_as_the_kubelet_refuses_it() {
        let none = json!({});
        let waiting = |name, reason: &str| {
            pod(name, &container_status(&json!({ "waiting": { "reason": reason } }), &json!({})))
        };
        let pods = vec![
            running("lines"),
            waiting("waiting", "ErrImageNeverPull"),
            waiting("initing", "PodInitializing"),
            waiting("pulling", "ErrImagePull"),
            waiting("backoff", "ImagePullBackOff"),
            pod("empty", &container_status(&none, &none)),
        ];
        let api = testing::api(with_lines(), pods);
        let plain = Some("text/plain; charset=utf-8");
        for (path, code, content_type, body) in [
            ("lines/zzz", 404, plain, r#"container "zzz" not found in pod "lines""#),
            ("nopod/a", 404, plain, r#"pod "nopod" does not exist"#),
            ("lines/a?tailLines=-1", 422, plain, r#"{"message": "Invalid request."}"#),
            ("lines/a?limitBytes=0", 422, plain, r#"{"message": "Invalid request."}"#),
            ("lines/a?tailLines=all", 400, plain, r#"{"message": "Unable to decode query."}"#),
            ("lines/init", 400, None, r#"container "init" in pod "lines" is not available"#),
            ("lines/debug", 400, None, r#"container "debug" in pod "lines" is not available"#),
            (
                "lines/a?previous=true",
                400,
                None,
                r#"previous terminated container "a" in pod "lines" not found"#,
            ),
            (
                "waiting/a",
                400,
                None,
                r#"container "a" in pod "waiting" is waiting to start: ErrImageNeverPull"#,
            ),
            (
                "initing/a",
                400,
                None,
                r#"container "a" in pod "initing" is waiting to start: PodInitializing"#,
            ),
            (
                "pulling/a",
                400,
                None,
                r#"container "a" in pod "pulling" is waiting to start: image can't be pulled"#,
            ),
            (
                "backoff/a",
                400,
                None,
                r#"container "a" in pod "backoff" is waiting to start: trying and failing to pull image"#,
            ),
            ("empty/a", 400, None, r#"container "a" in pod "empty" is waiting to start - no logs yet"#),
            ("lines", 404, plain, "404: Page Not Found"),
        ] {
            let answer = testing::get(&api, &format!("/containerLogs/default/{path}")).await;
            answer.is(code, body);
            assert_eq!(answer.header("content-type"), content_type, "{path}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn while_a_container_waits_for_its_next_start_the_log_is_that_of_the_run_that_ended() {
        let ended = json!({ "terminated": { "exitCode": 1, "finishedAt": "2026-11-23T09:59:00Z" } });
        let back_off = json!({ "waiting": { "reason": "CrashLoopBackOff" } });
        let up = json!({ "running": { "startedAt": "2026-11-23T09:59:30Z" } });
        for (state, asked, given) in
            [(&back_off, true, false), (&back_off, false, false), (&up, true, true), (&up, false, false)]
        {
            let backend = Arc::new(with_lines());
            let pods = vec![pod("crashed", &container_status(state, &ended))];
            let api = testing::guarded(Arc::clone(&backend), pods, Access::insecure_allow_all());
            let path = format!("/containerLogs/default/crashed/a?previous={asked}");
            assert_eq!(testing::get(&api, &path).await.status, 200);
            assert_eq!(backend.opened.lock().unwrap()[0].1.previous, given, "{state} {asked}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_provider_without_logs_is_a_501_that_names_it() {
        let api = testing::api(Backend::default(), vec![running("lines")]);
        let answer = testing::get(&api, "/containerLogs/default/lines/a").await;
        answer.is(501, r#"provider "fake" does not keep container logs"#);
    }

    #[tokio::test(start_paused = true)]
    async fn an_error_before_the_first_byte_has_its_status() {
        let refused = || Err(Error::unavailable("the backend is down"));
        let broken = || Ok(stream::iter([Err(Error::unavailable("the backend is down"))]).boxed());
        for backend in [backend(refused), backend(broken)] {
            let api = testing::api(backend, vec![running("lines")]);
            testing::get(&api, "/containerLogs/default/lines/a").await.is(503, "the backend is down");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_error_after_the_first_byte_cuts_the_answer_off() {
        let log = || {
            let items = [Ok(line(0, LogOutput::Stdout, "one\n")), Err(Error::unexpected("garbage"))];
            Ok(stream::iter(items).boxed())
        };
        let api = testing::api(backend(log), vec![running("lines")]);
        let answer = testing::get(&api, "/containerLogs/default/lines/a").await;
        assert_eq!((answer.status.as_u16(), answer.body.as_str(), answer.broken), (200, "one\n", true));
    }

    /// A followed log whose lines the test sends, and the body that a client reads from.
    fn followed() -> (mpsc::Sender<LogEntry>, LogBody, CancellationToken) {
        let (sender, receiver) = mpsc::channel(1);
        let log = stream::unfold(receiver, |mut receiver| async {
            receiver.recv().await.map(|entry| (Ok(entry), receiver))
        });
        let closing = CancellationToken::new();
        let options = LogOptions { follow: true, ..LogOptions::default() };
        (sender, LogBody::new(log.boxed(), &options, Some(closing.clone())), closing)
    }

    #[tokio::test(start_paused = true)]
    async fn a_followed_line_arrives_at_once_and_the_end_of_the_log_ends_the_answer() {
        let (sender, mut body, _closing) = followed();
        for text in ["one\n", "two\n"] {
            sender.send(line(0, LogOutput::Stdout, text)).await.unwrap();
            assert_eq!(body.next().await.unwrap().unwrap(), text);
        }
        drop(sender);
        assert!(body.next().await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_read_makes_the_provider_wait() {
        let (sender, mut body, _closing) = followed();
        sender.send(line(0, LogOutput::Stdout, "one\n")).await.unwrap();
        assert!(sender.try_send(line(0, LogOutput::Stdout, "two\n")).is_err(), "somebody read ahead");
        assert_eq!(body.next().await.unwrap().unwrap(), "one\n");
        sender.try_send(line(0, LogOutput::Stdout, "two\n")).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_goes_away_stops_the_provider() {
        let (sender, body, _closing) = followed();
        drop(body);
        sender.closed().await;
    }

    #[tokio::test(start_paused = true)]
    async fn the_nodes_shutdown_cuts_a_followed_log_off() {
        let (_sender, mut body, closing) = followed();
        let reader = tokio::spawn(async move { body.next().await });
        closing.cancel();
        assert!(matches!(reader.await.unwrap(), Some(Err(body::Cut::Closing))));
    }

    #[tokio::test(start_paused = true)]
    async fn lines_that_are_there_travel_together_within_bounds() {
        let many = (0..10_000).map(|_| Ok(line(0, LogOutput::Stdout, "0123456789abcde\n")));
        let mut body = LogBody::new(stream::iter(many).boxed(), &LogOptions::default(), None);
        let (mut frames, mut bytes) = (0, 0);
        while let Some(frame) = body.next().await {
            let frame = frame.unwrap();
            assert!(frame.len() <= 16 * 1024 + 16);
            frames += 1;
            bytes += frame.len();
        }
        assert_eq!((frames, bytes), (10, 160_000));
    }
}
