//! The layering rule of both crates: a module may import only modules declared above it, and the files of a module do not
//! import each other in a circle. That the core imports no world its manifest and its lints see to.
//!
//! Whole files are read: comments, the contents of strings and test modules are blanked, and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// One of our two crates: where its sources are.
#[derive(Clone, Copy, Debug)]
struct Crate {
    root: &'static str,
    /// A folder below that is the other crate's.
    foreign: Option<&'static str>,
}

const CORE: Crate = Crate { root: "src/core", foreign: None };
const SHELL: Crate = Crate { root: "src", foreign: Some("src/core") };

impl Crate {
    fn root(self) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join(self.root)
    }

    /// Every source file, with its module path: `["join", "held"]` for `join/held.rs`.
    fn files(self) -> Vec<Source> {
        let mut files = Vec::new();
        rust_files(&self.root(), &mut files);
        let foreign = self.foreign.map(|foreign| Path::new(env!("CARGO_MANIFEST_DIR")).join(foreign));
        files.retain(|file| foreign.as_ref().is_none_or(|foreign| !file.starts_with(foreign)));
        files.into_iter().map(|file| Source::read(&self.root(), file)).collect()
    }

    /// The same without the files of test modules.
    fn files_without_tests(self) -> Vec<Source> {
        let files = self.files();
        let tests: Vec<Vec<String>> = files
            .iter()
            .flat_map(|source| {
                let below = |name: &String| [source.module.as_slice(), std::slice::from_ref(name)].concat();
                source.code.test_modules.iter().map(below).collect::<Vec<_>>()
            })
            .collect();
        let is_test = |source: &Source| tests.iter().any(|test| source.module.starts_with(test));
        files.into_iter().filter(|source| !is_test(source)).collect()
    }

    /// The modules in the order of their declaration.
    fn modules(self) -> Vec<String> {
        let library = fs::read_to_string(self.root().join("lib.rs")).expect("the crate has a lib.rs");
        let modules = declared_modules(&library);
        assert!(modules.len() > 5, "found only {modules:?}");
        modules
    }
}

/// A source file.
struct Source {
    file: PathBuf,
    module: Vec<String>,
    text: String,
    code: Code,
}

impl Source {
    fn read(root: &Path, file: PathBuf) -> Self {
        let text = fs::read_to_string(&file).expect("the source tree is readable");
        let below = file.strip_prefix(root).unwrap_or(&file).with_extension("");
        let module = below.components().map(|part| part.as_os_str().to_string_lossy().into_owned()).collect();
        Self { module, code: Code::of(&text), text, file }
    }

    /// The absolute paths within the crate that this file names, with their lines.
    fn imports(&self) -> Vec<(usize, Vec<String>)> {
        let absolute = |path: &str| {
            let mut parts = path.split("::").map(str::to_owned);
            let mut base = self.module.clone();
            match parts.next()?.as_str() {
                "crate" => base.clear(),
                "self" => {}
                "super" => {
                    base.pop();
                }
                _ => return None,
            }
            for part in parts {
                if part == "super" {
                    base.pop();
                } else {
                    base.push(part);
                }
            }
            Some(base)
        };
        self.code.paths().into_iter().filter_map(|(line, path)| Some((line, absolute(&path)?))).collect()
    }
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

/// Every import of a module that is declared below, as sentences.
fn upward_imports(modules: &[String], source: &Source) -> Vec<String> {
    let rank = |name: &String| modules.iter().position(|known| known == name);
    let Some((module, own)) = source.module.first().and_then(|name| Some((name, rank(name)?))) else {
        return Vec::new();
    };
    let breach = |(line, path): &(usize, Vec<String>)| {
        let imported = path.first().filter(|imported| rank(imported).is_some_and(|other| other > own))?;
        Some(format!("{}:{line}: {module} imports {imported}, which is declared below it", source.file.display()))
    };
    let mut found: Vec<String> = source.imports().iter().filter_map(breach).collect();
    found.dedup();
    found
}

#[test]
fn a_module_imports_only_modules_declared_above_it() {
    for crate_ in [CORE, SHELL] {
        let modules = crate_.modules();
        let files = crate_.files_without_tests();
        let found: Vec<String> = files.iter().flat_map(|source| upward_imports(&modules, source)).collect();
        assert!(found.is_empty(), "{}", found.join("\n"));
    }
}

/// Which of the files and folders of a module import which, by the module. A file is one with the folder of its name; what
/// it says of its own children, and they of it, does not count: they are its parts.
fn imports_between_siblings(files: &[Source]) -> BTreeMap<Vec<String>, BTreeMap<String, BTreeSet<String>>> {
    let known: BTreeSet<&[String]> = files.iter().map(|source| source.module.as_slice()).collect();
    let mut found: BTreeMap<Vec<String>, BTreeMap<String, BTreeSet<String>>> = BTreeMap::new();
    for source in files {
        for (_, path) in source.imports() {
            let Some(file) = (1..=path.len()).rev().map(|length| &path[..length]).find(|path| known.contains(path))
            else {
                continue;
            };
            let shared = source.module.iter().zip(file).take_while(|(one, other)| one == other).count();
            if let (Some(from), Some(to)) = (source.module.get(shared), file.get(shared)) {
                let siblings = found.entry(file[..shared].to_vec()).or_default();
                siblings.entry(from.clone()).or_default().insert(to.clone());
            }
        }
    }
    found
}

/// A way from one back to itself.
fn circle(imports: &BTreeMap<String, BTreeSet<String>>) -> Option<Vec<String>> {
    let next = |name: &String| imports.get(name).into_iter().flatten();
    for start in imports.keys() {
        let mut ways: Vec<Vec<String>> = next(start).map(|first| vec![first.clone()]).collect();
        let mut seen = BTreeSet::new();
        while let Some(way) = ways.pop() {
            let last = way.last().expect("a way has a first step");
            if last == start {
                return Some([vec![start.clone()], way].concat());
            }
            if seen.insert(last.clone()) {
                ways.extend(next(last).map(|name| [way.as_slice(), std::slice::from_ref(name)].concat()));
            }
        }
    }
    None
}

#[test]
fn no_files_of_one_module_import_each_other_in_a_circle() {
    for crate_ in [CORE, SHELL] {
        let circles: Vec<String> = imports_between_siblings(&crate_.files_without_tests())
            .iter()
            .filter_map(|(module, imports)| Some(format!("{}: {}", module.join("::"), circle(imports)?.join(" → "))))
            .collect();
        assert!(circles.is_empty(), "{}", circles.join("\n"));
    }
}

#[test]
fn no_two_public_types_have_one_name() {
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for source in [CORE, SHELL].into_iter().flat_map(Crate::files_without_tests) {
        for line in source.code.text.lines().map(str::trim_start) {
            let kinds = ["pub struct ", "pub enum ", "pub trait ", "pub type ", "pub union "];
            let Some(rest) = kinds.iter().find_map(|kind| line.strip_prefix(kind)) else { continue };
            let name: String = rest.chars().take_while(|letter| letter.is_alphanumeric() || *letter == '_').collect();
            places.entry(name).or_default().push(source.file.display().to_string());
        }
    }
    assert!(places.len() > 200, "found only {}", places.len());
    let twice: Vec<_> = places.iter().filter(|(_, places)| places.len() > 1).collect();
    assert!(twice.is_empty(), "{twice:#?}");
}

#[test]
fn every_thread_is_started_in_its_own_module() {
    let starts = |path: &str| {
        ["thread::spawn", "thread::scope", "thread::Builder"]
            .iter()
            .any(|start| path.ends_with(start) || path.contains(&format!("{start}::")))
    };
    let mut found = Vec::new();
    for source in SHELL
        .files_without_tests()
        .iter()
        .filter(|source| source.module.first().is_none_or(|module| module != "thread"))
    {
        let started = source.code.paths().into_iter().filter(|(_, path)| starts(path));
        found.extend(started.map(|(line, path)| format!("{}:{line}: {path}", source.file.display())));
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn the_core_names_no_crate_of_the_world() {
    let manifest = fs::read_to_string(CORE.root().join("Cargo.toml")).expect("the core has a manifest");
    let manifest: toml::Table = manifest.parse().expect("it is TOML");
    let dependencies = manifest["dependencies"].as_table().expect("it has dependencies");
    for world in [
        "tokio", "rdkafka", "sled", "axum", "hyper", "rayon", "memmap2", "reqwest", "tracing", "metrics", "rustix",
        "fs4",
    ] {
        assert!(!dependencies.contains_key(world), "the core must not use {world}");
    }
    let lints = fs::read_to_string(CORE.root().join("clippy.toml")).expect("the core has lints of its own");
    for path in
        ["std::time::Instant", "std::fs::File", "std::thread::spawn", "std::env::var", "std::collections::HashMap"]
    {
        assert!(lints.contains(&format!("\"{path}\"")), "{path} is not forbidden");
    }
}

#[test]
fn the_layering_test_sees_every_upward_import_and_every_circle() {
    let modules: Vec<String> = ["feature", "event", "source"].map(str::to_owned).to_vec();
    let source = |file: &str, text: &str| {
        let module = Path::new(file).with_extension("");
        let module = module.components().map(|part| part.as_os_str().to_string_lossy().into_owned()).collect();
        Source { file: file.into(), module, text: text.to_owned(), code: Code::of(text) }
    };
    let seen = [
        "use crate::{event::Event, source};",
        "use crate::{\n    event,\n    source::{self, Source},\n};",
        "fn f() { crate::source::read() }",
        "fn f() { crate :: source :: read() }",
        "use super::super::source;",
        "#[cfg(test)]\nmod tests;\nuse crate::source::Source;",
        "#[cfg(test)]\n#[allow(x)]\nmod tests {\n    const A: &str = \"}\";\n    fn f() -> char { '}' }\n}\nuse crate::source::Source;",
        "const A: &str = \"#[cfg(test)] mod tests {\";\nuse crate::source::Source;",
        "const A: &str = r#\"\" // \"#; use crate::source::Source;",
        "fn f<'a>(x: &'a str) -> &'a str { crate::source::g(x) }",
        "/* a /* b */ c */ use crate::source::Source;",
    ];
    for text in seen {
        let found = upward_imports(&modules, &source("event/decode.rs", text));
        assert_eq!(found.len(), 1, "{text}: {found:?}");
    }
    let allowed = [
        "// use crate::source in a comment\n/* use crate::source::A; */",
        "/// [`crate::source`]\nconst A: &str = \"crate::source\";",
        "use super::mapping::Part;\nuse crate::{event::Event, feature};",
        "#[cfg(test)]\nmod tests {\n    use crate::source::Source;\n}\n",
        "const A: char = '\"'; const B: &str = \"crate::source\";",
    ];
    for text in allowed {
        let found = upward_imports(&modules, &source("event/decode.rs", text));
        assert!(found.is_empty(), "{text}: {found:?}");
    }
    assert!(upward_imports(&modules, &source("source.rs", "use crate::event;")).is_empty());
    assert_eq!(upward_imports(&modules, &source("event.rs", "use super::source;")).len(), 1);

    let circle_of = |files: &[(&str, &str)]| {
        let files: Vec<Source> = files.iter().map(|(file, text)| source(file, text)).collect();
        imports_between_siblings(&files).values().find_map(circle)
    };
    let round = [
        ("m/a.rs", "use super::b::B;"),
        ("m/b.rs", "use crate::m::c;"),
        ("m/c/d.rs", "use super::super::a::A;"),
        ("m/c.rs", ""),
    ];
    assert_eq!(circle_of(&round), Some(["a", "b", "c", "a"].map(str::to_owned).to_vec()));
    assert_eq!(circle_of(&round[..2]), None);
    assert_eq!(circle_of(&[("m.rs", "mod a; use a::A;"), ("m/a.rs", "use super::M;")]), None, "a file and its parts");
}

#[test]
fn no_source_file_is_longer_than_500_lines_and_half_of_them_have_under_150() {
    let mut lengths = Vec::new();
    for source in [CORE, SHELL].into_iter().flat_map(Crate::files) {
        let lines = source.text.lines().count() - source.code.test_lines;
        assert!(lines <= 500, "{} has {lines} lines without its tests", source.file.display());
        lengths.push(lines);
    }
    lengths.sort_unstable();
    assert!(lengths[lengths.len() / 2] < 150, "the median is {}", lengths[lengths.len() / 2]);
}
