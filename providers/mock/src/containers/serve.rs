//! `tool serve`: the server of the oracle's test image, on port 8080.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::process::{Ended, Output, Process};

/// Where it listens.
pub(super) const PORT: u16 = 8080;
/// The most of a request that is read.
const MOST: usize = 16 << 10;

/// Serves until SIGTERM. Flags: `--term-exit N`, `--term-delay 2s`, `--ignore-term true`.
pub(super) async fn serve(process: &Arc<Process>, flags: &[String]) -> Ended {
    let flag = |name: &str| flags.iter().position(|flag| flag == name).and_then(|i| flags.get(i + 1));
    process.write(Output::Stdout, b"serving\n");
    process.listen(true);
    let mut term = process.term.subscribe();
    let _ = term.wait_for(|term| *term).await;
    process.write(Output::Stdout, b"got terminated\n");
    if flag("--ignore-term").is_some_and(|value| value == "true") {
        std::future::pending::<()>().await;
    }
    process.listen(false);
    if let Some(delay) = flag("--term-delay") {
        let delay = humantime::parse_duration(delay).unwrap_or(Duration::ZERO);
        tokio::time::sleep(delay).await;
    }
    let code = flag("--term-exit").and_then(|code| code.parse().ok()).unwrap_or(0);
    Ended { code, oom: false }
}

/// Answers one request.
pub(super) async fn answer(process: Arc<Process>, mut stream: DuplexStream) {
    let mut request = Vec::new();
    let mut part = [0; 1024];
    while !request.windows(4).any(|end| end == b"\r\n\r\n") && request.len() < MOST {
        match stream.read(&mut part).await {
            Ok(0) | Err(_) => return,
            Ok(n) => request.extend_from_slice(&part[..n]),
        }
    }
    let text = String::from_utf8_lossy(&request);
    let mut words = text.split_whitespace();
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let header = |name: &str| {
        let mut lines = text.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(key, _)| key.eq_ignore_ascii_case(name)).map_or("", |(_, value)| value).to_owned()
    };
    let (status, extra, body) = match path {
        "/slow" => {
            // Longer than a probe's timeout: a slow answer is what is asked for.
            tokio::time::sleep(Duration::from_secs(10)).await;
            ("200 OK", "", "")
        }
        "/redirect" => ("302 Found", "location: /healthz\r\n", "<a href=\"/healthz\">Found</a>.\n\n"),
        "/away" => (
            "302 Found",
            "location: http://198.51.100.1/\r\n",
            "<a href=\"http://198.51.100.1/\">Found</a>.\n\n",
        ),
        "/prestop" => {
            process.write(Output::Stdout, format!("prestop http {method}\n").as_bytes());
            ("200 OK", "", "")
        }
        "/headers" => {
            let line = format!(
                "request {method} {path} host {} ua {} accept {} x-probe {} k {}\n",
                header("host"),
                header("user-agent"),
                header("accept"),
                header("x-probe"),
                header("k-network-probe")
            );
            process.write(Output::Stdout, line.as_bytes());
            ("200 OK", "", "ok")
        }
        // As a server behind a queue that tells probes by a header of theirs.
        "/healthz" if !header("k-network-probe").is_empty() => {
            let (probe, agent) = (header("k-network-probe"), header("user-agent"));
            process.write(Output::Stdout, format!("probe {probe} of {agent}\n").as_bytes());
            if process.is_well() { ("200 OK", "", "ok") } else { ("503 Service Unavailable", "", "unwell") }
        }
        _ if path.starts_with("/set?http=") => {
            process.set_well(path.ends_with('1'));
            ("200 OK", "", "ok")
        }
        "/healthz" if !process.is_well() => ("500 Internal Server Error", "", "unwell"),
        "/healthz" | "/" => ("200 OK", "", "ok"),
        _ => ("404 Not Found", "", "404 page not found\n"),
    };
    let head =
        format!("HTTP/1.1 {status}\r\n{extra}content-length: {}\r\nconnection: close\r\n\r\n", body.len());
    let _ = stream.write_all(head.as_bytes()).await;
    let _ = stream.write_all(body.as_bytes()).await;
    let _ = stream.shutdown().await;
}
