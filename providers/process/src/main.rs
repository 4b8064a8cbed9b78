//! The helper by itself, for programs that cannot call it in their own `main`: test binaries.

use std::process::ExitCode;

fn main() -> ExitCode {
    vk_process::helper().unwrap_or_else(|| {
        eprintln!("vk-process-helper is started by the process provider, and by nobody else");
        ExitCode::FAILURE
    })
}
