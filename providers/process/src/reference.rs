//! Names of images, as container runtimes read them (`github.com/distribution/reference`).

/// Why a name cannot be an image's, in the words of that library; `Ok` if it can.
pub(crate) fn check(image: &str) -> Result<(), String> {
    let (name, digest) = image.split_once('@').map_or((image, None), |(name, digest)| (name, Some(digest)));
    // A colon after the last slash begins a tag; before it, it belongs to the registry's port.
    let last = name.rfind('/').map_or(0, |slash| slash + 1);
    let (path, tag) = match name[last..].find(':') {
        Some(colon) => (&name[..last + colon], Some(&name[last + colon + 1..])),
        None => (name, None),
    };
    let (domain, path) = match path.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':']) || first == "localhost" || first != first.to_lowercase() =>
        {
            (first, rest)
        }
        _ => ("", path),
    };
    if path != path.to_lowercase() {
        return Err(format!("invalid reference format: repository name ({path}) must be lowercase"));
    }
    let component = |part: &str| {
        let alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        part.starts_with(alphanumeric)
            && part.ends_with(alphanumeric)
            && part.chars().all(|c| alphanumeric(c) || "._-".contains(c))
    };
    let in_domain = |c: char| c.is_ascii_alphanumeric() || ".-:".contains(c);
    let in_tag = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    let tag_is_well = tag.is_none_or(|tag| {
        (1..=128).contains(&tag.len()) && tag.chars().all(in_tag) && !tag.starts_with(['.', '-'])
    });
    let digest_is_well = digest.is_none_or(|digest| {
        digest.split_once(':').is_some_and(|(kind, hex)| {
            !kind.is_empty() && hex.len() >= 32 && hex.chars().all(|c| c.is_ascii_hexdigit())
        })
    });
    if path.split('/').all(component) && domain.chars().all(in_domain) && tag_is_well && digest_is_well {
        Ok(())
    } else {
        Err("invalid reference format".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_judged_as_runtimes_do() {
        let digest = "a".repeat(64);
        for good in
            ["a", "a:1", "a/b", "r.test/a/b:1", "r.test:5000/a", "localhost/a", &format!("a@sha256:{digest}")]
        {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for bad in ["", "a:", "a/", "-a", "a:1:2", "a@sha256:zz", "a b", "r.test/a//b"] {
            assert_eq!(check(bad), Err("invalid reference format".to_owned()), "{bad}");
        }
        assert_eq!(
            check("UPPER/Bad:tag:tag"),
            Err("invalid reference format: repository name (Bad) must be lowercase".to_owned())
        );
    }
}
