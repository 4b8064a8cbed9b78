//! Looking at a listing: what has changed, and which crates it names.

/// What the second listing has not (`-`) and what it has more (`+`) than the first; both are sorted sets.
pub(crate) fn compare(before: &[String], after: &[String]) -> Vec<String> {
    let only_in = |one: &[String], other: &[String], sign: char| -> Vec<String> {
        one.iter().filter(|item| !other.contains(item)).map(|item| format!("{sign}{item}")).collect()
    };
    let mut changes = only_in(before, after, '-');
    changes.extend(only_in(after, before, '+'));
    if changes.is_empty() && before != after {
        changes.push(" the same items in another order, or one of them twice".to_owned());
    }
    changes
}

/// The items of these modules that name a crate which is neither the standard library's nor one of those allowed,
/// each with the first such crate.
pub(crate) fn foreign<'a>(
    items: &'a [String],
    modules: &[&str],
    allowed: &[&str],
) -> Vec<(&'a str, &'a str)> {
    let standard = ["std", "core", "alloc"];
    let mut found = Vec::new();
    for item in items {
        // The item's own path, or the type that an implementation is for or of, is the first of ours.
        let Some(at) = item.find("vk_core::") else { continue };
        let inside = |module: &&str| {
            item[at..].strip_prefix(module).is_some_and(|rest| !rest.starts_with(|c: char| is_word(c)))
        };
        if !modules.iter().any(inside) {
            continue;
        }
        let known = |name: &&str| !standard.contains(name) && !allowed.contains(name);
        found.extend(crates(item).find(known).map(|name| (name, item.as_str())));
    }
    found
}

/// The first segments of the paths in an item.
fn crates(item: &str) -> impl Iterator<Item = &str> {
    item.match_indices("::").filter_map(|(at, _)| {
        let word = &item[item[..at].rfind(|c| !is_word(c)).map_or(0, |before| before + 1)..at];
        let follows = item[..at - word.len()].ends_with("::");
        // Associated types of a parameter (`Self::Error`, `T::Item`) begin with no crate.
        let names_a_crate = word.starts_with(|c: char| c.is_ascii_lowercase());
        (!follows && names_a_crate).then_some(word)
    })
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listing(items: &[&str]) -> Vec<String> {
        items.iter().map(|item| (*item).to_owned()).collect()
    }

    #[test]
    fn what_came_and_what_went_is_told() {
        let (before, after) = (listing(&["a", "b"]), listing(&["b", "c"]));
        assert_eq!(compare(&before, &after), ["-a", "+c"]);
        assert_eq!(compare(&before, &before), [""; 0]);
        assert_eq!(compare(&before, &listing(&["a", "b", "b"])).len(), 1);
    }

    #[test]
    fn a_foreign_crate_is_found_in_arguments_results_bounds_and_implementations_alike() {
        let items = listing(&[
            "pub fn vk_core::provider::S::new(tls: alloc::sync::Arc<rustls::ClientConfig>) -> Self",
            "pub fn vk_core::containers::f() -> core::result::Result<(), hyper::Error>",
            "impl core::convert::From<kube_client::error::Error> for vk_core::provider::Error",
            "impl<T: axum_core::body::B> vk_core::provider::X for T",
            "pub fn vk_core::provider::ok(at: jiff::timestamp::Timestamp, i: core::option::Option<Self::Item>)",
        ]);
        let found = foreign(&items, &["vk_core::provider", "vk_core::containers"], &["vk_core", "jiff"]);
        let names: Vec<_> = found.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["rustls", "hyper", "kube_client", "axum_core"]);
    }

    #[test]
    fn the_rest_of_the_library_may_name_what_it_likes() {
        let items = listing(&[
            "pub fn vk_core::Node::builder(provider: vk_core::provider::Provider, client: kube_client::Client)",
            "pub fn vk_core::providers::f(error: hyper::Error)",
        ]);
        assert_eq!(foreign(&items, &["vk_core::provider"], &["vk_core"]), []);
    }
}
