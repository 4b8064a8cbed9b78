//! The addresses inside the namespace, all from TEST-NET-1 (RFC 5737).
//!
//! The API server refuses to proxy to loopback and link-local addresses, so a node under test needs one that
//! looks global. All of them sit on the namespace's own `lo`; none leaves it.

use std::net::Ipv4Addr;

/// Where the API server listens and what it advertises.
pub const API_SERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// The API server's port.
pub const API_SERVER_PORT: u16 = 6443;

/// The address of the (first) node under test.
pub const NODE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);

/// The first address of the service network: the `kubernetes` service, in the API server's certificate.
pub const SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);

/// The range services get their addresses from. Nothing routes them: there is no kube-proxy.
pub const SERVICE_RANGE: &str = "10.96.0.0/16";

/// Addresses for several nodes or daemons and for pod IPs: 192.0.2.10, which is [`NODE`], to 192.0.2.20.
pub fn nodes() -> impl Iterator<Item = Ipv4Addr> {
    (10..=20).map(|last| Ipv4Addr::new(192, 0, 2, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_node_has_the_documented_address() {
        assert_eq!(nodes().next(), Some(NODE));
        assert_eq!(nodes().count(), 11);
        assert!(nodes().all(|address| address != API_SERVER));
    }
}
