//! A Python with what our Python tests and the scorer in `schemas/` need.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

/// What is taken from the Python package index, and the modules that it gives.
const PACKAGES: [&str; 3] = ["numpy>=1.24", "safetensors>=0.4", "xxhash>=3"];
const IMPORTS: &str = "import numpy, safetensors.numpy, xxhash";

/// A Python that can import numpy, safetensors and xxhash: the one that is installed, or one of our own under `target/`.
/// Where neither can be had (no Python, no network) the test is skipped by name.
pub(crate) fn python(test: &str) -> Option<PathBuf> {
    static FOUND: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    match FOUND.get_or_init(find) {
        Ok(python) => Some(python.clone()),
        Err(missing) => {
            super::skip(test, missing);
            None
        }
    }
}

fn find() -> Result<PathBuf, String> {
    let venv = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/python");
    find_in(&venv, &PACKAGES, IMPORTS)
}

/// A Python that has other packages: the one that is installed, or one of its own under `target/`.
pub(crate) fn with(test: &str, environment: &str, packages: &[&str], imports: &str) -> Option<PathBuf> {
    let venv = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("target/python-{environment}"));
    match find_in(&venv, packages, imports) {
        Ok(python) => Some(python),
        Err(missing) => {
            super::skip(test, &missing);
            None
        }
    }
}

fn find_in(venv: &Path, packages: &[&str], imports: &str) -> Result<PathBuf, String> {
    let installed = PathBuf::from("python3");
    if !succeeds(&installed, &["--version"]) {
        return Err("there is no python3".to_owned());
    }
    let own = venv.join("bin/python");
    if let Some(python) = [&installed, &own].into_iter().find(|python| succeeds(python, &["-c", imports])) {
        return Ok(python.clone());
    }
    let venv = venv.to_str().expect("the crate's directory is UTF-8");
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"];
    carry_out(&installed, &["-m", "venv", "--clear", venv])?;
    carry_out(&own, &[&pip[..], packages].concat())?;
    carry_out(&own, &["-c", imports])?;
    Ok(own)
}

fn carry_out(program: &Path, arguments: &[&str]) -> Result<(), String> {
    let output = run(program, arguments).map_err(|error| format!("{}: {error}", program.display()))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("`{} {}` failed: {said}", program.display(), arguments.join(" ")))
}

fn succeeds(program: &Path, arguments: &[&str]) -> bool {
    run(program, arguments).is_ok_and(|output| output.status.success())
}

fn run(program: &Path, arguments: &[&str]) -> std::io::Result<Output> {
    Command::new(program).args(arguments).output()
}
