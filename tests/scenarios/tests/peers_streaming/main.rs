//! Independent clients of exec, attach and port-forward, through the real API server: three minor versions of
//! kubectl, client-go's executors and dialers, the Python client, and kube-rs, the latter also straight at the node.
//!
//! Run by `cargo xtask test peers`, which names the kubectls in `VK_KUBECTLS`, the Go program in `VK_STREAM_CLIENTS`,
//! and a Python with the client in `VK_PYTHON`.

mod kube_rs;

use std::path::PathBuf;

use tokio::process::Command;
use vk_scenarios::Streaming;
use vk_scenarios::streaming::PATIENCE;

fn named(variable: &str) -> std::ffi::OsString {
    std::env::var_os(variable)
        .unwrap_or_else(|| panic!("{variable} is not set; run `cargo xtask test peers`"))
}

#[tokio::test(flavor = "multi_thread")]
async fn three_minor_versions_of_kubectl_stream_over_what_each_prefers_and_over_spdy() {
    let mut streaming = Streaming::start(true).await;
    let kubectls: Vec<PathBuf> = std::env::split_paths(&named("VK_KUBECTLS")).collect();
    let mut minors = Vec::new();
    for kubectl in kubectls {
        streaming.kubectl = kubectl.into();
        let output = streaming.run(&["version", "--client", "--output=json"]).await;
        let version: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        minors.push(version["clientVersion"]["minor"].as_str().unwrap().to_owned());
        for spdy in [false, true] {
            streaming.spdy = spdy;
            streaming.everything(8 << 20).await;
        }
    }
    minors.dedup();
    assert_eq!(minors.len(), 3, "{minors:?}");
    streaming.until_quiet().await;
    streaming.end().await;
}

/// Runs a program that prints what held, and fails at the first that did not.
async fn holds(streaming: &Streaming, command: &mut Command) -> String {
    let command = command.args([streaming.world.namespace.as_str(), "web", "a"]).kill_on_drop(true);
    let output = tokio::time::timeout(PATIENCE, command.output()).await.expect("it hangs").unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}{err}");
    out.into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn client_go_streams_through_both_executors_and_both_dialers() {
    for declared in [true, false] {
        let streaming = Streaming::start(declared).await;
        let out = holds(&streaming, &mut Command::new(named("VK_STREAM_CLIENTS"))).await;
        for what in
            ["NewSPDYExecutor", "NewWebSocketExecutor", "the SPDY dialer", "the SPDY-over-WebSocket dialer"]
        {
            assert!(out.contains(&format!("holds: {what}\n")), "{out}");
        }
        streaming.until_quiet().await;
        streaming.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_python_client_streams() {
    for declared in [true, false] {
        let streaming = Streaming::start(declared).await;
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peers_streaming/stream_client.py");
        let out = holds(&streaming, Command::new(named("VK_PYTHON")).arg(script)).await;
        for what in ["exec", "input", "terminal", "attach", "port-forward"] {
            assert!(out.contains(&format!("holds: {what}\n")), "{out}");
        }
        if declared {
            // An API server that translates notices a client's end by what it writes to it: the attachment stays
            // until the container says something.
            streaming.until_quiet().await;
        }
        streaming.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kube_rs_streams_through_the_api_server_and_straight_at_the_node() {
    let streaming = Streaming::start(true).await;
    kube_rs::through_the_api_server(&streaming).await;
    kube_rs::straight_at_the_node(&streaming).await;
    streaming.until_quiet().await;
    streaming.end().await;
}
