//! The Prometheus text format, version 0.0.4, with explicit timestamps.

use std::fmt::{self, Write as _};

use jiff::Timestamp;

/// A document being written: a family, its samples, the next family.
#[derive(Debug, Default)]
pub(in crate::api) struct Text {
    text: String,
    family: &'static str,
}

impl Text {
    /// Begins a family. Every family is begun once.
    pub(in crate::api) fn family(&mut self, name: &'static str, kind: &str, help: &str) {
        self.family = name;
        // Writing to a string cannot fail, here and below.
        let _ = writeln!(self.text, "# HELP {name} {}\n# TYPE {name} {kind}", Escaped(help, false));
    }

    /// A sample of the family begun last.
    pub(in crate::api) fn sample(
        &mut self,
        labels: &[(&str, &str)],
        value: impl fmt::Display,
        time: Option<Timestamp>,
    ) {
        self.text.push_str(self.family);
        self.rest(labels, value, time);
    }

    fn rest(&mut self, labels: &[(&str, &str)], value: impl fmt::Display, time: Option<Timestamp>) {
        for (index, (name, value)) in labels.iter().enumerate() {
            let open = if index == 0 { '{' } else { ',' };
            let _ = write!(self.text, "{open}{name}=\"{}\"", Escaped(value, true));
        }
        let close = if labels.is_empty() { "" } else { "}" };
        let _ = write!(self.text, "{close} {value}");
        if let Some(time) = time {
            let _ = write!(self.text, " {}", time.as_millisecond());
        }
        self.text.push('\n');
    }

    /// A sample of a part of a histogram, the family begun last.
    pub(in crate::api) fn part(&mut self, part: &str, labels: &[(&str, &str)], value: impl fmt::Display) {
        let _ = write!(self.text, "{}{part}", self.family);
        self.rest(labels, value, None);
    }

    pub(in crate::api) fn finish(self) -> String {
        self.text
    }
}

/// A help text, or a label's value (where quotes are escaped too).
struct Escaped<'a>(&'a str, bool);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                '\\' => f.write_str("\\\\")?,
                '\n' => f.write_str("\\n")?,
                '"' if self.1 => f.write_str("\\\"")?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

/// Nanoseconds, written as seconds without loss.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seconds(pub(super) u64);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, nanos) = (self.0 / 1_000_000_000, self.0 % 1_000_000_000);
        if nanos == 0 {
            return write!(f, "{whole}");
        }
        let fraction = format!("{nanos:09}");
        write!(f, "{whole}.{}", fraction.trim_end_matches('0'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_lose_nothing() {
        for (nanos, text) in [
            (0, "0"),
            (1, "0.000000001"),
            (500_000_000, "0.5"),
            (1_000_000_000, "1"),
            (12_340_000_000, "12.34"),
            (u64::MAX, "18446744073.709551615"),
        ] {
            assert_eq!(Seconds(nanos).to_string(), text);
        }
    }

    #[test]
    fn values_of_labels_are_escaped_and_help_keeps_its_quotes() {
        let mut text = Text::default();
        text.family("f", "gauge", "a \"b\"\\\nc");
        text.sample(&[("x", "a\"b\\c\nd"), ("y", "ü")], 1, Some(Timestamp::from_millisecond(1_234).unwrap()));
        text.sample(&[], 2, None);
        let expected =
            "# HELP f a \"b\"\\\\\\nc\n# TYPE f gauge\nf{x=\"a\\\"b\\\\c\\nd\",y=\"ü\"} 1 1234\nf 2\n";
        assert_eq!(text.finish(), expected);
    }
}
