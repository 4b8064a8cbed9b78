//! Comparing quantities by value: the API server answers `1000m` with `1`.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// The quantity in billionths of its unit; `None` if it is not one, or is too large to matter.
pub(crate) fn nano(quantity: &Quantity) -> Option<i128> {
    let text = quantity.0.as_str();
    let end = text.find(|c: char| !matches!(c, '0'..='9' | '.' | '+' | '-')).unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (multiplier, shift) = scale(suffix)?;
    let (sign, digits) = match number.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, number.strip_prefix('+').unwrap_or(number)),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let mut value: i128 = 0;
    for digit in whole.chars().chain(fraction.chars()) {
        value = value.checked_mul(10)?.checked_add(i128::from(digit.to_digit(10)?))?;
    }
    value = value.checked_mul(multiplier)?;
    let shift = shift.checked_add(9)?.checked_sub(i32::try_from(fraction.len()).ok()?)?;
    let power = 10_i128.checked_pow(shift.unsigned_abs())?;
    let value = if shift >= 0 { value.checked_mul(power)? } else { value / power };
    Some(sign * value)
}

/// Whether both say the same amount.
pub(crate) fn equal(a: &Quantity, b: &Quantity) -> bool {
    a == b || nano(a).is_some_and(|a| Some(a) == nano(b))
}

/// A suffix as a factor and a power of ten.
fn scale(suffix: &str) -> Option<(i128, i32)> {
    const DECIMAL: [(&str, i32); 10] = [
        ("n", -9),
        ("u", -6),
        ("m", -3),
        ("", 0),
        ("k", 3),
        ("M", 6),
        ("G", 9),
        ("T", 12),
        ("P", 15),
        ("E", 18),
    ];
    const BINARY: [&str; 6] = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    if let Some((_, power)) = DECIMAL.iter().find(|(name, _)| *name == suffix) {
        return Some((1, *power));
    }
    if let Some((_, power)) = BINARY.iter().zip(1_u32..).find(|(name, _)| **name == suffix) {
        return Some((1024_i128.pow(power), 0));
    }
    let exponent = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
    Some((1, exponent))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nano_of(text: &str) -> Option<i128> {
        nano(&Quantity(text.to_owned()))
    }

    #[test]
    fn one_amount_is_written_in_many_ways() {
        for (a, b) in [
            ("1000m", "1"),
            ("1.5Gi", "1536Mi"),
            ("1e3", "1k"),
            ("2E", "2000P"),
            ("2E3", "2k"),
            ("0.1", "100m"),
            (".5", "500m"),
            ("+1", "1"),
            ("-1", "-1000m"),
            ("1000n", "1u"),
        ] {
            assert!(nano_of(a).is_some(), "{a}");
            assert_eq!(nano_of(a), nano_of(b), "{a} and {b}");
        }
        assert_ne!(nano_of("1G"), nano_of("1Gi"));
    }

    #[test]
    fn what_is_no_quantity_has_no_value() {
        for text in ["", "Gi", "1 Gi", "1gi", "one", "1e", "1.2.3", "--1", "1-2"] {
            assert_eq!(nano_of(text), None, "{text:?}");
        }
    }
}
