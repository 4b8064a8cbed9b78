//! Kubernetes quantities, as far as a status adds them up (`k8s.io/apimachinery/pkg/api/resource`).

use std::fmt;

/// An amount with the notation it was written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Amount {
    /// In billionths, the finest unit there is.
    nanos: i128,
    notation: Notation,
}

/// How an amount is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Notation {
    /// `250m`, `2`, `4G`.
    Decimal,
    /// `64Mi`.
    Binary,
    /// `1e3`.
    Exponent,
}

const NANOS: i128 = 1_000_000_000;
const DECIMAL: [(&str, i32); 10] =
    [("n", -9), ("u", -6), ("m", -3), ("", 0), ("k", 3), ("M", 6), ("G", 9), ("T", 12), ("P", 15), ("E", 18)];
const BINARY: [&str; 6] = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];

impl Amount {
    /// Reads a quantity. `None` if it is none, or too large for 128 bits.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let digits = text.find(|c: char| !matches!(c, '0'..='9' | '.' | '+' | '-')).unwrap_or(text.len());
        let (number, suffix) = text.split_at(digits);
        let (scale, notation) = if let Some(power) = BINARY.iter().position(|s| *s == suffix) {
            (Scale::Times(1_i128 << (10 * (power + 1))), Notation::Binary)
        } else if let Some((_, exponent)) = DECIMAL.iter().find(|(s, _)| *s == suffix) {
            (Scale::Ten(*exponent), Notation::Decimal)
        } else {
            let exponent = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
            (Scale::Ten(exponent), Notation::Exponent)
        };
        Some(Self { nanos: nanos(number, &scale)?, notation })
    }

    /// The sum, in this amount's notation unless it is zero. `None` if it overflows.
    pub(super) fn plus(self, other: Self) -> Option<Self> {
        let notation = if self.nanos == 0 { other.notation } else { self.notation };
        Some(Self { nanos: self.nanos.checked_add(other.nanos)?, notation })
    }

    pub(super) fn is_zero(self) -> bool {
        self.nanos == 0
    }

    /// Whether this is more than the other.
    pub(super) fn exceeds(self, other: Self) -> bool {
        self.nanos > other.nanos
    }

    /// Whether both are the same amount, however written.
    pub(super) fn equals(self, other: Self) -> bool {
        self.nanos == other.nanos
    }
}

enum Scale {
    Times(i128),
    Ten(i32),
}

fn nanos(number: &str, scale: &Scale) -> Option<i128> {
    let (negative, number) = match number.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, number.strip_prefix('+').unwrap_or(number)),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let mut value = 0_i128;
    for digit in whole.chars().chain(fraction.chars()) {
        value = value.checked_mul(10)?.checked_add(i128::from(digit.to_digit(10)?))?;
    }
    let mut exponent = 9_i32.checked_sub(i32::try_from(fraction.len()).ok()?)?;
    match scale {
        Scale::Times(factor) => value = value.checked_mul(*factor)?,
        Scale::Ten(power) => exponent = exponent.checked_add(*power)?,
    }
    let power = 10_i128.checked_pow(exponent.unsigned_abs())?;
    // What is finer than a billionth counts as one: amounts are never rounded down.
    let value = if exponent < 0 { (value + power - 1) / power } else { value.checked_mul(power)? };
    Some(if negative { -value } else { value })
}

impl fmt::Display for Amount {
    /// The canonical form: no fraction, the largest suffix that allows it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos == 0 {
            return f.write_str("0");
        }
        if self.notation == Notation::Binary && self.nanos.abs() >= 1024 * NANOS {
            let up = i128::from(self.nanos % NANOS > 0);
            let (mut value, mut power) = (self.nanos / NANOS + up, 0);
            while value % 1024 == 0 && power < BINARY.len() {
                value /= 1024;
                power += 1;
            }
            return match power.checked_sub(1) {
                Some(suffix) => write!(f, "{value}{}", BINARY[suffix]),
                None => write!(f, "{value}"),
            };
        }
        let (mut value, mut step) = (self.nanos, 0);
        while value % 1000 == 0 && step + 1 < DECIMAL.len() {
            value /= 1000;
            step += 1;
        }
        let (suffix, exponent) = DECIMAL[step];
        if self.notation == Notation::Exponent && exponent != 0 {
            write!(f, "{value}e{exponent}")
        } else {
            write!(f, "{value}{suffix}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canonical(text: &str) -> Option<String> {
        Amount::parse(text).map(|a| a.to_string())
    }

    #[test]
    fn amounts_are_written_as_the_api_server_writes_them() {
        for (given, written) in [
            ("0", "0"),
            ("0Mi", "0"),
            ("1", "1"),
            ("100m", "100m"),
            ("1000m", "1"),
            ("1.5", "1500m"),
            ("0.1", "100m"),
            ("1500", "1500"),
            ("2000", "2k"),
            ("1Gi", "1Gi"),
            ("1024Mi", "1Gi"),
            ("1.5Gi", "1536Mi"),
            ("1000Ki", "1000Ki"),
            ("0.5Ki", "512"),
            ("1e3", "1e3"),
            ("12e6", "12e6"),
            ("5n", "5n"),
            ("0.1n", "1n"),
            ("-2", "-2"),
        ] {
            assert_eq!(canonical(given).as_deref(), Some(written), "{given}");
        }
        for text in
            ["", "Mi", "1Q", "1.2.3", "--1", "1e", "e3", "9999999999999999999999999999999999999999999"]
        {
            assert_eq!(canonical(text), None, "{text}");
        }
    }

    #[test]
    fn a_sum_keeps_the_first_notation_that_says_something() {
        let sum = |a, b| Some(Amount::parse(a)?.plus(Amount::parse(b)?)?.to_string());
        assert_eq!(sum("100m", "900m").as_deref(), Some("1"));
        assert_eq!(sum("33Mi", "33Mi").as_deref(), Some("66Mi"));
        assert_eq!(sum("0", "33Mi").as_deref(), Some("33Mi"));
        assert_eq!(sum("1Gi", "1M").as_deref(), Some("1074741824"));
        assert_eq!(sum("1M", "1Mi").as_deref(), Some("2048576"));
    }
}
