//! Port-forward.

use std::time::Duration;

use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_tungstenite::tungstenite::Message;

use super::super::super::testing::{Backend, api, running};
use super::super::super::{KubeletApi, StreamLimits};
use super::super::spdy::{Frame, ResetStatus};
use super::super::websocket::Tunnel;
use super::client::{Spdy, messages};
use crate::provider::{Duplex, Error};

const PATH: &str = "/portForward/default/web";

/// Port 80 answers what it got, once the client has half-closed; port 81 speaks first; nothing else listens.
fn node() -> KubeletApi {
    let connect = |port: u16| -> Result<Box<dyn Duplex>, Error> {
        let (ours, mut theirs) = tokio::io::duplex(1000);
        match port {
            80 => tokio::spawn(async move {
                let mut request = Vec::new();
                theirs.read_to_end(&mut request).await.unwrap();
                theirs.write_all(&request).await.unwrap();
                theirs.shutdown().await.unwrap();
            }),
            81 => tokio::spawn(async move {
                theirs.write_all(b"hello").await.unwrap();
                let _ = theirs.read_to_end(&mut Vec::new()).await;
            }),
            _ => return Err(Error::unavailable(format!("nothing listens at port {port}"))),
        };
        Ok(Box::new(ours))
    };
    api(Backend { connect: Some(Box::new(connect)), ..Backend::default() }, vec![running("web")])
}

/// Opens the two streams of a connection, as kubectl does: the error stream first, and half-closed at once.
async fn pair<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin>(
    client: &mut Spdy<S>,
    port: &str,
    request: &str,
) -> (u32, u32) {
    let headers = |kind| [("streamtype", kind), ("port", port), ("requestid", request)];
    let error = client.open(&headers("error")).await;
    client.data(error, b"", true).await;
    (error, client.open(&headers("data")).await)
}

#[tokio::test(start_paused = true)]
async fn connections_share_a_connection_and_half_close_each_for_itself() {
    let node = node();
    let mut client = Spdy::connect(&node, PATH, "portforward.k8s.io").await;
    let (first_error, first) = pair(&mut client, "80", "0").await;
    let (second_error, second) = pair(&mut client, "80", "1").await;
    client.data(first, b"one", false).await;
    client.data(second, b"two", true).await;
    let said = client.until_end_of(second_error).await;
    assert_eq!(said, [(second, "two.".to_owned()), (second_error, ".".to_owned())]);
    assert_eq!(node.stream_counts().forwarded_connections, 1);
    client.data(first, b", and its end", true).await;
    let said = client.until_end_of(first_error).await;
    assert_eq!(said, [(first, "one, and its end.".to_owned()), (first_error, ".".to_owned())]);
    assert_eq!((node.stream_counts().forwarded_connections, node.stream_counts().port_forward), (0, 1));
    drop(client);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(node.stream_counts().port_forward, 0);
}

#[tokio::test(start_paused = true)]
async fn a_port_that_refuses_is_told_on_the_error_stream_and_others_go_on() {
    let mut client = Spdy::connect(&node(), PATH, "portforward.k8s.io").await;
    let (error, data) = pair(&mut client, "9", "0").await;
    let said = client.until_end_of(error).await;
    let text = "error forwarding port 9 to pod web, uid uid-web: nothing listens at port 9.";
    assert_eq!(said, [(error, text.to_owned())]);
    assert_eq!(client.receive().await, Some(Frame::RstStream { id: data, status: ResetStatus::CANCEL }));
    let (error, data) = pair(&mut client, "80", "1").await;
    client.data(data, b"still here", true).await;
    assert_eq!(client.until_end_of(error).await[0], (data, "still here.".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn half_a_connection_is_given_up_and_nonsense_refused() {
    let mut client = Spdy::connect(&node(), PATH, "portforward.k8s.io").await;
    let error = client.open(&[("streamtype", "error"), ("port", "80"), ("requestid", "5")]).await;
    let said = client.until_end_of(error).await;
    assert_eq!(said, [(error, "(request=5) timed out waiting for streams.".to_owned())]);
    for headers in [
        &[("streamtype", "error")][..],
        &[("streamtype", "stdin"), ("port", "80")],
        &[("streamtype", "data"), ("port", "0")],
    ] {
        let id = client.syn(headers, false).await;
        assert_eq!(
            client.receive().await,
            Some(Frame::RstStream { id, status: ResetStatus::REFUSED_STREAM })
        );
    }
}

/// As kubectl: when the far side has ended, the data stream is reset.
#[tokio::test(start_paused = true)]
async fn a_reset_ends_the_connection_to_the_port() {
    let node = node();
    let mut client = Spdy::connect(&node, PATH, "portforward.k8s.io").await;
    let (_, data) = pair(&mut client, "81", "0").await;
    assert_eq!(
        client.receive().await,
        Some(Frame::Data { id: data, fin: false, data: Bytes::from_static(b"hello") })
    );
    client.send(&Frame::RstStream { id: data, status: ResetStatus::CANCEL }).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(node.stream_counts().forwarded_connections, 0);
}

#[tokio::test(start_paused = true)]
async fn many_connections_leave_nothing_behind() {
    // Room for 32 at a time, and ten times as many one after the other.
    let node = node().with_stream_limits(StreamLimits { streams: 64, ..StreamLimits::default() });
    let mut client = Spdy::connect(&node, PATH, "portforward.k8s.io").await;
    for request in 0..320 {
        let (error, data) = pair(&mut client, "80", &request.to_string()).await;
        client.data(data, b"x", true).await;
        client.until_end_of(error).await;
    }
    assert_eq!(node.stream_counts().forwarded_connections, 0);
}

/// Messages cut anywhere, and empty ones, are a byte stream all the same.
#[tokio::test(start_paused = true)]
async fn spdy_runs_inside_a_websocket() {
    let client = messages(&node(), PATH, "SPDY/3.1+portforward.k8s.io").await;
    let (near, far) = tokio::io::duplex(1000);
    tokio::spawn(async move {
        let (mut sink, mut stream) = client.split();
        let (mut read, mut write) = tokio::io::split(far);
        let out = async {
            let mut piece = [0; 3];
            loop {
                let length = read.read(&mut piece).await.unwrap();
                sink.send(Message::Binary(Bytes::new())).await.unwrap();
                if length == 0 {
                    return;
                }
                sink.send(Message::Binary(Bytes::copy_from_slice(&piece[..length]))).await.unwrap();
            }
        };
        let back = async {
            while let Some(message) = stream.next().await {
                write.write_all(&message.unwrap().into_data()).await.unwrap();
            }
        };
        tokio::join!(out, back);
    });
    let mut client = Spdy::over(near);
    let (error, data) = pair(&mut client, "80", "0").await;
    client.data(data, b"through the tunnel", true).await;
    assert_eq!(client.until_end_of(error).await[0], (data, "through the tunnel.".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_tunnel_reads_as_it_writes() {
    let (ours, theirs) = tokio::io::duplex(100);
    let (one, other) = tokio::join!(super::super::websocket::server(ours), async {
        tokio_tungstenite::WebSocketStream::from_raw_socket(
            theirs,
            tokio_tungstenite::tungstenite::protocol::Role::Client,
            None,
        )
        .await
    });
    let (mut one, mut other) = (Tunnel::new(one), Tunnel::new(other));
    let sent = vec![7; 200_000];
    let send = async {
        one.write_all(&sent).await.unwrap();
        one.flush().await.unwrap();
        drop(one);
    };
    let mut received = Vec::new();
    // A socket that breaks off instead of closing is an error, after everything that came before.
    let ((), read) = tokio::join!(send, other.read_to_end(&mut received));
    assert!(read.is_err());
    assert_eq!(received, sent);
}

#[tokio::test(start_paused = true)]
async fn ports_have_channels_of_their_own_where_there_is_no_spdy() {
    let mut client =
        messages(&node(), &format!("{PATH}?port=81,9"), "v5.channel.k8s.io, v4.channel.k8s.io").await;
    let mut said = Vec::new();
    while said.len() < 6 {
        said.push(client.next().await.unwrap().unwrap().into_data().to_vec());
    }
    let refusal = b"\x03error forwarding port 9 to pod web, uid uid-web: nothing listens at port 9";
    assert_eq!(said[..4], [vec![0, 81, 0], vec![1, 81, 0], vec![2, 9, 0], vec![3, 9, 0]]);
    said[4..].sort();
    assert_eq!(said[4..], [b"\x00hello".to_vec(), refusal.to_vec()]);
}
