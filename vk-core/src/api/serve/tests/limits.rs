//! What clients do that mean harm, or are broken.

use super::*;

/// Connects, says nothing, and waits until the server has had enough.
async fn silent(address: SocketAddr) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // Closed in an orderly way or not, all the same.
    let _ = stream.read(&mut [0; 16]).await;
}

#[tokio::test]
async fn two_thousand_connections_that_say_nothing_keep_nobody_out_and_leave_nothing_behind() {
    let port = Port::open(open_to_all(), Limits { connections: 128, ..Limits::default() }).await;
    let mut known = port.http(None).await;
    again(&mut known, "/healthz").await;
    let mut crowd = tokio::task::JoinSet::new();
    for n in 0..2_000 {
        crowd.spawn(silent(port.address));
        if n % 100 == 0 {
            // Somebody new, and somebody who was there before.
            assert_eq!(status(&port, None, "/healthz").await, 200);
            assert_eq!(again(&mut known, "/healthz").await, 200);
            assert!(port.count("vk_connections_open") <= 160, "{}", port.count("vk_connections_open"));
        }
    }
    within(async {
        while port.count("vk_connections_accepted_total") < 2_000 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(again(&mut known, "/healthz").await, 200);
    assert!(port.refused("full") >= 1_800, "{}", port.refused("full"));
    crowd.shutdown().await;
    drop(known);
    port.deserted().await;
    port.close().await;
}

#[tokio::test]
async fn callers_that_are_not_let_in_make_way_as_well() {
    let ca = Ca::new("ca");
    let access = Access::none().with_client_ca(ca.trusted()).with_trusted_name("kube-apiserver");
    let router = guarded(Arc::default(), Vec::new(), access).router();
    let port = Port::open(router, Limits { connections: 2, ..Limits::default() }).await;
    let mut strangers = Vec::new();
    for _ in 0..2 {
        let mut stranger = port.http(None).await;
        assert_eq!(within(stranger.send_request(request("/pods"))).await.unwrap().status(), 401);
        strangers.push(stranger);
    }
    assert_eq!(status(&port, Some(ca.sign(Client::default())), "/pods").await, 200);
    assert_eq!(port.refused("full"), 1);
    assert!(within(poll_fn(|cx| strangers[0].poll_ready(cx))).await.is_err(), "the older one had to go");
    port.close().await;
}

#[tokio::test]
async fn garbage_instead_of_tls_is_closed_and_counted() {
    let port = Port::open(open_to_all(), Limits::default()).await;
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 512], &[0xff; 512], b"\x16\x03\x01\xff\xff"] {
        let mut stream = TcpStream::connect(port.address).await.unwrap();
        stream.write_all(garbage).await.unwrap();
        stream.shutdown().await.unwrap();
        let _ = within(stream.read_to_end(&mut Vec::new())).await;
    }
    port.deserted().await;
    assert_eq!(port.refused("handshake-failed"), 4);
    assert_eq!(status(&port, None, "/healthz").await, 200);
    port.close().await;
}

#[tokio::test]
async fn a_head_of_a_megabyte_and_one_of_a_thousand_lines_are_431_and_counted() {
    let port = Port::open(open_to_all(), Limits::default()).await;
    let long = format!("x: {}\r\n\r\n", "x".repeat(1 << 20));
    let many = "x: y\r\n".repeat(1_000) + "\r\n";
    for head in [long, many] {
        let mut stream = port.tls(None).await.unwrap();
        stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n").await.unwrap();
        // The server may close before all of it is written.
        let _ = within(stream.write_all(head.as_bytes())).await;
        let _ = stream.flush().await;
        let mut answer = [0; 13];
        // It may also reset the connection with its answer unread, for what it left unread itself.
        if within(stream.read_exact(&mut answer)).await.is_ok() {
            assert_eq!(&answer, b"HTTP/1.1 431 ");
        }
    }
    port.deserted().await;
    assert_eq!(port.refused("head-too-large"), 2);
    port.close().await;
}

#[tokio::test]
async fn a_body_is_not_waited_for() {
    let port = Port::open(open_to_all(), Limits::default()).await;
    let mut stream = port.tls(None).await.unwrap();
    let head = b"POST /run/default/nopod/a HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000000\r\n\r\nslow";
    stream.write_all(head).await.unwrap();
    stream.flush().await.unwrap();
    // The answer comes without the rest, and then the connection's end.
    let mut answer = Vec::new();
    let _ = within(stream.read_to_end(&mut answer)).await;
    assert!(answer.starts_with(b"HTTP/1.1 404 "), "{}", String::from_utf8_lossy(&answer));
    port.deserted().await;
    assert_eq!(port.refused("body-missing"), 1);
    port.close().await;
}

#[tokio::test]
async fn a_body_that_is_there_is_passed_over_and_the_connection_goes_on() {
    let port = Port::open(open_to_all(), Limits::default()).await;
    let mut stream = port.tls(None).await.unwrap();
    for _ in 0..2 {
        let request = b"POST /run/default/nopod/a HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\nhere";
        stream.write_all(request).await.unwrap();
        stream.flush().await.unwrap();
        let (mut answer, mut chunk) = (Vec::new(), [0; 512]);
        while !answer.ends_with(b"pod does not exist") {
            let n = within(stream.read(&mut chunk)).await.unwrap();
            assert!(n > 0, "{}", String::from_utf8_lossy(&answer));
            answer.extend_from_slice(&chunk[..n]);
        }
    }
    assert_eq!(port.count("vk_connections_accepted_total"), 1);
    assert_eq!(port.refused("body-missing"), 0);
    drop(stream);
    port.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_head_that_comes_drop_by_drop_is_given_up() {
    let limits = Limits::default();
    let port = Port::open(open_to_all(), limits).await;
    let mut stream = port.tls(None).await.unwrap();
    let began = tokio::time::Instant::now();
    let mut drops = b"GET /healthz HTTP/1.1\r\nhost: x\r\nx: ".iter().chain(std::iter::repeat(&b'x'));
    while stream.write_all(&[*drops.next().unwrap()]).await.is_ok() && stream.flush().await.is_ok() {
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(began.elapsed() < limits.first_request * 3, "still listening");
    }
    assert_eq!(port.refused("no-request"), 1);
    port.deserted().await;
    port.close().await;
}

#[tokio::test]
async fn a_client_that_closes_its_side_and_one_that_resets_are_forgotten() {
    let port = Port::open(open_to_all(), Limits::default()).await;
    let mut closed = port.tls(None).await.unwrap();
    closed.get_mut().0.shutdown().await.unwrap();
    let reset = port.tls(None).await.unwrap();
    socket2::SockRef::from(reset.get_ref().0).set_linger(Some(Duration::ZERO)).unwrap();
    drop(reset);
    // The first one is still held here.
    port.deserted().await;
    drop(closed);
    port.close().await;
}
