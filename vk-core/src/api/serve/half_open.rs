//! Clients whose machine is gone without a word.
//!
//! An idle connection is probed by TCP itself (keep-alive). One with bytes under way is not: the kernel sends them
//! again for a quarter of an hour. `TCP_USER_TIMEOUT` would shorten that, but it also ends connections whose client
//! is there and merely reads nothing, as `kubectl logs | less` does. The kernel knows the two apart, by whether the
//! other machine still acknowledges, and tells so in `/proc/net/tcp`: read here every so often, and never while
//! nobody is connected.
//!
//! A client that reads nothing of an ordinary answer is not waited for as long as that: only logs and sessions have
//! readers with a reason.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::metrics::PortMetrics;

/// Attempts in a row that the other machine left unanswered. From the kernel's first 200 ms, each pause twice the
/// one before, they take 13 s; on a slow line the kernel begins later, and this with it.
const UNANSWERED: u32 = 6;

/// A connection by its two ends.
type Ends = ((IpAddr, u16), (IpAddr, u16));

/// The connections of a port. Clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct Watch(Arc<Mutex<HashMap<Ends, CancellationToken>>>);

impl Watch {
    /// Watches over a connection: one whose client's machine is gone fails, in both directions, about `limit` after
    /// its last sign of life.
    pub(super) fn over(
        &self,
        stream: TcpStream,
        limit: Duration,
        metrics: &PortMetrics,
    ) -> io::Result<Watched> {
        // Log lines are small and wanted now.
        stream.set_nodelay(true)?;
        let socket = socket2::SockRef::from(&stream);
        let probe = (limit / 3).max(Duration::from_secs(1));
        let alive = socket2::TcpKeepalive::new().with_time(probe).with_interval(probe).with_retries(2);
        socket.set_tcp_keepalive(&alive)?;
        let of = |address: SocketAddr| (address.ip(), address.port());
        let ends = (of(stream.local_addr()?), of(stream.peer_addr()?));
        let (lost, patient) = (CancellationToken::new(), Arc::default());
        self.lock().insert(ends, lost.clone());
        let (reading, writing) = (Box::pin(lost.clone().cancelled_owned()), Box::pin(lost.cancelled_owned()));
        Ok(Watched {
            stream,
            reading,
            writing,
            deaf: Deaf::new(limit),
            patient,
            uncounted: Some(metrics.clone()),
            _entry: Entry { watch: self.clone(), ends },
        })
    }

    /// Looks three times within the limit, for as long as it is not dropped.
    pub(super) async fn run(self, limit: Duration) {
        loop {
            tokio::time::sleep((limit / 3).max(Duration::from_secs(1))).await;
            if self.lock().is_empty() {
                continue;
            }
            for table in ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"] {
                // Where there is none (no procfs, no IPv6), keep-alive is what there is.
                let Ok(text) = tokio::fs::read_to_string(table).await else { continue };
                self.look(&text);
            }
        }
    }

    fn look(&self, table: &str) {
        let connections = self.lock();
        for ends in table.lines().filter_map(unanswered) {
            if let Some(lost) = connections.get(&ends) {
                lost.cancel();
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Ends, CancellationToken>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The ends of a line's connection, if it has been sending into the void (Linux `Documentation/networking/proc_net_tcp`).
fn unanswered(line: &str) -> Option<Ends> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let (local, peer) = (fields.next()?, fields.next()?);
    // State, queues and timer.
    let mut fields = fields.skip(3);
    let resent = u32::from_str_radix(fields.next()?, 16).ok()?;
    let _uid = fields.next()?;
    let probes = fields.next()?.parse::<u32>().ok()?;
    if resent.max(probes) < UNANSWERED {
        return None;
    }
    Some((end(local)?, end(peer)?))
}

/// `0100007F:1F90`: words in the machine's byte order, and a port.
fn end(text: &str) -> Option<(IpAddr, u16)> {
    let (address, port) = text.split_once(':')?;
    let word =
        |at: usize| u32::from_str_radix(address.get(at * 8..at * 8 + 8)?, 16).ok().map(u32::to_ne_bytes);
    let address = match address.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?)),
        32 => {
            let mut bytes = [0; 16];
            for (at, place) in bytes.chunks_exact_mut(4).enumerate() {
                place.copy_from_slice(&word(at)?);
            }
            IpAddr::V6(Ipv6Addr::from(bytes))
        }
        _ => return None,
    };
    Some((address, u16::from_str_radix(port, 16).ok()?))
}

/// A connection that is watched over until it is dropped.
#[derive(Debug)]
pub(super) struct Watched {
    stream: TcpStream,
    reading: Pin<Box<WaitForCancellationFutureOwned>>,
    writing: Pin<Box<WaitForCancellationFutureOwned>>,
    deaf: Deaf,
    patient: Arc<AtomicBool>,
    /// Where its end is counted; taken when it has been.
    uncounted: Option<PortMetrics>,
    _entry: Entry,
}

/// How long a client has read nothing.
#[derive(Debug)]
struct Deaf {
    limit: Duration,
    /// Set anew whenever waiting begins.
    sleep: Pin<Box<Sleep>>,
    waiting: bool,
}

impl Deaf {
    fn new(limit: Duration) -> Self {
        Self { limit, sleep: Box::pin(tokio::time::sleep(limit)), waiting: false }
    }

    /// Whether it has been too long.
    fn is_over(&mut self, waiting: bool, cx: &mut Context<'_>) -> bool {
        if waiting && !self.waiting {
            self.sleep.as_mut().reset(Instant::now() + self.limit);
        }
        self.waiting = waiting;
        waiting && self.sleep.as_mut().poll(cx).is_ready()
    }
}

impl Watched {
    /// What is set once the client may read as slowly as it likes.
    pub(super) fn patient(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.patient)
    }

    fn written(&mut self, done: Poll<io::Result<usize>>, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let deaf = self.deaf.is_over(done.is_pending(), cx) && !self.patient.load(Ordering::Relaxed);
        if deaf {
            self.count("reads-nothing");
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client reads nothing")));
        }
        let done = or_lost(done, &mut self.writing, cx);
        self.count_lost(&done);
        done
    }

    fn count(&mut self, reason: &'static str) {
        if let Some(metrics) = self.uncounted.take() {
            metrics.refused(reason);
        }
    }

    /// Found out here, or by the kernel's own probes.
    fn count_lost<T>(&mut self, done: &Poll<io::Result<T>>) {
        if matches!(done, Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::TimedOut) {
            self.count("client-gone");
        }
    }
}

#[derive(Debug)]
struct Entry {
    watch: Watch,
    ends: Ends,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.watch.lock().remove(&self.ends);
    }
}

fn or_lost<T>(
    done: Poll<io::Result<T>>,
    lost: &mut Pin<Box<WaitForCancellationFutureOwned>>,
    cx: &mut Context<'_>,
) -> Poll<io::Result<T>> {
    match done {
        Poll::Pending if lost.as_mut().poll(cx).is_ready() => Poll::Ready(Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the client's machine does not answer any more",
        ))),
        done => done,
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let done = Pin::new(&mut self.stream).poll_read(cx, buffer);
        let done = or_lost(done, &mut self.reading, cx);
        self.count_lost(&done);
        done
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let done = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.written(done, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let done = Pin::new(&mut self.stream).poll_write_vectored(cx, bytes);
        self.written(done, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;
    use crate::metrics::Metrics;

    fn refused(metrics: &Metrics, reason: &str) -> bool {
        metrics.text().contains(&format!("vk_connections_refused_total{{reason=\"{reason}\"}} 1\n"))
    }

    /// Lines as a little-endian machine writes them: nothing under way, a reader that acknowledges with a closed
    /// window, and two machines that are gone, with bytes under way and with a closed window.
    const TABLE: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0A0200C0:2812 010200C0:C350 01 00000000:00000000 02:000003E8 00000000     0        0 1234 2 0 20 4 30 10 -1
   1: 0A0200C0:2812 010200C0:C351 01 00010000:00000000 04:000003E8 00000000     0        0 1234 2 0 20 4 30 10 -1
   2: 0A0200C0:2812 010200C0:C352 01 00000100:00000000 01:000003E8 00000006     0        0 1234 2 0 20 4 30 10 -1
   3: 0A0200C0:2812 010200C0:C353 01 00010000:00000000 04:000003E8 00000000     0        7 1234 2 0 20 4 30 10 -1
";

    #[cfg(target_endian = "little")]
    #[test]
    fn a_machine_that_does_not_answer_differs_from_a_client_that_does_not_read() {
        let found: Vec<Ends> = TABLE.lines().filter_map(unanswered).collect();
        let here = (IpAddr::V4(Ipv4Addr::new(192, 0, 2, 10)), 10258);
        let there = |port| (IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), port);
        assert_eq!(found, [(here, there(50002)), (here, there(50003))]);
        let mapped = end("0000000000000000FFFF00000100007F:1F90");
        assert_eq!(mapped, Some((IpAddr::V6(Ipv4Addr::LOCALHOST.to_ipv6_mapped()), 8080)));
        for nonsense in ["", "0A0200C0", "0A0200C:1", "0A0200C0:10000", "é0200C0:1", "ééééAAAA:1"] {
            assert_eq!(end(nonsense), None, "{nonsense}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_reads_nothing_is_given_up_unless_there_is_a_reason_to() {
        for patient in [false, true] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let limit = Duration::from_secs(30);
            let metrics = Metrics::new("node-1");
            let stream = listener.accept().await.unwrap().0;
            let mut watched = Watch::default().over(stream, limit, metrics.port()).unwrap();
            watched.patient().store(patient, Ordering::Relaxed);
            let full = async { while watched.write_all(&[0; 16384]).await.is_ok() {} };
            assert_eq!(tokio::time::timeout(limit * 100, full).await.is_err(), patient);
            assert_eq!(refused(&metrics, "reads-nothing"), !patient, "{}", metrics.text());
        }
    }

    /// The kernel's own table has the connection under the very ends it was entered by.
    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_lost_connection_fails_in_both_directions_and_is_forgotten() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(address).await else { continue };
            let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let watch = Watch::default();
            let (stream, _) = listener.accept().await.unwrap();
            let metrics = Metrics::new("node-1");
            let mut watched = watch.over(stream, Duration::from_secs(30), metrics.port()).unwrap();
            watched.patient().store(true, Ordering::Relaxed);
            let socket = socket2::SockRef::from(&watched.stream);
            assert!(socket.keepalive().unwrap());
            assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(10));
            assert_eq!(socket.tcp_keepalive_retries().unwrap(), 2);
            // A client may read nothing for as long as it likes.
            assert_eq!(socket.tcp_user_timeout().unwrap(), None);

            let file = if address.starts_with('[') { "tcp6" } else { "tcp" };
            let table = std::fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap();
            watch.look(&table);
            assert!(!watch.lock().values().any(CancellationToken::is_cancelled), "its client is there");
            // As if nothing had come back from any of them.
            let gone: Vec<String> = table
                .lines()
                .map(|line| {
                    let mut fields: Vec<&str> = line.split_ascii_whitespace().collect();
                    if fields.len() > 8 {
                        fields[6] = "00000009";
                    }
                    fields.join(" ")
                })
                .collect();
            watch.look(&gone.join("\n"));
            let error = watched.read(&mut [0]).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
            let full = async { while watched.write_all(&[0; 16384]).await.is_ok() {} };
            tokio::time::timeout(Duration::from_secs(10), full).await.expect("a full connection fails too");
            assert!(refused(&metrics, "client-gone"), "once: {}", metrics.text());
            drop(watched);
            assert!(watch.lock().is_empty());
        }
    }
}
