//! Files of lines, plain or compressed (`.zst`), in bounded memory: a line that is longer than the bound is not held, only
//! its beginning, its length and its digests are; and a compressed file may not ask for a window of any size.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use xxhash_rust::xxh3::Xxh3;

use crate::progress::{Counted, Progress};

/// The largest window that a compressed file may ask for, as a power of two in bytes: 128 MiB, which is the most that
/// `zstd` itself uses unless it is told otherwise when it reads, too.
const WINDOW_LOG_MAX: u32 = 27;

/// Bytes read at a time.
const BUFFER_BYTES: usize = 1 << 18;

/// A line without its end.
#[derive(Debug, PartialEq, Eq)]
pub enum Line<'l> {
    /// All of it.
    Whole(&'l [u8]),
    /// One that is longer than the bound.
    Long(Long<'l>),
}

/// What is kept of a line that is longer than the bound.
#[derive(Debug, PartialEq, Eq)]
pub struct Long<'l> {
    /// Its beginning: one byte more than the bound.
    pub beginning: &'l [u8],
    /// Its length in bytes.
    pub bytes: u64,
    /// SHA-256 of all of it.
    pub sha256: [u8; 32],
    /// XXH3-64 of all of it.
    pub xxh3: u64,
}

/// The lines of a file.
pub struct Lines {
    path: PathBuf,
    reader: Box<dyn BufRead + Send>,
    bytes_max: usize,
    line: Vec<u8>,
}

impl std::fmt::Debug for Lines {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lines").field("path", &self.path).field("bytes_max", &self.bytes_max).finish_non_exhaustive()
    }
}

impl Lines {
    /// Opens a file; lines of up to `bytes_max` bytes are held. The bytes of the file are counted in `progress`.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(path: &Path, bytes_max: usize, progress: &Progress) -> io::Result<Self> {
        let file = File::open(path)?;
        progress.expect(file.metadata()?.len());
        let file = Counted::new(file, progress.clone());
        let reader: Box<dyn BufRead + Send> = if path.extension().is_some_and(|extension| extension == "zst") {
            let mut decoder = zstd::Decoder::new(file)?;
            decoder.window_log_max(WINDOW_LOG_MAX)?;
            Box::new(BufReader::with_capacity(BUFFER_BYTES, decoder))
        } else {
            Box::new(BufReader::with_capacity(BUFFER_BYTES, file))
        };
        Ok(Self::over(path.to_owned(), reader, bytes_max))
    }

    /// The lines of any reader; `path` is where they come from.
    pub fn over(path: PathBuf, reader: Box<dyn BufRead + Send>, bytes_max: usize) -> Self {
        Self { path, reader, bytes_max, line: Vec::new() }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The longest line that is held, in bytes.
    pub fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    /// The next line, or nothing at the end of the file.
    ///
    /// # Errors
    /// When the file cannot be read on.
    pub fn read(&mut self) -> io::Result<Option<Line<'_>>> {
        self.line.clear();
        let most = self.bytes_max as u64 + 1;
        if (&mut self.reader).take(most).read_until(b'\n', &mut self.line)? == 0 {
            return Ok(None);
        }
        if self.line.last() == Some(&b'\n') {
            self.line.pop();
        } else if self.line.len() > self.bytes_max {
            let (bytes, sha256, xxh3) = self.digest_rest()?;
            return Ok(Some(Line::Long(Long { beginning: &self.line, bytes, sha256, xxh3 })));
        }
        Ok(Some(Line::Whole(&self.line)))
    }

    /// Reads to the end of a line whose beginning is in `line`.
    fn digest_rest(&mut self) -> io::Result<(u64, [u8; 32], u64)> {
        let (mut sha256, mut xxh3) = (Sha256::new(), Xxh3::new());
        sha256.update(&self.line);
        xxh3.update(&self.line);
        let mut bytes = self.line.len() as u64;
        loop {
            let read = match self.reader.fill_buf() {
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let end = read.iter().position(|byte| *byte == b'\n');
            let part = &read[..end.unwrap_or(read.len())];
            sha256.update(part);
            xxh3.update(part);
            bytes += part.len() as u64;
            let is_end = end.is_some() || read.is_empty();
            let consumed = part.len() + usize::from(end.is_some());
            self.reader.consume(consumed);
            if is_end {
                return Ok((bytes, sha256.finalize().into(), xxh3.digest()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use xxhash_rust::xxh3::xxh3_64;

    use super::*;

    fn file(name: &str, content: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().expect("a directory of our own");
        let path = directory.path().join(name);
        std::fs::write(&path, content).expect("the disk takes it");
        (directory, path)
    }

    #[test]
    fn a_long_line_is_not_held_and_is_known_by_its_digests() {
        let long = vec![b'x'; 1_000_003];
        let content = [b"12345678\n", long.as_slice(), b"\n\nlast"].concat();
        let (_directory, path) = file("a.jsonl", &content);
        let mut lines = Lines::open(&path, 8, &Progress::default()).expect("it is there");
        assert_eq!(lines.read().expect("it reads"), Some(Line::Whole(b"12345678")));
        let expected = Long {
            beginning: &long[..9],
            bytes: long.len() as u64,
            sha256: Sha256::digest(&long).into(),
            xxh3: xxh3_64(&long),
        };
        assert_eq!(lines.read().expect("it reads"), Some(Line::Long(expected)));
        assert!(lines.line.capacity() < 4096, "{} bytes are held", lines.line.capacity());
        assert_eq!(lines.read().expect("it reads"), Some(Line::Whole(b"")));
        assert_eq!(lines.read().expect("it reads"), Some(Line::Whole(b"last")));
        assert_eq!(lines.read().expect("it reads"), None);
    }

    #[test]
    fn a_line_of_a_gigabyte_out_of_a_small_file_takes_no_more_than_its_bound() {
        let mut encoder = zstd::Encoder::new(Vec::new(), 1).expect("a level");
        for _ in 0..256 {
            encoder.write_all(&vec![b'0'; 1 << 20]).expect("memory takes it");
        }
        let content = encoder.finish().expect("memory takes it");
        assert!(content.len() < 500_000, "{} bytes", content.len());
        let (_directory, path) = file("a.jsonl.zst", &content);
        let mut lines = Lines::open(&path, 1000, &Progress::default()).expect("it is there");
        let Some(Line::Long(long)) = lines.read().expect("it reads") else { panic!("the line is long") };
        assert_eq!((long.bytes, long.beginning.len()), (256 << 20, 1001));
        assert!(lines.line.capacity() < 4096, "{} bytes are held", lines.line.capacity());
    }

    #[test]
    fn a_compressed_file_that_asks_for_a_larger_window_is_refused() {
        // A frame that says that its window is of 2 GiB (RFC 8878, section 3.1.1.1.2), and one empty block.
        let content = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 21 << 3, 0x01, 0x00, 0x00];
        let (_directory, path) = file("a.jsonl.zst", &content);
        let error = Lines::open(&path, 1000, &Progress::default())
            .expect("it is there")
            .read()
            .expect_err("the window is too large");
        assert!(error.to_string().contains("memory"), "{error}");
    }
}
