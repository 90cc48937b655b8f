//! The layering rule of `src/lib.rs`: a module may import only modules declared above it, and the core imports no world.
//!
//! Whole files are read: comments, the contents of strings and test modules are blanked, and nothing else.

use std::fs;
use std::path::{Path, PathBuf};

/// The last module of the core; what is declared after it is the shell.
const LAST_OF_CORE: &str = "snapshot";

/// What the core must not touch: I/O, clocks, threads, async and the crates that bring them. A path is the world's when it
/// begins with one of these, or when one of them with a single name is a part of it.
const WORLD: [&str; 20] = [
    "std::fs",
    "std::net",
    "std::thread",
    "std::time",
    "std::env",
    "std::process",
    "std::os",
    "std::io::stdin",
    "std::io::stdout",
    "std::io::stderr",
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

/// A file as code alone.
struct Code {
    /// The text with blanks for comments, the contents of strings, and test modules; lines are where they were.
    text: String,
    /// Lines of test modules.
    test_lines: usize,
    /// Test modules in files of their own.
    test_modules: Vec<String>,
}

impl Code {
    fn of(text: &str) -> Self {
        let mut bytes = without_comments_and_strings(text);
        let (mut test_lines, mut test_modules) = (0, Vec::new());
        let mut at = 0;
        while let Some(start) = find(&bytes, b"#[cfg(test)]", at) {
            let end = end_of_item(&bytes, start);
            let item = String::from_utf8_lossy(&bytes[start..end]).into_owned();
            test_lines += item.lines().count();
            if let Some((_, name)) = item.trim_end_matches(';').rsplit_once("mod ").filter(|_| item.ends_with(';')) {
                test_modules.push(name.trim().to_owned());
            }
            blank(&mut bytes[start..end]);
            at = end;
        }
        let text = String::from_utf8(bytes).expect("whole letters were blanked");
        Self { text, test_lines, test_modules }
    }

    fn line(&self, at: usize) -> usize {
        1 + self.text[..at].matches('\n').count()
    }

    /// Every path with its place: those of `use` with their groups taken apart, and those in code.
    fn paths(&self) -> Vec<(usize, String)> {
        let mut found = Vec::new();
        let bytes = self.text.as_bytes();
        let mut at = 0;
        while at < bytes.len() {
            if !is_name(bytes[at]) || (at > 0 && is_name(bytes[at - 1])) {
                at += 1;
                continue;
            }
            let end = (at..bytes.len()).find(|end| !is_name(bytes[*end])).unwrap_or(bytes.len());
            if &self.text[at..end] == "use" {
                let stop = find(bytes, b";", end).unwrap_or(bytes.len());
                take_apart(&self.text[end..stop], "", self.line(at), &mut found);
                at = stop;
            } else {
                let (path, behind) = path_at(&self.text, at);
                found.push((self.line(at), path));
                at = behind;
            }
        }
        found
    }
}

fn is_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

fn find(bytes: &[u8], what: &[u8], from: usize) -> Option<usize> {
    (from..bytes.len()).find(|at| bytes[*at..].starts_with(what))
}

fn blank(bytes: &mut [u8]) {
    bytes.iter_mut().filter(|byte| **byte != b'\n').for_each(|byte| *byte = b' ');
}

/// A path that begins at a name, and where it ends.
fn path_at(text: &str, start: usize) -> (String, usize) {
    let mut path = String::new();
    let mut at = start;
    loop {
        let name: String = text[at..].chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
        at += name.len();
        path.push_str(&name);
        let rest = text[at..].trim_start();
        let next = rest
            .strip_prefix("::")
            .map(str::trim_start)
            .filter(|next| next.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_'));
        let Some(next) = next else { return (path, at) };
        path.push_str("::");
        at = text.len() - next.len();
    }
}

/// The paths of a tree of imports, such as `a::{b, c::{d, e}}`.
fn take_apart(tree: &str, prefix: &str, line: usize, found: &mut Vec<(usize, String)>) {
    let mut depth = 0_usize;
    let mut start = 0;
    let mut branches = Vec::new();
    for (at, letter) in tree.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                branches.push(&tree[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    branches.push(&tree[start..]);
    for branch in branches.into_iter().map(str::trim).filter(|branch| !branch.is_empty()) {
        let plain = |path: &str| path.split_whitespace().collect::<String>();
        if let Some((head, group)) = branch.split_once('{') {
            let group = group.rsplit_once('}').map_or(group, |(inside, _)| inside);
            take_apart(group, &format!("{prefix}{}", plain(head)), line, found);
        } else {
            let path = branch.split(" as ").next().unwrap_or("");
            found.push((line, format!("{prefix}{}", plain(path))));
        }
    }
}

/// Where an item with its attributes ends: at its `;`, or at the brace that closes its body.
fn end_of_item(bytes: &[u8], start: usize) -> usize {
    let mut depth = 0_i32;
    let mut at = start;
    while at < bytes.len() {
        match bytes[at] {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' => depth -= 1,
            b'}' => {
                depth -= 1;
                if depth == 0 {
                    return at + 1;
                }
            }
            b';' if depth == 0 => return at + 1,
            _ => {}
        }
        at += 1;
    }
    bytes.len()
}

/// The text with blanks for comments, and for what is between quotes.
fn without_comments_and_strings(text: &str) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let is_inside_name = at > 0 && is_name(bytes[at - 1]);
        let length = if rest.starts_with(b"//") {
            find(rest, b"\n", 0).unwrap_or(rest.len())
        } else if rest.starts_with(b"/*") {
            comment(rest)
        } else if let Some(raw) = raw_string(rest).filter(|_| !is_inside_name) {
            raw
        } else if rest[0] == b'"' {
            quoted(rest, b'"')
        } else if is_letter(rest) {
            quoted(rest, b'\'')
        } else {
            at += 1;
            continue;
        };
        blank(&mut bytes[at..at + length]);
        at += length;
    }
    bytes
}

/// The length of a comment in stars, which may hold others.
fn comment(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < rest.len() {
        if rest[at..].starts_with(b"/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if rest[at..].starts_with(b"*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    rest.len()
}

/// The length of a raw string, if one begins here.
fn raw_string(rest: &[u8]) -> Option<usize> {
    let behind = rest.strip_prefix(b"br").or_else(|| rest.strip_prefix(b"r"))?;
    let hashes = behind.iter().take_while(|byte| **byte == b'#').count();
    let inside = behind[hashes..].strip_prefix(b"\"")?;
    let end = [b"\"".as_slice(), &vec![b'#'; hashes]].concat();
    let start = rest.len() - inside.len();
    Some(find(rest, &end, start).map_or(rest.len(), |at| at + end.len()))
}

fn quoted(rest: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < rest.len() && rest[at] != quote {
        at += if rest[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(rest.len())
}

/// Whether a quoted letter begins here, and not a lifetime.
fn is_letter(rest: &[u8]) -> bool {
    rest[0] == b'\''
        && rest.get(1).is_some_and(|first| {
            let width = match first {
                0..0x80 => 1,
                0x80..0xE0 => 2,
                0xE0..0xF0 => 3,
                _ => 4,
            };
            *first == b'\\' || rest.get(1 + width) == Some(&b'\'')
        })
}

/// The top-level module of the crate that a path of a file leads to; the file's own module is so many levels below the root.
fn module_of(path: &str, depth: usize) -> Option<&str> {
    if let Some(rest) = path.strip_prefix("crate::") {
        return rest.split("::").next();
    }
    let mut rest = path;
    let mut ups = 0;
    while let Some(behind) = rest.strip_prefix("super::") {
        (rest, ups) = (behind, ups + 1);
    }
    if ups > depth { rest.split("::").next() } else { None }
}

fn is_world(path: &str, world: &str) -> bool {
    let begins = path.strip_prefix(world).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"));
    begins || (!world.contains("::") && path.split("::").any(|part| part == world))
}

/// Every breach of the rule in a file of `module`, as sentences.
fn breaches(module: &str, modules: &[String], file: &Path, code: &Code) -> Vec<String> {
    let rank = |name: &str| modules.iter().position(|known| known == name);
    let own = rank(module).expect("the module is declared");
    let in_core = own <= rank(LAST_OF_CORE).expect("the core ends at a declared module");
    let below = file.strip_prefix(source_root()).unwrap_or(file);
    let depth = below.components().count() - 1;
    let mut found = Vec::new();
    for (line, path) in code.paths() {
        let place = || format!("{}:{line}", file.display());
        if let Some(imported) = module_of(&path, depth)
            && rank(imported).is_some_and(|other| other > own)
        {
            found.push(format!("{}: {module} imports {imported}, which is declared below it", place()));
        }
        if in_core {
            let whole = code.text.lines().nth(line - 1).unwrap_or_default();
            let worlds = WORLD.iter().filter(|world| is_world(&path, world) && whole != THE_ONE_RANDOM_HASH);
            found.extend(worlds.map(|world| format!("{}: the core must not use {world}", place())));
        }
    }
    found.dedup();
    found
}

#[test]
fn a_module_imports_only_modules_declared_above_it_and_the_core_imports_no_world() {
    let library = fs::read_to_string(source_root().join("lib.rs")).expect("src/lib.rs is readable");
    let modules = declared_modules(&library);
    assert!(modules.len() > 10, "found only {modules:?}");
    let mut found = Vec::new();
    for module in &modules {
        let read = |file: PathBuf| {
            let text = fs::read_to_string(&file).expect("a declared module has its file");
            (file, Code::of(&text))
        };
        let files: Vec<(PathBuf, Code)> = files_of(module).into_iter().map(read).collect();
        let tests: Vec<PathBuf> = files
            .iter()
            .flat_map(|(file, code)| code.test_modules.iter().map(|name| file.with_extension("").join(name)))
            .collect();
        let is_test = |file: &Path| tests.iter().any(|test| file.with_extension("").starts_with(test));
        for (file, code) in files.iter().filter(|(file, _)| !is_test(file)) {
            found.extend(breaches(module, &modules, file, code));
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn the_layering_test_sees_every_upward_import_and_every_clock() {
    let modules: Vec<String> = ["feature", "event", "snapshot", "source"].map(str::to_owned).to_vec();
    let breaches = |module: &str, file: &str, text: &str| {
        let file = source_root().join(file);
        breaches(module, &modules, &file, &Code::of(text))
    };
    let seen = [
        "use crate::{event::Event, source};",
        "use crate::{\n    event,\n    source::{self, Source},\n};",
        "fn f() { crate::source::read() }",
        "fn f() { crate :: source :: read() }",
        "use super::super::source;",
        "use std::time::Instant;",
        "use std::{collections::BTreeMap, time::{Duration, Instant}};",
        "fn f() { let now = std::time::Instant::now(); }",
        "use std::collections::hash_map::RandomState;",
        "fn f() { tracing::info!(\"a\"); }",
        "#[cfg(test)]\nmod tests;\nuse crate::source::Source;",
        "#[cfg(test)]\n#[allow(x)]\nmod tests {\n    const A: &str = \"}\";\n    fn f() -> char { '}' }\n}\nuse crate::source::Source;",
        "const A: &str = \"#[cfg(test)] mod tests {\";\nuse crate::source::Source;",
        "const A: &str = r#\"\" // \"#; use crate::source::Source;",
        "fn f<'a>(x: &'a str) -> &'a str { crate::source::g(x) }",
        "/* a /* b */ c */ use crate::source::Source;",
    ];
    for text in seen {
        let found = breaches("event", "event/decode.rs", text);
        assert_eq!(found.len(), 1, "{text}: {found:?}");
    }
    let allowed = [
        "// use crate::source in a comment\n/* use std::time::Instant; */",
        "/// [`crate::source`]\nconst A: &str = \"crate::source std::time\";",
        "use super::mapping::Part;\nuse crate::{event::Event, feature};",
        "#[cfg(test)]\nmod tests {\n    use crate::source::Source;\n    use std::time::Instant;\n}\n",
        "fn tracing_of(time: i64) -> i64 { time }",
        "const A: char = '\"'; const B: &str = \"crate::source\";",
    ];
    for text in allowed {
        let found = breaches("event", "event/decode.rs", text);
        assert!(found.is_empty(), "{text}: {found:?}");
    }
    assert!(breaches("source", "source.rs", "use crate::event;\nuse std::time::Instant;").is_empty());
    assert_eq!(breaches("event", "event.rs", "use super::source;").len(), 1);
}

#[test]
fn no_source_file_is_longer_than_500_lines() {
    let mut files = Vec::new();
    rust_files(&source_root(), &mut files);
    for file in files {
        let text = fs::read_to_string(&file).expect("the source tree is readable");
        let lines = text.lines().count() - Code::of(&text).test_lines;
        assert!(lines <= 500, "{} has {lines} lines without its tests", file.display());
    }
}
