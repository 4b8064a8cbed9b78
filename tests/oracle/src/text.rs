//! Texts in their normal form: without what differs from one machine, runtime or moment to the next.

use std::sync::LazyLock;

use regex::Regex;

struct Rule {
    pattern: Regex,
    into: &'static str,
}

/// In their order. `<theirs>` stands for what a runtime or a registry said: such rules keep the kubelet's own words and leave out the rest.
static RULES: LazyLock<Vec<Rule>> = LazyLock::new(|| {
    let rules = [
        // The recorder's placeholders are numbered over all of a file; which of several objects of one kind is meant
        // does not show in a single text.
        (r"<(containerID|imageID|id|uid|podIP):\d+>", "<$1>"),
        (r"(Successfully pulled image .*? in )[^ ]+ \([^ ]+ including waiting\)", "$1<duration>"),
        (r"Image size: \d+ bytes", "Image size: <n> bytes"),
        // What else runs on the node, and how large it is.
        (r"used: \d+, capacity: \d+", "used: <n>, capacity: <n>"),
        (r"allocatable: \d+", "allocatable: <n>"),
        (r":\d{5}->", ":<port>->"),
        // A runtime's words.
        (
            r"(?s)^((?:Error: )?)failed to (?:create containerd (?:task|container)|start the container|create the container):.*",
            "$1<theirs>",
        ),
        (r"(?s)^(Failed to create pod sandbox: ).*", "$1<theirs>"),
        // A registry's.
        (
            r#"(?s)^((?:Failed to pull image "[^"]*": )|(?:Back-off pulling image "[^"]*": ErrImagePull: )).*"#,
            "$1<theirs>",
        ),
        (r"(?s)^failed to (?:pull and unpack image|resolve image).*", "<theirs>"),
        // The parser of the distribution's references.
        (r"(?s)(couldn't parse image name .*?: invalid reference format).*", "$1"),
        // Go's resolver and dialer name an ephemeral port.
        (r"read tcp [^ ]+:\d+->", "read tcp <podIP>:<port>->"),
    ];
    let compile = |pattern: &str| Regex::new(pattern).expect("a pattern of this table");
    rules.into_iter().map(|(pattern, into)| Rule { pattern: compile(pattern), into }).collect()
});

/// A message in its normal form. Recorded and live ones go through the same.
pub(crate) fn normal(text: &str) -> String {
    let mut text = text.to_owned();
    for rule in RULES.iter() {
        if rule.pattern.is_match(&text) {
            text = rule.pattern.replace_all(&text, rule.into).into_owned();
        }
    }
    text
}

/// A kubelet's words about a resource that is short.
static SHORTAGE: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"enough resource: ([a-z./-]+), requested: (\d+), used: (\d+), capacity: (\d+)")
        .expect("a pattern")
});

/// The resource that others have taken so much of that there was no room for what would have fit without them, and how
/// much they have.
pub(crate) fn shortage(text: &str) -> Option<(String, i64)> {
    let found = SHORTAGE.captures(text)?;
    let [requested, used, capacity] = [2, 3, 4].map(|index| found[index].parse::<i64>().ok());
    (requested? <= capacity?).then_some((found[1].to_owned(), used?))
}

/// An amount as a kubelet counts it in its messages; of the notations those that cases use.
pub(crate) fn amount(resource: &str, text: &str) -> Option<i64> {
    const SUFFIXES: [(&str, i64); 5] =
        [("Ki", 1 << 10), ("Mi", 1 << 20), ("Gi", 1 << 30), ("k", 1000), ("M", 1_000_000)];
    let unit = if resource == "cpu" { 1000 } else { 1 };
    if let Some(thousandths) = text.strip_suffix('m') {
        return thousandths.parse().ok().filter(|_| resource == "cpu");
    }
    let (number, factor) = SUFFIXES
        .iter()
        .find_map(|(suffix, factor)| Some((text.strip_suffix(suffix)?, *factor)))
        .unwrap_or((text, 1));
    Some(number.parse::<i64>().ok()? * factor * unit)
}

/// Sizes in what `ls -l` prints: of folders and file systems, and of files that hold names of one run.
static SIZES: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"(?m)^(total|[-dl][-rwxsStT]{9} +\d+ +\w+ +\w+) +(\d+|SIZE)").expect("a pattern")
});

/// A prober's name in a request; the recorder's build had no version.
static PROBER: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"kube-probe/(\d+\.\d+|<major>\.<minor>)").expect("a pattern"));

/// A log in its normal form: what the recorder replaces, without the numbers, and sizes of files.
pub(crate) fn log(text: &str) -> String {
    let text = RULES[0].pattern.replace_all(text, RULES[0].into);
    let text = PROBER.replace_all(&text, "kube-probe/<version>");
    SIZES.replace_all(&text, "$1 <size>").into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_of_files_are_left_out_of_logs_and_nothing_else() {
        let listed = "total 24\n-rw-r--r--    1 0        2000            25 DATE namespace\n25 total\n";
        let expected = "total <size>\n-rw-r--r--    1 0        2000 <size> DATE namespace\n25 total\n";
        assert_eq!(log(listed), expected);
    }

    #[test]
    fn a_shortage_is_one_where_others_are_in_the_way() {
        let told = |requested: u32| {
            shortage(&format!(
                "Node didn't have enough resource: cpu, requested: {requested}, used: 1300, capacity: 2000"
            ))
        };
        assert_eq!(told(1000), Some(("cpu".to_owned(), 1300)));
        assert_eq!(told(64000), None);
        assert_eq!((amount("cpu", "50m"), amount("cpu", "2")), (Some(50), Some(2000)));
        assert_eq!((amount("memory", "32Mi"), amount("memory", "x")), (Some(33_554_432), None));
    }

    #[test]
    fn only_the_kubelets_own_words_are_kept() {
        let table = [
            (
                "Error: failed to create containerd task: failed to create shim task: OCI runtime create failed: x",
                "Error: <theirs>",
            ),
            (
                "failed to start the container: exec: \"nosuch\": executable file not found in $PATH",
                "<theirs>",
            ),
            (
                "Failed to pull image \"a.test/b:1\": dial tcp: refused",
                "Failed to pull image \"a.test/b:1\": <theirs>",
            ),
            (
                "Back-off pulling image \"a.test/b:1\": ErrImagePull: failed to pull",
                "Back-off pulling image \"a.test/b:1\": ErrImagePull: <theirs>",
            ),
            ("Back-off pulling image \"a.test/b:1\"", "Back-off pulling image \"a.test/b:1\""),
            (
                "Successfully pulled image \"x\" in 81ms (81ms including waiting). Image size: 103 bytes.",
                "Successfully pulled image \"x\" in <duration>. Image size: <n> bytes.",
            ),
            ("requested: 64000, used: 1300, capacity: 2000", "requested: 64000, used: <n>, capacity: <n>"),
            ("Get \"http://<podIP:1>:8080/\": refused", "Get \"http://<podIP>:8080/\": refused"),
            ("secret \"nope\" not found", "secret \"nope\" not found"),
        ];
        for (text, expected) in table {
            assert_eq!(normal(text), expected);
        }
    }
}
