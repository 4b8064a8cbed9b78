//! Values that must show nowhere: planted, and looked for in whatever a run produced.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};

/// The planted values, each with the place where it was planted.
#[derive(Clone, Debug, Default)]
pub struct Canaries(Vec<(String, String)>);

impl Canaries {
    /// A new value for that place.
    pub fn plant(&mut self, place: &str) -> String {
        let value = format!("cAnArY-{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..));
        self.add(place, &value);
        value
    }

    /// A value that was made elsewhere.
    pub fn add(&mut self, place: &str, value: &str) {
        self.0.push((place.to_owned(), value.to_owned()));
    }

    /// The places whose value is in those bytes in any form: as it is, in base64 (of either alphabet, wherever in the
    /// encoded text it begins), in hexadecimal, or as a list of bytes, as `Debug` prints them.
    #[must_use]
    pub fn found_in(&self, bytes: &[u8]) -> Vec<&str> {
        let text = String::from_utf8_lossy(bytes);
        let found = self.0.iter().filter(|(_, value)| forms(value).iter().any(|form| text.contains(form)));
        found.map(|(place, _)| place.as_str()).collect()
    }

    /// Asserts that none of them shows.
    ///
    /// # Panics
    /// When one does: with its place and what is around it.
    pub fn assert_absent(&self, what: &str, bytes: &[u8]) {
        let text = String::from_utf8_lossy(bytes);
        for (place, value) in &self.0 {
            if let Some(at) = forms(value).iter().find_map(|form| text.find(form)) {
                let bytes = text.as_bytes();
                let around = &bytes[at.saturating_sub(300)..(at + 200).min(bytes.len())];
                panic!("the value from {place} shows in {what}: …{}…", String::from_utf8_lossy(around));
            }
        }
    }
}

fn forms(value: &str) -> Vec<String> {
    let mut all = vec![value.to_owned()];
    for before in 0..3 {
        // What is beside it decides the first and the last characters; those between are its own.
        let padded = [&vec![b' '; before], value.as_bytes()].concat();
        for text in [STANDARD_NO_PAD.encode(&padded), URL_SAFE_NO_PAD.encode(&padded)] {
            let from = [0, 2, 3][before];
            all.push(text[from..text.len() - 2].to_owned());
        }
    }
    let (mut hex, mut list) = (String::new(), String::new());
    for byte in value.as_bytes() {
        let _ = write!(hex, "{byte:02x}");
        let _ = write!(list, "{byte}, ");
    }
    all.push(hex);
    all.push(list.trim_end_matches(", ").to_owned());
    all.sort();
    all.dedup();
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_found_in_every_form_and_nowhere_else() {
        let mut canaries = Canaries::default();
        let value = canaries.plant("here");
        canaries.plant("elsewhere");
        assert!(canaries.found_in(b"nothing of it").is_empty());
        for before in ["", "a", "ab", "abc", "user:"] {
            for after in ["", "x", "yz"] {
                let text = format!("{before}{value}{after}");
                assert_eq!(canaries.found_in(text.as_bytes()), ["here"]);
                for encoded in [STANDARD_NO_PAD.encode(&text), URL_SAFE_NO_PAD.encode(&text)] {
                    assert_eq!(canaries.found_in(encoded.as_bytes()), ["here"], "{text}");
                }
            }
        }
        assert_eq!(canaries.found_in(format!("{:?}", value.as_bytes()).as_bytes()), ["here"]);
        assert_eq!(canaries.found_in(format!("{value:?}").as_bytes()), ["here"]);
        // Cut off, it is of no use to anybody.
        assert!(canaries.found_in(&value.as_bytes()[..20]).is_empty());
    }

    #[test]
    #[should_panic(expected = "the value from a Secret shows in the log: …password ")]
    fn a_leak_is_told_with_its_place() {
        let mut canaries = Canaries::default();
        let value = canaries.plant("a Secret");
        canaries.assert_absent("the log", format!("password {value}").as_bytes());
    }
}
