//! Counting what passed, and the table that tells it.

use std::fmt::Write as _;
use std::time::Duration;

/// What came of a tier, or of a part of one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub passed: u64,
    pub failed: u64,
    pub skipped: u64,
    /// Said below the table: each failed or skipped item that has no output of its own.
    pub notes: Vec<String>,
}

impl Tally {
    /// One item that passed.
    pub(crate) fn pass() -> Self {
        Self { passed: 1, ..Self::default() }
    }

    /// One item that failed, and why.
    pub(crate) fn fail(why: impl Into<String>) -> Self {
        Self { failed: 1, notes: vec![format!("failed: {}", why.into())], ..Self::default() }
    }

    /// One item that can't run on this machine, and why: a failure in CI, skipped elsewhere.
    pub(crate) fn cannot(in_ci: bool, what: &str, why: &str) -> Self {
        if in_ci {
            return Self::fail(format!("{what} can't run on this machine, which CI must: {why}"));
        }
        Self { skipped: 1, notes: vec![format!("SKIPPED: {what}: {why}")], ..Self::default() }
    }

    /// Takes another's counts and notes in.
    pub(crate) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
        self.notes.extend(other.notes);
    }

    /// Takes in a test runner's summary line, if it is one: `test result: ok. 3 passed; 0 failed; 1 ignored; …`.
    pub(crate) fn add_summary(&mut self, line: &str) {
        let Some((_, counts)) = line.split_once("test result: ") else { return };
        let words: Vec<&str> = counts.split_ascii_whitespace().collect();
        for pair in words.windows(2) {
            let [count, noun] = pair else { continue };
            let Ok(count) = count.parse::<u64>() else { continue };
            match *noun {
                "passed;" => self.passed += count,
                "failed;" => self.failed += count,
                "ignored;" => self.skipped += count,
                _ => {}
            }
        }
    }

    /// The closing line.
    pub(crate) fn line(&self) -> String {
        format!("{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

/// The table of tiers and the closing line, alone on the last one.
pub(crate) fn report(tiers: &[(&str, Tally, Duration)]) -> String {
    let mut text =
        format!("\n{:<12}{:>8}{:>8}{:>9}{:>9}\n", "tier", "passed", "failed", "skipped", "seconds");
    let mut sum = Tally::default();
    let mut notes = String::new();
    for (name, tally, spent) in tiers {
        // Writing to a String can't fail.
        let _ = writeln!(
            text,
            "{name:<12}{:>8}{:>8}{:>9}{:>9}",
            tally.passed,
            tally.failed,
            tally.skipped,
            spent.as_secs()
        );
        for note in &tally.notes {
            let _ = writeln!(notes, "{name}: {note}");
        }
        sum.add(tally.clone());
    }
    if !notes.is_empty() {
        text.push('\n');
        text.push_str(&notes);
    }
    text.push('\n');
    text.push_str(&sum.line());
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_line_is_counted_with_and_without_colour() {
        let mut tally = Tally::default();
        tally.add_summary(
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 9 filtered out; finished in 0.0s",
        );
        tally.add_summary(
            "test result: \u{1b}[31mFAILED\u{1b}(B\u{1b}[m. 2 passed; 4 failed; 0 ignored; 0 measured",
        );
        tally.add_summary("test a::passed; ... ok");
        tally.add_summary("3 passed; 2 failed;");
        assert_eq!(tally, Tally { passed: 5, failed: 4, skipped: 1, notes: Vec::new() });
    }

    #[test]
    fn the_last_line_of_the_report_is_the_sum_alone() {
        let skipped = Tally::cannot(false, "real", "no root");
        let tiers = [
            ("unit", Tally { passed: 12, ..Tally::default() }, Duration::from_secs(3)),
            ("real", skipped, Duration::ZERO),
            ("lint", Tally::fail("clippy"), Duration::from_secs(61)),
        ];
        let text = report(&tiers);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.last(), Some(&"12 passed, 1 failed, 1 skipped"));
        assert!(lines.contains(&"unit              12       0        0        3"), "{text}");
        assert!(lines.contains(&"real: SKIPPED: real: no root"), "{text}");
        assert!(lines.contains(&"lint: failed: clippy"), "{text}");
    }

    #[test]
    fn what_can_not_run_fails_in_ci_and_is_skipped_elsewhere() {
        assert_eq!(Tally::cannot(true, "real", "no root").failed, 1);
        assert_eq!(Tally::cannot(true, "real", "no root").skipped, 0);
        assert_eq!(Tally::cannot(false, "real", "no root").failed, 0);
        assert_eq!(Tally::cannot(false, "real", "no root").skipped, 1);
    }
}
