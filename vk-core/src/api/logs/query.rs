//! `v1.PodLogOptions` as query parameters, decoded and validated as the kubelet does it.

use std::time::Duration;

use jiff::Timestamp;

use crate::provider::{LogOptions, LogOutput, LogStart};

/// Why a query is refused. The API server has validated it before, so only direct callers see this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BadQuery {
    /// A value is of the wrong type: 400.
    Undecodable,
    /// A value, or a combination, is not allowed: 422.
    Invalid,
}

/// Decodes the parameters; of a repeated one the first counts, unknown ones don't.
pub(super) fn parse(query: &[(String, String)]) -> Result<LogOptions, BadQuery> {
    let first = |name: &str| query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    let flag =
        |name: &str| first(name).is_some_and(|value| value != "0" && !value.eq_ignore_ascii_case("false"));
    let number = |name: &str| {
        first(name).map(|value| value.parse::<i64>().map_err(|_| BadQuery::Undecodable)).transpose()
    };
    // The old name of `tailLines`, from before there was an API type.
    let tail = match first("tail").filter(|value| !value.is_empty()) {
        Some("all") => None,
        Some(_) => number("tail")?,
        None => number("tailLines")?,
    };
    let limit = number("limitBytes")?;
    let since_seconds = number("sinceSeconds")?;
    let since_time = match first("sinceTime") {
        None => None,
        Some("" | "null") => Some(Timestamp::MIN),
        Some(text) => Some(rfc3339(text).ok_or(BadQuery::Undecodable)?),
    };

    let at_least = |value: Option<i64>, minimum: u64| {
        let checked = |value| u64::try_from(value).ok().filter(|value| *value >= minimum);
        value.map(|value| checked(value).ok_or(BadQuery::Invalid)).transpose()
    };
    let tail = at_least(tail, 0)?;
    let limit_bytes = at_least(limit, 1)?;
    let start = match (at_least(since_seconds, 1)?, since_time) {
        (Some(_), Some(_)) => return Err(BadQuery::Invalid),
        (Some(seconds), None) => Some(LogStart::Ago(Duration::from_secs(seconds))),
        (None, time) => time.map(LogStart::At),
    };
    let output = match first("stream") {
        None | Some("All") => None,
        Some("Stdout") => Some(LogOutput::Stdout),
        Some("Stderr") => Some(LogOutput::Stderr),
        Some(_) => return Err(BadQuery::Invalid),
    };
    if output.is_some() && tail.is_some() {
        return Err(BadQuery::Invalid);
    }
    Ok(LogOptions {
        previous: flag("previous"),
        follow: flag("follow"),
        start,
        tail,
        timestamps: flag("timestamps"),
        limit_bytes,
        output,
    })
}

/// RFC 3339 as Go reads it, which is narrower than what `jiff` takes.
fn rfc3339(text: &str) -> Option<Timestamp> {
    let bytes = text.as_bytes();
    let digits =
        |range: std::ops::Range<usize>| bytes.get(range).is_some_and(|b| b.iter().all(u8::is_ascii_digit));
    let at = |index: usize, wanted: u8| bytes.get(index) == Some(&wanted);
    let clock = digits(0..4) && at(4, b'-') && digits(5..7) && at(7, b'-') && digits(8..10) && at(10, b'T');
    let clock = clock && digits(11..13) && at(13, b':') && digits(14..16) && at(16, b':') && digits(17..19);
    let zone = text.ends_with('Z') || {
        let start = bytes.len().checked_sub(6)?;
        matches!(bytes[start], b'+' | b'-')
            && digits(start + 1..start + 3)
            && at(start + 3, b':')
            && digits(start + 4..start + 6)
    };
    (clock && zone && !text.contains('[')).then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(query: &str) -> Result<LogOptions, BadQuery> {
        let pairs = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (key.to_owned(), value.to_owned())
        });
        parse(&pairs.collect::<Vec<_>>())
    }

    fn ok(query: &str) -> LogOptions {
        parsed(query).unwrap_or_else(|bad| panic!("{query}: {bad:?}"))
    }

    #[test]
    fn no_parameters_ask_for_the_whole_log() {
        assert_eq!(ok(""), LogOptions::default());
        assert_eq!(ok("container=a&insecureSkipTLSVerifyBackend=true&unknown=1"), LogOptions::default());
    }

    #[test]
    fn every_parameter_arrives() {
        let options = ok("follow=true&previous=true&timestamps=true&tailLines=7&limitBytes=9&sinceSeconds=5");
        assert!(options.follow && options.previous && options.timestamps);
        assert_eq!((options.tail, options.limit_bytes), (Some(7), Some(9)));
        assert_eq!(options.start, Some(LogStart::Ago(Duration::from_secs(5))));
        assert_eq!(ok("stream=Stderr").output, Some(LogOutput::Stderr));
        assert_eq!(ok("stream=Stdout").output, Some(LogOutput::Stdout));
        assert_eq!(ok("stream=All&tailLines=1").output, None);
        let time = "2026-11-23T10:00:00.000000001Z".parse().unwrap();
        assert_eq!(ok("sinceTime=2026-11-23T10:00:00.000000001Z").start, Some(LogStart::At(time)));
        assert_eq!(ok("sinceTime=2026-11-23T12:00:00.000000001+02:00").start, Some(LogStart::At(time)));
    }

    #[test]
    fn a_tail_of_zero_is_not_no_tail() {
        assert_eq!(ok("tailLines=0").tail, Some(0));
        assert_eq!(ok("tail=all").tail, None);
        assert_eq!(ok("tail=all&tailLines=3").tail, None);
        assert_eq!(ok("tail=3").tail, Some(3));
        assert_eq!(ok("tail=&tailLines=4").tail, Some(4));
    }

    #[test]
    fn flags_follow_gos_idea_of_truth() {
        for (query, follow) in [
            ("follow", true),
            ("follow=", true),
            ("follow=1", true),
            ("follow=yes", true),
            ("follow=false", false),
            ("follow=FALSE", false),
            ("follow=0", false),
            ("follow=false&follow=true", false),
        ] {
            assert_eq!(ok(query).follow, follow, "{query}");
        }
    }

    #[test]
    fn wrong_types_cannot_be_decoded() {
        for query in [
            "tailLines=all",
            "tailLines=x",
            "tailLines=",
            "tailLines=1.5",
            "tail=x",
            "limitBytes=1k",
            "limitBytes=99999999999999999999",
            "sinceSeconds=1s",
            "sinceTime=yesterday",
            "sinceTime=2026-11-23",
            "sinceTime=2026-11-23 10:00:00Z",
            "sinceTime=2026-11-23T10:00:00",
            "sinceTime=2026-11-23T10:00:00Z[UTC]",
            "sinceTime=2026-13-23T10:00:00Z",
        ] {
            assert_eq!(parsed(query), Err(BadQuery::Undecodable), "{query}");
        }
    }

    #[test]
    fn forbidden_values_and_combinations_are_invalid() {
        for query in [
            "tailLines=-1",
            "limitBytes=0",
            "limitBytes=-1",
            "sinceSeconds=0",
            "sinceSeconds=-5",
            "sinceSeconds=5&sinceTime=2026-11-23T10:00:00Z",
            "stream=stdout",
            "stream=",
            "stream=Stdout&tailLines=0",
        ] {
            assert_eq!(parsed(query), Err(BadQuery::Invalid), "{query}");
        }
    }
}
