//! The four kinds of patch.

mod apply;
mod json;
mod merge;
mod strategic;

pub(crate) use self::apply::{Applier, apply};
pub(crate) use self::json::patch as json_patch;
pub(crate) use self::merge::patch as merge_patch;
pub(crate) use self::strategic::patch as strategic_patch;
