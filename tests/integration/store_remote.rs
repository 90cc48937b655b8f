//! Versions in object storage: what a worker uploads, a server on another machine fetches, whatever the storage does meanwhile.

mod cache;
mod served;
mod worker;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use deepfm_core::version::artefact::{self, MANIFEST, MODEL};
use deepfm_core::version::journal::JOURNAL;
use deepfm_core::version::manifest::sha256;
use deepfm_core::version::storage_uri::StorageUri;
use deepfm_stream::config::Config;
use deepfm_stream::config::storage::Storage;
use deepfm_stream::remote::fetch::Fetcher;
use deepfm_stream::remote::upload::Upload;
use deepfm_stream::remote::{PART_BYTES, Remote, RemoteError};
use tempfile::TempDir;

use super::hostile::forged;
use super::reload::{VersionFiles, install, name_of, numbered};
use super::versions::artefact;
use crate::support::s3::{self, Harm, S3};

fn remote(storage: &Storage) -> Remote {
    Remote::open(storage, storage.fetched_from().expect("there is a place"), Arc::default())
        .expect("the settings make a client")
}

/// The configuration of a worker that keeps its versions below `root` and uploads them.
fn uploading(storage: &S3, root: &Path) -> Config {
    let text = format!(
        "[[fields]]\nname = \"user\"\nkind = \"categorical\"\n[model]\nname = \"ctr\"\n[versions]\ndir = \"{}\"\n{}",
        root.display(),
        storage.section(root)
    );
    Config::parse(&text, "uploads", []).unwrap_or_else(|errors| panic!("{errors}"))
}

/// A version of which one file takes three parts.
fn large() -> VersionFiles {
    let mut files = artefact(1, 0).files;
    let length = usize::try_from(2 * PART_BYTES + 1000).expect("it is small");
    files.insert(JOURNAL.to_owned(), (0..length).map(|n| (n * n % 251) as u8).collect());
    forged(files, |_| ())
}

fn upload(remote: &Remote, root: &Path, files: &VersionFiles) -> Result<u64, RemoteError> {
    let place = root.join(name_of(files));
    if !place.exists() {
        install(root, files);
    }
    Upload::of(&place, "ctr", &name_of(files), &sha256(&files[MANIFEST]))?.send(remote)
}

/// A fetcher of one version into a cache.
struct Fetching<'f> {
    fetcher: Fetcher,
    files: &'f VersionFiles,
}

impl<'f> Fetching<'f> {
    fn new(storage: &Storage, cache: &Path, files: &'f VersionFiles) -> Self {
        Self { fetcher: Fetcher::new(remote(storage), "ctr", cache), files }
    }

    fn fetch(&mut self) -> Result<(), RemoteError> {
        let name = name_of(self.files);
        let manifest = self.fetcher.manifest(&name, &sha256(&self.files[MANIFEST]))?;
        self.fetcher.files(&name, &manifest)
    }
}

/// Storage that has a version, the directory that it is from, how the storage is reached, and an empty cache.
fn uploaded(files: &VersionFiles) -> (S3, TempDir, Storage, TempDir) {
    let directory = || tempfile::tempdir().expect("a directory of our own");
    let (server, root, cache) = (S3::start(), directory(), directory());
    let storage = server.storage(root.path());
    upload(&remote(&storage), root.path(), files).expect("the storage takes it");
    (server, root, storage, cache)
}

#[track_caller]
fn assert_is_whole(place: &Path, files: &VersionFiles) {
    let found: Vec<String> = fs::read_dir(place)
        .expect("it is there")
        .flatten()
        .map(|file| file.file_name().to_string_lossy().into_owned())
        .collect();
    assert_eq!(found.len(), files.len(), "{found:?}");
    for (name, content) in files {
        assert!(fs::read(place.join(name)).expect("it is there") == *content, "{name}");
    }
}

#[test]
fn a_version_is_uploaded_in_parts_its_manifest_last_and_comes_back_byte_for_byte() {
    let (server, root) = (S3::start(), tempfile::tempdir().expect("a directory of our own"));
    let (storage, files) = (server.storage(root.path()), large());
    let (remote, name) = (remote(&storage), name_of(&files));
    let sent = upload(&remote, root.path(), &files).expect("the storage takes it");
    assert_eq!(sent, files.values().map(|content| content.len() as u64).sum::<u64>());
    let requests = server.requests();
    let writes: Vec<&String> = requests.iter().filter(|request| request.starts_with('P')).collect();
    assert!(writes.last().is_some_and(|last| last.ends_with(MANIFEST)), "{writes:?}");
    assert!(writes.iter().filter(|write| write.ends_with(JOURNAL)).count() == 5, "begin, three parts, end: {writes:?}");
    let again = Upload::of(&root.path().join(&name), "ctr", &name, &sha256(&files[MANIFEST])).expect("it is whole");
    assert!(again.is_there(&remote).expect("it answers"));

    let listed = remote.list("ctr").expect("it answers");
    assert_eq!((listed.len(), listed[0].version, listed[0].bytes), (1, 1, sent), "over pages of three");
    assert!(remote.list("other").expect("it answers").is_empty());

    // By the protocol of S3, by plain HTTP, and from a directory.
    let http = s3::storage(&format!("[storage]\nfetch_uri = \"{}\"\n", server.http()));
    let share = tempfile::tempdir().expect("a directory of our own");
    let file = s3::storage(&format!("[storage]\nuri = \"file://{}/models\"\n", share.path().display()));
    let file_remote = self::remote(&file);
    fs::create_dir(share.path().join("models")).expect("the disk takes it");
    upload(&file_remote, root.path(), &files).expect("the directory takes it");
    for storage in [&storage, &http, &file] {
        let cache = tempfile::tempdir().expect("a directory of our own");
        Fetching::new(storage, cache.path(), &files).fetch().unwrap_or_else(|error| panic!("{error}"));
        assert_is_whole(&cache.path().join(&name), &files);
    }

    // It goes manifest first; another model's versions stay.
    server.put(&format!("other/{name}/{MANIFEST}"), b"{}");
    server.requests();
    remote.remove("ctr", &name).expect("it answers");
    let first = server.requests().into_iter().find(|request| request.starts_with("DELETE")).expect("it was removed");
    assert!(first.ends_with(MANIFEST), "{first}");
    assert_eq!(server.keys(), [format!("other/{name}/{MANIFEST}")]);
    file_remote.remove("ctr", &name).expect("it is ours");
    assert!(file_remote.list("ctr").expect("it answers").is_empty());
}

#[test]
fn storage_that_is_full_refuses_or_hangs_takes_no_version_and_what_it_has_taken_is_not_sent_again() {
    let (server, root) = (S3::start(), tempfile::tempdir().expect("a directory of our own"));
    let (storage, files) = (server.storage(root.path()), large());
    let (remote, name) = (remote(&storage), name_of(&files));
    let place = install(root.path(), &files);
    let mut upload = Upload::of(&place, "ctr", &name, &sha256(&files[MANIFEST])).expect("it is whole");
    // In the order of names: the journal in parts, then the weights.
    for (method, ends, harm) in [
        ("PUT", JOURNAL, Harm::Status(507)),
        ("PUT", MODEL, Harm::Status(403)),
        ("PUT", MODEL, Harm::Hang),
        ("PUT", MANIFEST, Harm::Status(503)),
    ] {
        server.fail(method, ends, 100, harm);
        let error = upload.send(&remote).expect_err("it was not taken").to_string();
        assert!(error.contains(ends) && error.contains("s3://bucket/models/ctr/"), "{error}");
        assert_eq!(server.get(&format!("ctr/{name}/{MANIFEST}")), None, "{error}");
        assert!(!upload.is_there(&remote).expect("it answers"), "it is no version before its manifest is there");
        server.mend();
    }
    assert_eq!(server.unfinished(), 0, "parts that are of no use are not left lying");
    server.requests();
    upload.send(&remote).expect("it is taken");
    let sent: Vec<String> = server.requests().into_iter().filter(|request| request.starts_with("PUT")).collect();
    assert!(sent.len() == 1 && sent[0].ends_with(MANIFEST), "only what was not there: {sent:?}");
    assert!(upload.is_there(&remote).expect("it answers"));

    // Nothing listens there.
    let gone = S3::start();
    let storage = gone.storage(root.path());
    drop(gone);
    let error = self::upload(&self::remote(&storage), root.path(), &files).expect_err("nothing listens");
    assert!(matches!(error, RemoteError::Storage { .. }), "{error}");
}

#[test]
fn a_version_that_is_damaged_on_the_local_disk_is_not_uploaded() {
    let (server, root) = (S3::start(), tempfile::tempdir().expect("a directory of our own"));
    let (storage, files) = (server.storage(root.path()), artefact(1, 0).files);
    let place = install(root.path(), &files);
    let mut model = files[MODEL].clone();
    *model.last_mut().expect("it has bytes") ^= 1;
    fs::write(place.join(MODEL), &model).expect("it is ours");
    let error = upload(&remote(&storage), root.path(), &files).expect_err("it is another");
    assert!(matches!(error, RemoteError::Local { .. }), "{error}");
    assert!(server.keys().iter().all(|key| !key.ends_with(MANIFEST) && !key.ends_with(MODEL)), "{:?}", server.keys());
    let other = Upload::of(&place, "ctr", &name_of(&files), &sha256(b"another"));
    assert!(matches!(other, Err(RemoteError::Local { .. })));
}

#[test]
fn a_fetch_goes_on_where_it_broke_off_in_this_process_and_in_the_next() {
    let files = large();
    let (server, _root, storage, cache) = uploaded(&files);
    let name = name_of(&files);
    // Within the first part; what follows is refused, so that the try ends.
    server.fail("GET", JOURNAL, 1, Harm::CutAfter(1 << 20));
    server.fail("GET", JOURNAL, 100, Harm::Status(404));
    let error = Fetching::new(&storage, cache.path(), &files).fetch().expect_err("it breaks off");
    let partial = cache.path().join(format!(".fetching-{name}")).join(JOURNAL);
    let length = fs::metadata(&partial).expect("it is kept").len();
    assert!((1 << 20..PART_BYTES).contains(&length), "{length}: {error}");
    assert!(!cache.path().join(&name).exists(), "it has no name before it is whole");
    server.mend();
    server.requests();
    // Another process goes on, and a connection that breaks off again is no failure while something comes.
    server.fail("GET", JOURNAL, 1, Harm::CutAfter(1 << 20));
    Fetching::new(&storage, cache.path(), &files).fetch().unwrap_or_else(|error| panic!("{error}"));
    let requests = server.requests();
    let first = requests.iter().find(|request| request.contains(JOURNAL)).expect("it was asked for");
    assert!(first.contains(&format!("bytes={length}-")), "{first}");
    assert!(!requests.iter().any(|request| request.starts_with("GET") && request.ends_with(MANIFEST)), "{requests:?}");
    assert_is_whole(&cache.path().join(&name), &files);
}

#[test]
fn a_wrong_partial_file_costs_one_try_and_does_not_speak_against_the_object() {
    let files = artefact(1, 0).files;
    let (_server, root, storage, cache) = uploaded(&files);
    let mut fetching = Fetching::new(&storage, cache.path(), &files);
    let aside = cache.path().join(format!(".fetching-{}", name_of(&files)));
    fs::create_dir(&aside).expect("the disk takes it");
    // Some of it, and all of it: both of another content. The fetcher is the same all the time.
    for length in [files[MODEL].len() / 2, files[MODEL].len()] {
        fs::write(aside.join(MODEL), vec![7; length]).expect("it is ours");
        let error = fetching.fetch().expect_err("it was begun with another");
        assert!(matches!(error, RemoteError::Digest { .. }), "{error}");
        assert!(!aside.join(MODEL).exists(), "nothing of it is kept");
    }
    // A link leads nowhere.
    let elsewhere = root.path().join("elsewhere");
    fs::write(&elsewhere, b"ours").expect("it is ours");
    std::os::unix::fs::symlink(&elsewhere, aside.join(MODEL)).expect("the disk takes it");
    assert!(matches!(fetching.fetch(), Err(RemoteError::Disk { .. })));
    assert_eq!(fs::read(&elsewhere).expect("it is there"), b"ours");
    fs::remove_file(aside.join(MODEL)).expect("it is ours");
    fetching.fetch().unwrap_or_else(|error| panic!("{error}"));
    assert_is_whole(&cache.path().join(name_of(&files)), &files);
}

#[test]
fn a_load_whose_time_is_over_keeps_what_has_come_and_the_next_goes_on_there() {
    let files = large();
    let (server, _root, storage, cache) = uploaded(&files);
    let name = name_of(&files);
    let mut fetcher = Fetcher::new(remote(&storage), "ctr", cache.path()).within(Duration::from_secs(2));
    let mut fetch = || {
        fetcher.begin();
        let manifest = fetcher.manifest(&name, &sha256(&files[MANIFEST]))?;
        fetcher.files(&name, &manifest)
    };
    server.fail("GET", JOURNAL, 100, Harm::StallAfter(1 << 20));
    let error = fetch().expect_err("it stalls");
    assert!(matches!(error, RemoteError::Unfinished { brought, .. } if brought >= 1 << 20), "{error}");
    let partial = cache.path().join(format!(".fetching-{name}")).join(JOURNAL);
    assert!(fs::metadata(&partial).expect("it is kept").len() >= 1 << 20);
    server.mend();
    // Where nothing comes, it is a failure like any other.
    server.fail("GET", JOURNAL, 100, Harm::Hang);
    let error = fetch().expect_err("it hangs");
    assert!(matches!(error, RemoteError::Storage { .. }), "{error}");
    server.mend();
    let whole = || fetch().map_err(|error| assert!(matches!(error, RemoteError::Unfinished { .. }), "{error}")).ok();
    crate::support::wait_for("all of it", whole);
    assert_is_whole(&cache.path().join(&name), &files);
}

#[test]
fn who_answers_leads_nobody_to_another_host() {
    let (server, trap) = (S3::start(), S3::start());
    let (root, files) = (tempfile::tempdir().expect("a directory of our own"), artefact(1, 0).files);
    let storage = server.storage(root.path());
    for place in [&storage, &trap.storage(root.path())] {
        upload(&remote(place), root.path(), &files).expect("the storage takes it");
    }
    trap.requests();
    server.fail("GET", "", 1000, Harm::Redirect(trap.address()));
    let http = s3::storage(&format!("[storage]\nfetch_uri = \"{}\"\n", server.http()));
    for storage in [&storage, &http] {
        let cache = tempfile::tempdir().expect("a directory of our own");
        let error = Fetching::new(storage, cache.path(), &files).fetch().expect_err("it is led elsewhere");
        assert!(matches!(error, RemoteError::Storage { .. }), "{error}");
    }
    assert_eq!(trap.requests(), Vec::<String>::new());
}

#[test]
fn a_file_system_that_hangs_holds_up_nobody_who_ends() {
    let (share, root) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    let files = artefact(1, 0).files;
    let storage = s3::storage(&format!("[storage]\nuri = \"file://{}\"\n", share.path().display()));
    upload(&remote(&storage), root.path(), &files).expect("the directory takes it");
    // Nobody writes to this pipe: to open it has no end.
    let pipe = share.path().join("ctr").join(name_of(&files)).join(MODEL);
    fs::remove_file(&pipe).expect("it is ours");
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).expect("the disk takes it");
    let cache = tempfile::tempdir().expect("a directory of our own");
    let mut fetcher = Fetcher::new(remote(&storage), "ctr", cache.path()).within(Duration::from_secs(2));
    let name = name_of(&files);
    let (done, ended) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        fetcher.begin();
        let manifest = fetcher.manifest(&name, &sha256(&files[MANIFEST])).expect("it is there");
        let outcome = fetcher.files(&name, &manifest);
        drop(fetcher);
        done.send(outcome.is_err())
    });
    assert_eq!(ended.recv_timeout(Duration::from_secs(30)), Ok(true));
    // Whoever hangs in it is let go.
    drop(fs::OpenOptions::new().read(true).write(true).open(&pipe));
}

#[test]
fn objects_that_are_missing_truncated_changed_or_swapped_are_refused_and_fetched_when_they_are_mended() {
    let files = artefact(1, 0).files;
    let (server, _root, storage, cache) = uploaded(&files);
    let mut fetching = Fetching::new(&storage, cache.path(), &files);
    let key = |file: &str| format!("ctr/{}/{file}", name_of(&files));
    let model = files[MODEL].clone();

    // A manifest that is swapped: that of another version, and one that never ends.
    for swapped in [numbered(&files, 2)[MANIFEST].clone(), vec![b' '; 3 << 20]] {
        server.put(&key(MANIFEST), &swapped);
        let error = fetching.fetch().expect_err("it is another");
        assert!(matches!(error, RemoteError::Digest { .. } | RemoteError::Length { .. }), "{error}");
    }
    server.remove(&key(MANIFEST));
    assert!(matches!(fetching.fetch(), Err(RemoteError::Missing(_))));
    server.put(&key(MANIFEST), &files[MANIFEST]);

    server.remove(&key(MODEL));
    assert!(matches!(fetching.fetch(), Err(RemoteError::Missing(_))));
    server.put(&key(MODEL), &model[..model.len() - 1]);
    let error = fetching.fetch().expect_err("it is truncated");
    assert!(matches!(error, RemoteError::Length { found, .. } if found == model.len() as u64 - 1), "{error}");
    let mut changed = model.clone();
    changed[100] ^= 1;
    server.put(&key(MODEL), &changed);
    let error = fetching.fetch().expect_err("it is another");
    assert!(matches!(error, RemoteError::Digest { .. }), "{error}");
    // The same object is not fetched a second time.
    server.requests();
    assert!(matches!(fetching.fetch(), Err(RemoteError::Unchanged(_))));
    let partial = cache.path().join(format!(".fetching-{}", name_of(&files))).join(MODEL);
    assert!(!partial.exists(), "nothing of it is kept");
    // Storage that answers nothing, and that ends its answers early for ever.
    server.put(&key(MODEL), &model);
    server.fail("GET", MODEL, 100, Harm::Hang);
    let error = fetching.fetch().expect_err("it hangs");
    assert!(matches!(error, RemoteError::Storage { .. }), "{error}");
    server.mend();
    server.fail("GET", MODEL, 1000, Harm::CutAfter(10));
    let error = fetching.fetch().expect_err("it trickles");
    assert!(matches!(error, RemoteError::Storage { .. }), "{error}");
    server.mend();

    fetching.fetch().unwrap_or_else(|error| panic!("{error}"));
    let place = cache.path().join(name_of(&files));
    assert_is_whole(&place, &files);
    assert!(artefact::verify(&files).is_ok());
}

#[test]
fn who_is_asked_to_stop_does_not_wait_for_storage() {
    let (server, root) = (S3::start(), tempfile::tempdir().expect("a directory of our own"));
    let (files, cache) = (artefact(1, 0).files, tempfile::tempdir().expect("a directory of our own"));
    let section = server.section(root.path()).replace("timeout_seconds = 1\n", "timeout_seconds = 3600\n");
    let storage = s3::storage(&section);
    upload(&remote(&storage), root.path(), &files).expect("the storage takes it");
    let stop = Arc::<AtomicBool>::default();
    let uri = storage.fetched_from().expect("there is a place");
    let remote = Remote::open(&storage, uri, Arc::clone(&stop)).expect("the settings make a client");
    let mut fetcher = Fetcher::new(remote, "ctr", cache.path());
    let name = name_of(&files);
    let manifest = fetcher.manifest(&name, &sha256(&files[MANIFEST])).expect("it answers");
    server.fail("GET", MODEL, 1, Harm::Hang);
    std::thread::scope(|scope| {
        let fetching = scope.spawn(|| fetcher.files(&name, &manifest));
        crate::support::wait_for("a request that hangs", || {
            server.requests().iter().any(|request| request.contains(MODEL)).then_some(())
        });
        stop.store(true, std::sync::atomic::Ordering::Release);
        assert!(matches!(fetching.join().expect("no panic"), Err(RemoteError::Stopped)));
    });
}

#[test]
fn a_place_that_is_no_uri_of_ours_is_refused_by_the_configuration() {
    let parse = |text: &str| {
        let field = "[[fields]]\nname = \"user\"\nkind = \"categorical\"\n";
        deepfm_stream::config::Config::parse(&format!("{field}[storage]\n{text}"), "storage", [])
    };
    for text in [
        "uri = \"http://host/a\"",
        "uri = \"s3://bucket/../a\"",
        "uri = \"gs://bucket\"",
        "fetch_uri = \"ftp://host/a\"",
        "endpoint = \"s3://bucket\"",
        "region = \"\"",
        "addressing = \"host\"",
        "timeout_seconds = 0",
    ] {
        assert!(parse(text).is_err(), "{text}");
    }
    let config = parse("uri = \"s3://bucket/a\"\nfetch_uri = \"https://models.example/a\"").expect("it is one");
    let expected: StorageUri = "https://models.example/a".parse().expect("it is one");
    assert_eq!(config.storage.fetched_from(), Some(&expected));
    let shown = config.to_toml();
    assert!(shown.contains("uri = \"s3://bucket/a\"") && shown.contains("endpoint = \"\""), "{shown}");
}
