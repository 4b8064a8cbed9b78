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
//! Write a backend against [`provider`], or against [`containers`] if it only runs containers; then give it to a
//! [`Node`]. `docs/write-a-provider.md` goes from an empty crate to a pod that runs; `examples/` has the rest.
//!
//! | module | for |
//! |---|---|
//! | [`provider`], [`containers`] | who writes a backend: no type of an HTTP, TLS or Kubernetes client library in them |
//! | [`run`] (at the root: [`Node`], [`NodeBuilder`], [`ApiServer`]), [`config`], [`shutdown`] | who embeds a node |
//! | [`api`], [`admin`], [`metrics`], [`health`] | who serves and watches it: certificates, access, figures |
//! | [`node`], [`pods`], [`clock`] | who a node is, what it knows of its pods, and the time it goes by |
//!
//! The whole of the public API is in `public-api.txt`; a change of it changes that file.
//!
//! # Guarantees
//!
//! The provider sees no Kubernetes client, and one change at a time to one pod. Nothing is deleted at the backend,
//! and no pod ended at the API server, on the strength of an error, a timeout or an incomplete listing. A pod is
//! started at most once by UID, as far as the provider keeps its promise that a creation repeated starts nothing. No
//! state about pods is on disk: a process may be killed at any time, and the next finds everything again. The lease
//! depends on nothing else. No unsafe code; nothing grows without a bound.
//!
//! # Features
//!
//! | feature | default | |
//! |---|---|---|
//! | `v1_37` | yes | the Kubernetes version of the API types of `k8s-openapi`, of which a build has exactly one. A program that needs another turns the defaults off and chooses it at its own `k8s-openapi` dependency |

pub mod admin;
pub mod api;
mod backoff;
mod client;
pub mod clock;
pub mod config;
pub mod containers;
mod events;
pub mod health;
mod incarnation;
#[doc(hidden)]
pub mod internals;

pub mod metrics;
pub mod node;
pub mod pods;
pub mod provider;
pub mod run;
pub mod shutdown;

pub use self::run::{ApiServer, Node, NodeBuilder, NodeError};
pub use self::shutdown::Shutdown;
