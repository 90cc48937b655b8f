//! The commands. Each file below `cli/` turns one command's raw arguments into calls of the library, and the library's
//! errors into exit codes; nothing here knows how a thing is done.

mod allocator;
mod artifact;
mod backtest;
mod config;
mod dead_letters;
mod demo;
mod events;
mod exit;
mod failure;
mod log;
mod losses;
mod output;
mod progress;
mod run;
mod serve;
mod status;
mod topics;
mod versions;

use std::io::IsTerminal as _;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use deepfm_core::kernel::InstructionSet;
use deepfm_stream::worker::descriptors;
use tracing_subscriber::EnvFilter;

use failure::{Exit, Failure};
use log::Form;

/// A streaming online-learning worker for click models: `DeepFM` over Kafka, joined, learned and published as it happens.
#[derive(Debug, Parser)]
#[command(
    name = "deepfm",
    version,
    max_term_width = 110,
    after_help = format!(
        "{}\n\nStart here: `deepfm demo` shows the whole loop with nothing installed; `deepfm config init --events DIR` \
         writes a configuration for your events.",
        failure::help()
    )
)]
struct Cli {
    /// What to log on stderr, e.g. `debug` or `deepfm_stream=debug,librdkafka=info`.
    #[arg(long, global = true, env = "DEEPFM_LOG", default_value = "info", value_name = "FILTER")]
    log: String,

    /// Log one JSON object per line instead of text.
    #[arg(long, global = true)]
    log_json: bool,

    /// Instructions that arithmetic uses: `baseline`, `avx2` or `avx512`; by default the widest of this processor. All give the same
    /// results, to the last bit.
    #[arg(long, global = true, env = "DEEPFM_KERNEL", value_name = "SET", hide_env_values = true)]
    kernel: Option<String>,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The worker: consume, join, learn, checkpoint, publish.
    Run(run::Args),
    /// The reference server: follows versions and scores requests over HTTP.
    Serve(Box<serve::Args>),
    /// Replay events through the same trainer and report how well it predicted.
    Backtest(backtest::Args),
    /// The whole loop on an embedded broker with simulated traffic; needs no services.
    Demo(demo::Args),
    /// Write, check and show configurations.
    #[command(subcommand)]
    Config(config::Command),
    /// Send or simulate events.
    #[command(subcommand)]
    Events(events::Command),
    /// Compare the topics with the configuration, or create them.
    #[command(subcommand)]
    Topics(topics::Command),
    /// Records that could not be read: list them, or send them again
    #[command(subcommand)]
    DeadLetters(dead_letters::Command),
    /// The published versions of a model.
    #[command(subcommand)]
    Versions(versions::Command),
    /// What the worker does, and which server serves what.
    Status(status::Args),
    /// Check or look into a version or training export, or write an export.
    #[command(subcommand)]
    Artifact(artifact::Command),
}

/// Parses the arguments, runs the command, and reports its failure.
pub(crate) fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return misused(&error),
    };
    let form = if cli.log_json { Form::Json } else { Form::Text };
    log::tell_panics(form);
    // The demo's log may go to a file.
    let is_colored = std::io::stderr().is_terminal() && !matches!(cli.command, Command::Demo(_));
    let set_up = start_logging(&cli.log, form, is_colored).and_then(|()| choose_kernel(cli.kernel.as_deref()));
    if let Err(failure) = set_up {
        return failure.report(form);
    }
    raise_descriptors();
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| carry_out(cli.command))) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(failure)) => failure.report(form),
        // What happened was said where it happened.
        Err(_) => ExitCode::from(Exit::Software as u8),
    }
}

/// What was wrong with the command line, in the form of the log that it asks for. Help and version are no errors.
fn misused(error: &clap::Error) -> ExitCode {
    let wants_json = std::env::args_os().any(|argument| argument == "--log-json");
    if wants_json && error.use_stderr() {
        let text = error.render().to_string();
        log::last_words(Form::Json, text.trim().trim_start_matches("error: "), Exit::Usage as u8);
        return ExitCode::from(Exit::Usage as u8);
    }
    error.exit()
}

fn carry_out(command: Command) -> Result<(), Failure> {
    match command {
        Command::Run(args) => run::run(&args),
        Command::Serve(args) => serve::run(&args),
        Command::Backtest(args) => backtest::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Config(command) => config::run(&command),
        Command::Events(command) => events::run(&command),
        Command::Topics(command) => topics::run(&command),
        Command::DeadLetters(command) => dead_letters::run(&command),
        Command::Versions(command) => versions::run(command),
        Command::Status(args) => status::run(&args),
        Command::Artifact(command) => artifact::run(&command),
    }
}

/// Takes as many descriptors as there are to be had.
fn raise_descriptors() {
    match descriptors::raise() {
        Ok(Some(few)) if few < descriptors::FEW => {
            tracing::warn!(
                "only {few} files and connections may be open (ulimit -Hn): raise that, or a worker may run short"
            );
        }
        Ok(_) => {}
        Err(error) => tracing::warn!("the bound on open files cannot be raised: {error}"),
    }
}

fn choose_kernel(name: Option<&str>) -> Result<(), Failure> {
    name.map_or(Ok(()), |name| InstructionSet::choose(name).map(drop).map_err(Failure::usage))
}

fn start_logging(filter: &str, form: Form, is_colored: bool) -> Result<(), Failure> {
    let filter = EnvFilter::try_new(filter)
        .map_err(|error| Failure::usage(anyhow::anyhow!("--log {filter:?} is not a filter: {error}")))?;
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(log::writer);
    let subscriber = subscriber.with_ansi(is_colored);
    match form {
        Form::Json => subscriber.json().init(),
        Form::Text => subscriber.with_target(false).compact().init(),
    }
    Ok(())
}
