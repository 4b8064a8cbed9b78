//! The report in JUnit's XML, as the common CI systems read it.

use std::fmt::Write as _;

use super::{Report, Verdict};

pub(super) fn write(report: &Report) -> String {
    let mut text = String::new();
    // Writing into a text cannot fail.
    let _ = elements(report, &mut text);
    text
}

fn elements(report: &Report, out: &mut String) -> std::fmt::Result {
    let counts = report.counts();
    let numbers = format!(
        r#"tests="{}" failures="{}" errors="0" skipped="{}" time="{:.3}""#,
        report.outcomes.len(),
        counts.failed,
        counts.not_applicable,
        report.seconds
    );
    let name = escape(&format!("{} conformance of {}", report.suite, report.subject));
    writeln!(out, r#"<?xml version="1.0" encoding="UTF-8"?>"#)?;
    writeln!(out, r#"<testsuites name="{name}" {numbers}>"#)?;
    writeln!(out, r#"  <testsuite name="{name}" {numbers} timestamp="{}">"#, report.started)?;
    if !report.facts.is_empty() {
        writeln!(out, "    <properties>")?;
        for (name, value) in &report.facts {
            writeln!(out, r#"      <property name="{}" value="{}"/>"#, escape(name), escape(value))?;
        }
        writeln!(out, "    </properties>")?;
    }
    for outcome in &report.outcomes {
        write!(
            out,
            r#"    <testcase classname="{}.{}" name="{}" time="{:.3}""#,
            escape(&report.suite),
            escape(&outcome.group),
            escape(&outcome.clause),
            outcome.seconds
        )?;
        match &outcome.verdict {
            Verdict::Passed => writeln!(out, "/>")?,
            Verdict::Failed { reason } => {
                let demand = escape(&outcome.demand);
                writeln!(out, ">\n      <failure message=\"{demand}\">{}</failure>", escape(reason))?;
                writeln!(out, "    </testcase>")?;
            }
            Verdict::NotApplicable { reason } => {
                writeln!(out, ">\n      <skipped message=\"{}\"/>", escape(reason))?;
                writeln!(out, "    </testcase>")?;
            }
        }
    }
    writeln!(out, "  </testsuite>\n</testsuites>")
}

/// Text for an attribute or an element. What XML 1.0 cannot hold, such as an escape of a terminal, becomes the
/// replacement character.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\n' => escaped.push_str("&#10;"),
            '\t' => escaped.push_str("&#9;"),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::super::tests::example;

    #[test]
    fn each_clause_is_a_case_and_nothing_breaks_the_markup() {
        let xml = example().to_junit();
        let expected = r#"<?xml version="1.0" encoding="UTF-8"?>
<testsuites name="provider conformance of a &quot;cloud&quot;" tests="3" failures="1" errors="0" skipped="1" time="3.000">
  <testsuite name="provider conformance of a &quot;cloud&quot;" tests="3" failures="1" errors="0" skipped="1" time="3.000" timestamp="1970-01-01T00:00:00Z">
    <properties>
      <property name="pods" value="at most 3"/>
    </properties>
    <testcase classname="provider.Idempotence" name="first" time="1.000"/>
    <testcase classname="provider.Idempotence" name="second" time="1.000">
      <failure message="second is kept">saw &lt;2&gt; &amp; not 1&#10;then �nothing</failure>
    </testcase>
    <testcase classname="provider.Idempotence" name="third" time="1.000">
      <skipped message="the provider has no exec"/>
    </testcase>
  </testsuite>
</testsuites>
"#;
        assert_eq!(xml, expected);
    }
}
