//! The integration tests: one binary, so that the shared fixtures (a real broker among them) are set up once.
mod integration {
    mod alarms;
    mod believable;
    mod breaker;
    mod commands;
    mod configuration;
    mod connections;
    mod dependencies;
    mod determinism;
    mod encoder;
    mod endings;
    mod formats;
    mod gaps;
    mod gate;
    mod golden;
    mod hostile;
    mod kafka;
    mod keeping;
    mod kills;
    mod layering;
    mod live;
    mod local_kafka;
    mod losses;
    mod memory;
    mod outages;
    mod poison;
    mod progress;
    mod readme;
    mod requeue;
    mod restore;
    mod schemas;
    mod scorer;
    mod store;
    mod versions;
    mod weights;
}
mod support;
