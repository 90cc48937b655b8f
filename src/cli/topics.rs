//! `deepfm topics`: what the configuration needs against what the cluster has.

use std::path::PathBuf;

use clap::Subcommand;
use deepfm_stream::kafka::administration::{self, Action, Planned};

use super::failure::{Exit, Failure};
use super::run::broker_failure;
use super::{config, output};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show which topics are missing or not as they must be; changes nothing.
    Plan(Args),
    /// Create the missing topics. Existing ones are never altered.
    Apply(Args),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The configuration file.
    #[arg(long, value_name = "FILE", env = "DEEPFM_CONFIG")]
    config: PathBuf,
    /// Partitions of a new event topic.
    #[arg(long, value_name = "N", default_value_t = 4)]
    partitions: i32,
    /// Replicas of a new topic; the versions topic on one broker only is a model that one disk can lose.
    #[arg(long, value_name = "N", default_value_t = 1)]
    replication: i32,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(command: &Command) -> Result<(), Failure> {
    let (args, plan) = match command {
        Command::Plan(args) => {
            let config = config::load(&args.config)?;
            (args, administration::plan(&config.kafka, args.partitions).map_err(broker_failure)?)
        }
        Command::Apply(args) => {
            let config = config::load(&args.config)?;
            (args, administration::apply(&config.kafka, args.partitions, args.replication).map_err(broker_failure)?)
        }
    };
    if args.json {
        output::json(&plan)?;
    } else {
        output::lines(plan.iter().map(|planned| line(planned, matches!(command, Command::Apply(_)))))?;
    }
    let wrong = plan.iter().find_map(|planned| match &planned.action {
        Action::Mend { problem } => Some(anyhow::anyhow!("topic {}: {problem}", planned.wanted.topic)),
        Action::Keep { .. } | Action::Create => None,
    });
    wrong.map_or(Ok(()), |error| Err(Failure::new(Exit::Configuration, error)))
}

fn line(planned: &Planned, applied: bool) -> String {
    let wanted = &planned.wanted;
    let action = match &planned.action {
        Action::Keep { partitions } => format!("exists with {partitions} partitions"),
        Action::Create if applied => format!("created with {} partitions", wanted.partitions),
        Action::Create => format!("is missing; apply creates it with {} partitions", wanted.partitions),
        Action::Mend { problem } => problem.clone(),
    };
    format!("{:<28} {:<32} {action}", wanted.topic, wanted.purpose)
}
