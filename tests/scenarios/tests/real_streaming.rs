//! exec, attach, port-forward, cp and debug as kubectl types them, through a real API server: WebSockets that it
//! hands on to a node that declares them, WebSockets that it translates to SPDY for one that does not, and SPDY that
//! it passes through for clients of either. Run on an API server that knows what a node declares, and on one from
//! before, which speaks only SPDY to nodes.

use vk_scenarios::Streaming;

/// The file of `kubectl cp`: more than every buffer between the two ends.
const LARGE: usize = 200_000_000;

/// How many connections the API server has handed on or translated, by its own count.
async fn count(streaming: &Streaming, kind: &str) -> u64 {
    let metrics = streaming.run(&["get", "--raw", "/metrics"]).await;
    let text = String::from_utf8_lossy(&metrics.stdout).into_owned();
    let counts = text.lines().filter(|line| {
        line.starts_with("apiserver_websocket_streaming_requests_total{") && line.contains(kind)
    });
    counts.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}

/// Whether the API server is from before the declaration.
fn is_old(streaming: &Streaming) -> bool {
    streaming.world.real_plane().version().is_some_and(|version| version.starts_with("1.35"))
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_streams_over_websockets_to_a_node_that_declares_them() {
    let streaming = Streaming::start(true).await;
    let before = (count(&streaming, "proxied_to_kubelet").await, count(&streaming, "translated_at").await);
    streaming.everything(LARGE).await;
    let after = (count(&streaming, "proxied_to_kubelet").await, count(&streaming, "translated_at").await);
    if !is_old(&streaming) {
        assert!(after.0 > before.0, "the API server hands WebSockets on");
        assert_eq!(after.1, before.1);
    }
    streaming.until_quiet().await;
    streaming.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_streams_over_websockets_that_the_api_server_translates() {
    let streaming = Streaming::start(false).await;
    let before = (count(&streaming, "proxied_to_kubelet").await, count(&streaming, "translated_at").await);
    streaming.everything(LARGE / 4).await;
    let after = (count(&streaming, "proxied_to_kubelet").await, count(&streaming, "translated_at").await);
    if !is_old(&streaming) {
        assert_eq!(after.0, before.0);
        assert!(after.1 > before.1, "the API server translates WebSockets");
    }
    streaming.until_quiet().await;
    streaming.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_streams_over_spdy() {
    let mut streaming = Streaming::start(true).await;
    streaming.spdy = true;
    streaming.everything(LARGE / 4).await;
    streaming.until_quiet().await;
    streaming.end().await;
}
