//! A server with as much of S3 as the program uses: objects by path, ranges, uploads in parts, lists in pages; and with faults on
//! demand. Who writes must have signed; who reads need not, so that the same objects can be had by plain HTTP.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;

use deepfm_core::version::manifest::sha256;
use deepfm_stream::config::storage::Storage;

const KEY_ID: &str = "AKIDTEST";
const BUCKET: &str = "bucket";

/// Objects on a page of a list.
const PAGE: usize = 3;

/// What is done to a request.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Harm {
    /// It is answered so.
    Status(u16),
    /// The answer's body ends after so many bytes, with the connection.
    CutAfter(usize),
    /// It is never answered.
    Hang,
    /// So many bytes of the answer's body come, and no more.
    StallAfter(usize),
    /// It is led to the same object of another server.
    Redirect(SocketAddr),
}

struct Fault {
    method: &'static str,
    ends: String,
    times: usize,
    harm: Harm,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Vec<u8>>,
    uploads: BTreeMap<String, BTreeMap<u32, Vec<u8>>>,
    faults: Vec<Fault>,
    /// `METHOD key range`, as they came.
    requests: Vec<String>,
    is_over: bool,
}

/// The server, which ends with the test.
pub(crate) struct S3 {
    address: SocketAddr,
    shared: Arc<(Mutex<State>, Condvar)>,
}

impl Drop for S3 {
    fn drop(&mut self) {
        self.state().is_over = true;
        self.shared.1.notify_all();
        // The listener is woken to see it.
        drop(TcpStream::connect(self.address));
    }
}

impl S3 {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("there is a free port");
        let server = Self { address: listener.local_addr().expect("it is bound"), shared: Arc::default() };
        let shared = Arc::clone(&server.shared);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&shared);
                if shared.0.lock().expect("no test panics in it").is_over {
                    return;
                }
                thread::spawn(move || serve(&stream, &shared));
            }
        });
        server
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.0.lock().expect("no test panics in it")
    }

    /// `[storage]` of a configuration, with its file of keys in a directory.
    pub(crate) fn section(&self, directory: &Path) -> String {
        let keys = directory.join("keys");
        let text = format!("[default]\naws_access_key_id = {KEY_ID}\naws_secret_access_key = secret\n");
        std::fs::write(&keys, text).expect("the disk takes it");
        format!(
            "[storage]\nuri = \"s3://{BUCKET}/models\"\nendpoint = \"http://{}\"\ncredentials_file = \"{}\"\n\
             timeout_seconds = 1\n",
            self.address,
            keys.display()
        )
    }

    /// The same, as it is read.
    pub(crate) fn storage(&self, directory: &Path) -> Storage {
        storage(&self.section(directory))
    }

    /// Where the same objects are by plain HTTP.
    pub(crate) fn http(&self) -> String {
        format!("http://{}/{BUCKET}/models", self.address)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The keys of all objects, without bucket and prefix.
    pub(crate) fn keys(&self) -> Vec<String> {
        self.state().objects.keys().map(|key| key.trim_start_matches("bucket/models/").to_owned()).collect()
    }

    pub(crate) fn put(&self, key: &str, content: &[u8]) {
        self.state().objects.insert(format!("{BUCKET}/models/{key}"), content.to_vec());
    }

    pub(crate) fn get(&self, key: &str) -> Option<Vec<u8>> {
        self.state().objects.get(&format!("{BUCKET}/models/{key}")).cloned()
    }

    pub(crate) fn remove(&self, key: &str) -> Option<Vec<u8>> {
        self.state().objects.remove(&format!("{BUCKET}/models/{key}"))
    }

    /// Does harm to the next so many requests of a method whose key ends so.
    pub(crate) fn fail(&self, method: &'static str, ends: &str, times: usize, harm: Harm) {
        self.state().faults.push(Fault { method, ends: ends.to_owned(), times, harm });
    }

    /// No more harm.
    pub(crate) fn mend(&self) {
        self.state().faults.clear();
        self.shared.1.notify_all();
    }

    /// The requests since the last call.
    pub(crate) fn requests(&self) -> Vec<String> {
        std::mem::take(&mut self.state().requests)
    }

    /// Uploads that were begun and neither finished nor given up.
    pub(crate) fn unfinished(&self) -> usize {
        self.state().uploads.len()
    }
}

/// A section `[storage]` as it is read.
pub(crate) fn storage(section: &str) -> Storage {
    let field = "[[fields]]\nname = \"user\"\nkind = \"categorical\"\n";
    let config = deepfm_stream::config::Config::parse(&format!("{field}{section}"), "storage", []);
    config.unwrap_or_else(|errors| panic!("{errors}")).storage
}

struct Request {
    method: String,
    key: String,
    query: BTreeMap<String, String>,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

impl Request {
    fn read(reader: &mut BufReader<&TcpStream>) -> Option<Self> {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|length| *length > 0)?;
        let mut words = line.split_whitespace();
        let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
        let mut headers = BTreeMap::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok()?;
            let Some((name, value)) = line.trim_end().split_once(':') else { break };
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
        let length: usize = headers.get("content-length").map_or(0, |length| length.parse().expect("a number"));
        let mut body = vec![0; length];
        reader.read_exact(&mut body).ok()?;
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let pair = |pair: &str| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (key.to_owned(), value.replace("%2F", "/"))
        };
        let query = query.split('&').filter(|pair| !pair.is_empty()).map(pair).collect();
        Some(Self { method, key: path.trim_matches('/').to_owned(), query, headers, body })
    }

    fn range(&self) -> Option<(usize, usize)> {
        let (from, to) = self.headers.get("range")?.strip_prefix("bytes=")?.split_once('-')?;
        Some((from.parse().ok()?, to.parse().ok()?))
    }
}

struct Response {
    status: u16,
    headers: String,
    body: Vec<u8>,
}

fn plain(status: u16, body: impl Into<Vec<u8>>) -> Response {
    Response { status, headers: String::new(), body: body.into() }
}

fn serve(stream: &TcpStream, shared: &(Mutex<State>, Condvar)) {
    let mut reader = BufReader::new(stream);
    while let Some(request) = Request::read(&mut reader) {
        let mut state = shared.0.lock().expect("no test panics in it");
        let range = request.headers.get("range").cloned().unwrap_or_default();
        state.requests.push(format!("{} {} {range}", request.method, request.key).trim_end().to_owned());
        let hits = |fault: &&mut Fault| {
            fault.times > 0 && fault.method == request.method && request.key.ends_with(&fault.ends)
        };
        let harm = state.faults.iter_mut().find(hits).map(|fault| {
            fault.times -= 1;
            fault.harm
        });
        if let Some(Harm::Hang) = harm {
            let over = |state: &mut State| !state.is_over && !state.faults.is_empty();
            drop(shared.1.wait_while(state, over).expect("no test panics in it"));
            return;
        }
        let response = match harm {
            Some(Harm::Status(status)) => plain(status, format!("<Error><Code>Fault{status}</Code></Error>")),
            Some(Harm::Redirect(other)) => {
                let headers = format!("Location: http://{other}/{}\r\n", request.key);
                Response { status: 302, headers, body: Vec::new() }
            }
            _ => answer(&mut state, &request),
        };
        drop(state);
        let Response { status, headers, body } = response;
        // That of a request for the head alone says how long the object is.
        let length = if headers.contains("Content-Length") {
            String::new()
        } else {
            format!("Content-Length: {}\r\n", body.len())
        };
        let head = format!("HTTP/1.1 {status} Some\r\n{headers}{length}\r\n");
        let cut = match harm {
            Some(Harm::CutAfter(bytes) | Harm::StallAfter(bytes)) => bytes.min(body.len()),
            _ => body.len(),
        };
        let mut stream = stream;
        if stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body[..cut])).is_err() || cut < body.len()
        {
            if let Some(Harm::StallAfter(_)) = harm {
                let state = shared.0.lock().expect("no test panics in it");
                let over = |state: &mut State| !state.is_over && !state.faults.is_empty();
                drop(shared.1.wait_while(state, over).expect("no test panics in it"));
            }
            let _ = stream.shutdown(std::net::Shutdown::Both);
            return;
        }
    }
}

fn answer(state: &mut State, request: &Request) -> Response {
    let signature = format!("AWS4-HMAC-SHA256 Credential={KEY_ID}/");
    let is_signed = request.headers.get("authorization").is_some_and(|header| header.starts_with(&signature));
    let is_reading = matches!(request.method.as_str(), "GET" | "HEAD");
    if !is_signed && (!is_reading || request.key == BUCKET) {
        return plain(403, "<Error><Code>AccessDenied</Code></Error>");
    }
    let digest = request.headers.get("x-amz-content-sha256").filter(|digest| digest.len() == 64);
    if digest.is_some_and(|digest| *digest != sha256(&request.body)) {
        return plain(400, "<Error><Code>XAmzContentSHA256Mismatch</Code></Error>");
    }
    let upload = request.query.get("uploadId").cloned();
    match (request.method.as_str(), upload) {
        ("GET", _) if request.query.contains_key("list-type") => list(state, request),
        ("GET" | "HEAD", _) => read(state, request),
        ("POST", None) => {
            let id = format!("upload-{}", state.uploads.len());
            state.uploads.insert(id.clone(), BTreeMap::new());
            plain(
                200,
                format!("<InitiateMultipartUploadResult><UploadId>{id}</UploadId></InitiateMultipartUploadResult>"),
            )
        }
        ("PUT", Some(id)) => {
            let number = request.query["partNumber"].parse().expect("a number");
            let etag = sha256(&request.body);
            state.uploads.get_mut(&id).expect("it was begun").insert(number, request.body.clone());
            Response { status: 200, headers: format!("ETag: \"{etag}\"\r\n"), body: Vec::new() }
        }
        ("POST", Some(id)) => {
            let parts = state.uploads.remove(&id).expect("it was begun");
            let content: Vec<u8> = parts.into_values().flatten().collect();
            state.objects.insert(request.key.clone(), content);
            let result = "<CompleteMultipartUploadResult><ETag>\"done\"</ETag></CompleteMultipartUploadResult>";
            plain(200, result)
        }
        ("DELETE", Some(id)) => {
            state.uploads.remove(&id);
            plain(204, "")
        }
        ("PUT", None) => {
            state.objects.insert(request.key.clone(), request.body.clone());
            Response { status: 200, headers: format!("ETag: \"{}\"\r\n", sha256(&request.body)), body: Vec::new() }
        }
        ("DELETE", None) => {
            state.objects.remove(&request.key);
            plain(204, "")
        }
        _ => plain(405, "<Error><Code>MethodNotAllowed</Code></Error>"),
    }
}

fn read(state: &State, request: &Request) -> Response {
    let Some(content) = state.objects.get(&request.key) else {
        return plain(404, "<Error><Code>NoSuchKey</Code></Error>");
    };
    let common = format!("ETag: \"{}\"\r\nLast-Modified: Thu, 01 Jan 2026 00:00:00 GMT\r\n", sha256(content));
    if request.method == "HEAD" {
        let headers = format!("{common}Content-Length: {}\r\n", content.len());
        return Response { status: 200, headers, body: Vec::new() };
    }
    let Some((from, to)) = request.range() else {
        return Response { status: 200, headers: common, body: content.clone() };
    };
    if from >= content.len() {
        return plain(416, "<Error><Code>InvalidRange</Code></Error>");
    }
    let end = (to + 1).min(content.len());
    let headers = format!("{common}Content-Range: bytes {from}-{}/{}\r\n", end - 1, content.len());
    Response { status: 206, headers, body: content[from..end].to_vec() }
}

fn list(state: &State, request: &Request) -> Response {
    let prefix = format!("{BUCKET}/{}", request.query.get("prefix").map_or("", String::as_str));
    let after = request.query.get("continuation-token").cloned().unwrap_or_default();
    let found = state.objects.iter().filter(|(key, _)| key.starts_with(&prefix) && **key > after);
    let page: Vec<_> = found.clone().take(PAGE).collect();
    let contents: Vec<String> = page
        .iter()
        .map(|(key, content)| {
            let key = key.trim_start_matches("bucket/");
            let size = content.len();
            format!(
                "<Contents><Key>{key}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified><Size>{size}</Size></Contents>"
            )
        })
        .collect();
    let is_more = found.count() > PAGE;
    let next =
        page.last().filter(|_| is_more).map(|(key, _)| format!("<NextContinuationToken>{key}</NextContinuationToken>"));
    let (contents, next) = (contents.concat(), next.unwrap_or_default());
    plain(200, format!("<ListBucketResult><IsTruncated>{is_more}</IsTruncated>{next}{contents}</ListBucketResult>"))
}
