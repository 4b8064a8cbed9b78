//! What a run is given.

use std::time::Duration;

/// Settings of a run.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Settings {
    /// The node's name.
    pub node: String,
    /// The image of every container. It has to have busybox' `sh` and applets. Default `busybox:1.37`.
    pub image: String,
    /// How long one change of a pod may take: to start, to end, to go. Default 2 min; a cloud may need more.
    pub patience: Duration,
    /// How long an idle pod is watched for writes that nobody asked for. Default 15 s: longer than a kubelet's sync.
    pub idle: Duration,
    /// Which checks; none is all.
    pub only: Vec<Glob>,
    /// What the namespaces' names begin with. Default `vk-conformance`.
    pub prefix: String,
}

impl Settings {
    /// The defaults, for a node.
    #[must_use]
    pub fn new(node: impl Into<String>) -> Self {
        Self {
            node: node.into(),
            image: "busybox:1.37".to_owned(),
            patience: Duration::from_mins(2),
            idle: Duration::from_secs(15),
            only: Vec::new(),
            prefix: "vk-conformance".to_owned(),
        }
    }

    /// Takes another image.
    #[must_use]
    pub fn with_image(mut self, image: impl Into<String>) -> Self {
        self.image = image.into();
        self
    }

    /// Takes another patience.
    #[must_use]
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Runs what matches one of these alone.
    #[must_use]
    pub fn with_only(mut self, only: impl IntoIterator<Item = Glob>) -> Self {
        self.only = only.into_iter().collect();
        self
    }
}

/// A pattern for names: `*` stands for any text, all else for itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glob(String);

impl Glob {
    /// A pattern.
    #[must_use]
    pub fn new(pattern: impl Into<String>) -> Self {
        Self(pattern.into())
    }

    /// Whether a name fits.
    #[must_use]
    pub fn fits(&self, name: &str) -> bool {
        let mut parts = self.0.split('*');
        // `split` yields at least one part.
        let first = parts.next().unwrap_or_default();
        let Some(mut rest) = name.strip_prefix(first) else { return false };
        let parts: Vec<&str> = parts.collect();
        let Some((last, middle)) = parts.split_last() else { return rest.is_empty() };
        for part in middle {
            let Some(at) = rest.find(part) else { return false };
            rest = &rest[at + part.len()..];
        }
        rest.ends_with(last)
    }
}

impl std::str::FromStr for Glob {
    type Err = std::convert::Infallible;

    fn from_str(pattern: &str) -> Result<Self, Self::Err> {
        Ok(Self::new(pattern))
    }
}

impl std::fmt::Display for Glob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_text() {
        let fits = |pattern: &str, name: &str| Glob::new(pattern).fits(name);
        assert!(fits("logs/*", "logs/the_tail"));
        assert!(fits("*", "anything"));
        assert!(fits("*tail", "logs/the_tail"));
        assert!(fits("l*s/*_tail", "logs/the_tail"));
        assert!(fits("logs/the_tail", "logs/the_tail"));
        assert!(!fits("logs", "logs/the_tail"));
        assert!(!fits("*the", "logs/the_tail"));
        assert!(!fits("a*a", "a"), "the two ends do not overlap");
    }
}
