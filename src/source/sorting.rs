//! Lines in the order of their event times, from a file that is not: an external merge sort in bounded memory.
//!
//! Lines are gathered up to [`CHUNK_BYTES_MAX`], sorted, and written to a temporary file that has no name any more; at
//! most [`RUNS_MAX`] of these runs are then merged. What fits into one chunk never leaves the memory. The sort is stable,
//! and a line without a usable time stays behind the line before it. Of a line that is too long to be held only the
//! beginning is sorted, which is too long as well: it is refused as the whole line would be.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::lines::Line;
use crate::progress::Progress;

/// The most bytes that lines take in memory while they are sorted.
pub const CHUNK_BYTES_MAX: usize = 256 << 20;

/// The most sorted runs that are merged: with the bound above, 64 GiB of lines.
pub const RUNS_MAX: usize = 256;

/// What a line takes beside its bytes.
const ENTRY_BYTES: usize = size_of::<Entry>();

/// A line of a chunk: its time, and where it is.
#[derive(Clone, Copy, Debug)]
struct Entry {
    time: i64,
    start: usize,
    length: usize,
}

/// Lines in memory.
#[derive(Debug, Default)]
struct Chunk {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
}

impl Chunk {
    fn push(&mut self, time: i64, line: &[u8]) {
        self.entries.push(Entry { time, start: self.bytes.len(), length: line.len() });
        self.bytes.extend_from_slice(line);
    }

    fn size(&self) -> usize {
        self.bytes.len() + self.entries.len() * ENTRY_BYTES
    }

    fn line(&self, entry: Entry) -> &[u8] {
        &self.bytes[entry.start..entry.start + entry.length]
    }

    /// Writes the lines in the order of their times to a file without a name, and forgets them.
    fn spill(&mut self, directory: &Path) -> io::Result<File> {
        self.entries.sort_by_key(|entry| entry.time);
        let mut out = BufWriter::with_capacity(1 << 20, nameless(directory)?);
        for entry in &self.entries {
            out.write_all(&entry.time.to_le_bytes())?;
            out.write_all(&(entry.length as u64).to_le_bytes())?;
            out.write_all(self.line(*entry))?;
        }
        let mut file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.rewind()?;
        self.bytes.clear();
        self.entries.clear();
        Ok(file)
    }
}

/// A new file that only this process has, and that is gone with it.
fn nameless(directory: &Path) -> io::Result<File> {
    static MADE: AtomicU64 = AtomicU64::new(0);
    loop {
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let path = directory.join(format!(".deepfm-sort-{}-{number}", std::process::id()));
        match OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path) {
            Ok(file) => {
                fs::remove_file(&path)?;
                return Ok(file);
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
}

/// `lines` by the times that `time` finds in them, as a reader again.
///
/// # Errors
/// When the lines cannot be read, a run cannot be written to `directory`, or there are too many runs.
pub fn sorted(
    lines: crate::lines::Lines,
    time: impl FnMut(&[u8]) -> Option<i64>,
    directory: &Path,
    progress: &Progress,
) -> io::Result<Sorted> {
    sorted_within(lines, time, directory, progress, CHUNK_BYTES_MAX)
}

fn sorted_within(
    mut lines: crate::lines::Lines,
    mut time: impl FnMut(&[u8]) -> Option<i64>,
    directory: &Path,
    progress: &Progress,
    chunk_bytes_max: usize,
) -> io::Result<Sorted> {
    let (mut chunk, mut runs, mut last) = (Chunk::default(), Vec::new(), i64::MIN);
    while let Some(line) = lines.read()? {
        let text = match line {
            Line::Whole(line) => line.trim_ascii(),
            Line::Long(long) => long.beginning,
        };
        if text.is_empty() {
            continue;
        }
        last = time(text).unwrap_or(last);
        progress.expect(text.len() as u64);
        chunk.push(last, text);
        if chunk.size() >= chunk_bytes_max {
            if runs.len() == RUNS_MAX {
                let most = (RUNS_MAX * chunk_bytes_max) >> 20;
                return Err(io::Error::other(format!(
                    "more than {most} MiB of lines cannot be sorted: sort them outside"
                )));
            }
            runs.push(chunk.spill(directory)?);
        }
    }
    let merge = if runs.is_empty() { Lines::memory(chunk) } else { Lines::merge(runs, &mut chunk, directory)? };
    Ok(Sorted { lines: merge, line: Vec::new(), read: 0, progress: progress.clone() })
}

/// Where sorted lines come from.
#[derive(Debug)]
enum Lines {
    Memory { chunk: Chunk, next: usize },
    Runs { runs: Vec<BufReader<File>>, heads: BinaryHeap<Reverse<(i64, usize)>> },
}

impl Lines {
    fn memory(mut chunk: Chunk) -> Self {
        chunk.entries.sort_by_key(|entry| entry.time);
        Self::Memory { chunk, next: 0 }
    }

    fn merge(mut files: Vec<File>, rest: &mut Chunk, directory: &Path) -> io::Result<Self> {
        if !rest.entries.is_empty() {
            files.push(rest.spill(directory)?);
        }
        *rest = Chunk::default();
        let mut runs: Vec<_> = files.into_iter().map(|file| BufReader::with_capacity(1 << 16, file)).collect();
        let mut heads = BinaryHeap::new();
        for (number, run) in runs.iter_mut().enumerate() {
            heads.extend(head(run)?.map(|time| Reverse((time, number))));
        }
        Ok(Self::Runs { runs, heads })
    }

    /// Reads the next line into `line`; `false` at the end.
    fn next(&mut self, line: &mut Vec<u8>) -> io::Result<bool> {
        match self {
            Self::Memory { chunk, next } => {
                let Some(entry) = chunk.entries.get(*next) else { return Ok(false) };
                line.extend_from_slice(chunk.line(*entry));
                *next += 1;
            }
            Self::Runs { runs, heads } => {
                // Of equal times the earlier run's come first, which keeps the sort stable.
                let Some(Reverse((_, number))) = heads.pop() else { return Ok(false) };
                let run = &mut runs[number];
                let mut length = [0; 8];
                run.read_exact(&mut length)?;
                line.resize(u64::from_le_bytes(length) as usize, 0);
                run.read_exact(line)?;
                heads.extend(head(run)?.map(|time| Reverse((time, number))));
            }
        }
        Ok(true)
    }
}

/// The time of a run's next line.
fn head(run: &mut BufReader<File>) -> io::Result<Option<i64>> {
    if run.fill_buf()?.is_empty() {
        return Ok(None);
    }
    let mut time = [0; 8];
    run.read_exact(&mut time)?;
    Ok(Some(i64::from_le_bytes(time)))
}

/// Sorted lines, each with its end, as a reader.
#[derive(Debug)]
pub struct Sorted {
    lines: Lines,
    line: Vec<u8>,
    read: usize,
    progress: Progress,
}

impl Read for Sorted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.fill_buf()?.read(buffer)?;
        self.consume(read);
        Ok(read)
    }
}

impl BufRead for Sorted {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.read == self.line.len() {
            self.line.clear();
            self.read = 0;
            if self.lines.next(&mut self.line)? {
                self.progress.advance(self.line.len() as u64);
                self.line.push(b'\n');
            }
        }
        Ok(&self.line[self.read..])
    }

    fn consume(&mut self, amount: usize) {
        self.read += amount;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use deepfm_core::feature::hash::hash;

    fn time(line: &[u8]) -> Option<i64> {
        std::str::from_utf8(line).ok()?.split(' ').next()?.parse().ok()
    }

    fn unsorted(text: &str) -> crate::lines::Lines {
        let reader = Box::new(io::Cursor::new(text.to_owned().into_bytes()));
        crate::lines::Lines::over(std::path::PathBuf::from("test"), reader, 1000)
    }

    fn sort(text: &str, chunk_bytes_max: usize) -> Vec<String> {
        let directory = tempfile::tempdir().expect("a directory");
        let sorted = sorted_within(unsorted(text), time, directory.path(), &Progress::default(), chunk_bytes_max);
        let lines = sorted.and_then(|sorted| sorted.lines().collect()).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(fs::read_dir(directory.path()).expect("it is there").count(), 0, "no file is left");
        lines
    }

    #[test]
    fn lines_come_in_the_order_of_their_times_whether_they_fit_or_not() {
        let lines: Vec<String> = (0..5000).map(|n| format!("{} line {n}", hash(1, n, 0) % 700)).collect();
        let mut expected = lines.clone();
        expected.sort_by_key(|line| time(line.as_bytes()));
        for chunk in [1 << 30, 100_000, 4_000] {
            assert_eq!(sort(&lines.join("\n"), chunk), expected, "{chunk}");
        }
    }

    #[test]
    fn a_line_without_a_time_stays_behind_the_one_before_it() {
        for chunk in [1 << 20, 1] {
            assert_eq!(
                sort("3 c\nbroken\n\n1 a\n2 b\nalso broken\n", chunk),
                ["1 a", "2 b", "also broken", "3 c", "broken"]
            );
        }
    }

    #[test]
    fn more_runs_than_can_be_merged_are_refused_by_name() {
        let text = "1\n".repeat(RUNS_MAX + 1);
        let directory = tempfile::tempdir().expect("a directory");
        let error = sorted_within(unsorted(&text), time, directory.path(), &Progress::default(), 1);
        let error = error.expect_err("too many").to_string();
        assert!(error.contains("cannot be sorted"), "{error}");
    }
}
