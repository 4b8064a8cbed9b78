//! The single values of a configuration: each reads the same from a file, a flag and a variable, and is
//! legal once it exists.

use std::fmt;
use std::marker::PhantomData;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use k8s_openapi::api::core::v1::Taint;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde::de::{Deserialize, Deserializer, Error as _, Visitor};
use vk_core::config::IgnoredFields;

use crate::fault::nearest;

/// Reads any YAML scalar as text and hands it to `FromStr`, so that `cpu: 4` and `cpu: "4"` are one.
struct Scalar<T>(PhantomData<T>);

impl<T: FromStr<Err = String>> Visitor<'_> for Scalar<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a single value")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<T, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<T, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<T, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_bool<E: serde::de::Error>(self, flag: bool) -> Result<T, E> {
        self.visit_str(if flag { "true" } else { "false" })
    }
}

macro_rules! scalar {
    ($($name:ident),*) => {$(
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_any(Scalar::<Self>(PhantomData))
            }
        }
    )*};
}

scalar!(
    FieldPath,
    Period,
    Amount,
    NodeName,
    LabelKey,
    LabelValue,
    Text,
    Address,
    Socket,
    Url,
    Ratio,
    OperatingSystem
);

/// A length of time: `300ms`, `30s`, `1m30s`, `1h`, or `0`. A bare number has no unit and is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Period(pub(crate) Duration);

/// Beyond it clocks run out of numbers, and patience is somebody's typing error.
const LONGEST: Duration = Duration::from_hours(366 * 24);

impl FromStr for Period {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text != "0" && !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
            return Err(format!("bad duration {text:?}: it has no unit; write {text}s, {text}m or {text}ms"));
        }
        if text.starts_with('-') {
            return Err(format!("bad duration {text:?}: it cannot be negative"));
        }
        let period = humantime::parse_duration(text)
            .map_err(|_| format!("bad duration {text:?}: write it like 300ms, 30s, 1m30s or 1h"))?;
        if period > LONGEST {
            return Err(format!("bad duration {text:?}: it is longer than a year"));
        }
        Ok(Self(period))
    }
}

/// A Kubernetes quantity that is not negative: `4`, `500m`, `16Gi`, `1e3`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Amount(pub(crate) Quantity);

impl FromStr for Amount {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if is_quantity(text) {
            Ok(Self(Quantity(text.to_owned())))
        } else {
            Err(format!("bad quantity {text:?}: write it like 4, 500m, 16Gi or 1e3"))
        }
    }
}

/// `apimachinery/pkg/api/resource`: a decimal number, then a binary suffix, a decimal suffix, or a decimal
/// exponent.
fn is_quantity(text: &str) -> bool {
    let text = text.strip_prefix('+').unwrap_or(text);
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let digits = number.bytes().filter(u8::is_ascii_digit).count();
    let points = number.len() - digits;
    let exponent = |rest: &str| {
        let digits = rest.strip_prefix(['+', '-']).unwrap_or(rest);
        !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())
    };
    digits > 0
        && points <= 1
        && match suffix {
            "" | "n" | "u" | "m" | "k" | "M" | "G" | "T" | "P" | "E" | "Ki" | "Mi" | "Gi" | "Ti" | "Pi"
            | "Ei" => true,
            other => other.strip_prefix(['e', 'E']).is_some_and(exponent),
        }
}

/// A field of pods, or what has fields below it, as [`IgnoredFields`] takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FieldPath(pub(crate) String);

impl FromStr for FieldPath {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if IgnoredFields::at([text]).is_ok() {
            Ok(Self(text.to_owned()))
        } else {
            let known = IgnoredFields::known();
            let remedy = nearest(text, known.iter().map(String::as_str)).map_or_else(
                || "vk-node providers --fields lists them".to_owned(),
                |near| format!("did you mean {near:?}?"),
            );
            Err(format!("unknown field of a pod {text:?}: {remedy}"))
        }
    }
}

/// A node's name: a DNS subdomain (RFC 1123), at most 253 characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NodeName(pub(crate) String);

impl FromStr for NodeName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if is_subdomain(text) {
            Ok(Self(text.to_owned()))
        } else {
            Err(format!(
                "bad node name {text:?}: use lower-case letters, digits, '-' and '.', at most 253 characters, \
                 letter or digit at both ends"
            ))
        }
    }
}

fn is_subdomain(text: &str) -> bool {
    text.len() <= 253
        && text.split('.').all(|label| {
            let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
            !label.is_empty() && label.bytes().all(inner) && !label.starts_with('-') && !label.ends_with('-')
        })
}

/// The key of a label, an annotation or a taint, or a resource's name: `name` or `prefix/name`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LabelKey(pub(crate) String);

impl FromStr for LabelKey {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (prefix, name) = match text.split_once('/') {
            Some((prefix, name)) => (Some(prefix), name),
            None => (None, text),
        };
        if prefix.is_none_or(is_subdomain) && !name.is_empty() && is_label_text(name) {
            Ok(Self(text.to_owned()))
        } else {
            Err(format!("bad key {text:?}: write it like name or example.com/name"))
        }
    }
}

/// A label's value: at most 63 characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LabelValue(pub(crate) String);

impl FromStr for LabelValue {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if is_label_text(text) {
            Ok(Self(text.to_owned()))
        } else {
            Err(format!(
                "bad label value {text:?}: use letters, digits, '-', '_' and '.', at most 63 characters, letter \
                 or digit at both ends"
            ))
        }
    }
}

fn is_label_text(text: &str) -> bool {
    let edge = |c: char| c.is_ascii_alphanumeric();
    text.len() <= 63
        && text.chars().all(|c| edge(c) || matches!(c, '-' | '_' | '.'))
        && text.chars().next().is_none_or(edge)
        && text.chars().next_back().is_none_or(edge)
}

/// A taint, `key[=value]:Effect` as kubectl writes it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TaintSpec(pub(crate) Taint);

impl FromStr for TaintSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (pair, effect) = text
            .rsplit_once(':')
            .ok_or_else(|| format!("bad taint {text:?}: write it like key=value:NoSchedule"))?;
        let (key, value) = match pair.split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => (pair, None),
        };
        Self::new(key, value, effect)
    }
}

impl TaintSpec {
    /// A taint of legal parts.
    pub(crate) fn new(key: &str, value: Option<&str>, effect: &str) -> Result<Self, String> {
        let LabelKey(key) = key.parse()?;
        let value = value.filter(|value| !value.is_empty()).map(str::parse::<LabelValue>).transpose()?;
        Ok(Self(Taint {
            key,
            value: value.map(|LabelValue(value)| value),
            effect: parse_effect(effect)?,
            ..Taint::default()
        }))
    }
}

/// A taint's effect, by its own name.
pub(crate) fn parse_effect(text: &str) -> Result<String, String> {
    if ["NoSchedule", "PreferNoSchedule", "NoExecute"].contains(&text) {
        Ok(text.to_owned())
    } else {
        Err(format!("bad taint effect {text:?}: it is NoSchedule, PreferNoSchedule or NoExecute"))
    }
}

impl<'de> Deserialize<'de> for TaintSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Fields {
            key: String,
            value: Option<LabelValue>,
            effect: String,
        }

        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = TaintSpec;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a taint: key=value:Effect, or key, value and effect")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<TaintSpec, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, map: A) -> Result<TaintSpec, A::Error> {
                let fields = Fields::deserialize(serde::de::value::MapAccessDeserializer::new(map))?;
                let value = fields.value.map(|LabelValue(value)| value);
                TaintSpec::new(&fields.key, value.as_deref(), &fields.effect).map_err(A::Error::custom)
            }
        }

        deserializer.deserialize_any(Either)
    }
}

/// A switch of a flag or a variable, in any of the spellings of Go's `strconv.ParseBool`.
pub(crate) fn parse_switch(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(format!("bad switch {text:?}: write true or false")),
    }
}

/// `key=value` of a flag.
pub(crate) fn parse_pair<K, V>(text: &str) -> Result<(K, V), String>
where
    K: FromStr<Err = String>,
    V: FromStr<Err = String>,
{
    let (key, value) =
        text.split_once('=').ok_or_else(|| format!("bad pair {text:?}: write it like key=value"))?;
    Ok((key.parse()?, value.parse()?))
}

/// An annotation's value or any other text that needs no rules.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Text(pub(crate) String);

impl FromStr for Text {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(Self(text.to_owned()))
    }
}

/// An IP address, v4 or v6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Address(pub(crate) IpAddr);

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse()
            .map(Self)
            .map_err(|_| format!("bad address {text:?}: write it like 192.0.2.10 or 2001:db8::10"))
    }
}

/// An IP address with a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Socket(pub(crate) SocketAddr);

impl FromStr for Socket {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse().map(Self).map_err(|_| {
            format!("bad address {text:?}: write it like 127.0.0.1:10248, 0.0.0.0:10248 or [::]:10248")
        })
    }
}

/// An `http` or `https` URL with a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Url(pub(crate) http::Uri);

impl FromStr for Url {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse::<http::Uri>()
            .ok()
            .filter(|uri| matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some())
            // A port that is no number, or too large a one, is otherwise taken for none.
            .filter(|uri| uri.port_u16().is_some() || !uri.authority().is_some_and(has_port))
            .map(Self)
            .ok_or_else(|| format!("bad URL {text:?}: write it like https://192.0.2.1:6443"))
    }
}

fn has_port(authority: &http::uri::Authority) -> bool {
    let place = authority.as_str().rsplit_once('@').map_or(authority.as_str(), |(_, place)| place);
    place.len() > authority.host().len()
}

/// A share, 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Ratio(pub(crate) f64);

impl FromStr for Ratio {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse()
            .ok()
            .filter(|share| (0.0..=1.0).contains(share))
            .map(Self)
            .ok_or_else(|| format!("bad share {text:?}: it is a number from 0 to 1, such as 0.1"))
    }
}

/// A node's operating system, by Go's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OperatingSystem(pub(crate) String);

impl FromStr for OperatingSystem {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let name = text.to_lowercase();
        if ["linux", "windows"].contains(&name.as_str()) {
            Ok(Self(name))
        } else {
            Err(format!("bad operating system {text:?}: it is linux or windows"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_what_apimachinery_takes_without_a_sign_below_zero() {
        for good in ["0", "4", "500m", "16Gi", "1.5", ".5", "5.", "1e3", "1E-3", "1E", "100k", "+3"] {
            assert!(good.parse::<Amount>().is_ok(), "{good}");
        }
        for bad in ["", "x", "-1", "1gb", "1GiB", "1 Gi", "1e", "1..2", "1e3Ki", ".", "0x10", "1m2"] {
            assert!(bad.parse::<Amount>().is_err(), "{bad}");
        }
    }

    #[test]
    fn durations_are_go_and_humantime_text_and_need_a_unit() {
        let cases = [("0", 0), ("300ms", 300), ("1m30s", 90_000), ("1h0m0s", 3_600_000), ("30s", 30_000)];
        for (text, milliseconds) in cases {
            assert_eq!(text.parse(), Ok(Period(Duration::from_millis(milliseconds))), "{text}");
        }
        for bad in ["", "30", "fast", "-5s"] {
            assert!(bad.parse::<Period>().is_err(), "{bad}");
        }
    }

    #[test]
    fn names_keys_and_values_follow_kubernetes_rules() {
        for good in ["a", "node-1.example.com", "0"] {
            assert!(good.parse::<NodeName>().is_ok(), "{good}");
        }
        let long = "a".repeat(254);
        for bad in ["", "Node", "a_b", "-a", "a-", "a..b", long.as_str()] {
            assert!(bad.parse::<NodeName>().is_err(), "{bad}");
        }
        for good in ["type", "example.com/GPU_1", "kubernetes.io/role"] {
            assert!(good.parse::<LabelKey>().is_ok(), "{good}");
        }
        for bad in ["", "a/b/c", "/x", "x/", "Example.com/x", "a b"] {
            assert!(bad.parse::<LabelKey>().is_err(), "{bad}");
        }
        assert!("".parse::<LabelValue>().is_ok());
        assert!("-x".parse::<LabelValue>().is_err());
    }

    #[test]
    fn a_taint_is_written_as_kubectl_writes_it() {
        let TaintSpec(taint) = "example.com/gpu=yes:NoExecute".parse().unwrap();
        assert_eq!(
            (taint.key.as_str(), taint.value.as_deref(), taint.effect.as_str()),
            ("example.com/gpu", Some("yes"), "NoExecute")
        );
        let TaintSpec(taint) = "k:NoSchedule".parse().unwrap();
        assert_eq!((taint.key.as_str(), taint.value), ("k", None));
        for bad in ["k", "k=v", "k=v:Never", ":NoSchedule", "k=a b:NoSchedule"] {
            assert!(bad.parse::<TaintSpec>().is_err(), "{bad}");
        }
    }
}
