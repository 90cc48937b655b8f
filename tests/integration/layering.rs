//! The layering rule of `src/lib.rs`: a module may import only modules declared above it, and the core imports no world.

use std::fs;
use std::path::{Path, PathBuf};

/// The last module of the core; what is declared after it is the shell.
const LAST_OF_CORE: &str = "snapshot";

/// What the core must not touch: I/O, clocks, threads, async and the crates that bring them.
const WORLD: [&str; 18] = [
    "std::fs",
    "std::net",
    "std::thread",
    "std::time",
    "std::env",
    "std::process",
    "std::os",
    "std::io::std",
    "tokio",
    "rdkafka",
    "sled",
    "axum",
    "rayon",
    "memmap2",
    "reqwest",
    "jiff::Zoned",
    "tracing",
    "RandomState",
];

/// The one place where the core has a hash of the process's own, for tables that nothing iterates.
const THE_ONE_RANDOM_HASH: &str = "pub type SlotHash = std::hash::RandomState;";

fn source_root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// The modules of the library in the order of their declaration.
fn declared_modules(library: &str) -> Vec<String> {
    library
        .lines()
        .filter_map(|line| line.trim().strip_prefix("pub mod ")?.strip_suffix(';'))
        .map(str::to_owned)
        .collect()
}

fn rust_files(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("the source tree is readable") {
        let path = entry.expect("the source tree is readable").path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The files of one module: `src/m.rs` and everything below `src/m/`.
fn files_of(module: &str) -> Vec<PathBuf> {
    let mut files = vec![source_root().join(format!("{module}.rs"))];
    let directory = source_root().join(module);
    if directory.is_dir() {
        rust_files(&directory, &mut files);
    }
    files
}

/// Code lines with their numbers: comments left out, and everything from the unit tests on.
fn code_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines()
        .enumerate()
        .take_while(|(_, line)| !line.trim_start().starts_with("#[cfg(test)]"))
        .map(|(number, line)| (number + 1, line.split("//").next().unwrap_or("")))
}

/// The top-level modules of the crate that a line of code names, also in a `use crate::{a, b}` group.
fn imported_modules(line: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (start, _) in line.match_indices("crate::") {
        let rest = &line[start + "crate::".len()..];
        if let Some(group) = rest.strip_prefix('{') {
            let mut depth = 0_i32;
            let mut name = String::new();
            for letter in group.chars() {
                match letter {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => found.push(std::mem::take(&mut name)),
                    letter if depth == 0 => name.push(letter),
                    _ => {}
                }
            }
            found.push(name);
        } else {
            found.push(rest.to_owned());
        }
    }
    found
        .iter()
        .map(|path| path.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect())
        .filter(|name: &String| !name.is_empty())
        .collect()
}

/// Every breach of the rule in a file of `module`, as sentences.
fn breaches(module: &str, modules: &[String], file: &Path, text: &str) -> Vec<String> {
    let rank = |name: &str| modules.iter().position(|known| known == name);
    let own = rank(module).expect("the module is declared");
    let in_core = own <= rank(LAST_OF_CORE).expect("the core ends at a declared module");
    let mut found = Vec::new();
    for (number, line) in code_lines(text) {
        let place = || format!("{}:{number}", file.display());
        for imported in imported_modules(line) {
            if rank(&imported).is_some_and(|other| other > own) {
                found.push(format!("{}: {module} imports {imported}, which is declared below it", place()));
            }
        }
        if in_core {
            found.extend(
                WORLD
                    .iter()
                    .filter(|world| line.contains(*world) && line != THE_ONE_RANDOM_HASH)
                    .map(|world| format!("{}: the core must not use {world}", place())),
            );
        }
    }
    found
}

#[test]
fn a_module_imports_only_modules_declared_above_it_and_the_core_imports_no_world() {
    let library = fs::read_to_string(source_root().join("lib.rs")).expect("src/lib.rs is readable");
    let modules = declared_modules(&library);
    assert!(modules.len() > 10, "found only {modules:?}");
    let mut found = Vec::new();
    for module in &modules {
        for file in files_of(module).into_iter().filter(|file| !file.ends_with("tests.rs")) {
            let text = fs::read_to_string(&file).expect("a declared module has its file");
            found.extend(breaches(module, &modules, &file, &text));
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn the_layering_test_sees_an_upward_import_and_a_clock() {
    let modules: Vec<String> = ["feature", "event", "snapshot", "source"].map(str::to_owned).to_vec();
    let text = "use crate::{event::Event, source};\nuse std::time::Instant;\n// use crate::source in a comment\n";
    let found = breaches("event", &modules, Path::new("event.rs"), text);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(breaches("source", &modules, Path::new("source.rs"), text).is_empty());
}

#[test]
fn no_source_file_is_longer_than_500_lines() {
    let mut files = Vec::new();
    rust_files(&source_root(), &mut files);
    for file in files {
        let text = fs::read_to_string(&file).expect("the source tree is readable");
        let lines = code_lines(&text).count();
        assert!(lines <= 500, "{} has {lines} lines without its tests", file.display());
    }
}
