//! What a run found: one outcome per clause, and the three forms in which it is written.
//!
//! Nothing here knows what was tested: the provider-level suite of this crate fills it, and so may any other
//! suite that judges clause by clause.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

mod junit;
mod text;

/// What a run of a suite found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Report {
    /// Which suite: `provider`, `node`.
    pub suite: String,
    /// What was tested, as its users call it: a backend's name, a node's name.
    pub subject: String,
    /// When the run began.
    pub started: Timestamp,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// What a reader needs to judge the outcomes: versions, declared features, the bounds of the run.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub facts: BTreeMap<String, String>,
    /// One per clause, in the order in which they ran.
    pub outcomes: Vec<Outcome>,
}

/// What came of one clause.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Outcome {
    /// The clause's name, unique in its suite: `create_again_starts_nothing`.
    pub clause: String,
    /// The part of the contract it belongs to: `Idempotence`.
    pub group: String,
    /// What it demands, in one sentence.
    pub demand: String,
    /// The verdict.
    #[serde(flatten)]
    pub verdict: Verdict,
    /// How long it took, in seconds.
    pub seconds: f64,
}

/// Whether a clause is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verdict", rename_all = "camelCase")]
pub enum Verdict {
    /// It is.
    Passed,
    /// It is not.
    Failed {
        /// What was seen, and what should have been.
        reason: String,
    },
    /// It does not concern this subject.
    NotApplicable {
        /// Why: the capability that is not declared, or what the run was not given.
        reason: String,
    },
}

/// How many outcomes there are of each kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Counts {
    /// [`Verdict::Passed`]
    pub passed: usize,
    /// [`Verdict::Failed`]
    pub failed: usize,
    /// [`Verdict::NotApplicable`]
    pub not_applicable: usize,
}

impl Report {
    /// A report without outcomes yet.
    #[must_use]
    pub fn new(suite: impl Into<String>, subject: impl Into<String>, started: Timestamp) -> Self {
        Self {
            suite: suite.into(),
            subject: subject.into(),
            started,
            seconds: 0.0,
            facts: BTreeMap::new(),
            outcomes: Vec::new(),
        }
    }

    /// Adds a fact.
    #[must_use]
    pub fn with_fact(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.facts.insert(name.into(), value.into());
        self
    }

    /// Whether no clause failed. A run in which nothing applied has kept nothing, and has not passed.
    #[must_use]
    pub fn passed(&self) -> bool {
        let counts = self.counts();
        counts.failed == 0 && counts.passed > 0
    }

    /// How many outcomes there are of each kind.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for outcome in &self.outcomes {
            match outcome.verdict {
                Verdict::Passed => counts.passed += 1,
                Verdict::Failed { .. } => counts.failed += 1,
                Verdict::NotApplicable { .. } => counts.not_applicable += 1,
            }
        }
        counts
    }

    /// The names of the clauses that failed, in order.
    #[must_use]
    pub fn failed(&self) -> Vec<&str> {
        let failed = self.outcomes.iter().filter(|outcome| outcome.failure().is_some());
        failed.map(|outcome| outcome.clause.as_str()).collect()
    }

    /// For people: what failed and why, what does not apply and why, and the numbers.
    #[must_use]
    pub fn to_text(&self) -> String {
        text::write(self)
    }

    /// For programs, indented. Reads back as an equal report; the numbers are there besides, as `counts`.
    #[must_use]
    pub fn to_json(&self) -> String {
        #[derive(Serialize)]
        struct WithCounts<'a> {
            #[serde(flatten)]
            report: &'a Report,
            counts: Counts,
        }
        // Texts, numbers and maps with texts as keys: none of them can fail to be written.
        serde_json::to_string_pretty(&WithCounts { report: self, counts: self.counts() }).unwrap_or_default()
    }

    /// For CI systems, in JUnit's XML: a test case per clause, its group as the class; what does not apply is
    /// `skipped`.
    #[must_use]
    pub fn to_junit(&self) -> String {
        junit::write(self)
    }
}

impl Outcome {
    /// An outcome.
    #[must_use]
    pub fn new(
        clause: impl Into<String>,
        group: impl Into<String>,
        demand: impl Into<String>,
        verdict: Verdict,
        took: Duration,
    ) -> Self {
        Self {
            clause: clause.into(),
            group: group.into(),
            demand: demand.into(),
            verdict,
            seconds: took.as_secs_f64(),
        }
    }

    /// Why it failed, if it did.
    #[must_use]
    pub fn failure(&self) -> Option<&str> {
        match &self.verdict {
            Verdict::Failed { reason } => Some(reason),
            Verdict::Passed | Verdict::NotApplicable { .. } => None,
        }
    }
}

impl Verdict {
    /// Not kept, because of this.
    #[must_use]
    pub fn failed(reason: impl Into<String>) -> Self {
        Self::Failed { reason: reason.into() }
    }

    /// Of no concern, because of this.
    #[must_use]
    pub fn not_applicable(reason: impl Into<String>) -> Self {
        Self::NotApplicable { reason: reason.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn example() -> Report {
        let second = Duration::from_secs(1);
        let mut report =
            Report::new("provider", "a \"cloud\"", Timestamp::UNIX_EPOCH).with_fact("pods", "at most 3");
        report.seconds = 3.0;
        let outcome = |clause: &str, verdict| {
            Outcome::new(clause, "Idempotence", format!("{clause} is kept"), verdict, second)
        };
        report.outcomes = vec![
            outcome("first", Verdict::Passed),
            outcome("second", Verdict::failed("saw <2> & not 1\nthen \u{1b}nothing")),
            outcome("third", Verdict::not_applicable("the provider has no exec")),
        ];
        report
    }

    #[test]
    fn json_reads_back_as_an_equal_report_and_has_the_numbers() {
        let report = example();
        let json = report.to_json();
        assert_eq!(serde_json::from_str::<Report>(&json).unwrap(), report);
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(value["counts"], serde_json::json!({"passed": 1, "failed": 1, "notApplicable": 1}));
        assert_eq!(value["outcomes"][1]["verdict"], "failed");
        assert_eq!(value["outcomes"][2]["reason"], "the provider has no exec");
    }

    #[test]
    fn a_run_passes_when_something_was_kept_and_nothing_failed() {
        let mut report = example();
        assert_eq!((report.passed(), report.failed()), (false, vec!["second"]));
        report.outcomes.remove(1);
        assert!(report.passed());
        report.outcomes.remove(0);
        assert!(!report.passed(), "nothing but what does not apply");
    }
}
