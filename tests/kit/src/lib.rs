//! What tests of a provider need.
//!
//! | you want to | use |
//! |---|---|
//! | call your provider as a node does, without a node | [`PodRequest`] |
//! | run a node over your provider, in a cluster of one process | [`TestCluster`], [`TestNode`] |
//! | create, change, delete pods, and wait for what becomes of them | [`Pods`], [`Objects`], [`workload`] |
//! | wait for a condition instead of sleeping | [`eventually`] |
//! | see that no status ever went backwards | [`History`] |
//! | make the API server fail, slow, forgetful | [`TestCluster::server`]`().faults()`, [`Rule`], [`Fault`] |
//! | make your backend fail, hang, lose answers | [`vk_core::provider::Faulty`], [`vk_core::provider::Delayed`] |
//! | know what a backend was asked to do | [`MockBackend`], whose [`Ledger`] has every call |
//!
//! # Paused time
//!
//! Under `#[tokio::test(start_paused = true)]` time passes only while everybody waits, and then at once: a lease that
//! expires after 40 s, or a back-off of 5 min, takes no time to test. The cluster's clock and the node's follow it. It
//! works as long as nothing waits for a real socket, file or process; a provider that does is tested in real time.
//!
//! # A test
//!
//! ```
//! use std::sync::Arc;
//! use vk_testkit::{Cluster as _, MockBackend, MockConfig, MockProvider, Pods, TestCluster, TestNode, workload};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() {
//! let cluster = TestCluster::start().await;
//! let backend = MockBackend::new(MockConfig::default(), cluster.clock()).unwrap();
//! let provider = Arc::new(MockProvider::new(backend.clone(), "node-1"));
//! let node = TestNode::ready(&cluster, "node-1", provider.clone()).await;
//!
//! let pods = Pods::of(&cluster);
//! pods.create(&workload::pod("web", "node-1")).await;
//! pods.until_ready("web").await;
//!
//! // A daemon that is killed and comes back starts nothing twice.
//! node.kill().await;
//! let node = TestNode::ready(&cluster, "node-1", provider).await;
//! assert_eq!(backend.ledger().started, 1);
//! # node.drain().await.unwrap();
//! # }
//! ```

pub mod cluster;
pub mod history;
pub mod node;
pub mod objects;
pub mod pods;
pub mod request;
pub mod wait;
pub mod workload;

pub use vk_apiserver::{ApiServer, Config, Fault, Faults, RequestKind, Requests, Rule, Verb};
pub use vk_mock::{Act, Entry, Ledger, MockBackend, MockConfig, MockContainers, MockProvider};

pub use self::cluster::{Cluster, TestCluster};
pub use self::history::History;
pub use self::node::TestNode;
pub use self::objects::Objects;
pub use self::pods::Pods;
pub use self::request::PodRequest;
pub use self::wait::{eventually, eventually_within};
