//! Whether this machine and the API server agree on the time.

use jiff::{SignedDuration, Timestamp};

use crate::fault::{Fault, chain};

/// More than this, and leases, tokens and certificates are judged differently on both sides: a lease lasts
/// 40 s and is renewed every 10 s.
const MOST: SignedDuration = SignedDuration::from_secs(10);

/// How far the API server's clock is ahead of ours, by the `Date` of an answer (RFC 9110, 6.6.1), which has
/// whole seconds. Half the round trip is taken off.
pub(super) async fn measure(client: &kube::Client) -> Result<SignedDuration, String> {
    let request = http::Request::get("/version").body(kube::client::Body::empty()).map_err(|e| chain(&e))?;
    let before = Timestamp::now();
    let response = client.send(request).await.map_err(|error| chain(&error))?;
    let half = Timestamp::now().duration_since(before) / 2;
    let date = response.headers().get(http::header::DATE).and_then(|date| date.to_str().ok());
    let date = date.ok_or("its answers have no Date")?;
    let theirs = jiff::fmt::rfc2822::parse(date).map_err(|error| format!("its Date {date:?}: {error}"))?;
    Ok(theirs.timestamp().duration_since(before + half))
}

/// A fault where that is too much.
pub(super) fn judge(skew: SignedDuration, server: &http::Uri) -> Result<(), Fault> {
    // The date's fraction is cut off: up to a second is no skew.
    if skew.abs() <= MOST + SignedDuration::from_secs(1) {
        return Ok(());
    }
    let side = if skew.is_positive() { "behind" } else { "ahead of" };
    Err(Fault::new(
        format!("this machine's clock is {} s {side} the API server's", skew.as_secs().abs()),
        format!("at {server}"),
        "set one of them right, such as with NTP: leases, tokens and certificates depend on it",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_wrong_in_either_direction() {
        let server = "https://192.0.2.1:6443/".parse().unwrap();
        for seconds in [-11, 0, 11] {
            assert_eq!(judge(SignedDuration::from_secs(seconds), &server), Ok(()));
        }
        let line = |seconds| judge(SignedDuration::from_secs(seconds), &server).unwrap_err().to_string();
        assert!(line(300).starts_with("this machine's clock is 300 s behind the API server's at https://"));
        assert!(
            line(-300).starts_with("this machine's clock is 300 s ahead of the API server's at https://")
        );
    }
}
