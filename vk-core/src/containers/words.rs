//! Words that a kubelet uses for things in messages.

use std::fmt::Write as _;
use std::time::Duration;

use crate::provider::PodRef;

/// A pod in a message: `name_namespace(uid)` (`format.Pod`).
pub(super) fn whose(pod: &PodRef) -> String {
    format!("{}_{}({})", pod.name, pod.namespace, pod.uid)
}

/// A duration as Go prints it: `1m20s`, `1.5s`, `12ms`.
pub(super) fn duration(length: Duration) -> String {
    let nanos = length.as_nanos();
    if nanos == 0 {
        return "0s".to_owned();
    }
    let scaled = |unit: u128| {
        let (whole, rest) = (nanos / unit, nanos % unit);
        let digits = format!("{:0width$}", rest, width = unit.ilog10() as usize);
        let digits = digits.trim_end_matches('0');
        if rest == 0 { whole.to_string() } else { format!("{whole}.{digits}") }
    };
    if nanos < 1_000 {
        return format!("{nanos}ns");
    }
    if nanos < 1_000_000 {
        return format!("{}µs", scaled(1_000));
    }
    if nanos < 1_000_000_000 {
        return format!("{}ms", scaled(1_000_000));
    }
    let mut text = String::new();
    let (hours, minutes) = (length.as_secs() / 3600, length.as_secs() / 60 % 60);
    if hours > 0 {
        let _ = write!(text, "{hours}h");
    }
    if hours > 0 || minutes > 0 {
        let _ = write!(text, "{minutes}m");
    }
    let rest = Duration::new(length.as_secs() % 60, length.subsec_nanos());
    let fraction = format!("{:09}", rest.subsec_nanos());
    let fraction = fraction.trim_end_matches('0');
    let _ = write!(text, "{}", rest.as_secs());
    if !fraction.is_empty() {
        let _ = write!(text, ".{fraction}");
    }
    text + "s"
}

/// The last `most` bytes of a text, cut at a character's beginning.
pub(super) fn tail(text: &[u8], most: usize) -> String {
    let mut from = text.len().saturating_sub(most);
    // A continuation byte at the cut belongs to a character that is cut off.
    while from > 0 && from < text.len() && text[from] & 0xC0 == 0x80 {
        from += 1;
    }
    String::from_utf8_lossy(&text[from..]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_go_prints_them() {
        let table = [
            (Duration::ZERO, "0s"),
            (Duration::from_nanos(17), "17ns"),
            (Duration::from_micros(1500), "1.5ms"),
            (Duration::from_millis(12), "12ms"),
            (Duration::from_secs(10), "10s"),
            (Duration::from_secs(80), "1m20s"),
            (Duration::from_mins(5), "5m0s"),
            (Duration::from_hours(1), "1h0m0s"),
            (Duration::from_millis(1500), "1.5s"),
        ];
        for (length, text) in table {
            assert_eq!(duration(length), text);
        }
    }

    #[test]
    fn a_tail_never_begins_inside_a_character() {
        assert_eq!(tail(b"abcdef", 4), "cdef");
        assert_eq!(tail("aäb".as_bytes(), 2), "b");
        assert_eq!(tail(b"ab", 4), "ab");
    }
}
