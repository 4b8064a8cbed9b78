//! The endpoints over connections in memory, with clients made of the codecs.

mod client;
mod commands;
mod forward;
mod refused;
