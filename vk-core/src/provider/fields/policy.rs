//! Fields that are passed over, where an operator wants that, instead of refused.

use std::collections::BTreeSet;

use super::table::TABLE;
use super::{Finding, meant};

/// The fields that a node passes over instead of refusing a pod for them: each pod's owner is warned by an event, and
/// the provider is given the pod without them. Fields that the provider honours stay honoured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IgnoredFields {
    paths: Vec<String>,
    fields: BTreeSet<usize>,
}

/// A path at which there is no field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no field of a pod is called {path:?}")]
#[non_exhaustive]
pub struct UnknownField {
    /// The path.
    pub path: String,
}

impl IgnoredFields {
    /// The fields at these paths and below them. A path is a field's, that of something that has fields below it
    /// (`spec.securityContext`), or begins with `*` for containers of every kind (`*.securityContext.privileged`).
    ///
    /// # Errors
    /// The first path at which there is no field.
    pub fn at<P: Into<String>>(paths: impl IntoIterator<Item = P>) -> Result<Self, UnknownField> {
        let mut ignored = Self::default();
        for path in paths {
            let path = path.into();
            let mut known = false;
            for path in meant(&path) {
                for index in TABLE.at(&path) {
                    ignored.fields.insert(index);
                    known = true;
                }
            }
            // All of them at once is no choice of fields.
            if !known || path == "spec" {
                return Err(UnknownField { path });
            }
            ignored.paths.push(path);
        }
        Ok(ignored)
    }

    /// Every path that there is, to find one that was meant.
    #[must_use]
    pub fn known() -> Vec<String> {
        let mut known: BTreeSet<&str> = BTreeSet::new();
        for field in &TABLE.fields {
            let path = field.path.as_str();
            let ends = path.match_indices('.').map(|(end, _)| end).skip(1).chain([path.len()]);
            for end in ends {
                known.insert(&path[..end]);
                known.insert(path[..end].trim_end_matches("[]"));
            }
        }
        known.into_iter().map(str::to_owned).collect()
    }

    /// As they were given.
    #[must_use]
    pub fn paths(&self) -> &[String] {
        &self.paths
    }

    /// Whether what was found is to be passed over.
    #[must_use]
    pub fn contains(&self, finding: &Finding) -> bool {
        self.fields.contains(&finding.index)
    }
}
