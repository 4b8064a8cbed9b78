//! The library's examples: each is run, and has to end well.

use std::process::Command;

use anyhow::Result;

use super::runner::check;
use crate::cargo;
use crate::tally::Tally;

/// Builds all and runs each. They take seconds, and say what they show.
pub(crate) fn run() -> Result<Tally> {
    let Some(built) = cargo::build(&["build", "--workspace", "--examples"])? else {
        return Ok(Tally::fail("the examples do not build"));
    };
    let mut examples: Vec<_> = built.into_iter().filter(|built| built.kind == "example").collect();
    examples.sort_by(|one, other| one.name.cmp(&other.name));
    if examples.is_empty() {
        return Ok(Tally::fail("there are no examples"));
    }
    let mut tally = Tally::default();
    for example in examples {
        tally.add(check(&format!("example {}", example.name), &mut Command::new(&example.path))?);
    }
    Ok(tally)
}
