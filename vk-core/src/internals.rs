//! Parts of a node, for this workspace's own tests and benchmarks. No promise is made about anything here: what embeds a
//! node or writes a backend needs none of it.

pub use crate::events::{
    EventCounts, EventFlusher, NodeReason, PodEventRecord, Reason, Recorded, Recorder, Severity,
};
pub use crate::node::NodeContext;
pub use crate::node::heartbeat::Heartbeat;
pub use crate::node::lease::{LeaseHandle, LeaseKeeper, LeaseStatus};
pub use crate::node::register::{Registered, deregister, ensure_registered};
pub use crate::pods::patch::status_patch;
pub use crate::pods::resolve::*;
pub use crate::pods::status::{Situation, StatusInput, WaitingFor, pod_status};
