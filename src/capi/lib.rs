//! Kernel: the C interface of `deepfm.h` over [`deepfm_stream::serve`]. All `unsafe` of the crate is here: it turns pointers into
//! references once, at the boundary, and hands on. No panic leaves it, and every failure leaves its reason with the thread.

use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char, c_int};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::slice;

use deepfm_stream::serve::{FollowOptions, Predictions, ScoreError, Scorer, Server, Target};

/// Results of `deepfm.h`.
const OK: c_int = 0;
const NO_VERSION: c_int = 1;
const BAD_REQUEST: c_int = 2;
const BAD_ARGUMENT: c_int = 3;
const BUG: c_int = 4;

thread_local! {
    static LAST_ERROR: RefCell<CString> = RefCell::default();
}

/// Why a call failed.
struct Failed(c_int, String);

impl From<ScoreError> for Failed {
    fn from(error: ScoreError) -> Self {
        let code = if error == ScoreError::NoVersion { NO_VERSION } else { BAD_REQUEST };
        Self(code, error.to_string())
    }
}

fn bad(what: &str) -> Failed {
    Failed(BAD_ARGUMENT, what.to_owned())
}

fn note(error: &str) {
    let text = CString::new(error.replace('\0', " ")).unwrap_or_default();
    // A thread that is ending has none any more.
    let _ = LAST_ERROR.try_with(|last| *last.borrow_mut() = text);
}

/// Does a call's work. A failure, or a panic, is noted.
fn guard<T>(work: impl FnOnce() -> Result<T, Failed>) -> Result<T, c_int> {
    let done = catch_unwind(AssertUnwindSafe(work));
    let done = done.unwrap_or_else(|_| Err(Failed(BUG, "a panic: a bug in deepfm".to_owned())));
    note(done.as_ref().err().map_or("", |Failed(_, reason)| reason));
    done.map_err(|Failed(code, _)| code)
}

/// A text argument.
///
/// # Safety
/// `text` is null, or ends with a zero and lives as long as what is made of it.
unsafe fn text<'a>(text: *const c_char, what: &str) -> Result<&'a str, Failed> {
    if text.is_null() {
        return Err(bad(&format!("{what} is null")));
    }
    // SAFETY: not null, and the caller gives a text that ends with a zero.
    unsafe { CStr::from_ptr(text) }.to_str().map_err(|_| bad(&format!("{what} is not UTF-8")))
}

/// Bytes of an argument; null is fine for none.
///
/// # Safety
/// `bytes` is null, or has `length` bytes that live as long as what is made of it.
unsafe fn bytes<'a>(bytes: *const c_char, length: usize) -> Result<&'a [u8], Failed> {
    match (bytes.is_null(), length) {
        (_, 0) => Ok(&[]),
        (true, _) => Err(bad("a row is null")),
        (false, _) if isize::try_from(length).is_err() => Err(bad("a length is beyond what memory can have")),
        // SAFETY: not null, and the caller gives so many bytes.
        (false, _) => Ok(unsafe { slice::from_raw_parts(bytes.cast(), length) }),
    }
}

/// The rows of a request.
///
/// # Safety
/// `rows` and `lengths` are null, or have `count` elements that live as long as what is made of them, as have the rows themselves.
unsafe fn rows<'a>(
    rows: *const *const c_char,
    lengths: *const usize,
    count: usize,
    most: usize,
) -> Result<impl Iterator<Item = &'a [u8]>, Failed> {
    if count > most {
        return Err(ScoreError::TooManyRows(most).into());
    }
    if count > 0 && (rows.is_null() || lengths.is_null()) {
        return Err(bad("rows or their lengths are null"));
    }
    let (rows, lengths): (&[*const c_char], &[usize]) = if count == 0 {
        (&[], &[])
    } else {
        // SAFETY: neither is null, and the caller gives so many elements.
        unsafe { (slice::from_raw_parts(rows, count), slice::from_raw_parts(lengths, count)) }
    };
    for (row, length) in rows.iter().zip(lengths) {
        // SAFETY: the caller gives rows of these lengths; what cannot be one is refused.
        unsafe { bytes(*row, *length) }?;
    }
    // SAFETY: the caller gives rows of these lengths; none is null where it has a length.
    let row = |(row, length): (&*const c_char, &usize)| unsafe { bytes(*row, *length) }.unwrap_or_default();
    Ok(rows.iter().zip(lengths).map(row))
}

/// Gives the scores of a request to its caller.
///
/// # Safety
/// `probabilities` has room for `count` values, `version` is null or has room for one.
unsafe fn give(
    scores: &Predictions<'_>,
    count: usize,
    probabilities: *mut f64,
    version: *mut u64,
) -> Result<(), Failed> {
    if scores.logits.len() != count || (count > 0 && probabilities.is_null()) {
        return Err(bad("probabilities are null"));
    }
    for (at, probability) in scores.probabilities().enumerate() {
        // SAFETY: `at` is below `count`, for which the caller gives room.
        unsafe { probabilities.add(at).write(probability) };
    }
    if !version.is_null() {
        // SAFETY: not null, and the caller gives room for one.
        unsafe { version.write(scores.version()) };
    }
    Ok(())
}

/// See `deepfm.h`.
///
/// # Safety
/// The arguments are null or texts that end with a zero.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deepfm_follow_directory(
    versions: *const c_char,
    model: *const c_char,
    target: *const c_char,
) -> *mut Server {
    let followed = guard(|| {
        // SAFETY: the caller keeps this function's contract, which is theirs.
        let [versions, model, target] =
            unsafe { [text(versions, "versions")?, text(model, "model")?, text(target, "target")?] };
        let target: Target = target.parse().map_err(|_| bad("target is none"))?;
        let options = FollowOptions { target, ..FollowOptions::new(model) };
        Server::follow_directory(Path::new(versions), options).map_err(|error| bad(&error.to_string()))
    });
    followed.map_or(std::ptr::null_mut(), |server| Box::into_raw(Box::new(server)))
}

/// See `deepfm.h`.
///
/// # Safety
/// `server` is null, or was opened here and not closed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deepfm_serving(server: *const Server) -> u64 {
    // SAFETY: the caller gives null or a server that is open.
    let serving = guard(|| unsafe { server.as_ref() }.ok_or_else(|| bad("server is null")).map(Server::model));
    serving.ok().flatten().map_or(0, |model| model.version())
}

/// See `deepfm.h`.
///
/// # Safety
/// As [`deepfm_serving`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deepfm_status(server: *const Server) -> *mut c_char {
    let status = guard(|| {
        // SAFETY: the caller gives null or a server that is open.
        let server = unsafe { server.as_ref() }.ok_or_else(|| bad("server is null"))?;
        let text = serde_json::to_string(&server.status()).map_err(|error| Failed(BUG, error.to_string()))?;
        CString::new(text).map_err(|error| Failed(BUG, error.to_string()))
    });
    status.map_or(std::ptr::null_mut(), CString::into_raw)
}

/// See `deepfm.h`.
///
/// # Safety
/// `text` is null, or was given out here and not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deepfm_free_text(text: *mut c_char) {
    if !text.is_null() {
        // SAFETY: not null, and it came from `CString::into_raw`.
        drop(unsafe { CString::from_raw(text) });
    }
}

/// See `deepfm.h`.
///
/// # Safety
/// As [`deepfm_serving`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deepfm_open_scorer(server: *const Server) -> *mut Scorer {
    // SAFETY: the caller gives null or a server that is open.
    let scorer = guard(|| unsafe { server.as_ref() }.ok_or_else(|| bad("server is null")).map(Server::scorer));
    scorer.map_or(std::ptr::null_mut(), |scorer| Box::into_raw(Box::new(scorer)))
}

/// See `deepfm.h`.
///
/// # Safety
/// `scorer` is null, or was opened here, is not closed, and is used by one thread at a time. The others are null or have `count`
/// elements, and rows have their lengths.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deepfm_score(
    scorer: *mut Scorer,
    rows_: *const *const c_char,
    lengths: *const usize,
    count: usize,
    probabilities: *mut f64,
    version: *mut u64,
) -> c_int {
    let scored = guard(|| {
        // SAFETY: the caller keeps this function's contract.
        let scorer = unsafe { scorer.as_mut() }.ok_or_else(|| bad("scorer is null"))?;
        // SAFETY: as before.
        let rows = unsafe { rows(rows_, lengths, count, scorer.rows_max())? };
        let scores = scorer.score(rows)?;
        // SAFETY: the caller gives room for `count` probabilities and a version.
        unsafe { give(&scores, count, probabilities, version) }
    });
    scored.map_or_else(|code| code, |()| OK)
}

/// See `deepfm.h`.
///
/// # Safety
/// As [`deepfm_score`]; the context has its length.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deepfm_rank(
    scorer: *mut Scorer,
    context: *const c_char,
    context_length: usize,
    candidates: *const *const c_char,
    lengths: *const usize,
    count: usize,
    probabilities: *mut f64,
    version: *mut u64,
) -> c_int {
    let ranked = guard(|| {
        // SAFETY: the caller keeps this function's contract.
        let scorer = unsafe { scorer.as_mut() }.ok_or_else(|| bad("scorer is null"))?;
        // SAFETY: as before.
        let (context, candidates) =
            unsafe { (bytes(context, context_length)?, rows(candidates, lengths, count, scorer.rows_max())?) };
        let scores = scorer.rank(context, candidates)?;
        // SAFETY: the caller gives room for `count` probabilities and a version.
        unsafe { give(&scores, count, probabilities, version) }
    });
    ranked.map_or_else(|code| code, |()| OK)
}

/// See `deepfm.h`.
#[unsafe(no_mangle)]
pub extern "C" fn deepfm_last_error() -> *const c_char {
    LAST_ERROR.try_with(|last| last.borrow().as_ptr()).unwrap_or(c"".as_ptr())
}

/// See `deepfm.h`.
///
/// # Safety
/// `scorer` is null, or was opened here and not closed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deepfm_close_scorer(scorer: *mut Scorer) {
    if !scorer.is_null() {
        // What its drop may panic with stays here.
        let _ = guard(|| {
            // SAFETY: not null, and it came from `Box::into_raw`.
            drop(unsafe { Box::from_raw(scorer) });
            Ok(())
        });
    }
}

/// See `deepfm.h`.
///
/// # Safety
/// `server` is null, or was opened here and not closed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deepfm_close_server(server: *mut Server) {
    if !server.is_null() {
        // What its drop may panic with stays here.
        let _ = guard(|| {
            // SAFETY: not null, and it came from `Box::into_raw`.
            drop(unsafe { Box::from_raw(server) });
            Ok(())
        });
    }
}
