//! The bound on open files and connections: sled, Kafka clients and the admin port share it.

use rustix::io::Result;
use rustix::process::{Resource, getrlimit, setrlimit};

/// Below this many descriptors a worker may run short: it has some 100 open, and 20 for each broker.
pub const FEW: u64 = 1024;

/// Raises the bound to what this process may have at most, and says what it is now; `None` is no bound. Login shells and
/// service managers give 1024 at first, for the sake of programs that cannot use more.
///
/// # Errors
/// When the operating system refuses; the bound is then as it was.
pub fn raise() -> Result<Option<u64>> {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        limit.current = limit.maximum;
        setrlimit(Resource::Nofile, limit)?;
    }
    Ok(limit.current)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_on_descriptors_is_raised_to_the_hard_one() {
        let before = getrlimit(Resource::Nofile);
        let lower = before.current.map_or(FEW, |current| current - 1);
        setrlimit(Resource::Nofile, rustix::process::Rlimit { current: Some(lower), ..before })
            .expect("it may go down");
        assert_eq!(raise(), Ok(before.maximum));
        assert_eq!(getrlimit(Resource::Nofile).current, before.maximum);
    }
}
