//! The `huida` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    huida::cli::run()
}
