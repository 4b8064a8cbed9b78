//! The node: its object, its lease, its health.
//!
//! ```text
//!                    ensure_registered ─▶ Registered
//!                   (claims the lease,        │
//!                    creates or adopts)       ├──▶ LeaseKeeper   own thread, own connection
//!                                             │      │  ▲
//!                              LeaseStatus ◀──┼──────┘  │ UID of the Node object
//!                                  │          │         │
//!  provider.node_info() ─▶         ▼          │         │
//!  own Node object (watch) ─▶  Heartbeat ◀────┘─────────┘
//!  pods synced ─▶                  └─▶ Node status, labels, taints
//! ```
//!
//! # Channels
//!
//! | from | to | what | kind |
//! |---|---|---|---|
//! | pod source | [`Heartbeat`] | pods have been listed once: the node may be `Ready` | `watch<bool>` |
//! | [`Heartbeat`] | [`LeaseKeeper`] | UID of the Node object, which owns the lease | `watch<String>` |
//! | [`LeaseKeeper`] | [`Heartbeat`], liveness | [`LeaseStatus`]: last renewal, forbidden, lost | `watch` |
//! | embedder | [`Heartbeat`] | labels, annotations and taints from now on | `watch<Markings>` |
//! | shutdown | [`Heartbeat`] | drain: `Ready=False`, then end | `CancellationToken` |
//! | shutdown | [`LeaseHandle::stop`] | after the drain: release the lease | call |
//!
//! # Flow
//!
//! 1. [`ensure_registered`] claims the lease, so that of two daemons with one name only one goes on, and brings
//!    the Node object to what it should be.
//! 2. [`LeaseKeeper::spawn`] renews the lease from then on, whatever else happens.
//! 3. [`Heartbeat::run`] keeps the object so, repairs what others change of it, creates it again when it is
//!    deleted, and writes the conditions.
//! 4. At shutdown, the heartbeat's token is cancelled first, and the lease is stopped last.

use std::fmt;
use std::sync::Arc;

use tokio::sync::watch;

use crate::clock::Clock;
use crate::config::{Markings, NodeConfig};
use crate::events::Recorder;
use crate::health::Health;
use crate::metrics::Metrics;
use crate::provider::Provider;

pub use self::call::CallError;
pub use self::claim::present_holder;
pub(crate) use self::heartbeat::Heartbeat;
pub use self::heartbeat::HeartbeatError;
pub use self::instance::Instance;
pub use self::lease::{LeaseError, LeaseRuntime};
pub(crate) use self::lease::{LeaseHandle, LeaseKeeper, LeaseStatus};
pub use self::object::{ObjectError, PROVIDER_TAINT};
pub(crate) use self::object::{Resources as NodeResources, labels, operating_system, resources};
pub use self::register::RegisterError;
pub(crate) use self::register::{Registered, deregister, ensure_registered};

mod call;
mod claim;
mod conditions;
pub(crate) mod heartbeat;
mod instance;
pub(crate) mod lease;
mod object;
mod ownership;
mod patch;
mod ping;
pub(crate) mod quantity;
pub(crate) mod register;
mod writer;

/// What everything about one node is done with. Cheap to clone.
#[derive(Clone)]
#[doc(hidden)]
pub struct NodeContext {
    /// The cluster.
    pub client: kube::Client,
    /// The node's settings.
    pub config: Arc<NodeConfig>,
    /// The backend.
    pub provider: Arc<dyn Provider>,
    /// Where events about the node go.
    pub recorder: Recorder,
    /// The time.
    pub clock: Clock,
    /// Who we are among daemons of that name.
    pub instance: Instance,
    /// Labels, annotations and taints that replace those of `config` whenever they change. Default: they never do.
    pub markings: watch::Receiver<Markings>,
    /// What is counted.
    pub metrics: Metrics,
    /// What is checked.
    pub health: Health,
    /// The Node object whenever it is seen, for whoever decides by it.
    pub(crate) seen: watch::Sender<Option<Arc<k8s_openapi::api::core::v1::Node>>>,
}

impl NodeContext {
    /// The context of a node in that cluster with that backend: the system's clock, no events, and the configured
    /// [instance](NodeConfig::instance).
    #[must_use]
    pub fn new(client: kube::Client, config: NodeConfig, provider: Arc<dyn Provider>) -> Self {
        let instance = config.instance.as_ref().map_or_else(Instance::of_this_process, Instance::named);
        // Without a sender there is never a change.
        let (_, markings) = watch::channel(config.markings());
        Self {
            markings,
            client,
            metrics: Metrics::new(&config.name),
            health: Health::new(),
            config: Arc::new(config),
            provider,
            seen: watch::Sender::new(None),
            recorder: Recorder::disabled(),
            clock: Clock::system(),
            instance,
        }
    }
}

impl fmt::Debug for NodeContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeContext")
            .field("node", &self.config.name)
            .field("provider", &self.provider.name())
            .field("instance", &self.instance)
            .finish_non_exhaustive()
    }
}

/// The field manager of everything the node writes.
const FIELD_MANAGER: &str = "virtual-kubelet";
