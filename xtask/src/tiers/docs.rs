//! Documentation: rustdoc without warnings, its examples, the public API's listing, the book, what the book tells its
//! reader to type, links between the Markdown files.

use anyhow::Result;

use super::newcomer;
use super::runner::{check, tests};
use crate::tally::Tally;
use crate::{book, cargo, links, public_api};

pub(crate) fn run() -> Result<Tally> {
    let mut doc = cargo::command();
    doc.args(["doc", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings");
    let mut tally = check("cargo doc", &mut doc)?;
    tally.add(tests(
        "examples in the documentation",
        cargo::command().args(["test", "--workspace", "--doc"]),
    )?);
    tally.add(check("the public API is as vk-core/public-api.txt says", &mut public_api::command())?);
    let faults = book::faults(&cargo::root().join("docs"))?;
    tally.add(if faults.is_empty() {
        check("the book", &mut book::command(&cargo::root())?)?
    } else {
        Tally::fail(faults.join("; "))
    });
    tally.add(newcomer::run()?);
    println!("--- links between the Markdown files");
    let broken = links::broken(&cargo::root())?;
    tally.add(if broken.is_empty() {
        Tally::pass()
    } else {
        Tally::fail(format!("links to files that don't exist: {}", broken.join(", ")))
    });
    Ok(tally)
}
