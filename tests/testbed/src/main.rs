//! The testbed binary.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod commands;

/// What Keyturn is developed and shown on.
#[derive(Parser)]
#[command(name = "testbed")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// The Kubernetes control plane of the tests.
    #[command(subcommand)]
    Controlplane(commands::Controlplane),
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Controlplane(command) => command.run(),
    };
    commands::exit_code(outcome)
}
