//! What the binary's subcommands do; the only place of the testbed that prints.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command talks on the terminal"
)]

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Subcommand;
use testbed::controlplane::{Binaries, ControlPlane, Options};
use tokio::signal::unix::{SignalKind, signal};

/// Subcommands of `testbed controlplane`.
#[derive(Subcommand)]
pub(crate) enum Controlplane {
    /// Build the programs, once: about 15 minutes on 2 cores, afterwards a moment.
    Build,
    /// Start a control plane, print its kubeconfig, and end it with Ctrl-C.
    Run,
}

impl Controlplane {
    pub(crate) fn run(self) -> Result<()> {
        let binaries = Binaries::ensure(&|line| eprintln!("{line}"))?;
        match self {
            Self::Build => Ok(()),
            Self::Run => {
                let runtime = tokio::runtime::Runtime::new().context("start the runtime")?;
                runtime.block_on(run(&binaries))
            }
        }
    }
}

async fn run(binaries: &Binaries) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let start = async {
        let cluster = ControlPlane::start(binaries, Options::default()).await?;
        println!("{}", cluster.kubeconfig().display());
        eprintln!(
            "running: KUBECONFIG is the path above, logs are in {}/logs; Ctrl-C ends it",
            cluster.folder().display()
        );
        std::future::pending::<Result<()>>().await
    };
    tokio::select! {
        outcome = start => outcome,
        outcome = tokio::signal::ctrl_c() => outcome.context("listen for Ctrl-C"),
        _ = terminate.recv() => Ok(()),
    }
}

/// Failures go to standard error in one paragraph, with what was attempted first.
pub(crate) fn exit_code(outcome: Result<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("testbed: {error:#}");
            ExitCode::FAILURE
        }
    }
}
