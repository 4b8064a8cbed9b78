//! An in-memory Kubernetes API server for tests, faults and the quickstart.
//!
//! [`ApiServer`] is a value; clones share one store. Reach it in-process as a tower service, under tokio's
//! paused time if a test likes, or over HTTPS with [`ApiServer::serve_tls`] and kubectl. It is test support:
//! plain, honest about what it answers, and held against the real server by a differential test.
//!
//! ```
//! use k8s_openapi::api::core::v1::ConfigMap;
//! use kube::api::{Api, PostParams};
//! use vk_apiserver::{ApiServer, Fault, Rule, Verb};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let server = ApiServer::new()?;
//! let client = kube::Client::new(server.service(), "default");
//!
//! // The first creation is answered 503; the second goes through.
//! let fault = server.faults().add(Rule::new(Fault::Unavailable).verb(Verb::Create).times(1));
//! let api: Api<ConfigMap> = Api::default_namespaced(client);
//! let mut map = ConfigMap::default();
//! map.metadata.name = Some("settings".to_owned());
//! assert!(api.create(&PostParams::default(), &map).await.is_err());
//! api.create(&PostParams::default(), &map).await?;
//! assert_eq!(fault.hits(), 1);
//! assert_eq!(server.requests().of(Verb::Create, "configmaps", ""), 2);
//! # Ok(())
//! # }
//! ```
//!
//! A request's way: `handler` (who, what, faults, counting) → `rest` (the verbs) → `kinds` and its rooms
//! (`pods`, `nodes`, `namespaces`: what differs by kind) → `store` → `watch`.

mod authorize;
mod clock;
mod config;
mod controllers;
mod counters;
mod discovery;
mod error;
mod events;
mod faults;
mod form;
mod handler;
mod identity;
mod kinds;
mod namespaces;
mod nodes;
mod openapi;
mod patch;
mod pods;
mod proxy;
mod quantity;
mod request;
mod resources;
mod rest;
mod selector;
mod serve;
mod server;
mod shape;
mod store;
mod table;
mod tls;
mod tokens;
mod validation;
mod watch;

pub use self::clock::Clock;
pub use self::config::Config;
pub use self::controllers::{Controller, Running};
pub use self::counters::{RequestKind, Requests};
pub use self::error::{ApiError, Cause};
pub use self::faults::{Fault, FaultHandle, Faults, Rule};
pub use self::identity::Identity;
pub use self::request::Verb;
pub use self::serve::{ServeError, Serving};
pub use self::server::ApiServer;
pub use self::tls::{Credentials, TlsError};
