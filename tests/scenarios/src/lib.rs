//! Pod and node scenarios, run on the in-memory API server and on the real control plane.
//!
//! A scenario is an `async fn(&World)` in [`scenario`]; it knows only a cluster, a backend and nodes. The test
//! targets decide where it runs: `in_memory.rs` under paused time, `real_*.rs` inside the control plane's
//! namespace (`cargo xtask test real`). Nothing sleeps and hopes: [`eventually`] waits for a condition and
//! says what it last saw.

pub mod agreement;
pub mod canaries;
pub mod container_node;
pub mod daemon;
pub mod rights;
pub mod scenario;
pub mod streaming;
pub mod unchanging;
pub mod virtual_node;
pub mod world;

pub use vk_testkit::{History, Objects, Pods, eventually, eventually_within};
pub use vk_testkit::{history, objects, pods, wait, workload};

pub use self::canaries::Canaries;
pub use self::container_node::ContainerNode;
pub use self::streaming::Streaming;
pub use self::virtual_node::VirtualNode;
pub use self::world::World;
