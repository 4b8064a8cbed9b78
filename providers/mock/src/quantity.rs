//! Kubernetes quantities: `500m`, `1.5Gi`, `2e3`.

/// Reads a quantity as a number of its unit. `None` unless it is well formed and not negative.
///
/// The grammar is that of `k8s.io/apimachinery/pkg/api/resource.Quantity`.
pub(crate) fn parse(text: &str) -> Option<f64> {
    let unsigned = text.strip_prefix('+').unwrap_or(text);
    let digits_end = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
    let (number, suffix) = unsigned.split_at(digits_end);
    if !number.bytes().any(|b| b.is_ascii_digit()) || number.matches('.').count() > 1 {
        return None;
    }
    let value = number.parse::<f64>().ok()? * scale(suffix)?;
    (value < 9.3e18).then_some(value)
}

fn scale(suffix: &str) -> Option<f64> {
    let binary = |power: i32| Some(1024_f64.powi(power));
    let decimal = |power: i32| Some(10_f64.powi(power));
    match suffix {
        "" => Some(1.0),
        "n" => decimal(-9),
        "u" => decimal(-6),
        "m" => decimal(-3),
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
        _ => {
            let exponent = suffix.strip_prefix(['e', 'E'])?;
            let digits = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
            if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
                return None;
            }
            decimal(exponent.parse().ok()?)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn well_formed_quantities_have_their_value() {
        let table = [
            ("0", 0.0),
            ("20", 20.0),
            ("500m", 0.5),
            ("100Gi", 107_374_182_400.0),
            ("1.5Ki", 1536.0),
            (".5", 0.5),
            ("5.", 5.0),
            ("+2k", 2000.0),
            ("2e3", 2000.0),
            ("2E-1", 0.2),
            ("1E", 1e18),
        ];
        for (text, value) in table {
            let parsed = parse(text).unwrap_or_else(|| panic!("{text} is a quantity"));
            assert!((parsed - value).abs() <= value * 1e-12, "{text}: {parsed}");
        }
    }

    #[test]
    fn malformed_and_negative_quantities_are_refused() {
        for text in ["", "x", "1.2.3", "-1", "1 Gi", "1gi", "1Kib", "e3", "1e", "1e+", "nan", "inf", "9e99"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
