//! The report for people.

use std::fmt::Write as _;

use super::{Report, Verdict};

/// Every clause under its group, with the reason where there is one; the numbers last.
pub(super) fn write(report: &Report) -> String {
    let mut text = String::new();
    // Writing into a text cannot fail.
    let _ = lines(report, &mut text);
    text
}

fn lines(report: &Report, out: &mut String) -> std::fmt::Result {
    let counts = report.counts();
    writeln!(out, "{} conformance of {}", report.suite, report.subject)?;
    writeln!(out, "began {}, took {:.1} s", report.started, report.seconds)?;
    for (name, value) in &report.facts {
        writeln!(out, "{name}: {value}")?;
    }
    let mut group = None;
    for outcome in &report.outcomes {
        if group != Some(&outcome.group) {
            writeln!(out, "\n{}", outcome.group)?;
            group = Some(&outcome.group);
        }
        let (sign, reason) = match &outcome.verdict {
            Verdict::Passed => ("passed", None),
            Verdict::Failed { reason } => ("FAILED", Some(reason)),
            Verdict::NotApplicable { reason } => ("n/a   ", Some(reason)),
        };
        writeln!(out, "  {sign}  {}  ({:.1} s)", outcome.clause, outcome.seconds)?;
        if outcome.failure().is_some() {
            writeln!(out, "          demanded: {}", outcome.demand)?;
        }
        for line in reason.into_iter().flat_map(|reason| reason.lines()) {
            writeln!(out, "          {line}")?;
        }
    }
    writeln!(
        out,
        "\n{}: {} passed, {} failed, {} not applicable",
        if report.passed() { "PASSED" } else { "FAILED" },
        counts.passed,
        counts.failed,
        counts.not_applicable
    )
}

#[cfg(test)]
mod tests {
    use super::super::tests::example;

    #[test]
    fn a_failure_has_its_demand_and_its_reason_and_the_last_line_has_the_numbers() {
        let text = example().to_text();
        for line in [
            "provider conformance of a \"cloud\"",
            "pods: at most 3",
            "Idempotence",
            "  passed  first  (1.0 s)",
            "  FAILED  second  (1.0 s)",
            "          demanded: second is kept",
            "          saw <2> & not 1",
            "  n/a     third  (1.0 s)",
            "          the provider has no exec",
        ] {
            assert!(text.lines().any(|l| l == line), "{line:?} in\n{text}");
        }
        assert_eq!(text.lines().last(), Some("FAILED: 1 passed, 1 failed, 1 not applicable"));
    }
}
