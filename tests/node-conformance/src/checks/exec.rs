//! `kubectl exec`.

use crate::bed::Bed;
use crate::stop::{Checked, demand};
use crate::workload::Script;

async fn running(bed: &Bed) -> Checked<&'static str> {
    bed.start("open", &bed.workload().running("app", &Script::forever())).await?;
    Ok("open")
}

/// Exit codes come back.
pub async fn exit_codes_come_back(bed: &Bed) -> Checked {
    let pod = running(bed).await?;
    for (line, code) in [("true", 0), ("exit 7", 7), ("no-such-command", 127)] {
        let ran = bed.exec(pod, &["sh", "-c", line], None, false).await?;
        demand!(ran.code == code, "`sh -c '{line}'` ended with {}, not {code}; {:?}", ran.code, ran.err);
    }
    Ok(())
}

/// The two outputs are two.
pub async fn outputs_stay_apart(bed: &Bed) -> Checked {
    let pod = running(bed).await?;
    let ran = bed.exec(pod, &["sh", "-c", "echo out; echo err >&2"], None, false).await?;
    demand!(
        (ran.out.as_str(), ran.err.as_str()) == ("out\n", "err\n"),
        "standard output is {:?}, standard error {:?}",
        ran.out,
        ran.err
    );
    Ok(())
}

/// A command reads to the end of its input.
pub async fn input_reaches_the_command(bed: &Bed) -> Checked {
    let pod = running(bed).await?;
    // More than fits into one frame.
    let text = "twenty characters..\n".repeat(10_000);
    let ran = bed.exec(pod, &["wc", "-c"], Some(text.as_bytes()), false).await?;
    demand!(ran.code == 0, "`wc -c` ended with {}: {}", ran.code, ran.err);
    demand!(ran.out.trim() == text.len().to_string(), "of {} bytes `wc -c` counts {:?}", text.len(), ran.out);
    let ran = bed.exec(pod, &["cat"], Some(b"back again\n"), false).await?;
    demand!(ran.out == "back again\n", "`cat` returned {:?}", ran.out);
    Ok(())
}

/// A terminal is one.
pub async fn a_terminal_is_one(bed: &Bed) -> Checked {
    let pod = running(bed).await?;
    let ran = bed.exec(pod, &["sh", "-c", "echo hi; exit 7"], Some(b""), true).await?;
    demand!(ran.out == "hi\r\n", "on a terminal `echo hi` gives {:?}", ran.out);
    demand!(ran.code == 7, "the exit code is {}, not 7", ran.code);
    Ok(())
}
