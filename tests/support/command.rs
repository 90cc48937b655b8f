//! The `deepfm` binary as a user runs it.

use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

/// How long a command may take to its end: several times what any takes on a slow machine.
const PATIENCE: Duration = Duration::from_mins(15);

/// What the binary said and how it ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Outcome {
    /// Waits for the end of a process, which starts no others that have its pipes. One that does not come to it is killed, and the test fails with what its threads were at.
    fn of(child: Child, patience: Duration) -> Self {
        let (id, is_over) = (child.id(), AtomicBool::new(false));
        let output = thread::scope(|scope| {
            let watch = scope.spawn(|| kill_late(id, patience, &is_over));
            let output = child.wait_with_output().expect("it is ours");
            is_over.store(true, Ordering::Release);
            watch.thread().unpark();
            let late = watch.join().expect("it does not panic");
            assert!(late.is_none(), "no end within {patience:?}: {late:?} {}", String::from_utf8_lossy(&output.stderr));
            output
        });
        Self {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// The one JSON document on stdout of a run that went well.
    pub(crate) fn json(&self) -> Value {
        assert_eq!(self.code, Some(0), "{}", self.stderr);
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error} in {}", self.stdout))
    }
}

/// Kills a process whose time is over, unless it ends before; says then what each of its threads waited for.
fn kill_late(id: u32, patience: Duration, is_over: &AtomicBool) -> Option<Vec<String>> {
    let end = Instant::now() + patience;
    while let left = end.saturating_duration_since(Instant::now())
        && !left.is_zero()
    {
        if is_over.load(Ordering::Acquire) {
            return None;
        }
        thread::park_timeout(left);
    }
    let threads = std::fs::read_dir(format!("/proc/{id}/task")).into_iter().flatten().flatten();
    let word = |path: PathBuf| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let at = threads.map(|thread| [word(thread.path().join("comm")), word(thread.path().join("wchan"))].join(": "));
    let at = at.collect();
    if is_over.load(Ordering::Acquire) {
        return None;
    }
    let killed = Command::new("kill").args(["-KILL", &id.to_string()]).status();
    killed.is_ok_and(|status| status.success()).then_some(at)
}

/// A command line.
pub(crate) fn deepfm(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_deepfm"));
    command.args(["--log", "info"]).args(args).stdin(Stdio::null());
    command
}

/// Runs a command line to its end.
pub(crate) fn run(args: &[&str]) -> Outcome {
    Running::start(args).wait()
}

/// A running command, which is ended with the test at the latest.
pub(crate) struct Running(Option<Child>);

impl Running {
    pub(crate) fn start(args: &[&str]) -> Self {
        Self(Some(deepfm(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary starts")))
    }

    /// The same, with its log in a file that can be read meanwhile.
    pub(crate) fn start_logged(args: &[&str], log: &Path) -> Self {
        Self::spawn(deepfm(args).stderr(std::fs::File::create(log).expect("the disk takes it")))
    }

    /// Starts a command line.
    pub(crate) fn spawn(command: &mut Command) -> Self {
        Self(Some(command.stdout(Stdio::piped()).spawn().expect("the binary starts")))
    }

    /// Starts a command line whose input and output are given to the caller.
    pub(crate) fn piped(
        command: &mut Command,
        input: &mut Option<ChildStdin>,
        output: &mut Option<ChildStdout>,
    ) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the command starts");
        (*input, *output) = (child.stdin.take(), child.stdout.take());
        Self(Some(child))
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.0.as_ref().expect("it was not waited for yet").id()
    }

    pub(crate) fn signal(&self, signal: &str) {
        let id = self.0.as_ref().expect("it was not waited for yet").id().to_string();
        let sent = Command::new("kill").args([signal, &id]).status().expect("kill is there");
        assert!(sent.success(), "the process has ended already");
    }

    /// Asks it to end, and waits.
    pub(crate) fn terminate(self) -> Outcome {
        self.signal("-TERM");
        self.wait()
    }

    /// Waits until it ends by itself.
    pub(crate) fn wait(mut self) -> Outcome {
        Outcome::of(self.0.take().expect("it was not waited for yet"), PATIENCE)
    }

    /// Ends it at once.
    pub(crate) fn kill(mut self) {
        let mut child = self.0.take().expect("it was not waited for yet");
        child.kill().expect("it is ours");
        child.wait().expect("it ends");
    }

    /// Whether it is still running.
    pub(crate) fn is_running(&mut self) -> bool {
        self.0.as_mut().is_some_and(|child| child.try_wait().is_ok_and(|status| status.is_none()))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The installed versions of all models of a directory of artefacts, the newest last.
pub(crate) fn installed(directory: &Path) -> Vec<PathBuf> {
    let entries = |directory: &Path| std::fs::read_dir(directory).into_iter().flatten().flatten();
    let number = |path: &PathBuf| {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        name.split_once('-').and_then(|(number, _)| number.parse::<u64>().ok())
    };
    let models = entries(directory).flat_map(|model| entries(&model.path()));
    let mut versions: Vec<PathBuf> =
        models.map(|version| version.path()).filter(|path| number(path).is_some()).collect();
    versions.sort_by_key(number);
    versions
}

#[test]
fn a_command_that_does_not_end_is_killed_and_fails_its_test_with_what_it_waited_for() {
    let start =
        |seconds: &str| Command::new("sleep").arg(seconds).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let ended = Outcome::of(start("0").expect("it is there"), PATIENCE);
    assert_eq!(ended.code, Some(0));
    let late = start("1000").expect("it is there");
    let failed = std::panic::catch_unwind(|| Outcome::of(late, Duration::from_millis(50))).expect_err("it did not end");
    let said = failed.downcast_ref::<String>().expect("it says why");
    assert!(said.contains("no end within 50ms") && said.contains("sleep: "), "{said}");
}
