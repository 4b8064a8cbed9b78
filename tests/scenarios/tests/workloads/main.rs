//! Pods as other projects' controllers and injectors write them, on a node over containers in memory, in paused time.

mod changes;
mod injectors;
mod queue_proxy;
