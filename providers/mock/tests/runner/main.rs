//! The node's own engines over containers in memory, in paused time.

mod lifecycle;
mod support;
