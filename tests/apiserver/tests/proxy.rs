//! What kubelets answer, seen through the API server.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use futures::{AsyncBufReadExt, StreamExt};
use http::{StatusCode, header};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, LogParams};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tower::ServiceExt;
use vk_apiserver::{ApiServer, Config};

fn server_with_pod(config: Config, status: &serde_json::Value) -> ApiServer {
    let server = ApiServer::with(config).unwrap();
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}, "status": status});
    server.create(node).unwrap();
    server
        .create(json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"},
            "spec": {"nodeName": "n1", "containers": [{"name": "a", "image": "i"}]},
        }))
        .unwrap();
    server
}

/// Answers an upgrade by echoing what comes, and its own path first.
async fn echo(mut request: Request) -> Response {
    let path = request.uri().path_and_query().unwrap().to_string();
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let mut io = TokioIo::new(upgrade.await.unwrap());
        io.write_all(path.as_bytes()).await.unwrap();
        io.write_all(b"\n").await.unwrap();
        let (mut read, mut write) = tokio::io::split(io);
        tokio::io::copy(&mut read, &mut write).await.unwrap();
        write.shutdown().await.unwrap();
    });
    let headers = [(header::CONNECTION, "Upgrade"), (header::UPGRADE, "SPDY/3.1")];
    (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
}

fn kubelet() -> Router {
    Router::new()
        .route("/containerLogs/default/web/a", get(|r: Request| async move { format!("logs {}\n", r.uri()) }))
        .route("/exec/default/web/a", any(echo))
        .route("/portForward/default/web", any(echo))
        .route("/stats/summary", get(|r: Request| async move { r.uri().to_string() }))
}

async fn ask(server: &ApiServer, path: &str) -> (StatusCode, String) {
    let request = http::Request::get(path).body(Body::empty()).unwrap();
    let response = server.service().oneshot(request).await.unwrap();
    let status = response.status();
    let body = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test(start_paused = true)]
async fn logs_come_from_the_kubelet_with_its_parameters() {
    let server = server_with_pod(Config::default(), &json!({}));
    server.add_kubelet("n1", kubelet());
    let api: Api<Pod> = Api::default_namespaced(server.client());
    let params = LogParams { tail_lines: Some(0), timestamps: true, ..LogParams::default() };
    let logs = api.logs("web", &params).await.unwrap();
    assert_eq!(logs, "logs /containerLogs/default/web/a?timestamps=true&tailLines=0\n");
    let (status, body) = ask(&server, "/api/v1/namespaces/default/pods/web/log?container=zzz").await;
    assert_eq!(status, 400);
    assert!(body.contains("container zzz is not valid for pod web"), "{body}");
}

#[tokio::test(start_paused = true)]
async fn followed_logs_arrive_chunk_by_chunk() {
    let server = server_with_pod(Config::default(), &json!({}));
    let (lines, queue) = mpsc::channel::<Result<String, std::io::Error>>(1);
    let queue = Arc::new(tokio::sync::Mutex::new(Some(queue)));
    let follow = move || {
        let queue = queue.clone();
        async move {
            let queue = queue.lock().await.take().unwrap();
            Body::from_stream(futures::stream::unfold(queue, |mut q| async { Some((q.recv().await?, q)) }))
        }
    };
    server.add_kubelet("n1", Router::new().route("/containerLogs/default/web/a", get(follow)));
    let api: Api<Pod> = Api::default_namespaced(server.client());
    let stream = api.log_stream("web", &LogParams { follow: true, ..LogParams::default() }).await.unwrap();
    let mut read = stream.lines();
    for line in ["one", "two"] {
        lines.send(Ok(format!("{line}\n"))).await.unwrap();
        assert_eq!(read.next().await.unwrap().unwrap(), line);
    }
    drop(read);
    lines.closed().await;
}

#[tokio::test(start_paused = true)]
async fn a_kubelets_refusal_becomes_a_status() {
    let server = server_with_pod(Config::default(), &json!({}));
    let refuse = || async { (StatusCode::BAD_REQUEST, "container \"a\" is waiting to start") };
    server.add_kubelet("n1", Router::new().fallback(refuse));
    let api: Api<Pod> = Api::default_namespaced(server.client());
    let Err(kube::Error::Api(status)) = api.logs("web", &LogParams::default()).await else { panic!() };
    assert_eq!((status.code, status.reason.as_str()), (400, "BadRequest"));
    assert_eq!(status.message, "container \"a\" is waiting to start");
}

#[tokio::test(start_paused = true)]
async fn a_stream_goes_both_ways_with_its_query_rewritten() {
    let server = server_with_pod(Config::default(), &json!({}));
    server.add_kubelet("n1", kubelet());
    let path =
        "/api/v1/namespaces/default/pods/web/exec?command=sh&command=-c&stdin=true&stdout=true&tty=false";
    let request = http::Request::post(path)
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "SPDY/3.1")
        .body(Body::empty())
        .unwrap();
    let mut response = server.service().oneshot(request).await.unwrap();
    assert_eq!(response.status(), 101);
    assert_eq!(response.headers()[header::UPGRADE], "SPDY/3.1");
    let io = TokioIo::new(hyper::upgrade::on(&mut response).await.unwrap());
    let (mut read, mut write) = tokio::io::split(io);
    write.write_all(b"hello").await.unwrap();
    write.shutdown().await.unwrap();
    let mut seen = String::new();
    read.read_to_string(&mut seen).await.unwrap();
    assert_eq!(seen, "/exec/default/web/a?input=1&output=1&command=sh&command=-c\nhello");
}

#[tokio::test(start_paused = true)]
async fn a_nodes_proxy_keeps_path_and_query() {
    let server = server_with_pod(Config::default(), &json!({}));
    server.add_kubelet("n1", kubelet());
    let (status, body) = ask(&server, "/api/v1/nodes/n1/proxy/stats/summary?only_cpu_and_memory=true").await;
    assert_eq!((status.as_u16(), body.as_str()), (200, "/stats/summary?only_cpu_and_memory=true"));
    let (status, _) = ask(&server, "/api/v1/nodes/n1:10250/proxy/stats/summary").await;
    assert_eq!(status, 200);
    let (status, body) = ask(&server, "/api/v1/nodes/n2/proxy/stats/summary").await;
    assert_eq!(status, 404);
    assert!(body.contains("nodes \\\"n2\\\" not found"), "{body}");
}

#[tokio::test(start_paused = true)]
async fn logs_of_a_pod_without_a_node_are_empty_and_its_streams_refused() {
    let server = ApiServer::new().unwrap();
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"},
                     "spec": {"containers": [{"name": "a", "image": "i"}]}});
    server.create(pod).unwrap();
    assert_eq!(ask(&server, "/api/v1/namespaces/default/pods/web/log").await.0, 204);
    let (status, body) = ask(&server, "/api/v1/namespaces/default/pods/web/exec?command=ls").await;
    assert_eq!(status, 400);
    assert!(body.contains("pod web does not have a host assigned"), "{body}");
}

/// A kubelet on a port, with a certificate of the server's authority, that checks who calls.
async fn listening_kubelet(server: &ApiServer, certified: bool) -> SocketAddr {
    use rustls_pki_types::pem::PemObject;
    use rustls_pki_types::{CertificateDer, PrivateKeyDer};
    let names = ["127.0.0.1".to_owned()];
    let credentials = if certified {
        server.issue_serving_cert("system:node:n1", &names).unwrap()
    } else {
        ApiServer::new().unwrap().issue_serving_cert("system:node:n1", &names).unwrap()
    };
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(server.ca_certificate().as_bytes()).unwrap()).unwrap();
    let verifier =
        rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
            .build()
            .unwrap();
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(credentials.certificate.as_bytes()).unwrap()],
            PrivateKeyDer::from_pem_slice(credentials.key.as_bytes()).unwrap(),
        )
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(tls) = acceptor.accept(socket).await else { return };
                let service = hyper::service::service_fn(|r: http::Request<hyper::body::Incoming>| {
                    kubelet().oneshot(r.map(Body::new))
                });
                // The client may go away first.
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(tls), service)
                    .await;
            });
        }
    });
    address
}

fn at(address: SocketAddr) -> serde_json::Value {
    json!({
        "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": address.port()}},
    })
}

#[tokio::test]
async fn a_kubelet_on_the_network_is_called_with_the_servers_certificate() {
    let config = Config { verify_kubelets: true, ..Config::default() };
    for certified in [true, false] {
        let server = ApiServer::with(config.clone()).unwrap();
        let address = listening_kubelet(&server, certified).await;
        let node =
            json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}, "status": at(address)});
        server.create(node).unwrap();
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"},
                         "spec": {"nodeName": "n1", "containers": [{"name": "a", "image": "i"}]}});
        server.create(pod).unwrap();
        let (status, body) = ask(&server, "/api/v1/namespaces/default/pods/web/log").await;
        if certified {
            assert_eq!((status.as_u16(), body.as_str()), (200, "logs /containerLogs/default/web/a\n"));
        } else {
            assert_eq!(status, 500);
            assert!(body.contains("invalid peer certificate"), "{body}");
            let path = "/api/v1/namespaces/default/pods/web/log?insecureSkipTLSVerifyBackend=true";
            assert_eq!(ask(&server, path).await.0, 200);
        }
    }
}

#[tokio::test]
async fn a_kubelet_that_is_not_there_is_told_as_such() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let server = server_with_pod(Config::default(), &at(address));
    let (status, body) = ask(&server, "/api/v1/namespaces/default/pods/web/log").await;
    assert_eq!(status, 500);
    assert!(body.contains(&format!("dial tcp {address}")), "{body}");
    let (status, _) = ask(&server, "/api/v1/nodes/n1/proxy/healthz").await;
    assert_eq!(status, 503);
}
