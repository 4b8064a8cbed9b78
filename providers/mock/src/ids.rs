//! Ids and figures that follow from what they are for: no counter to persist, the same in every run.

/// 64-bit FNV-1a over the parts, each closed by a byte that occurs in no UTF-8 text, then mixed so that
/// every bit depends on every part.
pub(crate) fn hash(parts: &[&str], salt: u64) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64 ^ salt;
    for part in parts {
        for byte in part.bytes().chain([0xff]) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
    // The finaliser of SplitMix64.
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

fn hex64(parts: &[&str]) -> String {
    use std::fmt::Write as _;
    (1..=4).fold(String::with_capacity(64), |mut text, salt| {
        let _ = write!(text, "{:016x}", hash(parts, salt));
        text
    })
}

/// `mock://<64 hex digits>`: one id for each run of each container.
pub(crate) fn container_id(uid: &str, container: &str, attempt: u32) -> String {
    format!("mock://{}", hex64(&[uid, container, &attempt.to_string()]))
}

/// A digest reference for an image: the one written, or one derived from the name.
pub(crate) fn image_id(image: &str) -> String {
    if image.contains('@') {
        return image.to_owned();
    }
    // A colon after the last slash is a tag; before it, a registry's port.
    let name_start = image.rfind('/').map_or(0, |slash| slash + 1);
    let repository = image[name_start..].find(':').map_or(image, |colon| &image[..name_start + colon]);
    format!("{repository}@sha256:{}", hex64(&[image]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_run_of_every_container_has_its_own_id_and_always_the_same() {
        let id = container_id("uid-1", "a", 0);
        assert_eq!(id, container_id("uid-1", "a", 0));
        assert_eq!(id.len(), "mock://".len() + 64);
        for other in
            [container_id("uid-1", "a", 1), container_id("uid-1", "b", 0), container_id("uid-2", "a", 0)]
        {
            assert_ne!(id, other);
        }
    }

    #[test]
    fn an_image_id_is_the_repository_with_a_digest() {
        let id = image_id("registry.test:5000/team/web:1.2");
        let (repository, digest) = id.split_once("@sha256:").unwrap();
        assert_eq!((repository, digest.len()), ("registry.test:5000/team/web", 64));
        assert_eq!(image_id("web@sha256:00"), "web@sha256:00");
        assert!(image_id("web").starts_with("web@sha256:"));
    }
}
