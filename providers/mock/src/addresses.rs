//! Addresses for pods: one each, none twice while both live.

use std::collections::{HashSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::Deserialize;

/// A range of addresses, such as `10.88.0.0/16` or `fd00:88::/64`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Cidr {
    network: IpAddr,
    prefix: u8,
}

impl Cidr {
    fn width(self) -> u8 {
        if self.network.is_ipv4() { 32 } else { 128 }
    }

    /// How many addresses pods can have: without the network's own, and in IPv4 without the broadcast one.
    fn hosts(self) -> u128 {
        let bits = u32::from(self.width() - self.prefix);
        let all = 1_u128.checked_shl(bits).unwrap_or(u128::MAX);
        all.saturating_sub(if self.network.is_ipv4() { 2 } else { 1 })
    }

    /// The `n`th address for a pod, from 0.
    fn nth(self, n: u128) -> IpAddr {
        match self.network {
            IpAddr::V4(base) => IpAddr::V4(Ipv4Addr::from(u32::from(base).wrapping_add(n as u32 + 1))),
            IpAddr::V6(base) => IpAddr::V6(Ipv6Addr::from(u128::from(base).wrapping_add(n + 1))),
        }
    }
}

impl Default for Cidr {
    /// `10.88.0.0/16`, room for 65,534 pods.
    fn default() -> Self {
        Self { network: IpAddr::V4(Ipv4Addr::new(10, 88, 0, 0)), prefix: 16 }
    }
}

impl FromStr for Cidr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text:?} is not a range of addresses such as 10.88.0.0/16");
        let (network, prefix) = text.split_once('/').ok_or_else(bad)?;
        let network: IpAddr = network.parse().map_err(|_| bad())?;
        let cidr = Self { network, prefix: prefix.parse().map_err(|_| bad())? };
        if cidr.prefix > cidr.width() {
            return Err(bad());
        }
        let (bits, shift) = match network {
            IpAddr::V4(address) => (u128::from(u32::from(address)), u32::from(32 - cidr.prefix)),
            IpAddr::V6(address) => (u128::from(address), u32::from(128 - cidr.prefix)),
        };
        if shift > 0 && bits & (u128::MAX >> (128 - shift)) != 0 {
            return Err(format!("{text:?}: the address has bits beyond the prefix of {}", cidr.prefix));
        }
        if cidr.hosts() == 0 {
            return Err(format!("{text:?} has no room for a pod"));
        }
        Ok(cidr)
    }
}

impl TryFrom<String> for Cidr {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl std::fmt::Display for Cidr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

/// Hands addresses out in order and takes the longest unused one when the range is through.
#[derive(Debug)]
pub(crate) struct Addresses {
    range: Cidr,
    /// The index of the first address that was handed out.
    first: u128,
    /// How many have been handed out for the first time.
    fresh: u128,
    freed: VecDeque<IpAddr>,
    used: HashSet<IpAddr>,
}

impl Addresses {
    /// Begins at some address of the range, so that pools over one range are unlikely to meet.
    pub(crate) fn new(range: Cidr, begin: u64) -> Self {
        let first = u128::from(begin) % range.hosts();
        Self { range, first, fresh: 0, freed: VecDeque::new(), used: HashSet::new() }
    }

    /// An address that no live pod has; `None` when all are in use.
    pub(crate) fn take(&mut self) -> Option<IpAddr> {
        while self.fresh < self.range.hosts() {
            let address = self.range.nth((self.first + self.fresh) % self.range.hosts());
            self.fresh += 1;
            if self.used.insert(address) {
                return Some(address);
            }
        }
        while let Some(address) = self.freed.pop_front() {
            if self.used.insert(address) {
                return Some(address);
            }
        }
        None
    }

    /// Takes a given address; `false` if a live pod has it.
    pub(crate) fn claim(&mut self, address: IpAddr) -> bool {
        // Claims are rare; without this a claim and a release in turn would grow the queue.
        self.freed.retain(|freed| *freed != address);
        self.used.insert(address)
    }

    /// Gives an address back.
    pub(crate) fn free(&mut self, address: IpAddr) {
        if self.used.remove(&address) && self.was_handed_out(address) {
            self.freed.push_back(address);
        }
    }

    /// Whether [`take`](Self::take) has gone past the address, so that only the queue of freed ones can
    /// bring it back.
    fn was_handed_out(&self, address: IpAddr) -> bool {
        let offset = match (self.range.network, address) {
            (IpAddr::V4(base), IpAddr::V4(address)) => {
                u128::from(u32::from(address)).checked_sub(u128::from(u32::from(base)))
            }
            (IpAddr::V6(base), IpAddr::V6(address)) => u128::from(address).checked_sub(u128::from(base)),
            _ => None,
        };
        let hosts = self.range.hosts();
        // The address of the network itself has offset 0; pods begin at 1.
        let index = offset.and_then(|offset| offset.checked_sub(1)).filter(|index| *index < hosts);
        index.is_some_and(|index| (index + hosts - self.first) % hosts < self.fresh)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_gives_each_address_once_and_then_the_longest_unused() {
        let mut pool = Addresses::new("192.0.2.0/30".parse().unwrap(), 0);
        let (first, second) = (pool.take().unwrap(), pool.take().unwrap());
        assert_eq!((first.to_string(), second.to_string()), ("192.0.2.1".into(), "192.0.2.2".into()));
        assert_eq!(pool.take(), None);
        pool.free(second);
        pool.free(first);
        assert_eq!([pool.take(), pool.take(), pool.take()], [Some(second), Some(first), None]);
    }

    #[test]
    fn a_claimed_address_is_not_handed_out_while_it_lives_and_comes_back_after() {
        let mut pool = Addresses::new("192.0.2.0/30".parse().unwrap(), 0);
        let claimed: IpAddr = "192.0.2.1".parse().unwrap();
        assert!(pool.claim(claimed));
        assert!(!pool.claim(claimed));
        assert_eq!(pool.take().unwrap().to_string(), "192.0.2.2");
        assert_eq!(pool.take(), None);
        pool.free(claimed);
        assert_eq!(pool.take(), Some(claimed));
    }

    #[test]
    fn an_address_from_outside_the_range_never_enters_it() {
        let mut pool = Addresses::new("192.0.2.0/30".parse().unwrap(), 0);
        let outside: IpAddr = "198.51.100.7".parse().unwrap();
        assert!(pool.claim(outside));
        pool.free(outside);
        assert_eq!(
            [pool.take().is_some(), pool.take().is_some(), pool.take().is_some()],
            [true, true, false]
        );
    }

    #[test]
    fn a_pool_begins_anywhere_and_still_gives_each_address_once() {
        for begin in [0, 1, 3, 5, 6, u64::MAX] {
            let mut pool = Addresses::new("192.0.2.0/29".parse().unwrap(), begin);
            let all: HashSet<_> = std::iter::from_fn(|| pool.take()).collect();
            assert_eq!(all.len(), 6, "begin {begin}");
            for address in all {
                pool.free(address);
            }
            assert_eq!(std::iter::from_fn(|| pool.take()).count(), 6, "begin {begin}");
        }
    }

    #[test]
    fn ranges_that_make_no_sense_are_refused_and_ipv6_works() {
        for text in ["10.88.0.0", "10.88.0.0/33", "10.88.0.1/16", "x/16", "10.0.0.0/32", "fd00::/129"] {
            assert!(text.parse::<Cidr>().is_err(), "{text}");
        }
        let mut pool = Addresses::new("fd00:88::/64".parse().unwrap(), 0);
        assert_eq!(pool.take().unwrap().to_string(), "fd00:88::1");
    }
}
