//! What stops the daemon before it has begun, as one line for the person who started it.

use std::fmt;

/// A fault in what the daemon was given: its flags, its files, its cluster, its rights.
///
/// It reads `<what> <where>: <remedy>` on one line, and the process ends with [`EXIT_CODE`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    what: String,
    place: String,
    remedy: String,
}

/// The exit code of a process that was given something it cannot work with.
pub(crate) const EXIT_CODE: u8 = 2;

impl Fault {
    /// `what` is wrong; `place` begins with its preposition (`in FILE:3`, `at https://…`); `remedy` says what
    /// to do about it.
    pub(crate) fn new(what: impl Into<String>, place: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { what: what.into(), place: place.into(), remedy: remedy.into() }
    }
}

impl Fault {
    /// From the message of one of the [scalars](crate::config::scalar), `what "text": remedy`.
    pub(crate) fn of_scalar(message: &str, place: impl Into<String>) -> Self {
        match message.split_once("\": ") {
            Some((what, remedy)) => Self::new(format!("{what}\""), place, remedy),
            None => Self::new(message, place, "correct it"),
        }
    }
}

impl std::error::Error for Fault {}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = self.what.clone();
        if !self.place.is_empty() {
            line.push(' ');
            line.push_str(&self.place);
        }
        if !self.remedy.is_empty() {
            line.push_str(": ");
            line.push_str(&self.remedy);
        }
        f.write_str(&one_line(&line))
    }
}

/// Everything that was found wrong, in the order in which it was found; one line each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Faults(Vec<Fault>);

impl Faults {
    /// One more; what is known already is not said twice.
    pub(crate) fn push(&mut self, fault: Fault) {
        if !self.0.contains(&fault) {
            self.0.push(fault);
        }
    }

    /// All of another's.
    pub(crate) fn extend(&mut self, others: impl Into<Self>) {
        for fault in others.into().0 {
            self.push(fault);
        }
    }

    /// Takes the value of a step that went well, and keeps the faults of one that did not.
    pub(crate) fn keep<T>(&mut self, step: Result<T, impl Into<Self>>) -> Option<T> {
        step.map_err(|faults| self.extend(faults)).ok()
    }

    /// The value, unless there are faults.
    pub(crate) fn or<T>(self, value: T) -> Result<T, Self> {
        if self.0.is_empty() { Ok(value) } else { Err(self) }
    }

    pub(crate) fn iter(&self) -> std::slice::Iter<'_, Fault> {
        self.0.iter()
    }
}

impl From<Fault> for Faults {
    fn from(fault: Fault) -> Self {
        Self(vec![fault])
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<_> = self.0.iter().map(Fault::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}

/// The text with every run of white space and control characters as one space: what comes from files and
/// servers must not draw on a terminal or forge a second line.
pub(crate) fn one_line(text: &str) -> String {
    text.split(|c: char| c.is_whitespace() || c.is_control())
        .filter(|word| !word.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
}

/// An error with its causes, outermost first, on one line; a cause whose text its parent repeats is left
/// out.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let text = cause.to_string();
        if !line.contains(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
        next = cause.source();
    }
    one_line(&line)
}

/// The candidate a typing error is most likely to have meant, if any is near enough.
pub(crate) fn nearest<'a>(typed: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |text: &str| text.to_lowercase().replace(['-', '_'], "");
    let wanted = plain(typed);
    candidates
        .into_iter()
        .map(|candidate| {
            let have = plain(candidate);
            let within = !wanted.is_empty() && (have.ends_with(&wanted) || wanted.ends_with(&have));
            (if within { distance(&wanted, &have).min(2) } else { distance(&wanted, &have) }, candidate)
        })
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, candidate)| *distance <= (candidate.len() / 3).max(2))
        .map(|(_, candidate)| candidate)
}

/// Levenshtein's distance: how many characters to put in, take out or change.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let change = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_one_line_whatever_it_quotes() {
        let fault = Fault::new("bad\nthing", "in a.yaml:1", "do\tthis\u{1b}[31m");
        assert_eq!(fault.to_string(), "bad thing in a.yaml:1: do this [31m");
        assert_eq!(Fault::new("what", "", "").to_string(), "what");
    }

    #[test]
    fn the_nearest_key_is_the_one_a_reader_would_pick() {
        let keys = ["name", "port", "labels", "kubeconfig", "startupTimeout", "certFile"];
        let cases = [
            ("nmae", Some("name")),
            ("nodename", Some("name")),
            ("Port", Some("port")),
            ("kube-config", Some("kubeconfig")),
            ("startup_timeout", Some("startupTimeout")),
            ("tlsCertFile", Some("certFile")),
            ("zebra", None),
        ];
        for (typed, meant) in cases {
            assert_eq!(nearest(typed, keys), meant, "{typed}");
        }
    }
}
