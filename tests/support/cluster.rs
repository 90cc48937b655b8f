//! Brokers that a test may kill, stop and start again. Tests take turns at them.

use std::fs;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};

use super::broker::{self, Broker};

/// A cluster of the tests that break it.
pub(crate) struct Cluster {
    broker: Broker,
    directory: PathBuf,
    brokers: usize,
}

impl Deref for Cluster {
    type Target = Broker;

    fn deref(&self) -> &Broker {
        &self.broker
    }
}

/// A cluster of one broker, whole, for this test alone; or a skipped test.
pub(crate) fn of_one(test: &str) -> Option<MutexGuard<'static, Cluster>> {
    static CLUSTER: OnceLock<Result<Mutex<Cluster>, String>> = OnceLock::new();
    take(&CLUSTER, 1, test)
}

/// A cluster of three brokers, whole, for this test alone; or a skipped test.
pub(crate) fn of_three(test: &str) -> Option<MutexGuard<'static, Cluster>> {
    static CLUSTER: OnceLock<Result<Mutex<Cluster>, String>> = OnceLock::new();
    take(&CLUSTER, 3, test)
}

fn take(
    cluster: &'static OnceLock<Result<Mutex<Cluster>, String>>,
    brokers: usize,
    test: &str,
) -> Option<MutexGuard<'static, Cluster>> {
    match cluster.get_or_init(|| start(brokers)) {
        Ok(cluster) => {
            // A test that failed may have left brokers killed or stopped.
            let cluster = cluster.lock().unwrap_or_else(PoisonError::into_inner);
            cluster.mend();
            Some(cluster)
        }
        Err(reason) => {
            super::skip(test, reason);
            None
        }
    }
}

fn start(brokers: usize) -> Result<Mutex<Cluster>, String> {
    let name = format!("target/kafka/cluster-of-{brokers}-{}", std::process::id());
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    let (bootstrap, script) = broker::start_script(&directory, brokers, &[])?;
    let broker = Broker { bootstrap, _script: Some(script) };
    Ok(Mutex::new(Cluster { broker, directory, brokers }))
}

impl Cluster {
    /// The process ids of the brokers: number 1 is first.
    fn ids(&self) -> Vec<String> {
        let ids = fs::read_to_string(self.directory.join("pid")).expect("the script wrote it");
        ids.lines().map(str::to_owned).collect()
    }

    fn signal(&self, number: usize, signal: &str) -> bool {
        let status = Command::new("kill").args([signal, &self.ids()[number - 1]]).status();
        status.expect("kill is there").success()
    }

    /// Ends a broker at once.
    pub(crate) fn kill(&self, number: usize) {
        assert!(self.signal(number, "-KILL"), "broker {number} is not running");
        super::wait_for("the end of the broker", || (!self.is_running(number)).then_some(()));
    }

    fn is_running(&self, number: usize) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.ids()[number - 1]));
        // One that its parent has not taken note of yet is a zombie.
        stat.is_ok_and(|stat| !stat.contains(") Z "))
    }

    /// Starts a broker that was killed, on its ports and data, and waits until it answers.
    pub(crate) fn restart(&self, number: usize) {
        let mut script = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join(broker::SCRIPT));
        script.args(["restart", "--broker", &number.to_string(), "--dir"]).arg(&self.directory);
        // What the script leaves running must not hold the pipes of whoever waits for the tests.
        let status = script.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null()).status();
        assert!(status.expect("the script is there").success(), "see {}", self.directory.display());
    }

    /// Keeps a broker from answering, connections and all, until it is resumed.
    pub(crate) fn stop(&self, number: usize) {
        assert!(self.signal(number, "-STOP"), "broker {number} is not running");
    }

    /// Lets a stopped broker go on.
    pub(crate) fn resume(&self, number: usize) {
        assert!(self.signal(number, "-CONT"), "broker {number} is not running");
    }

    fn mend(&self) {
        for number in 1..=self.brokers {
            if self.is_running(number) {
                self.resume(number);
            } else {
                self.restart(number);
            }
        }
        // One that answers does not yet know all the others.
        let client: BaseConsumer =
            ClientConfig::new().set("bootstrap.servers", &self.bootstrap).create().expect("the settings are valid");
        super::wait_for("all brokers", || {
            let metadata = client.fetch_metadata(None, Duration::from_secs(5)).ok()?;
            (metadata.brokers().len() == self.brokers).then_some(())
        });
    }
}
