//! Pods' networks: a bridge on the node's side, and on it one network namespace for each pod.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr};
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};

use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::sync::OnceCell;
use vk_core::provider::{Error, PodUid, Result};

use crate::config::ConfigError;

/// A bridge and its addresses. Backends of several nodes may share one.
#[derive(Debug)]
pub struct Network {
    bridge: String,
    /// The range's first address, which is the network's, and the number of bits of the network.
    base: u32,
    bits: u32,
    taken: Mutex<Taken>,
    /// Set when the bridge is there.
    made: OnceCell<()>,
}

#[derive(Debug, Default)]
struct Taken {
    by_pod: HashMap<PodUid, Ipv4Addr>,
    all: HashSet<Ipv4Addr>,
    /// Addresses are given out in turn, so that one is not used again while somebody may still remember it.
    next: u32,
}

impl Network {
    /// A network of that range, like `10.89.0.0/16`, on that bridge, which is made when the first pod comes.
    ///
    /// # Errors
    /// A range that is none.
    pub fn new(bridge: &str, range: &str) -> Result<Self, ConfigError> {
        let bad = || ConfigError::new("podRange", format!("{range:?} is no IPv4 range such as 10.89.0.0/16"));
        let (address, bits) = range.split_once('/').ok_or_else(bad)?;
        let address: Ipv4Addr = address.parse().map_err(|_| bad())?;
        let bits: u32 = bits.parse().ok().filter(|bits| (8..=30).contains(bits)).ok_or_else(bad)?;
        let base = u32::from(address) & (u32::MAX << (32 - bits));
        Ok(Self { bridge: bridge.to_owned(), base, bits, taken: Mutex::default(), made: OnceCell::new() })
    }

    /// Makes the bridge, or takes the one that is there.
    async fn open(&self) -> Result<()> {
        let (bridge, gateway, bits) = (&self.bridge, self.gateway(), self.bits);
        // A bridge of that name is ours from an earlier time, or another node's of this process.
        let script = format!(
            "ip link show {bridge} >/dev/null 2>&1 || ip link add {bridge} type bridge\n\
             ip address replace {gateway}/{bits} dev {bridge} && ip link set {bridge} up\n"
        );
        let fail = |what: &str| Error::unavailable(format!("making the bridge {bridge}: {what}"));
        let output = Command::new("sh").args(["-c", &script]).kill_on_drop(true).output().await;
        let output = output.map_err(|error| fail(&error.to_string()))?;
        if output.status.success() {
            return Ok(());
        }
        Err(fail(String::from_utf8_lossy(&output.stderr).trim()))
    }

    fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::from(self.base + 1)
    }

    /// The pod's address, from now until [`free`](Self::free).
    pub(crate) fn reserve(&self, pod: &PodUid) -> Result<IpAddr> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(address) = taken.by_pod.get(pod) {
            return Ok((*address).into());
        }
        // All but the network's, the bridge's and the broadcast address.
        let count = (1_u32 << (32 - self.bits)) - 3;
        for _ in 0..count {
            let address = Ipv4Addr::from(self.base + 2 + taken.next % count);
            taken.next = taken.next.wrapping_add(1);
            if taken.all.insert(address) {
                taken.by_pod.insert(pod.clone(), address);
                return Ok(address.into());
            }
        }
        Err(Error::Exhausted { resource: "pod addresses".to_owned(), source: None })
    }

    /// Gives the pod's address back.
    pub(crate) fn free(&self, pod: &PodUid) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(address) = taken.by_pod.remove(pod) {
            taken.all.remove(&address);
        }
    }

    /// Takes a sandbox off the bridge: its end alone would do so too, but only some time later.
    pub(crate) async fn disconnect(address: IpAddr) {
        if let IpAddr::V4(address) = address {
            let mut ip = Command::new("ip");
            ip.args(["link", "delete", &link(address)]).stdout(Stdio::null()).stderr(Stdio::null());
            // It may have gone already.
            let _ = ip.kill_on_drop(true).status().await;
        }
    }

    /// Connects the sandbox that a process holds.
    pub(crate) async fn connect(&self, address: IpAddr, holder: i32) -> Result<()> {
        self.made.get_or_try_init(|| self.open()).await?;
        let IpAddr::V4(four) = address else {
            return Err(Error::unexpected("pods have IPv4 addresses here"));
        };
        let link = link(four);
        let bridge = &self.bridge;
        let (bits, gateway) = (self.bits, self.gateway());
        let outside = format!(
            "link add {link} type veth peer name eth0 netns {holder}\nlink set {link} master {bridge} up\n"
        );
        batch(Command::new("ip"), &outside).await?;
        let inside = format!(
            "link set lo up\naddress add {address}/{bits} dev eth0\nlink set eth0 up\nroute add default via {gateway}\n"
        );
        let mut enter = Command::new("nsenter");
        enter.arg(format!("--net=/proc/{holder}/ns/net")).args(["--", "ip"]);
        batch(enter, &inside).await
    }
}

/// The name of a pod's interface on the node's side: at most 15 characters; addresses are unique on the bridge.
fn link(address: Ipv4Addr) -> String {
    format!("vkp{:08x}", u32::from(address))
}

/// Gives `ip` its commands.
async fn batch(mut ip: Command, commands: &str) -> Result<()> {
    let fail = |what: String| Error::unavailable(format!("setting up the pod's network: {what}"));
    ip.args(["-batch", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = ip.kill_on_drop(true).spawn().map_err(|error| fail(error.to_string()))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(commands.as_bytes()).await.map_err(|error| fail(error.to_string()))?;
    }
    let output = child.wait_with_output().await.map_err(|error| fail(error.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    Err(fail(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_has_to_be_one() {
        for range in ["", "10.0.0.0", "10.0.0.0/31", "10.0.0.0/x", "fd00::/64"] {
            assert!(Network::new("b", range).is_err(), "{range}");
        }
    }

    #[test]
    fn addresses_are_unique_and_come_in_turn() {
        let network = Network::new("b", "10.89.0.0/29").unwrap();
        let uid = |n: u32| PodUid::new(n.to_string());
        let all: Vec<IpAddr> = (0..5).map(|n| network.reserve(&uid(n)).unwrap()).collect();
        assert_eq!(all[0], "10.89.0.2".parse::<IpAddr>().unwrap());
        assert_eq!(network.reserve(&uid(0)).unwrap(), all[0], "the same pod, the same address");
        assert!(matches!(network.reserve(&uid(9)), Err(Error::Exhausted { .. })));
        network.free(&uid(3));
        assert_eq!(network.reserve(&uid(9)).unwrap(), all[3]);
    }
}
