//! The mock provider from the outside, as the node sees it, in paused time.

mod contract;
mod logs;
mod recovery;
mod scripts;
mod support;
