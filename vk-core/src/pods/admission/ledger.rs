//! What the pods of a node have taken of it.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use k8s_openapi::api::core::v1::{ContainerPort, PodSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use tokio::sync::Notify;

use crate::node::quantity;
use crate::pods::status::requests;

/// A resource that is counted, in the order in which a kubelet looks at them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Resource {
    Pods,
    /// In thousandths.
    Cpu,
    Memory,
    EphemeralStorage,
    /// Extended resources, huge pages.
    Other(Box<str>),
}

impl Resource {
    /// `None`: not counted by anybody.
    fn of(name: &str) -> Option<Self> {
        match name {
            "pods" => Some(Self::Pods),
            "cpu" => Some(Self::Cpu),
            "memory" => Some(Self::Memory),
            "ephemeral-storage" => Some(Self::EphemeralStorage),
            _ if name.contains('/') || name.starts_with("hugepages-") => Some(Self::Other(name.into())),
            _ => None,
        }
    }

    /// Of a domain that is not Kubernetes' own.
    pub(super) fn is_extended(&self) -> bool {
        matches!(self, Self::Other(name) if name.contains('/') && !name.contains("kubernetes.io/"))
    }

    /// An amount in the unit that is counted in, rounded up.
    fn amount(&self, quantity: &Quantity) -> Option<i64> {
        let unit = if *self == Self::Cpu { 1_000_000 } else { 1_000_000_000 };
        let nanos = quantity::nano(quantity)?;
        let up = i128::from(nanos.rem_euclid(unit) > 0);
        Some(i64::try_from(nanos.div_euclid(unit) + up).unwrap_or(i64::MAX))
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pods => "pods",
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::EphemeralStorage => "ephemeral-storage",
            Self::Other(name) => name,
        })
    }
}

/// What is counted of a resource list. What is no quantity counts as nothing; the API server lets none through.
pub(super) fn amounts<'a>(
    list: impl IntoIterator<Item = (&'a String, &'a Quantity)>,
) -> BTreeMap<Resource, i64> {
    list.into_iter()
        .filter_map(|(name, quantity)| {
            let resource = Resource::of(name)?;
            let amount = resource.amount(quantity)?;
            Some((resource, amount))
        })
        .collect()
}

/// A port of the host that a pod wants for itself.
#[derive(Clone, Debug, PartialEq, Eq)]
struct HostPort {
    number: i32,
    protocol: Box<str>,
    /// `None` is every address.
    ip: Option<Box<str>>,
}

impl HostPort {
    fn of(port: &ContainerPort) -> Option<Self> {
        let ip = port.host_ip.as_deref().filter(|ip| !ip.is_empty() && *ip != "0.0.0.0");
        Some(Self {
            number: port.host_port.filter(|port| *port > 0)?,
            protocol: port.protocol.as_deref().filter(|name| !name.is_empty()).unwrap_or("TCP").into(),
            ip: ip.map(Into::into),
        })
    }

    fn collides(&self, other: &Self) -> bool {
        self.protocol == other.protocol && (self.ip.is_none() || other.ip.is_none() || self.ip == other.ip)
    }
}

/// What a pod takes of its node.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Demand {
    /// Sorted.
    amounts: Box<[(Resource, i64)]>,
    ports: Box<[HostPort]>,
}

impl Demand {
    /// What a pod takes besides being one: its requests, and its containers' ports of the host.
    pub(crate) fn of(spec: &PodSpec) -> Self {
        let sidecars = spec.init_containers.iter().flatten();
        let sidecars = sidecars.filter(|container| container.restart_policy.as_deref() == Some("Always"));
        let ports =
            spec.containers.iter().chain(sidecars).flat_map(|container| container.ports.iter().flatten());
        Self {
            amounts: amounts(requests(spec).iter().flatten()).into_iter().collect(),
            ports: ports.filter_map(HostPort::of).collect(),
        }
    }

    pub(super) fn amounts(&self) -> &[(Resource, i64)] {
        &self.amounts
    }
}

/// The sum of all places.
#[derive(Clone, Debug, Default)]
pub(crate) struct Taken {
    pods: i64,
    amounts: BTreeMap<Resource, i64>,
    /// By number, as most pods have none.
    ports: HashMap<i32, Vec<HostPort>>,
}

impl Taken {
    pub(super) fn pods(&self) -> i64 {
        self.pods
    }

    pub(super) fn amount(&self, resource: &Resource) -> i64 {
        self.amounts.get(resource).copied().unwrap_or_default()
    }

    /// Whether somebody has one of the ports that are wanted.
    pub(super) fn has_port_of(&self, demand: &Demand) -> bool {
        let taken = |wanted: &HostPort| {
            self.ports.get(&wanted.number).is_some_and(|ports| ports.iter().any(|port| port.collides(wanted)))
        };
        demand.ports.iter().any(taken)
    }

    /// What others have taken than whoever has this.
    pub(crate) fn without(&self, demand: &Demand) -> Self {
        let mut others = self.clone();
        others.subtract(demand);
        others
    }

    fn add(&mut self, demand: &Demand) {
        self.pods += 1;
        for (resource, amount) in &demand.amounts {
            let sum = self.amounts.entry(resource.clone()).or_default();
            *sum = sum.saturating_add(*amount);
        }
        for port in &demand.ports {
            self.ports.entry(port.number).or_default().push(port.clone());
        }
    }

    fn subtract(&mut self, demand: &Demand) {
        self.pods -= 1;
        for (resource, amount) in &demand.amounts {
            if let Some(sum) = self.amounts.get_mut(resource) {
                *sum = sum.saturating_sub(*amount);
            }
        }
        for port in &demand.ports {
            if let Some(ports) = self.ports.get_mut(&port.number) {
                if let Some(at) = ports.iter().position(|each| each == port) {
                    ports.swap_remove(at);
                }
                if ports.is_empty() {
                    self.ports.remove(&port.number);
                }
            }
        }
    }
}

/// Who has taken what. Shared by all places.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    taken: Mutex<Taken>,
    /// Something was given back.
    pub(crate) freed: Notify,
}

impl Ledger {
    /// What is taken. Nothing may be given back while this is held.
    pub(crate) fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a place, whether or not there is room.
    pub(crate) fn take(self: &Arc<Self>, demand: Arc<Demand>) -> Place {
        self.taken().add(&demand);
        Place { ledger: Arc::clone(self), demand }
    }
}

/// A pod's place on the node. It is given back when this is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    ledger: Arc<Ledger>,
    demand: Arc<Demand>,
}

impl Place {
    /// What it is.
    pub(crate) fn demand(&self) -> Arc<Demand> {
        Arc::clone(&self.demand)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.ledger.taken().subtract(&self.demand);
        self.ledger.freed.notify_one();
    }
}
