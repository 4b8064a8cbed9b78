//! Who may call: a real port, in real time.

use axum::Router;
use axum::response::IntoResponse as _;
use http::StatusCode;
use vk_node_conformance::Verdict;

use crate::agent::{Agent, Deletes};
use crate::cluster::Cluster;

async fn verdict(answer: StatusCode) -> Verdict {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let app = Router::new().fallback(move || async move { (answer, "pods").into_response() });
    let serving = tokio::spawn(async move { axum::serve(listener, app).await });
    let cluster = Cluster::new();
    cluster.make_node("127.0.0.1", port);
    let _acting = Agent { deletes: Deletes::AtOnce, ..Agent::default() }.act(&cluster);
    let verdict = cluster.verdict("strangers_are_kept_out").await;
    serving.abort();
    verdict
}

#[tokio::test]
async fn a_port_that_tells_strangers_about_pods_fails_and_one_that_refuses_them_passes() {
    let open = verdict(StatusCode::OK).await;
    assert!(
        matches!(&open, Verdict::Failed { reason } if reason.contains("is answered: \"pods\"")),
        "{open:?}"
    );
    assert_eq!(verdict(StatusCode::UNAUTHORIZED).await, Verdict::Passed);
    let odd = verdict(StatusCode::NOT_FOUND).await;
    assert!(matches!(&odd, Verdict::Failed { reason } if reason.contains("404")), "{odd:?}");
}
