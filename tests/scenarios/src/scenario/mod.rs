//! The scenarios, by what they are about.

pub mod admission;
pub mod calls;
pub mod controllers;
pub mod deletion;
pub mod disappearance;
pub mod evictions;
pub mod faults;
pub mod fields;
pub mod foreign;
pub mod jobs;
pub mod lifecycle;
pub mod presence;
pub mod restarts;
pub mod retries;
pub mod storm;
