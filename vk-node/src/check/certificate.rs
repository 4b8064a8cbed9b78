//! Whether a serving certificate will do for those who check it.

use std::net::IpAddr;
use std::path::Path;

use jiff::Timestamp;
use x509_parser::extensions::GeneralName;
use x509_parser::pem::Pem;
use x509_parser::prelude::X509Certificate;

use crate::fault::{Fault, Faults};

/// Checks the first certificate of a file; the answer is when it ends. That it is one, and that it goes with its
/// key, is known already.
pub(super) fn check(file: &Path, node: &str, addresses: &[IpAddr]) -> Result<Timestamp, Faults> {
    let fault = |what: String, remedy: &str| Fault::new(what, format!("in {}", file.display()), remedy);
    let unreadable =
        |error: String| fault(format!("unusable serving certificate ({error})"), "make a new one");
    let text = std::fs::read(file).map_err(|error| unreadable(error.to_string()))?;
    let pem = Pem::iter_from_buffer(&text)
        .filter_map(Result::ok)
        .find(|pem| pem.label == "CERTIFICATE")
        .ok_or_else(|| unreadable("no certificate".to_owned()))?;
    let certificate = pem.parse_x509().map_err(|error| unreadable(error.to_string()))?;
    let mut faults = Faults::default();

    let moment = |seconds| Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX);
    let (from, until) = (
        moment(certificate.validity().not_before.timestamp()),
        moment(certificate.validity().not_after.timestamp()),
    );
    let now = Timestamp::now();
    if now > until {
        faults.push(fault(format!("serving certificate expired on {until}"), "renew it"));
    } else if now < from {
        faults.push(fault(
            format!("serving certificate is not valid before {from}"),
            "wait, or check this machine's clock",
        ));
    }
    if let Ok(Some(usage)) = certificate.extended_key_usage()
        && !usage.value.server_auth
        && !usage.value.any
    {
        faults.push(fault(
            "serving certificate is not for servers".to_owned(),
            "make it with the extended key usage serverAuth",
        ));
    }
    let wanted: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    let named = names(&certificate);
    let missing: Vec<&String> = wanted.iter().filter(|name| !named.contains(name)).collect();
    if !missing.is_empty() {
        let missing = missing.into_iter().map(String::as_str).collect::<Vec<_>>().join(", ");
        faults.push(fault(
            format!("serving certificate does not name {missing}, an address of node {node:?},"),
            "make it with the node's addresses as subject alternative names",
        ));
    }
    faults.or(until)
}

/// The subject alternative names: what a client compares with the address that it called.
fn names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(names)) = certificate.subject_alternative_name() else { return Vec::new() };
    let ip = |bytes: &[u8]| -> Option<IpAddr> {
        <[u8; 4]>::try_from(bytes)
            .map(IpAddr::from)
            .or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from))
            .ok()
    };
    names
        .value
        .general_names
        .iter()
        .filter_map(|name| match name {
            GeneralName::IPAddress(bytes) => ip(bytes).map(|address| address.to_string()),
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            _ => None,
        })
        .collect()
}
