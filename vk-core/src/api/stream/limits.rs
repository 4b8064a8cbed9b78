//! Bounds on exec, attach and port-forward.

use std::time::Duration;

/// What a node's streams may cost, and how long they may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StreamLimits {
    /// Sessions of one node at once: execs, attachments, and port-forward connections of clients. One more is
    /// refused with 429. Default 2,000.
    pub sessions: usize,
    /// Streams of one connection; a forwarded connection needs two. One more is refused. Default 4,096.
    pub streams: usize,
    /// How long a connection may carry nothing at all, pings included, before it is closed. Default 4 h, as
    /// the kubelet's `streamingConnectionIdleTimeout`.
    pub idle_timeout: Duration,
    /// How long a client may take to open the streams it asked for. Default 30 s, as the kubelet's.
    pub creation_timeout: Duration,
    /// How long a client may take to read the rest and close the connection once everything was said.
    /// Closing earlier costs a slow reader its output. Default 15 min.
    pub linger: Duration,
}

impl Default for StreamLimits {
    fn default() -> Self {
        Self {
            sessions: 2000,
            streams: 4096,
            idle_timeout: Duration::from_hours(4),
            creation_timeout: Duration::from_secs(30),
            linger: Duration::from_mins(15),
        }
    }
}
