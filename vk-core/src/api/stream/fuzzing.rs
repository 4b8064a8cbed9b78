//! What clients can make the streams read, as functions of any bytes: for `fuzz/`, and for the test that goes through
//! the inputs it found worth keeping. There is nothing to return: what must not happen is a panic, a hang, or memory
//! without bound.

use std::collections::HashMap;
use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http::Request;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::options::{self, Wanted};
use super::pipe::inlet;
use super::session;
use super::spdy::{self, Decoder, Encoder, Limits};
use super::upgrade;
use super::websocket::channels::Coding;
use super::websocket::connection::Channels;
use super::websocket::{self, Tunnel};
use crate::api::request::Call;

/// An hour, in paused time: what lasts longer hangs.
const LONG: Duration = Duration::from_hours(1);

/// The SPDY decoder, given its bytes in pieces whose lengths the first two say. What it reads it would read again.
pub fn spdy_decoder(data: &[u8]) {
    let Some(([first, second], mut wire)) = data.split_first_chunk() else { return };
    let mut lengths = [*first, *second].map(|length| usize::from(length) * 7 + 1).into_iter().cycle();
    let mut decoder = Decoder::new(Limits::default());
    let (mut encoder, mut again) = (Encoder::new(), BytesMut::new());
    // It may be longer, compressed another way.
    let mut reader = Decoder::new(Limits { control_frame: 64 * 1024, ..Limits::default() });
    let mut buffer = BytesMut::new();
    while !wire.is_empty() {
        let (piece, rest) = wire.split_at(lengths.next().unwrap_or(1).min(wire.len()));
        wire = rest;
        buffer.extend_from_slice(piece);
        loop {
            match decoder.decode(&mut buffer) {
                Ok(Some(frame)) => {
                    encoder.encode(&frame, &mut again);
                    assert_eq!(
                        reader.decode(&mut again),
                        Ok(Some(frame)),
                        "what was read is not what is written"
                    );
                }
                Ok(None) => break,
                Err(_) => return,
            }
        }
        assert!(buffer.len() < decoder.wanted(), "more is held than is needed");
    }
}

/// The server's side of a SPDY connection, plain or inside a WebSocket, up to the session.
pub fn spdy_server(data: &[u8]) {
    let Some((first, wire)) = data.split_first() else { return };
    let wanted = Wanted { stdin: true, stdout: true, stderr: first & 1 == 0, tty: first & 2 == 0 };
    let tunnelled = first & 4 == 0;
    paused(async move {
        let (client, server) = tokio::io::duplex(1024);
        let serving = async {
            if tunnelled {
                let tunnel = Tunnel::new(websocket::server(server).await);
                serve(tunnel, wanted).await;
            } else {
                serve(server, wanted).await;
            }
        };
        tokio::join!(serving, say(client, wire.to_vec()));
    });
}

async fn serve<S: tokio::io::AsyncRead + tokio::io::AsyncWrite>(io: S, wanted: Wanted) {
    let (driver, queue, incoming) = spdy::serve(io, 64, LONG);
    let protocol = upgrade::SPDY[0];
    let session = async {
        if let Some(session) = session::over_spdy(wanted, protocol, incoming, queue).await {
            session.run(echo).await;
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        _ = driver.run() => {}
        () = session => {}
    }
}

/// Messages of a WebSocket's channels.
pub fn websocket(data: &[u8]) {
    let Some((first, wire)) = data.split_first() else { return };
    let coding = Coding { base64: first & 1 == 0, half_close: first & 2 == 0 };
    paused(async move {
        let (client, server) = tokio::io::duplex(1024);
        let serving = async {
            let (stdin, mut typed) = inlet();
            let (resize, mut sizes) = inlet();
            let inlets = HashMap::from([(0, stdin), (4, resize)]);
            let (driver, queue) = Channels::new(server, coding, inlets, vec![(1, Bytes::new())], LONG).await;
            let reading = async {
                let typed = async { while typed.next().await.is_some() {} };
                let sizes = async { while sizes.next().await.is_some() {} };
                tokio::join!(typed, sizes);
                drop(queue);
            };
            tokio::join!(driver.run(), reading);
        };
        tokio::join!(serving, say(client, wire.to_vec()));
    });
}

/// A request's query and headers, up to the choice of a protocol; window sizes; what a forwarded stream is for.
pub fn options(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut lines = text.lines();
    let query = lines.next().unwrap_or_default();
    let mut request = Request::get(format!("/exec?{query}"));
    for line in lines {
        if let Some((name, value)) = line.split_once(':') {
            request = request.header(name, value.trim());
        }
    }
    if let Ok(request) = request.body(Body::empty()) {
        let call = Call::of(request.into_parts().0);
        let _ = (Wanted::of(&call), options::command(&call), options::ports(&call));
        let _ = (upgrade::remote_command(&call).is_ok(), upgrade::port_forward(&call).is_ok());
    }
    let mut sizes = data.to_vec();
    let _ = session::take_sizes(&mut sizes);
    let headers = text.lines().filter_map(|line| line.split_once(':'));
    let headers = headers.fold(spdy::Headers::new(), |headers, (name, value)| headers.with(name, value));
    let _ = super::forward::describe(1, &headers);
}

/// Says the bytes and closes its side, whatever comes back.
async fn say(client: tokio::io::DuplexStream, wire: Vec<u8>) {
    let (mut from, mut to) = tokio::io::split(client);
    let said = async {
        // A server may have had enough.
        let _ = to.write_all(&wire).await;
        let _ = to.shutdown().await;
    };
    let heard = async {
        let mut chunk = [0; 1024];
        while from.read(&mut chunk).await.is_ok_and(|length| length > 0) {}
    };
    tokio::join!(said, heard);
}

async fn echo(io: crate::provider::ExecIo) -> super::status::Outcome {
    use crate::provider::ExecIo;
    let (stdin, output, resize) = match io {
        ExecIo::Tty { stdin, output, resize } => (stdin, Some(output), Some(resize)),
        ExecIo::Pipes { stdin, stdout, .. } => (stdin, stdout, None),
    };
    if let (Some(mut stdin), Some(mut output)) = (stdin, output) {
        let _ = tokio::io::copy(&mut stdin, &mut output).await;
    }
    drop(resize);
    super::status::Outcome::Detached
}

fn paused(work: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.expect("a runtime");
    let within = runtime.block_on(async { tokio::time::timeout(LONG * 24, work).await });
    assert!(within.is_ok(), "it hangs");
}

#[cfg(test)]
mod tests {
    use super::*;

    type Target = fn(&[u8]);

    #[test]
    fn what_fuzzing_found_worth_keeping_is_read_or_refused() {
        let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
        let targets: [(&str, Target); 4] = [
            ("spdy_decoder", spdy_decoder),
            ("spdy_server", spdy_server),
            ("websocket", websocket),
            ("options", options),
        ];
        for (name, target) in targets {
            let inputs = std::fs::read_dir(corpus.join(name)).unwrap();
            let inputs: Vec<_> = inputs.map(|input| input.unwrap().path()).collect();
            assert!(inputs.len() > 3, "{name}");
            for input in inputs {
                target(&std::fs::read(input).unwrap());
            }
        }
    }
}
