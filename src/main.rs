//! Keyturn's binary: what must be set before anything runs, and on to the command line.

use std::process::ExitCode;

/// glibc's malloc never returns what a relist took, and jemalloc does: `.cargo/config.toml` sets its decay.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    // The one TLS stack, named before any client could choose. It fails only if there is a provider already.
    if rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .is_err()
    {
        return ExitCode::FAILURE;
    }
    keyturn::cli::main()
}
