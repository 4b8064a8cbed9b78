//! The provider contract as tests.

pub mod report;
