//! Joins a Kubernetes cluster as a node and runs its pods somewhere else.
//!
//! ```text
//!             desired                                          observed
//!  API server ───────▶ source ─▶ worker(uid) ─▶ resolve ─▶ Provider ─▶ backend
//!      ▲               watch        │   ▲                     │
//!      │                            ▼   └────────── observations (watch, or relist)
//!      └────── publisher ◀─ status ◀─ state
//!
//!  API server ──HTTPS──▶ kubelet API ─▶ capability (logs, exec, …) ─▶ Provider
//! ```
//!
//! Data flows one way round. Nothing but `source` reads pods from the API server; nothing but
//! `publisher` writes pod status; nothing but a `worker` changes a pod in the backend; a provider never
//! sees a Kubernetes client.
//!
//! Write a backend against [`provider`], then give it to a [`Node`].

pub mod admin;
pub mod api;
mod backoff;
mod client;
pub mod clock;
pub mod config;
pub mod containers;
pub mod events;
pub mod health;
mod incarnation;

pub mod metrics;
pub mod node;
pub mod pods;
pub mod provider;
pub mod run;
pub mod shutdown;

pub use self::run::{ApiServer, Node, NodeBuilder, NodeError};
pub use self::shutdown::Shutdown;
