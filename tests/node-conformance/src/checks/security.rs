//! Who may call the node.

use std::time::Duration;

use kube::{Client, Config};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::bed::Bed;
use crate::calls::CALL;
use crate::stop::{Checked, Stop, code, demand, describe};
use crate::workload::Script;

/// How long the node's port may take to take a connection.
const CONNECT: Duration = Duration::from_secs(5);

/// Callers without credentials, and with false ones, get nothing.
/// Not applicable where the port cannot be reached from here.
pub async fn strangers_are_kept_out(bed: &Bed) -> Checked {
    let node = bed.node().await?;
    let port = node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"].as_u64().unwrap_or(0);
    let Some(port) = u16::try_from(port).ok().filter(|port| *port > 0) else {
        return Err(Stop::not_applicable("the node does not say where its API is"));
    };
    let authority = reachable(&node, port).await?;
    bed.start("private", &bed.workload().running("app", &Script::forever())).await?;
    let pod = format!("{}/private/app", bed.namespace());
    let asked = [
        ("GET", "/pods".to_owned()),
        ("GET", format!("/containerLogs/{pod}")),
        ("POST", format!("/run/{pod}?cmd=true")),
        ("GET", "/metrics".to_owned()),
    ];
    let mut spoken = false;
    for scheme in ["https", "http"] {
        let client = stranger(&format!("{scheme}://{authority}"))?;
        for (method, path) in &asked {
            for token in [None, Some("Bearer not-a-token")] {
                let mut request = http::Request::builder().method(*method).uri(path.as_str());
                if let Some(token) = token {
                    request = request.header(http::header::AUTHORIZATION, token);
                }
                let request = request
                    .body(Vec::new())
                    .map_err(|error| Stop::failed(format!("a fault of this suite: {error}")))?;
                let answer = timeout(CALL, client.request_text(request)).await;
                let who = if token.is_some() { "a false token" } else { "no credentials" };
                match answer {
                    Ok(Ok(text)) => {
                        let begin: String = text.chars().take(60).collect();
                        return Err(Stop::failed(format!(
                            "{method} {scheme}://{authority}{path} with {who} is answered: {begin:?}"
                        )));
                    }
                    // A handshake, or a request, that the port does not understand.
                    Ok(Err(error)) if code(&error).is_none() => break,
                    // Plain HTTP at a TLS port: Go says so with 400.
                    Ok(Err(error)) if scheme == "http" && code(&error) == Some(400) => {}
                    Ok(Err(error)) => {
                        spoken = true;
                        let refused = matches!(code(&error), Some(401 | 403));
                        demand!(
                            refused,
                            "{method} {scheme}://{authority}{path} with {who} is answered {}",
                            describe(&error)
                        );
                    }
                    Err(_) => return Err(Stop::failed(format!("{path} was not answered within {CALL:?}"))),
                }
            }
        }
    }
    demand!(spoken, "{authority} takes connections and speaks neither HTTPS nor HTTP");
    Ok(())
}

/// An address of the node that takes connections from here.
async fn reachable(node: &Value, port: u16) -> Checked<String> {
    let mut tried = Vec::new();
    let all = node["status"]["addresses"].as_array().map_or(&[][..], Vec::as_slice);
    let is_ip = |entry: &&Value| entry["type"].as_str().is_some_and(|kind| kind.ends_with("IP"));
    // A name is looked up where nothing better is known.
    let ips = all.iter().any(|entry| is_ip(&entry));
    for entry in all.iter().filter(|entry| !ips || is_ip(entry)) {
        let Some(host) = entry["address"].as_str() else { continue };
        let authority =
            if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        match timeout(CONNECT, TcpStream::connect(&authority)).await {
            Ok(Ok(_)) => return Ok(authority),
            Ok(Err(error)) => tried.push(format!("{authority}: {error}")),
            Err(_) => tried.push(format!("{authority}: no answer")),
        }
    }
    Err(Stop::not_applicable(format!("the node's port cannot be reached from here ({})", tried.join("; "))))
}

/// A client that nobody knows, and that takes any certificate: it has nothing to lose.
fn stranger(url: &str) -> Checked<Client> {
    let url = url.parse().map_err(|error| Stop::failed(format!("{url}: {error}")))?;
    let mut config = Config::new(url);
    config.accept_invalid_certs = true;
    config.connect_timeout = Some(CONNECT);
    config.default_retry = false;
    Client::try_from(config)
        .map_err(|error| Stop::failed(format!("no client for the node's port: {}", describe(&error))))
}
