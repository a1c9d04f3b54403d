//! One file or folder per subcommand: each parses, wires, calls the library, prints.
//!
//! Promises: exit code 0 for success, 1 for a failure, which one sentence on stderr tells, 2 for a wrong command line.
//! `status` ends with 1 for what needs a person, and with 2 for a failure.

mod crds;
mod operate;
mod run;
mod settings;
mod status;

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::{Parser, Subcommand};

/// Keeps Kubernetes Secrets equal to what AWS Secrets Manager says.
#[derive(Debug, Parser)]
#[command(name = "keyturn", version)]
struct Keyturn {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the operator
    Run(Box<run::Run>),
    /// Print the CRDs as YAML
    Crds(crds::Crds),
    /// Print what is not well or not idle
    Status(status::Status),
}

/// Parses the command line, does what it says, and tells how that went.
pub fn main() -> ExitCode {
    let Keyturn { command } = Keyturn::parse();
    let (done, failure) = match command {
        Command::Run(run) => (run.run().map(|()| ExitCode::SUCCESS), ExitCode::FAILURE),
        Command::Crds(crds) => (crds.run().map(|()| ExitCode::SUCCESS), ExitCode::FAILURE),
        Command::Status(status) => (status.run(), ExitCode::from(2)),
    };
    done.unwrap_or_else(|error| {
        // If stderr is closed, the error cannot be reported.
        let _written = writeln!(io::stderr(), "keyturn: {}", sentence(&error));
        failure
    })
}

/// An error and its causes on one line.
fn sentence(error: &anyhow::Error) -> String {
    format!("{error:#}").replace(['\n', '\r'], " ")
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Keyturn::command().debug_assert();
    }

    #[test]
    fn an_error_is_one_sentence_with_its_causes() {
        let error = anyhow::anyhow!("the port\nis taken").context("failed to listen");
        assert_eq!(sentence(&error), "failed to listen: the port is taken");
    }
}
