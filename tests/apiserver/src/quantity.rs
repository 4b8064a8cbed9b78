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
