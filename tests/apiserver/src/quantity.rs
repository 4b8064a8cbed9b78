//! Resource quantities, such as `500m` or `1Gi`.
//!
//! Source: apimachinery `pkg/api/resource/quantity.go`.

use serde_json::Value;

/// A quantity in thousandths; `None` if it can't be read.
#[must_use]
pub(crate) fn milli(text: &str) -> Option<i128> {
    let split = text.find(|c: char| !matches!(c, '0'..='9' | '.' | '-' | '+')).unwrap_or(text.len());
    let (number, suffix) = text.split_at(split);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let fraction = fraction.get(..fraction.len().min(9))?;
    let negative = whole.starts_with('-');
    let digits = format!("{}{fraction}", whole.trim_start_matches(['-', '+']));
    let mut value: i128 = digits.parse().ok()?;
    if negative {
        value = -value;
    }
    // `value` counts units of 10^-fraction.
    let scale = 10_i128.pow(fraction.len() as u32);
    let (times, over): (i128, i128) = match suffix {
        "n" => (1, 1_000_000),
        "u" => (1, 1000),
        "m" => (1, 1),
        "" => (1000, 1),
        "k" => (1_000_000, 1),
        "M" => (1_000_000_000, 1),
        "G" => (1_000_000_000_000, 1),
        "T" => (1_000_000_000_000_000, 1),
        "P" => (1_000_000_000_000_000_000, 1),
        "E" => (1_000_000_000_000_000_000_000, 1),
        "Ki" => (1000 << 10, 1),
        "Mi" => (1000 << 20, 1),
        "Gi" => (1000 << 30, 1),
        "Ti" => (1000 << 40, 1),
        "Pi" => (1000 << 50, 1),
        "Ei" => (1000 << 60, 1),
        exponent => {
            let power: u32 = exponent.strip_prefix(['e', 'E'])?.trim_start_matches('+').parse().ok()?;
            (10_i128.checked_pow(power)?.checked_mul(1000)?, 1)
        }
    };
    value.checked_mul(times)?.checked_div(over * scale)
}

/// The quantity as the real server writes it back: without a fraction, with the largest suffix of its kind that
/// leaves none; `None` if it can't be read.
#[must_use]
pub(crate) fn canonical(text: &str) -> Option<String> {
    let value = milli(text)?;
    if ["n", "u"].iter().any(|suffix| text.ends_with(suffix)) {
        return Some(text.to_owned());
    }
    if let Some(binary) = text.strip_suffix('i') {
        let known = binary.ends_with(['K', 'M', 'G', 'T', 'P', 'E']);
        if known && value % 1000 == 0 {
            let (mut number, mut suffixes) = (value / 1000, ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"].iter());
            let mut suffix = suffixes.next()?;
            while number != 0 && number % 1024 == 0 {
                let Some(larger) = suffixes.next() else { break };
                (number, suffix) = (number / 1024, larger);
            }
            return Some(format!("{number}{suffix}"));
        }
        return Some(text.to_owned());
    }
    if text.contains(['e', 'E']) && !text.ends_with('E') {
        return Some(text.to_owned());
    }
    let (mut number, mut suffixes) = (value, ["m", "", "k", "M", "G", "T", "P", "E"].iter());
    let mut suffix = suffixes.next()?;
    while number % 1000 == 0 {
        if number == 0 {
            return Some("0".to_owned());
        }
        let Some(larger) = suffixes.next() else { break };
        (number, suffix) = (number / 1000, larger);
    }
    Some(format!("{number}{suffix}"))
}

/// The quantity in a JSON value, string or number.
#[must_use]
pub(crate) fn milli_of(value: &Value) -> Option<i128> {
    match value {
        Value::String(text) => milli(text),
        Value::Number(number) => milli(&number.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_written_without_a_fraction() {
        for (text, expected) in [
            ("1.5", "1500m"),
            ("4000m", "4"),
            ("1000", "1k"),
            ("1000000Ki", "1000000Ki"),
            ("1024Ki", "1Mi"),
            ("0", "0"),
            ("110", "110"),
            ("1e3", "1e3"),
            ("-2", "-2"),
        ] {
            assert_eq!(canonical(text).as_deref(), Some(expected), "{text}");
        }
        assert_eq!(canonical("lots"), None);
    }

    #[test]
    fn quantities_are_read_with_every_suffix() {
        for (text, expected) in [
            ("1", 1000),
            ("500m", 500),
            ("0.5", 500),
            ("1.5Gi", 1_610_612_736_000),
            ("2k", 2_000_000),
            ("1e3", 1_000_000),
            ("100n", 0),
            ("-1", -1000),
        ] {
            assert_eq!(milli(text), Some(expected), "{text}");
        }
        for bad in ["", "x", "1x", "1.2.3", "m"] {
            assert_eq!(milli(bad), None, "{bad}");
        }
    }
}
