//! Exec and attach.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::oneshot;
use tokio_tungstenite::tungstenite::Message;

use super::super::super::testing::{Backend, Run, api, running};
use super::super::super::{KubeletApi, StreamLimits};
use super::super::spdy::{Frame, Headers, ResetStatus};
use super::client::{Spdy, ask, messages, spdy};
use crate::provider::{Error, ExecIo, ExitStatus, TerminalSize};

const EXEC: &str = "/exec/default/web/a?command=cat";

fn node(run: Run) -> KubeletApi {
    api(Backend { exec: Some(run), ..Backend::default() }, vec![running("web")])
}

/// Copies its input to its output, says so on the other one, and ends with 7.
fn cat() -> KubeletApi {
    node(Box::new(|_, io| {
        Box::pin(async move {
            let ExecIo::Pipes { stdin, stdout, stderr } = io else { return Ok(ExitStatus::Code(1)) };
            let (mut stdin, mut stdout) = (stdin.unwrap(), stdout.unwrap());
            let copied = tokio::io::copy(&mut stdin, &mut stdout).await.unwrap();
            if let Some(mut stderr) = stderr {
                stderr.write_all(format!("{copied} bytes").as_bytes()).await.unwrap();
            }
            Ok(ExitStatus::Code(7))
        })
    }))
}

const SEVEN: &str = "command terminated with non-zero exit code: error executing command [cat], exit code 7";

#[tokio::test(start_paused = true)]
async fn a_command_runs_over_every_version_of_the_protocol() {
    for protocol in ["v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"] {
        let mut client = Spdy::connect(&cat(), &format!("{EXEC}&input=1&output=1&error=1"), protocol).await;
        let error = client.open(&[("streamtype", "error")]).await;
        let stdin = client.open(&[("streamtype", "stdin")]).await;
        let stdout = client.open(&[("streamtype", "stdout")]).await;
        let stderr = client.open(&[("streamtype", "stderr")]).await;
        client.data(stdin, b"hello ", false).await;
        client.data(stdin, b"world", false).await;
        client.data(stdin, b"", true).await;
        let said = client.until_end_of(error).await;
        let of =
            |id| said.iter().filter(|(of, _)| *of == id).map(|(_, text)| text.as_str()).collect::<String>();
        assert_eq!((of(stdout), of(stderr)), ("hello world.".to_owned(), "11 bytes.".to_owned()));
        assert_eq!(of(stdin), format!("{:?}.", ResetStatus::CANCEL));
        // The status is the last word: a client that has it has everything.
        assert_eq!(said.last().unwrap().0, error);
        let status = of(error);
        if protocol == "v4.channel.k8s.io" {
            let status: serde_json::Value = serde_json::from_str(status.trim_end_matches('.')).unwrap();
            assert_eq!((&status["message"], &status["reason"]), (&SEVEN.into(), &"NonZeroExitCode".into()));
        } else {
            assert_eq!(status, format!("{SEVEN}."), "{protocol}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_connection_is_the_clients_to_close() {
    let node = cat();
    let mut client = Spdy::connect(&node, &format!("{EXEC}&input=1&output=1"), "v4.channel.k8s.io").await;
    let error = client.open(&[("streamtype", "error")]).await;
    let stdin = client.open(&[("streamtype", "stdin")]).await;
    client.open(&[("streamtype", "stdout")]).await;
    client.data(stdin, b"", true).await;
    client.until_end_of(error).await;
    // Pings are still answered, and the session still counts.
    tokio::time::sleep(Duration::from_mins(10)).await;
    client.send(&Frame::Ping(1)).await;
    assert_eq!(client.receive().await, Some(Frame::Ping(1)));
    assert_eq!(node.stream_counts().exec, 1);
    client.send(&Frame::GoAway { last: 0, status: 0 }).await;
    assert_eq!(client.receive().await, None);
    assert_eq!(node.stream_counts().exec, 0);

    // One that never closes is closed.
    let mut client = Spdy::connect(&node, &format!("{EXEC}&input=1&output=1"), "v4.channel.k8s.io").await;
    let error = client.open(&[("streamtype", "error")]).await;
    let stdin = client.open(&[("streamtype", "stdin")]).await;
    client.open(&[("streamtype", "stdout")]).await;
    client.data(stdin, b"", true).await;
    client.until_end_of(error).await;
    assert_eq!(client.receive().await, None);
}

/// Far more output than all buffers hold, and a client that does not read until the command has long ended.
#[tokio::test(start_paused = true)]
async fn a_slow_reader_loses_nothing_and_gets_the_exit_code() {
    const MIB: usize = 1;
    let node = node(Box::new(|_, io| {
        Box::pin(async move {
            let ExecIo::Pipes { stdout: Some(mut stdout), .. } = io else { return Ok(ExitStatus::Code(1)) };
            for chunk in 0..MIB * 16 {
                stdout.write_all(&vec![chunk as u8; 65536]).await.unwrap();
            }
            Ok(ExitStatus::Code(3))
        })
    }));
    let mut client =
        Spdy::connect(&node, "/exec/default/web/a?command=x&output=1", "v4.channel.k8s.io").await;
    let error = client.open(&[("streamtype", "error")]).await;
    let stdout = client.open(&[("streamtype", "stdout")]).await;
    tokio::time::sleep(Duration::from_mins(5)).await;
    let (mut received, mut status) = (0, Vec::new());
    loop {
        match client.receive().await.expect("everything comes before the end") {
            Frame::Data { id, data, .. } if id == stdout => {
                assert!(data.iter().enumerate().all(|(at, byte)| *byte == ((received + at) / 65536) as u8));
                received += data.len();
                // As slow as the network that upstream's test has in mind.
                tokio::time::sleep(Duration::from_millis(4)).await;
            }
            Frame::Data { id, data, fin } if id == error => {
                status.extend_from_slice(&data);
                if fin {
                    break;
                }
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(received, MIB << 20);
    assert!(String::from_utf8(status).unwrap().contains(r#""message":"3""#));
}

/// A command that reads nothing and never ends by itself; tells when it is dropped.
fn stuck() -> (KubeletApi, oneshot::Receiver<()>) {
    let (sender, dropped) = oneshot::channel();
    let sender = Arc::new(std::sync::Mutex::new(Some(sender)));
    let node = node(Box::new(move |_, io| {
        let sender = sender.lock().unwrap().take();
        Box::pin(async move {
            let _held = (io, sender);
            std::future::pending().await
        })
    }));
    (node, dropped)
}

#[tokio::test(start_paused = true)]
async fn a_client_that_goes_ends_the_command() {
    let goaway: [Option<Frame>; 2] = [Some(Frame::GoAway { last: 0, status: 0 }), None];
    for said in goaway {
        let (node, dropped) = stuck();
        let mut client = Spdy::connect(&node, &format!("{EXEC}&output=1"), "v4.channel.k8s.io").await;
        client.open(&[("streamtype", "error")]).await;
        client.open(&[("streamtype", "stdout")]).await;
        if let Some(frame) = said {
            client.send(&frame).await;
        } else {
            drop(client);
        }
        assert!(dropped.await.is_err(), "the command was dropped without a word");
        tokio::task::yield_now().await;
        assert_eq!(node.stream_counts().exec, 0);
    }
}

/// What the client sent before it went stands between us and the news.
#[tokio::test(start_paused = true)]
async fn a_client_that_goes_is_found_out_even_while_its_input_is_held_back() {
    let (node, dropped) = stuck();
    let mut client = Spdy::connect(&node, &format!("{EXEC}&input=1"), "v4.channel.k8s.io").await;
    client.open(&[("streamtype", "error")]).await;
    let stdin = client.open(&[("streamtype", "stdin")]).await;
    let more = tokio::time::timeout(Duration::from_secs(1), async {
        loop {
            client.data(stdin, &[0; 8192], false).await;
        }
    });
    assert!(more.await.is_err(), "a command that does not read makes its client wait");
    drop(client);
    assert!(tokio::time::timeout(Duration::from_secs(30), dropped).await.unwrap().is_err());

    let (node, dropped) = stuck();
    let mut client = messages(&node, &format!("{EXEC}&input=1"), "v5.channel.k8s.io").await;
    let more = tokio::time::timeout(Duration::from_secs(1), async {
        loop {
            client.send(Message::Binary(Bytes::from_static(&[0; 8192]))).await.unwrap();
        }
    });
    assert!(more.await.is_err(), "a command that does not read makes its client wait");
    // Meanwhile the client is told that we are alive.
    let mut pongs =
        client.by_ref().filter(|message| std::future::ready(matches!(message, Ok(Message::Pong(_)))));
    assert!(tokio::time::timeout(Duration::from_secs(61), pongs.next()).await.unwrap().is_some());
    drop(client);
    assert!(tokio::time::timeout(Duration::from_secs(30), dropped).await.unwrap().is_err());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_opens_too_few_streams_or_falls_silent_is_cut_off() {
    let (node, _dropped) = stuck();
    let node =
        node.with_stream_limits(StreamLimits { idle_timeout: Duration::from_mins(1), ..Default::default() });
    let begin = tokio::time::Instant::now();
    let mut client = Spdy::connect(&node, &format!("{EXEC}&output=1"), "v4.channel.k8s.io").await;
    client.open(&[("streamtype", "error")]).await;
    assert_eq!(client.receive().await, None);
    assert_eq!(begin.elapsed().as_secs(), 30);

    let begin = tokio::time::Instant::now();
    let mut client = Spdy::connect(&node, &format!("{EXEC}&output=1"), "v4.channel.k8s.io").await;
    client.open(&[("streamtype", "error")]).await;
    client.open(&[("streamtype", "stdout")]).await;
    tokio::time::sleep(Duration::from_secs(50)).await;
    client.send(&Frame::Ping(1)).await;
    assert_eq!(client.receive().await, Some(Frame::Ping(1)));
    assert_eq!(client.receive().await, None);
    assert_eq!(begin.elapsed().as_secs(), 110);
    assert_eq!(node.stream_counts().exec, 0);
}

#[tokio::test(start_paused = true)]
async fn streams_that_were_not_asked_for_are_refused() {
    let (node, _dropped) = stuck();
    let mut client = Spdy::connect(&node, &format!("{EXEC}&output=1"), "v4.channel.k8s.io").await;
    let id = client.syn(&[("streamtype", "stdin")], false).await;
    assert_eq!(client.receive().await, Some(Frame::RstStream { id, status: ResetStatus::REFUSED_STREAM }));
    client.open(&[("streamtype", "error")]).await;
    let id = client.syn(&[("streamtype", "error")], false).await;
    assert_eq!(client.receive().await, Some(Frame::RstStream { id, status: ResetStatus::REFUSED_STREAM }));
    client.open(&[("streamtype", "stdout")]).await;
    // And once the session has begun, all of them; a number used before is a fault.
    let id = client.syn(&[("streamtype", "stderr")], false).await;
    assert_eq!(client.receive().await, Some(Frame::RstStream { id, status: ResetStatus::REFUSED_STREAM }));
    let again = Frame::SynStream {
        id,
        associated: 0,
        priority: 0,
        fin: false,
        unidirectional: false,
        headers: Headers::new(),
    };
    client.send(&again).await;
    assert_eq!(client.receive().await, Some(Frame::RstStream { id, status: ResetStatus::PROTOCOL_ERROR }));
}

#[tokio::test(start_paused = true)]
async fn a_terminal_has_one_output_and_a_size() {
    let run: Run = Box::new(|_, io| {
        Box::pin(async move {
            let ExecIo::Tty { mut output, mut resize, .. } = io else { return Ok(ExitStatus::Code(1)) };
            while let Some(TerminalSize { width, height }) = resize.recv().await {
                output.write_all(format!("{width}x{height}\r\n").as_bytes()).await.unwrap();
                if width == 1 {
                    break;
                }
            }
            Ok(ExitStatus::Code(0))
        })
    });
    // `error` beside `tty` is dropped, as by a kubelet.
    let query = "/exec/default/web/a?command=x&input=1&output=1&error=1&tty=1";
    let mut client = Spdy::connect(&node(run), query, "v4.channel.k8s.io").await;
    let error = client.open(&[("streamtype", "error")]).await;
    client.open(&[("streamtype", "stdin")]).await;
    let stdout = client.open(&[("streamtype", "stdout")]).await;
    let resize = client.open(&[("streamtype", "resize")]).await;
    client.data(resize, b"{\"Width\":101,\"Height\":33}\n", false).await;
    assert_eq!(
        client.receive().await,
        Some(Frame::Data { id: stdout, fin: false, data: Bytes::from_static(b"101x33\r\n") })
    );
    client.data(resize, b"{\"Width\":1,\"Height\":2}\n", false).await;
    let said = client.until_end_of(error).await;
    assert!(said.contains(&(stdout, "1x2\r\n.".to_owned())), "{said:?}");
    assert_eq!(said.last().unwrap().1, "{\"metadata\":{},\"status\":\"Success\"}.");
}

async fn until_closed(
    client: &mut (impl futures::Stream<Item = Result<Message, tokio_tungstenite::tungstenite::Error>> + Unpin),
) -> Vec<String> {
    let mut said = Vec::new();
    while let Some(Ok(message)) = client.next().await {
        match message {
            Message::Close(frame) => said.push(format!("close {}", u16::from(frame.unwrap().code))),
            other => said.push(String::from_utf8_lossy(&other.into_data()).into_owned()),
        }
    }
    said
}

#[tokio::test(start_paused = true)]
async fn a_command_runs_over_every_websocket_protocol() {
    let path = format!("{EXEC}&input=1&output=1&error=1");
    let mut client = messages(&cat(), &path, "v5.channel.k8s.io, v4.channel.k8s.io").await;
    client.send(Message::Binary(Bytes::from_static(b"\x00hello"))).await.unwrap();
    client.send(Message::Binary(Bytes::from_static(b"\x09nobody's"))).await.unwrap();
    client.send(Message::Binary(Bytes::new())).await.unwrap();
    client.send(Message::Ping(Bytes::from_static(b"!"))).await.unwrap();
    client.send(Message::Binary(Bytes::from_static(b"\xff\x00"))).await.unwrap();
    let mut said = until_closed(&mut client).await;
    said.retain(|message| message != "!");
    let status = said.remove(3);
    assert_eq!(said, ["\u{1}", "\u{1}hello", "\u{2}5 bytes", "close 1000"]);
    assert!(status.starts_with("\u{3}{") && status.contains(r#""message":"7""#), "{status}");

    // Before v5 there is no end of input: what does not read has one all the same.
    let quiet = || {
        let run: Run = Box::new(|_, io| {
            Box::pin(async move {
                let ExecIo::Pipes { stdin: Some(mut stdin), stdout: Some(mut stdout), .. } = io else {
                    return Err(Error::unexpected("no pipes"));
                };
                let mut line = [0; 5];
                stdin.read_exact(&mut line).await.unwrap();
                stdout.write_all(&line).await.unwrap();
                Ok(ExitStatus::Code(0))
            })
        });
        node(run)
    };
    let success = r#"{"metadata":{},"status":"Success"}"#;
    for (protocol, said) in [
        (
            "v4.channel.k8s.io",
            vec!["\u{1}".into(), "\u{1}hello".into(), format!("\u{3}{success}"), "close 1000".into()],
        ),
        ("channel.k8s.io", vec!["\u{1}".into(), "\u{1}hello".into(), "close 1000".into()]),
        ("", vec!["\u{1}".into(), "\u{1}hello".into(), "close 1000".into()]),
    ] {
        let mut client = messages(&quiet(), &path, protocol).await;
        client.send(Message::Binary(Bytes::from_static(b"\x00hello"))).await.unwrap();
        assert_eq!(until_closed(&mut client).await, said, "{protocol}");
    }
    for (protocol, status) in [
        ("v4.base64.channel.k8s.io", vec!["3eyJtZXRhZGF0YSI6e30sInN0YXR1cyI6IlN1Y2Nlc3MifQ=="]),
        ("base64.channel.k8s.io", vec![]),
    ] {
        let mut client = messages(&quiet(), &path, protocol).await;
        client.send(Message::text("0aGVsbG8=")).await.unwrap();
        let said = [vec!["1", "1aGVsbG8="], status, vec!["close 1000"]].concat();
        assert_eq!(until_closed(&mut client).await, said, "{protocol}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_provider_cannot_do_is_told_on_the_error_stream() {
    let node = node(Box::new(|_, _| Box::pin(async { Err(Error::unavailable("the backend is down")) })));
    for (verb, what) in [("exec", "executing command in"), ("attach", "attaching to")] {
        let path = format!("/{verb}/default/web/uid-web/a?output=1");
        let mut client = messages(&node, &path, "v4.channel.k8s.io").await;
        let said = until_closed(&mut client).await.join("");
        assert!(said.contains(&format!("error {what} container: the backend is down")), "{said}");
        assert!(said.contains(r#""reason":"InternalError""#) && said.ends_with("close 1000"), "{said}");
    }
}

#[tokio::test(start_paused = true)]
async fn one_session_too_many_is_a_429_until_another_has_ended() {
    let (node, _dropped) = stuck();
    let node = node.with_stream_limits(StreamLimits { sessions: 2, ..StreamLimits::default() });
    let path = format!("{EXEC}&output=1");
    let first = Spdy::connect(&node, &path, "v4.channel.k8s.io").await;
    let _second = messages(&node, "/attach/default/web/a?output=1", "v4.channel.k8s.io").await;
    assert_eq!((node.stream_counts().exec, node.stream_counts().attach), (1, 1));
    let refused = ask(&node, spdy(&path, &["v4.channel.k8s.io"])).await;
    assert_eq!((refused.status.as_u16(), refused.header("retry-after")), (429, Some("1")));
    assert!(refused.body.contains("2 exec, attach and port-forward sessions at most"), "{}", refused.body);
    drop(first);
    tokio::time::sleep(Duration::from_secs(1)).await;
    Spdy::connect(&node, &path, "v4.channel.k8s.io").await;
}
