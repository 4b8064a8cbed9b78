//! Resource quantities as exact numbers, for `resourceFieldRef`.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

const NANO: i128 = 1_000_000_000;

/// A quantity in billionths, the finest a [`Quantity`] can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Amount(i128);

impl Amount {
    /// Nothing.
    pub(super) const ZERO: Self = Self(0);
    /// One.
    pub(super) const ONE: Self = Self(NANO);

    /// Reads `<number><suffix>`: a decimal number with a decimal (`m`, `k`, `M`), binary (`Ki`, `Mi`) or
    /// exponent (`e3`) suffix. Finer than a billionth is rounded up, as the API does.
    pub(super) fn parse(quantity: &Quantity) -> Option<Self> {
        let text = quantity.0.as_str();
        let (negative, unsigned) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        let end = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
        let (number, suffix) = unsigned.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        let digits = [whole, fraction].concat();
        let mantissa: i128 = digits.parse().ok()?;
        let (multiplier, tens) = scale(suffix)?;
        // mantissa * multiplier * 10^power, in billionths
        let power = tens.checked_add(9)?.checked_sub(i32::try_from(fraction.len()).ok()?)?;
        let scaled = mantissa.checked_mul(multiplier)?;
        let factor = 10_i128.checked_pow(power.unsigned_abs());
        let nanos = match factor {
            _ if scaled == 0 => 0,
            Some(factor) if power >= 0 => scaled.checked_mul(factor)?,
            Some(factor) => scaled.div_ceil_positive(factor),
            // Smaller than anything that can be written otherwise.
            None if power < 0 => 1,
            None => return None,
        };
        Some(Self(if negative { -nanos } else { nanos }))
    }

    /// In thousandths, rounded up.
    fn milli(self) -> i128 {
        self.0.div_ceil_positive(NANO / 1000)
    }

    /// In ones, rounded up.
    fn ones(self) -> i128 {
        self.0.div_ceil_positive(NANO)
    }

    /// How many `divisor`s this is, rounded up. A kubelet compares processors in thousandths and everything
    /// else in ones; a divisor of nothing is one.
    pub(super) fn in_units_of(self, divisor: Self, processors: bool) -> i128 {
        let divisor = if divisor == Self::ZERO { Self::ONE } else { divisor };
        let (amount, unit) =
            if processors { (self.milli(), divisor.milli()) } else { (self.ones(), divisor.ones()) };
        amount.div_ceil_positive(unit.max(1))
    }
}

/// A suffix as a factor and a power of ten.
fn scale(suffix: &str) -> Option<(i128, i32)> {
    let decimal = |power| Some((1, power));
    let binary = |power: u32| Some((1_i128 << (10 * power), 0));
    match suffix {
        "n" => decimal(-9),
        "u" => decimal(-6),
        "m" => decimal(-3),
        "" => decimal(0),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(1),
        "Mi" => binary(2),
        "Gi" => binary(3),
        "Ti" => binary(4),
        "Pi" => binary(5),
        "Ei" => binary(6),
        _ => decimal(suffix.strip_prefix(['e', 'E'])?.parse().ok()?),
    }
}

/// Division that rounds up.
trait DivCeil {
    /// By a divisor above zero.
    fn div_ceil_positive(self, divisor: i128) -> i128;
}

impl DivCeil for i128 {
    fn div_ceil_positive(self, divisor: i128) -> i128 {
        self.div_euclid(divisor) + Self::from(self.rem_euclid(divisor) > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn amount(text: &str) -> Option<Amount> {
        Amount::parse(&Quantity(text.into()))
    }

    #[test]
    fn quantities_are_read_exactly() {
        for (text, nanos) in [
            ("0", 0),
            ("1", NANO),
            ("1500m", 1_500_000_000),
            ("1.5", 1_500_000_000),
            (".5", 500_000_000),
            ("1n", 1),
            ("0.1n", 1),
            ("1e3", 1000 * NANO),
            ("1E3", 1000 * NANO),
            ("1E", 1_000_000_000_000_000_000 * NANO),
            ("2e-3", 2_000_000),
            ("64Mi", 67_108_864 * NANO),
            ("1.5Ki", 1536 * NANO),
            ("-1k", -1000 * NANO),
            ("+1k", 1000 * NANO),
            ("0e999", 0),
        ] {
            assert_eq!(amount(text), Some(Amount(nanos)), "{text}");
        }
    }

    #[test]
    fn what_is_no_quantity_is_refused() {
        for text in ["", "m", "1.2.3", "1mm", "1 Gi", "1e", "1e99999999999", "1e60", "Ki", "-", "é1", "."] {
            assert_eq!(amount(text), None, "{text}");
        }
    }

    #[test]
    fn divisors_round_up_as_a_kubelet_does() {
        // Oracle case env-resource-field-refs.
        for (value, divisor, processors, expected) in [
            ("1500m", "0", true, 2),
            ("1500m", "1m", true, 1500),
            ("125m", "1", true, 1),
            ("64Mi", "1", false, 67_108_864),
            ("64Mi", "1Mi", false, 64),
            ("64Mi", "1M", false, 68),
            ("64Mi", "1Gi", false, 1),
            ("33Mi", "1Ki", false, 33792),
            ("1Gi", "0", false, 1_073_741_824),
            ("0", "1m", true, 0),
        ] {
            let (value, divisor) = (amount(value).unwrap(), amount(divisor).unwrap());
            assert_eq!(value.in_units_of(divisor, processors), expected, "{value:?} / {divisor:?}");
        }
    }
}
