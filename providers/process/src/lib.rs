//! Containers as child processes of the daemon. **Test support and an example; not for production.**
//!
//! A backend for [`PodRunner`](vk_core::containers) that needs no container runtime: each container is a process of
//! this machine in namespaces of its own (mounts, process ids, IPC; network and host name per pod), on a root folder
//! made from an image's folder. Signals, exit codes, output, files, probes and exec are real.
//!
//! # What it is not
//! There is no isolation: no seccomp or AppArmor profile, no dropped capabilities, no user namespace, no limit on
//! processors or disk, and a memory limit that is looked after from outside. Images are folders that somebody has made
//! ([`ImageConfig`]); nothing is fetched. Whoever may create a pod on such a node is root on this machine. So it starts
//! only for those who have [said](ProcessConfig::not_for_production) that they know.
//!
//! # What it needs
//! Linux, root, `ip` (iproute2), `nsenter` (util-linux), and a program whose `main` begins with [`helper`]:
//!
//! ```no_run
//! fn main() -> std::process::ExitCode {
//!     if let Some(done) = vk_process::helper() {
//!         return done;
//!     }
//!     // … the daemon
//! #   std::process::ExitCode::SUCCESS
//! }
//! ```
//!
//! Containers end with the process that started them; nothing is found again after a restart of the daemon.

pub use self::backend::ProcessBackend;
pub use self::busybox::{busybox_folder, find_busybox};
pub use self::config::{ConfigError, ImageConfig, ProcessConfig};
pub use self::fields::fields;
pub use self::helper::helper;
pub use self::network::Network;

mod backend;
mod busybox;
mod config;
mod etc;
mod exec;
mod fields;
mod helper;
mod images;
mod log;
mod memory;
mod network;
mod pod;
mod reference;
mod run;
mod user;
mod volumes;
