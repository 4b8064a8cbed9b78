//! A node's presence in the cluster: registration, lease, heartbeat, on the in-memory API server in paused time.

mod bed;
mod lease;
mod object;
mod registration;
