//! The `deepfm` binary: the commands of deepfm-stream.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
