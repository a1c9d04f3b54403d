//! The testbed binary.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod bench;
mod commands;
mod demo;
mod terminal;

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
    /// The measurements, as a table and as JSON.
    Bench(bench::Bench),
    /// The main job, step by step.
    Demo(demo::Demo),
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Controlplane(command) => command.run(),
        Command::Bench(bench) => bench.run(),
        Command::Demo(demo) => demo.run(),
    };
    commands::exit_code(outcome)
}
