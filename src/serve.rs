//! Serving: published versions are followed, verified, mapped and scored with, in whoever's server this is linked into.
//!
//! ```no_run
//! use deepfm_stream::serve::{FollowOptions, Server, Target};
//!
//! let options = FollowOptions { target: Target::Latest, ..FollowOptions::new("clicks") };
//! let server = Server::follow_directory("versions/clicks".as_ref(), options)?;
//! let mut scorer = server.scorer(); // one for each thread
//! let candidates = [r#"{"ad":"a1"}"#, r#"{"ad":"a2"}"#];
//! let ranked = scorer.rank(br#"{"user":"u1"}"#, candidates.map(str::as_bytes))?;
//! println!("version {}: {:?}", ranked.version(), ranked.probabilities().collect::<Vec<_>>());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! | thread | who starts it | what feeds it | its bound | its panic | what it can hold up |
//! |---|---|---|---|---|---|
//! | `following`, one a [`Server`] | [`Server`] | a directory, or the versions topic | one version at a time | is said; the version served is served on | the next version |
//! | `acknowledging` | [`Acknowledger`] | it is woken at each swap, and at its beat | nothing waits: it looks at what is served | is said; nobody is told any more | nothing; the end of the server for 3 s |
//!
//! Invariants:
//! * Every request is answered from exactly one version, which it names.
//! * A version is served only after all of it was verified and its probes were reproduced by the code that scores.
//! * The last good version is served on, whatever happens to later ones.
//! * Requests wait for no reload and free no version.

#[cfg(feature = "kafka")]
pub mod acknowledge;
#[cfg(feature = "object-store")]
mod cache;
mod current;
mod directory;
pub mod follow;
pub mod follower;
#[cfg(feature = "server")]
pub mod http;
pub mod load;
mod mapped;
pub mod model;
mod places;
mod rank_body;
pub mod said;
pub mod scorer;
pub mod state;
pub mod target;
#[cfg(feature = "kafka")]
mod topic;

#[cfg(feature = "kafka")]
pub use acknowledge::{Acknowledger, WatchedArm};
pub use follow::{FollowError, FollowStatus, Server, Watch};
pub use model::ServedModel;
pub use said::{AcknowledgementBoard, AcknowledgementStatus};
pub use scorer::{Predictions, RowPlace, ScoreError, ScoreRequest, Scorer, probability};
pub use state::{LoadStage, VersionState, VersionStatus};
#[cfg(feature = "object-store")]
pub use target::RemoteOptions;
pub use target::{FollowOptions, Required, Target};
