//! `docs/kubelet-api.md`: what is served, and what is other than with a kubelet.

use std::fmt::Write as _;
use std::path::Path;

use super::super::routes::{ROOTS, Route};
use super::differences::{DIFFERENCES, ELSEWHERE};

fn page() -> String {
    let mut page = String::from(
        "# The kubelet API, beside a kubelet's\n\n\
         Made from the routes and from the table that the recorded answers of a kubelet (1.37, `tests/oracle/http`) are\n\
         compared with; `VK_UPDATE=1 cargo test -p vk-core oracle` writes it again.\n\n\
         ## What is served\n\n\
         A caller needs one of the subresources of `nodes`, with the verb of the method: `get`, `create` for POST. \
         The last\ncolumn is what `Accept` must name, or else `*/*`: other callers get 406. \
         Where nothing stands, it does not matter.\n\n\
         | path | methods | subresource | accepted |\n|---|---|---|---|\n",
    );
    for root in ROOTS {
        let subresources: Vec<String> = root.subresources.iter().map(|name| format!("`{name}`")).collect();
        for route in root.routes {
            let (path, methods, gives) = (route.path, methods(route), gives(route));
            // Writing to a string cannot fail.
            let _ = writeln!(page, "| `{path}` | {methods} | {} | {gives} |", subresources.join(", "));
        }
    }
    page.push_str(
        "\n## Where the answers differ from the recorded ones\n\n\
         Everything else is equal: status code, headers, body, names of fields, families and labels. A test asks every \
         recorded\nquestion and fails for a difference that is not here, and for one here that is no more. \"no\" is \
         what the kubelet has\nand we have not, \"also\" the other way round.\n",
    );
    for row in DIFFERENCES {
        let questions = row.questions.join(", ");
        let _ = writeln!(page, "\n### {}: {questions}\n\n{}.\n", row.file, row.why);
        for place in row.places {
            let _ = writeln!(page, "- {}", place_of(place));
        }
    }
    page.push_str("\n## Differences that no recording shows\n\n| where | what | why |\n|---|---|---|\n");
    for (place, what, why) in ELSEWHERE {
        let _ = writeln!(page, "| {place} | {what} | {why} |");
    }
    page
}

fn methods(route: &Route) -> String {
    if route.methods.is_empty() {
        return "any".to_owned();
    }
    route.methods.iter().map(http::Method::as_str).collect::<Vec<_>>().join(", ")
}

fn gives(route: &Route) -> String {
    match route.produces {
        None => String::new(),
        Some("") => "`*/*`".to_owned(),
        Some(media) => format!("`{media}`"),
    }
}

/// `no .node.io` is `` no `.node.io` ``.
fn place_of(place: &str) -> String {
    match place.rsplit_once(' ') {
        Some((word, name)) => format!("{word} `{name}`"),
        None => place.to_owned(),
    }
}

#[test]
fn the_page_about_the_kubelet_api_is_up_to_date() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/kubelet-api.md");
    let page = page();
    if std::env::var_os("VK_UPDATE").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(written, page, "VK_UPDATE=1 cargo test -p vk-core oracle");
    let metrics = std::fs::read_to_string(path.with_file_name("metrics.md")).unwrap();
    for word in page.split('`').filter(|word| word.starts_with("vk_")) {
        assert!(metrics.contains(&format!("| `{word}` |")), "{word} is no metric");
    }
}
