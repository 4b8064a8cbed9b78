//! The runner over a backend of puppets, in paused time: laws that hold for every pod, and stories of single ones.

mod backend;
mod bed;
mod laws;
mod model;
mod plot;
mod stopping;
mod waiting;
