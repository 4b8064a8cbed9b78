//! What the suite says about nodes whose behaviour is known: ours over the mock, one that is dead, and ones that lie.
//! All on the in-memory API server.

mod agent;
mod cluster;
mod dead;
mod interrupted;
mod kubelet;
mod liars;
mod ours;
mod strangers;
