//! The checks, by what they are about. Each is a function of a [`Bed`](crate::Bed), whose node it judges.

pub mod attach;
pub mod configuration;
pub mod containers;
pub mod events;
pub mod eviction;
pub mod exec;
pub mod forward;
pub mod heartbeat;
pub mod lease;
pub mod lifecycle;
pub mod logs;
pub mod many;
pub mod metrics;
pub mod refusal;
pub mod registration;
pub mod security;
pub mod status;
