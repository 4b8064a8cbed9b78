//! The real Kubernetes control plane, from Go modules, in a private network namespace.
//!
//! etcd, kube-apiserver, kube-controller-manager, kube-scheduler and kubectl are compiled once from pinned
//! Go modules ([`module`]) into a cache outside the tree ([`cache`]), and run as ordinary processes inside a
//! network namespace of their own ([`namespace`]), each in its own process group, so that a test can stop,
//! kill, freeze and start any of them by itself ([`ControlPlane::kill`] and its neighbours).
//!
//! Everything that talks to the plane must run inside the namespace: nothing of it is reachable from outside,
//! and two instances never collide. A test of the `real` tier is therefore built first and then run as
//!
//! ```text
//! cargo xtask control-plane run --instance NAME -- TEST_BINARY --test-threads=1
//! ```
//!
//! which is what `cargo xtask test real` does. Inside, [`ControlPlane::current`] finds the plane.
//!
//! # What a command in the namespace finds in its environment
//!
//! | variable | meaning |
//! |---|---|
//! | `KUBECONFIG` | a kubeconfig of a member of `system:masters` |
//! | `NODE_ADDRESS` | the address a node under test should listen on and report; more in [`addresses`] |
//! | `VK_CONTROL_PLANE_DIR` | the instance's state folder; [`ControlPlane::current`] reads it |
//! | `VK_TLS_CERT_FILE`, `VK_TLS_PRIVATE_KEY_FILE` | the daemon's own settings, which win over its flags: a serving certificate for every node address in the namespace. The API server checks nodes' certificates, so without one it reaches no log and no `nodes/…/proxy` |
//! | `PATH` | begins with the folder of the built kubectl |
//!
//! The proxy variables (`http_proxy` and its kin) are removed: nothing in the namespace may leave it.
//!
//! # A cluster of one's own
//!
//! With `VK_TEST_KUBECONFIG=FILE` set, nothing is built or started: `up` and `down` do nothing and say so, and
//! `run` runs the command as it is with that kubeconfig. `VK_TEST_NODE_ADDRESS` then names an address of this
//! machine that the cluster's API server can reach (default: none, and the log and exec tests can't work).

pub mod addresses;
pub mod binaries;
pub mod cache;
pub mod component;
pub mod go;
pub mod kubeconfig;
pub mod module;
pub mod namespace;
pub mod pki;
mod plane;
pub mod process;
mod state;
pub mod wait;

pub use component::Component;
pub use module::{Module, Version};
pub use plane::{ControlPlane, Options, Report};

/// Names a kubeconfig to use instead of a control plane of our own.
pub const TEST_KUBECONFIG: &str = "VK_TEST_KUBECONFIG";

/// With [`TEST_KUBECONFIG`]: an address of this machine that the cluster's API server reaches nodes at.
pub const TEST_NODE_ADDRESS: &str = "VK_TEST_NODE_ADDRESS";

/// Names the certificate a daemon in the namespace serves its kubelet API with; set by `run`.
pub const SERVING_CERT: &str = "VK_TLS_CERT_FILE";

/// Names the key of [`SERVING_CERT`].
pub const SERVING_KEY: &str = "VK_TLS_PRIVATE_KEY_FILE";

/// Names the state folder of the instance whose namespace the process runs in; set by `run`.
pub const CURRENT_DIR: &str = "VK_CONTROL_PLANE_DIR";
