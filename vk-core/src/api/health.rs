//! Health over HTTP, in the words of `k8s.io/apiserver/pkg/server/healthz`: `ok`, or each check's own line.

use std::fmt::{self, Write as _};

use axum::response::Response;
use http::StatusCode;

use super::reply;
use super::request::first;
use crate::health::{Finding, Verdict};

/// The kubelet's own checks, which exist on every node: the server answers, the log is written, and the pods'
/// loop goes round.
pub(super) fn healthz(liveness: &[Finding], query: &[(String, String)]) -> Response {
    let fine = |name| Finding { name, verdict: Ok(()) };
    let findings = [fine("ping"), fine("log"), Finding { name: "syncloop", verdict: syncloop(liveness) }];
    all("healthz", &findings, query)
}

/// Whether the node makes progress: the first thing that is stuck, if anything is.
pub(super) fn syncloop(liveness: &[Finding]) -> Verdict {
    let stuck = liveness.iter().find_map(|finding| Some((finding.name, finding.verdict.as_ref().err()?)));
    stuck.map_or(Ok(()), |(name, reason)| Err(format!("{name}: {reason}")))
}

/// One check by itself.
pub(crate) fn one(verdict: &Verdict) -> Response {
    match verdict {
        Ok(()) => reply::text(StatusCode::OK, "ok"),
        Err(reason) => {
            let line = format!("internal server error: {reason}");
            reply::error_line(StatusCode::INTERNAL_SERVER_ERROR, &line)
        }
    }
}

/// All checks together. With `?verbose`, or when one fails, each has a line; `?exclude=<name>` leaves one out.
/// Reasons are for the log, and for those who ask for the check itself.
pub(crate) fn all(what: &str, findings: &[Finding], query: &[(String, String)]) -> Response {
    let mut excluded: Vec<&str> =
        query.iter().filter(|(key, _)| key == "exclude").map(|(_, value)| value.as_str()).collect();
    excluded.sort_unstable();
    excluded.dedup();
    let mut lines = String::new();
    let mut failed = false;
    for Finding { name, verdict } in findings {
        if let Some(index) = excluded.iter().position(|excluded| excluded == name) {
            excluded.remove(index);
            line(&mut lines, format_args!("[+]{name} excluded: ok"));
            continue;
        }
        match verdict {
            Ok(()) => line(&mut lines, format_args!("[+]{name} ok")),
            Err(reason) => {
                tracing::warn!(check = name, reason, "{what} check failed");
                line(&mut lines, format_args!("[-]{name} failed: reason withheld"));
                failed = true;
            }
        }
    }
    if !excluded.is_empty() {
        let names: Vec<_> = excluded.iter().map(|name| format!("{name:?}")).collect();
        let names = names.join(",");
        line(&mut lines, format_args!("warn: some health checks cannot be excluded: no matches for {names}"));
    }
    if failed {
        let line = format!("{lines}{what} check failed");
        return reply::error_line(StatusCode::INTERNAL_SERVER_ERROR, &line);
    }
    if first(query, "verbose").is_none() {
        return reply::health("ok");
    }
    reply::health(format!("{lines}{what} check passed\n"))
}

fn line(lines: &mut String, line: fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = writeln!(lines, "{line}");
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    async fn text(response: Response) -> (u16, String) {
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    fn query(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[tokio::test]
    async fn a_stuck_part_fails_the_syncloop_and_its_reason_is_kept_for_those_who_ask_for_it() {
        let lease = Finding { name: "lease", verdict: Err("not renewed for 50 s".to_owned()) };
        let stuck = std::slice::from_ref(&lease);
        let withheld = "[+]ping ok\n[+]log ok\n[-]syncloop failed: reason withheld\nhealthz check failed\n";
        assert_eq!(text(healthz(stuck, &[])).await, (500, withheld.to_owned()));
        let reason = "internal server error: lease: not renewed for 50 s\n";
        assert_eq!(text(one(&syncloop(stuck))).await, (500, reason.to_owned()));
        let without = query(&[("exclude", "syncloop"), ("verbose", "")]);
        let lines = "[+]ping ok\n[+]log ok\n[+]syncloop excluded: ok\nhealthz check passed\n";
        assert_eq!(text(healthz(stuck, &without)).await, (200, lines.to_owned()));
    }

    #[tokio::test]
    async fn what_cannot_be_excluded_is_named() {
        let asked = query(&[("exclude", "etcd"), ("verbose", "")]);
        let lines = "[+]ping ok\n[+]log ok\n[+]syncloop ok\n\
                     warn: some health checks cannot be excluded: no matches for \"etcd\"\nhealthz check passed\n";
        assert_eq!(text(healthz(&[], &asked)).await, (200, lines.to_owned()));
    }
}
