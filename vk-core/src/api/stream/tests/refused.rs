//! What is refused, and how.

use axum::body::Body;
use http::{Method, Request};

use super::super::super::testing::{self, Backend, running, send};
use super::client::{ask, spdy, websocket};
use crate::provider::{Error, ExecIo, ExitStatus};

fn capable() -> Backend {
    Backend {
        exec: Some(Box::new(|_, _| Box::pin(async { Ok(ExitStatus::Code(0)) }))),
        connect: Some(Box::new(|_| Err(Error::unavailable("nothing listens here")))),
        ..Backend::default()
    }
}

/// What is asked, whether the provider has the capability, and what a kubelet answers (or, for the 501s, what it
/// cannot).
#[tokio::test(start_paused = true)]
async fn what_cannot_be_streamed_is_refused_as_the_kubelet_refuses_it() {
    let cannot = |what: &str| format!("provider \"fake\" cannot {what}");
    let commands = cannot("run commands in containers");
    let required = "Upgrade request required\n".to_owned();
    let text = str::to_owned;
    for (path, upgrade, able, code, body) in [
        (
            "/exec/default/web/a?command=ls",
            true,
            true,
            400,
            text("you must specify at least 1 of stdin, stdout, stderr"),
        ),
        ("/exec/default/web/zzz?command=ls&output=1", true, true, 500, text("container not found (\"zzz\")")),
        // It does not run.
        (
            "/exec/default/web/init?command=ls&output=1",
            true,
            true,
            500,
            text("container not found (\"init\")"),
        ),
        ("/exec/default/nopod/a?command=ls&output=1", true, true, 404, text("pod does not exist")),
        ("/exec/default/web/wrong-uid/a?command=ls&output=1", true, true, 404, text("pod not found")),
        ("/exec/default/web/a?command=ls&output=1", false, true, 500, required.clone()),
        ("/exec/default/web/a?command=ls&output=1", true, false, 501, commands.clone()),
        ("/exec/default/web/a?command=ls&output=1", false, false, 501, commands.clone()),
        (
            "/attach/default/web/zzz?output=1",
            true,
            true,
            500,
            text("container zzz not found in pod web_default"),
        ),
        ("/attach/default/web/a?output=1", false, true, 500, required.clone()),
        ("/attach/default/web/a?output=1", true, false, 501, cannot("attach to containers")),
        ("/portForward/default/nopod", true, false, 404, text("pod does not exist")),
        ("/portForward/default/web", true, false, 501, cannot("forward ports")),
        ("/portForward/default/web", false, true, 500, required.clone()),
        ("/run/default/nopod/a?cmd=ls", false, true, 404, text("pod does not exist")),
        ("/run/default/web/a?cmd=ls", false, false, 501, commands.clone()),
    ] {
        let backend = if able { capable() } else { Backend::default() };
        let api = testing::api(backend, vec![running("web")]);
        let request = Request::builder().method(Method::POST).uri(path);
        let request = if upgrade { request.header("connection", "keep-alive, Upgrade") } else { request };
        let answer = send(&api, request.body(Body::empty()).unwrap()).await;
        assert_eq!((answer.status.as_u16(), &answer.body), (code, &body), "{path}");
        assert_eq!(answer.header("content-type"), Some("text/plain; charset=utf-8"), "{path}");
        let nosniff = (body == required).then_some("nosniff");
        assert_eq!(answer.header("x-content-type-options"), nosniff, "{path}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_protocol_of_the_client_that_we_know_is_chosen() {
    let api = testing::api(capable(), vec![running("web")]);
    let (exec, forward) = ("/exec/default/web/a?command=ls&output=1", "/portForward/default/web");
    for (path, asked, chosen) in [
        (exec, &["v5.channel.k8s.io", "v4.channel.k8s.io", "channel.k8s.io"][..], "v4.channel.k8s.io"),
        (exec, &["v5.channel.k8s.io,v3.channel.k8s.io, v4.channel.k8s.io"], "v3.channel.k8s.io"),
        (exec, &["channel.k8s.io", "v4.channel.k8s.io"], "channel.k8s.io"),
        (forward, &["portforward.k8s.io"], "portforward.k8s.io"),
    ] {
        let answer = ask(&api, spdy(path, asked)).await;
        assert_eq!((answer.status.as_u16(), answer.header("x-stream-protocol-version")), (101, Some(chosen)));
        assert_eq!(
            (answer.header("upgrade"), answer.header("connection")),
            (Some("SPDY/3.1"), Some("Upgrade"))
        );
    }
    for (path, asked, chosen) in [
        (exec, "v5.channel.k8s.io, v4.channel.k8s.io", Some("v5.channel.k8s.io")),
        (exec, "v9.channel.k8s.io,base64.channel.k8s.io", Some("base64.channel.k8s.io")),
        (exec, "", None),
        (forward, "SPDY/3.1+portforward.k8s.io", Some("SPDY/3.1+portforward.k8s.io")),
        (
            "/portForward/default/web?port=80",
            "v5.channel.k8s.io,v4.channel.k8s.io",
            Some("v4.channel.k8s.io"),
        ),
        ("/portForward/default/web?port=80", "", None),
    ] {
        let answer = ask(&api, websocket(path, asked)).await;
        assert_eq!(
            (answer.status.as_u16(), answer.header("sec-websocket-protocol")),
            (101, chosen),
            "{asked}"
        );
    }
}

/// Bodies and headers as recorded from Kubernetes 1.37, where they could be.
#[tokio::test(start_paused = true)]
async fn what_cannot_be_negotiated_is_refused() {
    let api = testing::api(capable(), vec![running("web")]);
    let (exec, forward) = ("/exec/default/web/a?command=ls&output=1", "/portForward/default/web");
    let answer = ask(&api, spdy(exec, &["v9.channel.k8s.io"])).await;
    let body = "unable to upgrade: unable to negotiate protocol: client supports [v9.channel.k8s.io], server accepts \
                [v4.channel.k8s.io v3.channel.k8s.io v2.channel.k8s.io channel.k8s.io]\n";
    assert_eq!((answer.status.as_u16(), answer.body.as_str()), (403, body));
    let accepted: Vec<_> = answer.headers.get_all("x-accepted-stream-protocol-versions").iter().collect();
    assert_eq!(accepted, ["v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"]);
    assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));

    let answer = ask(&api, spdy(exec, &[])).await;
    let body = "unable to upgrade: X-Stream-Protocol-Version is required\n";
    assert_eq!((answer.status.as_u16(), answer.body.as_str()), (400, body));

    let answer = ask(&api, websocket(exec, "nope.k8s.io")).await;
    assert_eq!((answer.status.as_u16(), answer.body.as_str()), (403, ""));
    let answer = ask(&api, websocket(forward, "SPDY/3.1+nope.k8s.io")).await;
    assert_eq!(answer.status.as_u16(), 403);

    let mut request = websocket(exec, "v4.channel.k8s.io");
    request.headers_mut().remove("sec-websocket-key");
    assert_eq!(ask(&api, request).await.status.as_u16(), 400);

    for (query, body) in [
        ("", "query parameter \"port\" is required"),
        ("?port=x", "unable to parse \"x\" as a port: invalid digit found in string"),
        ("?port=80&port=0", "port must be > 0"),
    ] {
        let answer = ask(&api, websocket(&format!("{forward}{query}"), "v4.channel.k8s.io")).await;
        assert_eq!((answer.status.as_u16(), answer.body.as_str()), (400, body));
    }
}

#[tokio::test(start_paused = true)]
async fn a_command_can_be_run_without_streams() {
    use tokio::io::AsyncWriteExt as _;
    let backend = Backend {
        exec: Some(Box::new(|command, io| {
            Box::pin(async move {
                let ExecIo::Pipes { stdout: Some(mut stdout), stderr: Some(mut stderr), .. } = io else {
                    return Err(Error::unexpected("no pipes"));
                };
                stdout.write_all(command.join("|").as_bytes()).await.unwrap();
                stderr.write_all(b" and more").await.unwrap();
                Ok(ExitStatus::Code(i32::from(command[0] == "false")))
            })
        })),
        ..Backend::default()
    };
    let api = testing::api(backend, vec![running("web")]);
    let run = async |command: &str| {
        let request = Request::post(format!("/run/default/web/uid-web/a?cmd={command}"));
        send(&api, request.body(Body::empty()).unwrap()).await
    };
    run("ls+-l").await.is(200, "ls|-l and more");
    run("false").await.is(500, "command 'false' exited with 1:  and more");
}
