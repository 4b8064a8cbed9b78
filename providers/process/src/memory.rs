//! What a container's processes take of memory, and its limit.

use std::fs;
use std::time::Duration;

use k8s_openapi::api::core::v1::ResourceRequirements;

/// How often it is looked at.
const PERIOD: Duration = Duration::from_millis(50);

/// The limit in bytes, if there is one. Quantities that cannot be read are none.
pub(crate) fn limit(resources: &ResourceRequirements) -> Option<u64> {
    bytes(&resources.limits.as_ref()?.get("memory")?.0)
}

/// A quantity in bytes.
pub(crate) fn bytes(text: &str) -> Option<u64> {
    let (number, factor) = match text.find(|c: char| !c.is_ascii_digit() && c != '.') {
        None => (text, 1.0),
        Some(end) => {
            let factor = match &text[end..] {
                "Ki" => 1024.0,
                "Mi" => 1_048_576.0,
                "Gi" => 1_073_741_824.0,
                "Ti" => 1_099_511_627_776.0,
                "k" => 1e3,
                "M" => 1e6,
                "G" => 1e9,
                "T" => 1e12,
                _ => return None,
            };
            (&text[..end], factor)
        }
    };
    number.parse::<f64>().ok().map(|number| (number * factor) as u64)
}

/// Returns when process 1 of a container and its descendants take more than so many bytes. Never, if they never do.
///
/// There is no memory cgroup: what the kernel would refuse at once is noticed here a moment later.
pub(crate) async fn exceeded(process: i32, limit: u64) {
    loop {
        if resident(process) > limit {
            return;
        }
        tokio::time::sleep(PERIOD).await;
    }
}

/// Resident memory, without what processes share, of a process and its descendants.
fn resident(process: i32) -> u64 {
    let own = fs::read_to_string(format!("/proc/{process}/statm")).ok();
    let pages = own.and_then(|text| {
        let mut fields = text.split_ascii_whitespace().skip(1).map(|field| field.parse::<u64>().ok());
        Some(fields.next()??.saturating_sub(fields.next()??))
    });
    let children = fs::read_to_string(format!("/proc/{process}/task/{process}/children")).unwrap_or_default();
    let children = children.split_ascii_whitespace().filter_map(|child| child.parse().ok());
    pages.unwrap_or(0) * 4096 + children.map(resident).sum::<u64>()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

    use super::*;

    #[test]
    fn a_limit_is_read_in_bytes() {
        for (text, bytes) in
            [("32Mi", Some(32 << 20)), ("1G", Some(1_000_000_000)), ("77", Some(77)), ("x", None)]
        {
            let limits = [("memory".to_owned(), Quantity(text.to_owned()))].into();
            let resources = ResourceRequirements { limits: Some(limits), ..ResourceRequirements::default() };
            assert_eq!(limit(&resources), bytes, "{text}");
        }
        assert_eq!(limit(&ResourceRequirements::default()), None);
    }

    #[test]
    fn a_process_takes_memory() {
        assert!(resident(std::process::id().cast_signed()) > 0);
    }
}
