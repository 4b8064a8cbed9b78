//! Documentation: rustdoc without warnings, its examples, links between the Markdown files.

use anyhow::Result;

use super::runner::{check, tests};
use crate::tally::Tally;
use crate::{cargo, links};

pub(crate) fn run() -> Result<Tally> {
    let mut doc = cargo::command();
    doc.args(["doc", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings");
    let mut tally = check("cargo doc", &mut doc)?;
    tally.add(tests(
        "examples in the documentation",
        cargo::command().args(["test", "--workspace", "--doc"]),
    )?);
    println!("--- links between the Markdown files");
    let broken = links::broken(&cargo::root())?;
    tally.add(if broken.is_empty() {
        Tally::pass()
    } else {
        Tally::fail(format!("links to files that don't exist: {}", broken.join(", ")))
    });
    Ok(tally)
}
