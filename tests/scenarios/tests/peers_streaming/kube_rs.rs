//! kube-rs.

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use kube::Client;
use kube::api::{Api, AttachParams, AttachedProcess, Portforwarder, TerminalSize};
use kube::core::kubelet_debug::KubeletDebugParams;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use vk_scenarios::Streaming;
use vk_scenarios::streaming::pattern;

pub(crate) async fn through_the_api_server(streaming: &Streaming) {
    let pods: Api<Pod> = streaming.world.api();
    everything(
        async |command, params| pods.exec("web", command, params).await.unwrap(),
        async |params| pods.attach("web", params).await.unwrap(),
        async |ports| pods.portforward("web", ports).await.unwrap(),
    )
    .await;
}

/// At the kubelet's own routes, with and without the pod's UID.
pub(crate) async fn straight_at_the_node(streaming: &Streaming) {
    let mut config = kube::Config::infer().await.unwrap();
    config.cluster_url = format!("https://{}", streaming.address).parse().unwrap();
    let client = Client::try_from(config).unwrap();
    let pods: Api<Pod> = streaming.world.api();
    let uid = pods.get("web").await.unwrap().metadata.uid;
    for pod_uid in [None, uid.as_deref()] {
        let pod = KubeletDebugParams { name: "web", namespace: &streaming.world.namespace, pod_uid };
        everything(
            async |command, params| client.kubelet_node_exec(&pod, "a", command, params).await.unwrap(),
            async |params| client.kubelet_node_attach(&pod, "a", params).await.unwrap(),
            async |ports| client.kubelet_node_portforward(&pod, ports).await.unwrap(),
        )
        .await;
    }
}

async fn everything(
    exec: impl AsyncFn(Vec<&'static str>, &AttachParams) -> AttachedProcess,
    attach: impl AsyncFn(&AttachParams) -> AttachedProcess,
    forward: impl AsyncFn(&[u16]) -> Portforwarder,
) {
    let params = AttachParams::default().stdin(true).stdout(true).stderr(true);
    for (script, code, out, err) in [
        ("true", 0, "", ""),
        ("echo out; echo err >&2; exit 7", 7, "out\n", "err\n"),
        ("nosuch", 127, "", "sh: nosuch: not found\n"),
    ] {
        let mut process = exec(vec!["sh", "-c", script], &params).await;
        let (mut stdout, mut stderr) = (String::new(), String::new());
        process.stdout().unwrap().read_to_string(&mut stdout).await.unwrap();
        process.stderr().unwrap().read_to_string(&mut stderr).await.unwrap();
        let status = process.take_status().unwrap().await;
        assert_eq!(
            (code_of(status.as_ref()), stdout.as_str(), stderr.as_str()),
            (code, out, err),
            "{script}"
        );
    }

    // Input to its end, and back.
    let sent = pattern(8 << 20);
    let mut process = exec(vec!["cat"], &params).await;
    let (mut stdin, mut stdout) = (process.stdin().unwrap(), process.stdout().unwrap());
    let send = async {
        stdin.write_all(&sent).await.unwrap();
        stdin.shutdown().await.unwrap();
    };
    let mut received = vec![0; sent.len()];
    let ((), read) = tokio::join!(send, stdout.read_exact(&mut received));
    read.unwrap();
    assert!(received == sent, "what came back is not what was sent");
    drop((stdin, stdout, process));

    let terminal = AttachParams::default().stdin(true).stdout(true).stderr(false).tty(true);
    let mut process = exec(vec!["resize"], &terminal).await;
    let (mut sizes, mut shown) = (process.terminal_size().unwrap(), process.stdout().unwrap());
    for (width, height) in [(101, 33), (90, 20)] {
        futures::SinkExt::send(&mut sizes, TerminalSize { width, height }).await.unwrap();
        let expected = format!("{width}x{height}\r\n");
        let mut seen = vec![0; expected.len()];
        shown.read_exact(&mut seen).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&seen), expected);
    }
    drop((sizes, shown, process));

    let mut process = attach(&params).await;
    process.stdin().unwrap().write_all(b"hello?\n").await.unwrap();
    let mut heard = [0; 7];
    process.stdout().unwrap().read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"hello?\n");
    drop(process);

    let mut forwarder = forward(&[80, 81]).await;
    let mut stream = forwarder.take_stream(80).unwrap();
    stream.write_all(b"GET /kube-rs HTTP/1.1\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    while !answer.contains("GET /kube-rs HTTP/1.1\nHello from port 80") {
        let mut piece = [0; 1024];
        let length = stream.read(&mut piece).await.unwrap();
        assert!(length > 0, "{answer}");
        answer.push_str(&String::from_utf8_lossy(&piece[..length]));
    }
    let refusal = forwarder.take_error(81).unwrap().await.unwrap();
    assert!(refusal.contains("connection refused"), "{refusal}");
    forwarder.abort();
}

/// The exit code in a status; 0 for success.
fn code_of(status: Option<&Status>) -> i32 {
    let status = status.expect("a status");
    if status.status.as_deref() == Some("Success") {
        return 0;
    }
    let causes = status.details.as_ref().and_then(|details| details.causes.as_deref()).unwrap_or_default();
    let code = causes.iter().find(|cause| cause.reason.as_deref() == Some("ExitCode"));
    code.and_then(|cause| cause.message.as_deref()?.parse().ok()).expect("an exit code")
}
